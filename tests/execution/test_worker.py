"""The worker on devices that succeed, fail, lie and hang: each batch ends once, and only the guilty one fails."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from symphony.config import EmulatedSpec, ModelConfig, TensorSpec
from symphony.driver import PendingRequest
from symphony.execution.devices.base import DeviceError, DeviceLostError, Fault, Tensors, Timing
from symphony.execution.devices.emulated import EmulatedDevice, latency_table_ns
from symphony.execution.worker import FINITE_CHECKS, Batch, Worker, split_outputs


def make_config(run_timeout_ms: float = 10_000.0, **emulated: Any) -> ModelConfig:
    """Return an emulated model: `x` FP32[4] in, `y` FP32[2] out."""
    spec = EmulatedSpec(**({"alpha_ms": 1.0, "beta_ms": 4.0} | emulated))
    return ModelConfig(
        name="echo",
        version="1",
        slo_ms=50.0,
        batch_size_max=8,
        inputs=(TensorSpec("x", "FP32", (4,)),),
        outputs=(TensorSpec("y", "FP32", (2,)),),
        format="emulated",
        entry="",
        device_kinds=("emulated",),
        run_timeout_ms=run_timeout_ms,
        emulated=spec,
    )


class FakePort:
    """Hand out plans, remember what is reported."""

    def __init__(self) -> None:
        self.plans: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.finished: list[int] = []
        self.started: list[tuple[int, int]] = []
        self._next = 0

    def give(self, requests: Sequence[PendingRequest]) -> int:
        """Hand out a plan for the requests; return its id."""
        self._next += 1
        self.plans.put(
            SimpleNamespace(is_load=False, plan_id=self._next, gpu=0, model=0, ids=list(requests), decided_at_ns=0)
        )
        return self._next

    def take(self, gpu: int) -> Any:
        """Return the next plan, None when roused."""
        return self.plans.get()

    def rouse(self, gpu: int) -> None:
        """Let one `take` return None."""
        self.plans.put(None)

    def batch_started(self, plan_id: int, gpu: int, started_ns: int) -> None:
        """Remember the start."""
        self.started.append((plan_id, started_ns))

    def batch_finished(self, plan_id: int, gpu: int, finished_ns: int) -> None:
        """Remember the end."""
        self.finished.append(plan_id)

    def wait_and_finish(self, plan_id: int, gpu: int, finished_ns: int) -> None:
        """Sleep, then remember the end."""
        time.sleep(max(0.0, (finished_ns - time.monotonic_ns()) / 1e9))
        self.finished.append(plan_id)


@dataclass
class Bench:
    """A worker under test with what it said."""

    worker: Worker
    port: FakePort
    batches: queue.SimpleQueue[Batch]
    made: list[PendingRequest] = field(default_factory=list)

    def run(self, count: int = 1) -> Batch:
        """Run one batch of `count` requests and return it."""
        self.port.give(make_requests(count))
        return self.batches.get(timeout=5)


def make_requests(count: int, deadline_ns: int = 1) -> list[PendingRequest]:
    """Return requests whose `x` starts with their number, by default too late for a second run."""
    return [
        PendingRequest(0, {"x": np.full(4, number, np.float32)}, 0, deadline_ns, 4, lambda request: None)
        for number in range(count)
    ]


@pytest.fixture
def bench() -> Any:
    """Return a maker of running workers; all are stopped at the end and must have ended."""
    workers: list[Worker] = []

    def make(config: ModelConfig, device: Any = None) -> Bench:
        port = FakePort()
        batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        device = device or EmulatedDevice(0)
        worker = Worker(0, device, port, lambda ids: ids, batches.put)  # type: ignore[arg-type, return-value]
        worker.place(0, device.load(config, Path()))
        worker.start()
        workers.append(worker)
        return Bench(worker, port, batches)

    yield make
    for worker in workers:
        assert worker.stop(5.0), "the worker's threads did not end"


def test_emulated_batch_takes_its_latency_and_echoes_each_request(bench: Callable[..., Bench]) -> None:
    """Each answer is the request's own, and l(3) = 7 ms passed on the device's timeline."""
    batch = bench(make_config()).run(3)
    assert batch.error is None and batch.outputs is not None
    assert batch.outputs["y"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert batch.finished_ns - batch.started_ns == latency_table_ns(make_config())[2] == 7_000_000


def test_batches_follow_each_other_without_a_gap_on_the_device(bench: Callable[..., Bench]) -> None:
    """A batch handed over while another runs begins at the very instant that one ends."""
    one = bench(make_config())
    one.port.give(make_requests(8))
    one.port.give(make_requests(8))
    first, second = one.batches.get(timeout=5), one.batches.get(timeout=5)
    assert second.started_ns == first.finished_ns


def test_failing_batch_fails_alone(bench: Callable[..., Bench]) -> None:
    """Every second batch raises; the others are answered, and the device is reported free after each."""
    one = bench(make_config(fail_every=2))
    outcomes = [one.run().error for _ in range(4)]
    assert [error is None for error in outcomes] == [True, False, True, False]
    assert "injected failure" in str(outcomes[1])
    assert one.port.finished == [1, 2, 3, 4]


def test_wrong_shape_fails_its_batch_with_the_shape_said(bench: Callable[..., Bench]) -> None:
    """And the next batch is answered."""
    one = bench(make_config(wrong_shape_every=1))
    error = one.run(2).error
    assert isinstance(error, DeviceError)
    assert "of shape [4, 1]" in str(error) and "[2, 2] for this batch" in str(error)


def test_batch_of_a_model_that_is_not_there_is_handed_back_and_the_worker_goes_on(bench: Callable[..., Bench]) -> None:
    """As when its device has just got another worker, and the model is not on it yet."""
    one = bench(make_config())
    loaded = one.worker.models[0]
    one.worker.evict(0)
    one.port.give(in_time(2))
    batch = one.batches.get(timeout=5)
    assert batch.fault is Fault.PLACE and "left emulated:0" in str(batch.error) and len(batch.requests) == 2
    one.worker.place(0, loaded)
    assert one.run().error is None
    assert one.port.finished == [1, 2]


def test_hanging_batch_is_overdue_and_an_abandoned_worker_says_nothing_more(bench: Callable[..., Bench]) -> None:
    """`abandon` returns the hanging batch first, then what had been launched behind it."""
    one = bench(make_config(run_timeout_ms=30.0, hang_every=1))
    one.port.give(make_requests(2))
    one.port.give(make_requests(1))
    deadline = time.monotonic() + 2
    while not (one.worker.overdue(time.monotonic_ns()) and one.worker.in_flight_count == 2):
        assert time.monotonic() < deadline, "the hang was not noticed"
        time.sleep(0.002)
    unfinished = one.worker.abandon(time.monotonic_ns())
    assert [len(requests) for _, requests in unfinished] == [2, 1]
    time.sleep(0.05)
    assert one.batches.empty() and one.port.finished == []


def test_slow_batch_within_its_limit_is_not_overdue(bench: Callable[..., Bench]) -> None:
    """Neither is one that waits behind it: its time starts when the one before it ended."""
    one = bench(make_config(run_timeout_ms=60.0, alpha_ms=0.0, beta_ms=40.0))
    for _ in range(3):
        one.port.give(make_requests(1))
    for _ in range(3):
        while one.batches.empty():
            assert not one.worker.overdue(time.monotonic_ns())
            time.sleep(0.001)
        assert one.batches.get().error is None


def test_worker_whose_overdue_batch_ended_meanwhile_is_not_abandoned(bench: Callable[..., Bench]) -> None:
    """Else the batch that came after it, which never hung, would be failed in its place."""
    one = bench(make_config(run_timeout_ms=20.0, alpha_ms=0.0, beta_ms=40.0))
    one.port.give(make_requests(1))
    deadline = time.monotonic() + 2
    while not one.worker.overdue(now_ns := time.monotonic_ns()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert one.batches.get(timeout=5).error is None
    assert one.worker.abandon(now_ns) == []
    assert one.run().error is None


def test_batch_that_fails_behind_a_hanging_one_does_not_hide_the_hang(bench: Callable[..., Bench]) -> None:
    one = bench(make_config(run_timeout_ms=60.0, hang_every=1, fail_every=2))
    one.port.give(make_requests(1))
    deadline = time.monotonic() + 2
    while one.worker.in_flight_count == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    launched_ns = time.monotonic_ns()
    time.sleep(0.02)
    assert "injected failure" in str(one.run().error)
    assert one.worker.overdue(launched_ns + 60_000_001)
    assert len(one.worker.abandon(launched_ns + 60_000_001)) == 1


def test_part_that_hangs_when_run_again_is_let_go_with_its_worker(bench: Callable[..., Bench]) -> None:
    """The second launch fails, the third, of its first half, hangs; `bench` checks that both threads end."""
    one = bench(make_config(run_timeout_ms=30.0, fail_every=2, hang_every=3))
    assert one.run().error is None
    one.port.give(in_time(4))
    deadline = time.monotonic() + 2
    while not one.worker.overdue(time.monotonic_ns()):
        assert time.monotonic() < deadline, "the hang was not noticed"
        time.sleep(0.002)
    assert [len(requests) for _, requests in one.worker.abandon(time.monotonic_ns())] == [4]
    time.sleep(0.05)
    assert one.batches.empty() and one.port.finished == [1]


class SynchronousDevice:
    """Compute inside launch, as the cpu device does; `block` makes it hang."""

    name, kind, model, is_synchronous = "sync:0", "cpu", "sync", True

    def __init__(self) -> None:
        self.block = threading.Event()
        self.block.set()
        self.threads: set[str] = set()
        self.poison: set[float] = set()
        """A batch with one of these as its first number fails."""
        self.failure: type[BaseException] = ValueError
        """How it does."""
        self.sizes: list[int] = []
        self.lost_after = 0
        """After so many launches the device is lost; 0: never."""

    def enter_thread(self) -> None:
        """Remember who calls."""
        self.threads.add(threading.current_thread().name)

    def load(self, config: ModelConfig, folder: Path) -> Any:
        """Return a model that doubles `x`."""
        device = self

        class Flight:
            ends_at_ns = None

            def __init__(self, outputs: Tensors) -> None:
                self.started_ns = time.monotonic_ns()
                self.timing = Timing(0)
                self.outputs = outputs

            def wait(self) -> Tensors:
                return self.outputs

            def abandon(self) -> None:
                pass

        class Loaded:
            def __init__(self) -> None:
                self.config = config

            def launch(self, inputs: Sequence[Tensors]) -> Flight:
                device.block.wait(5)
                device.sizes.append(len(inputs))
                if device.lost_after and len(device.sizes) > device.lost_after:
                    raise DeviceLostError("sync:0 is lost")
                bad = device.poison & {float(tensors["x"][0]) for tensors in inputs}
                if bad:
                    raise device.failure(f"cannot take {sorted(bad)}")
                return Flight({"y": np.stack([tensors["x"][:2] * 2 for tensors in inputs])})

        return Loaded()

    def examine(self, error: Exception) -> Fault:
        """Blame the batch, unless the device was lost."""
        return Fault.DEVICE if isinstance(error, DeviceLostError) else Fault.BATCH

    def renew(self) -> SynchronousDevice:
        """Return another."""
        return SynchronousDevice()


def test_synchronous_device_needs_one_thread_and_can_be_abandoned_while_stuck(bench: Callable[..., Bench]) -> None:
    """The stuck thread ends later without a word."""
    device = SynchronousDevice()
    one = bench(make_config(run_timeout_ms=20.0), device)
    batch = one.run(2)
    assert batch.outputs is not None and batch.outputs["y"].tolist() == [[0, 0], [2, 2]]
    assert len(device.threads) == 1
    device.block.clear()
    one.port.give(make_requests(1))
    deadline = time.monotonic() + 2
    while not one.worker.overdue(time.monotonic_ns()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    began = time.monotonic()
    assert len(one.worker.abandon(time.monotonic_ns())) == 1
    assert time.monotonic() - began < 0.1
    device.block.set()
    time.sleep(0.05)
    assert one.batches.empty() and one.port.finished == [1]


def in_time(count: int) -> list[PendingRequest]:
    """Return requests with time for a second run."""
    return make_requests(count, time.monotonic_ns() + 5_000_000_000)


def run_in_parts(one: Bench, requests: list[PendingRequest]) -> list[Batch]:
    """Run one batch and return all its parts; each request must be in exactly one."""
    one.port.give(requests)
    parts = [one.batches.get(timeout=5)]
    while sum(len(part.requests) for part in parts) < len(requests):
        parts.append(one.batches.get(timeout=5))
    assert [id(request) for part in parts for request in part.requests] == [id(request) for request in requests]
    assert [part.part for part in parts] == list(range(len(parts)))
    assert one.port.finished == [1], "the device is reported free once"
    return parts


@pytest.mark.parametrize("place", range(8))
def test_one_bad_request_does_not_take_the_others_with_it(bench: Callable[..., Bench], place: int) -> None:
    device = SynchronousDevice()
    one = bench(make_config(), device)
    device.poison = {float(place)}
    parts = run_in_parts(one, in_time(8))
    assert sorted(device.sizes, reverse=True) == [8, 4, 4, 2, 2, 1, 1]
    for part in parts:
        numbers = [int(request.inputs["x"][0]) for request in part.requests]
        assert part.fault is Fault.BATCH
        if place in numbers:
            assert numbers == [place] and "cannot take" in str(part.error)
        else:
            assert part.outputs is not None
            assert part.outputs["y"][:, 0].tolist() == [2 * number for number in numbers]


def test_model_that_always_fails_is_tried_in_two_halves_and_no_further(bench: Callable[..., Bench]) -> None:
    device = SynchronousDevice()
    one = bench(make_config(), device)
    device.poison = {float(number) for number in range(8)}
    parts = run_in_parts(one, in_time(8))
    assert device.sizes == [8, 4, 4]
    assert all(part.error is not None for part in parts)


@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_code_that_would_end_its_thread_fails_its_requests_and_no_more(
    bench: Callable[..., Bench], failure: type[BaseException]
) -> None:
    device = SynchronousDevice()
    device.failure = failure
    one = bench(make_config(), device)
    device.poison = {1.0}
    parts = run_in_parts(one, in_time(2))
    assert [part.error is None for part in parts] == [True, False]
    assert f"the model's code raised {failure.__name__}(" in str(parts[1].error)
    device.poison = set()
    assert one.run(2).error is None


def test_nothing_is_run_again_once_its_deadline_has_passed(bench: Callable[..., Bench]) -> None:
    device = SynchronousDevice()
    one = bench(make_config(), device)
    device.poison = {0.0}
    parts = run_in_parts(one, make_requests(4) + in_time(8)[4:])
    assert device.sizes == [8, 4]
    assert [part.error is None for part in parts] == [False, True]


def test_batch_that_does_not_fit_is_answered_in_parts_that_do(bench: Callable[..., Bench]) -> None:
    one = bench(make_config(memory_size_max=3))
    parts = run_in_parts(one, in_time(8))
    assert [len(part.requests) for part in parts] == [2, 2, 2, 2]
    assert all(part.outputs is not None and part.fault is Fault.MEMORY and part.size_limit == 4 for part in parts)


def test_lost_device_is_said_and_its_batch_is_not_run_again(bench: Callable[..., Bench]) -> None:
    one = bench(make_config(lost_after=1))
    assert one.run(2).fault is None
    one.port.give(in_time(2))
    batch = one.batches.get(timeout=5)
    assert (batch.fault, len(batch.requests), batch.outputs) == (Fault.DEVICE, 2, None)


def test_device_lost_while_a_batch_is_run_again_is_said_with_that_batch(bench: Callable[..., Bench]) -> None:
    """The first launch did not fit, the second found the device lost: nothing more is tried, all may run elsewhere."""
    one = bench(make_config(memory_size_max=4, lost_after=1))
    parts = run_in_parts(one, in_time(8))
    assert [(part.fault, len(part.requests)) for part in parts] == [(Fault.DEVICE, 4), (Fault.DEVICE, 4)]
    assert all("is lost" in str(part.error) and part.outputs is None for part in parts)
    assert parts[0].size_limit == 4


@pytest.mark.parametrize(
    ("launches", "parts"),
    [
        # 8 do not fit, nor do the halves; of the first half's halves one is answered, the other loses the device.
        (4, [(Fault.MEMORY, 2), (Fault.DEVICE, 2), (Fault.DEVICE, 4)]),
        # One more is answered, and the second half's first half loses it.
        (5, [(Fault.MEMORY, 2), (Fault.MEMORY, 2), (Fault.DEVICE, 2), (Fault.DEVICE, 2)]),
    ],
)
def test_what_was_answered_before_the_device_was_lost_stays_answered(
    bench: Callable[..., Bench], launches: int, parts: list[tuple[Fault, int]]
) -> None:
    one = bench(make_config(memory_size_max=2, lost_after=launches))
    found = run_in_parts(one, in_time(8))
    assert [(part.fault, len(part.requests)) for part in found] == parts
    assert [part.outputs is None for part in found] == [fault is Fault.DEVICE for fault, _ in parts]


def test_request_that_failed_alone_is_not_sent_on_when_the_device_is_lost(bench: Callable[..., Bench]) -> None:
    """It is at fault itself: two launches fail (the batch, its first half of one), the third loses the device."""
    device = SynchronousDevice()
    one = bench(make_config(), device)
    device.poison = {0.0}
    device.lost_after = 2
    parts = run_in_parts(one, in_time(2))
    assert [part.fault for part in parts] == [Fault.BATCH, Fault.DEVICE]


def test_outputs_that_are_no_numbers_are_found_where_asked(bench: Callable[..., Bench]) -> None:
    config = make_config(nan_every=1)
    assert bench(config).run(3).bad_rows == frozenset()
    strict = dataclasses.replace(config, outputs=(TensorSpec("y", "FP32", (2,), allow_nan=False),))
    batch = bench(strict).run(3)
    assert batch.bad_rows == {0} and batch.outputs is not None and batch.error is None


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP16", np.array([1, np.inf, 65504], np.float16)),
        ("FP32", np.array([0, np.nan, 3e38], np.float32)),
        ("FP64", np.array([-1, -np.inf, 1e308])),
        ("BF16", np.array([0x3F80, 0xFF80, 0x7F7F], np.uint16)),
        ("BF16", np.array([0x3F80, 0x7FC1, 0xFF7F], np.uint16)),
    ],
)
def test_each_floating_datatype_has_its_check(datatype: str, values: np.ndarray) -> None:
    assert FINITE_CHECKS[datatype](values).tolist() == [True, False, True]


def test_split_outputs_gives_each_request_its_rows() -> None:
    """With one output and with several."""
    one = {"y": np.arange(6).reshape(3, 2)}
    assert [row["y"].tolist() for row in split_outputs(one, 3)] == [[0, 1], [2, 3], [4, 5]]
    two = {"y": np.arange(2), "z": np.arange(4).reshape(2, 2)}
    rows = split_outputs(two, 2)
    assert rows[1]["y"] == 1 and rows[1]["z"].tolist() == [2, 3]


def test_jitter_is_seeded_and_scatters_as_declared() -> None:
    """The same seed gives the same durations; the standard deviation is what was asked for."""

    def durations(seed: int) -> list[int]:
        loaded = EmulatedDevice(0).load(make_config(jitter=0.1, seed=seed), Path())
        flights = [loaded.launch([{"x": np.zeros(4, np.float32)}]) for _ in range(2000)]
        return [flight.ends_at_ns - flight.started_ns for flight in flights if flight.ends_at_ns is not None]

    assert durations(1) == durations(1)
    assert durations(1) != durations(2)
    assert 0.08 < np.std(durations(1)) / 5e6 < 0.12


def test_gap_between_batches_counts_where_a_request_of_the_next_waited(bench: Callable[..., Bench]) -> None:
    """The first batch has none before it; the second follows at once; the third, 30 ms late, was not waited for."""
    made = bench(make_config())
    waiting = make_requests(2)
    made.port.give(waiting[:1])
    made.port.give(waiting[1:])
    made.batches.get(timeout=5)
    made.batches.get(timeout=5)
    assert sum(made.worker.gaps.counts) == 1
    time.sleep(0.03)
    (late,) = make_requests(1)
    late.arrived_ns = time.monotonic_ns()
    made.port.give([late])
    made.batches.get(timeout=5)
    assert sum(made.worker.gaps.counts) == 1
    time.sleep(0.03)
    made.run()  # its request arrived at 0: it waited, and the device was idle for all that time
    assert sum(made.worker.gaps.counts) == 2 and made.worker.gaps.total >= 30_000_000


def test_batch_far_beyond_its_prediction_is_suspected_and_one_within_is_not(bench: Callable[..., Bench]) -> None:
    made = bench(make_config(hang_every=1))
    made.port.give(make_requests(1))
    made.port.plans.put(None)
    while not made.worker.in_flight_count:
        time.sleep(0.001)
    running = made.worker._running[0]
    running.plan.start_at_ns, running.plan.finish_at_ns = 0, 5_000_000
    assert made.worker.suspect(running.since_ns + 24_000_000) is None
    assert made.worker.suspect(running.since_ns + 26_000_000) == 0
    running.plan.finish_at_ns = 50_000_000
    assert made.worker.suspect(running.since_ns + 199_000_000) is None
    assert made.worker.suspect(running.since_ns + 201_000_000) == 0
