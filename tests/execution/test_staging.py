"""Staging: rows in order of arrival, each freed with its request, never two requests in one row."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from symphony.config import ModelConfig, TensorSpec
from symphony.driver.requests import PendingRequest
from symphony.execution.copying import copy_arrays
from symphony.execution.staging import (
    BATCHES_PER_RING,
    RING_BYTES_MAX,
    ROW_BYTES_MIN,
    StagedInputs,
    Stager,
    StagingRing,
    make_ring,
)


def make_config(shape: tuple[int, ...] = (4,), size_max: int = 2, datatype: str = "FP32") -> ModelConfig:
    """Return a model with one input to stage and one that cannot be."""
    return ModelConfig(
        name="m",
        version="1",
        slo_ms=50.0,
        batch_size_max=size_max,
        inputs=(TensorSpec("x", datatype, shape), TensorSpec("text", "BYTES", (1,))),
        outputs=(TensorSpec("y", "FP32", (2,)),),
        format="python",
        entry="model.py:M",
        device_kinds=("cuda",),
    )


def inputs(value: float, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Return one request's inputs."""
    return {"x": np.full(4, value, dtype), "text": np.array([b"t%d" % int(value)], dtype=object)}


def make_request(value: float) -> PendingRequest:
    """Return a request that holds a slot."""
    request = PendingRequest(0, inputs(value), 0, 1, 4, lambda ended: None)
    request.id = 7
    return request


def test_rows_follow_one_another_and_hold_what_was_given() -> None:
    ring = StagingRing(make_config(), pin_memory=False)
    staged = [ring.stage(inputs(number)) for number in range(ring.row_count)]
    assert ring.row_count == BATCHES_PER_RING * 2
    for number, one in enumerate(staged):
        assert one is not None
        assert one.row == number
        np.testing.assert_array_equal(one["x"], inputs(number)["x"])
        assert one["text"][0] == b"t%d" % number
        np.testing.assert_array_equal(ring.host["x"][number].numpy(), one["x"])


def test_full_ring_stages_nothing_until_the_oldest_has_gone() -> None:
    ring = StagingRing(make_config(), pin_memory=False)
    staged = [ring.stage(inputs(number)) for number in range(ring.row_count)]
    assert ring.stage(inputs(99)) is None
    staged[3] = None
    assert ring.stage(inputs(99)) is None, "rows are given in order"
    staged[0] = None
    again = ring.stage(inputs(99))
    assert again is not None and again.row == 0
    assert staged[1] is not None and staged[1]["x"][0] == 1


def test_rows_come_back_with_the_last_reference() -> None:
    ring = StagingRing(make_config(), pin_memory=False)
    one = ring.stage(inputs(1))
    other = one
    assert ring.used_count == 1
    del one
    assert ring.used_count == 1
    del other
    assert ring.used_count == 0


def test_input_of_another_shape_fails_and_frees_its_row() -> None:
    ring = StagingRing(make_config(), pin_memory=False)
    with pytest.raises(ValueError, match="an array of 12 bytes does not fit one of 16"):
        ring.stage({"x": np.zeros(3, np.float32)})
    assert ring.used_count == 0


def test_bfloat16_is_kept_as_its_bits() -> None:
    ring = StagingRing(make_config(datatype="BF16"), pin_memory=False)
    staged = ring.stage(inputs(16256, np.uint16))
    assert staged is not None
    assert ring.host["x"][0].tolist() == [1.0] * 4


def test_stager_replaces_inputs_and_skips_what_has_ended() -> None:
    ring = StagingRing(make_config(), pin_memory=False)
    stager = Stager()
    stager.start()
    waiting, ended, faulty, last = make_request(1), make_request(2), make_request(3), make_request(4)
    ended.id = -1
    faulty.inputs = {"x": np.zeros(3, np.float32)}
    for request in (waiting, ended, faulty, last):
        stager.submit(ring, request)
    deadline = time.monotonic() + 5
    while not isinstance(last.inputs, StagedInputs) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert isinstance(waiting.inputs, StagedInputs) and isinstance(last.inputs, StagedInputs)
    assert not isinstance(ended.inputs, StagedInputs) and not isinstance(faulty.inputs, StagedInputs)
    assert stager.stop(5)
    del waiting, last, request
    assert ring.used_count == 0


def test_inputs_that_are_not_contiguous_are_staged_too() -> None:
    ring = StagingRing(make_config(), pin_memory=False)
    staged = ring.stage({"x": np.arange(8, dtype=np.float32)[::2]})
    assert staged is not None
    assert staged["x"].tolist() == [0, 2, 4, 6]


def test_arrays_are_copied_whole_or_not_at_all() -> None:
    targets = [np.zeros((2, 3)), np.zeros(4, np.float32)]
    copy_arrays(targets, [np.ones((2, 3)), np.ones(4, np.float32)])
    assert all(target.min() == 1 for target in targets)
    with pytest.raises(ValueError, match="an array of 8 bytes does not fit one of 16"):
        copy_arrays(targets, [np.zeros((2, 3)), np.zeros(2, np.float32)])
    assert targets[0].min() == 1, "nothing was copied"
    with pytest.raises(ValueError, match="zip"):
        copy_arrays(targets, [np.zeros((2, 3))])
    frozen = np.zeros(4)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        copy_arrays([frozen], [np.ones(4)])
    with pytest.raises(ValueError, match="contiguous"):
        copy_arrays([np.zeros(8)[::2]], [np.ones(4)])


def test_requests_staged_and_dropped_at_random_never_share_a_row() -> None:
    ring = StagingRing(make_config(size_max=4), pin_memory=False)
    stager = Stager()
    stager.start()
    rng = np.random.default_rng(0)
    alive: list[tuple[float, PendingRequest]] = []
    for number in range(5000):
        request = make_request(number)
        stager.submit(ring, request)
        alive.append((number, request))
        while len(alive) > 12 or (alive and rng.random() < 0.3):
            value, gone = alive.pop(int(rng.integers(len(alive))))
            np.testing.assert_array_equal(gone.inputs["x"], np.full(4, value, np.float32))
            gone.id = -1
    assert stager.stop(5)
    for value, request in alive:
        np.testing.assert_array_equal(request.inputs["x"], np.full(4, value, np.float32))
    alive.clear()
    del request, gone
    assert ring.used_count == 0
    assert not any(thread.name == "stage" for thread in threading.enumerate())


@pytest.mark.parametrize(("shape", "size_max"), [((ROW_BYTES_MIN // 4 - 1,), 8), ((RING_BYTES_MAX // 8,), 4)])
def test_no_ring_is_made_where_it_is_not_worth_it(shape: tuple[int, ...], size_max: int) -> None:
    """Small inputs are gathered at once; batches that would not fit the ring are gathered, too."""
    assert make_ring(make_config(shape, size_max)) is None
