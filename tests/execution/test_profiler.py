"""A profile is measured at the sizes that matter, within its budget, and used again only where it holds."""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from symphony.config import DATATYPES, ModelConfig, TensorSpec
from symphony.execution import profile_store
from symphony.execution.batch_sizes import ALL_SIZES_MAX, GapSearch
from symphony.execution.buckets import bucket_of
from symphony.execution.devices import Timing
from symphony.execution.formats import ModelLoadError
from symphony.execution.profile_store import PROFILE_BYTES_MAX
from symphony.execution.profiler import (
    CHEAP_SIZES_MAX,
    SAMPLE_COUNT_MAX,
    SAMPLE_COUNT_MIN,
    SIZE_COUNT_MAX,
    ProfileStore,
    batch_sizes_to_measure,
    fingerprint,
    measure_profile,
    quantile,
)
from symphony.execution.samples import sample_inputs
from symphony.profiles import LatencyProfile
from symphony.wire.tensors import NUMPY_DTYPES

MS = 1_000_000


def make_config(batch_size_max: int = 8, **changes: Any) -> ModelConfig:
    """Return a python model."""
    return ModelConfig(
        **{
            "name": "m",
            "version": "1",
            "slo_ms": 50.0,
            "batch_size_max": batch_size_max,
            "inputs": (TensorSpec("x", "FP32", (4,)),),
            "outputs": (TensorSpec("y", "FP32", (2,)),),
            "format": "python",
            "entry": "model.py:M",
            "device_kinds": ("cpu",),
            **changes,
        }
    )


class Bench:
    """A model whose time passes on a clock of its own: `latency_ns(size, run number)`."""

    def __init__(self, latency_ns: Callable[[int, int], int]) -> None:
        self.now_ns = 0
        self.sizes: list[int] = []
        self.progress: list[float] = []
        self._latency_ns = latency_ns

    def run(self, size: int) -> Timing:
        """Take the batch's time, and 10 and 20 ns per request for copies that overlap other batches."""
        duration_ns = self._latency_ns(size, len(self.sizes))
        self.now_ns += duration_ns
        self.sizes.append(size)
        return Timing(duration_ns, 10 * size, 20 * size)

    def measure(self, batch_size_max: int, budget_s: float = 20.0, buckets: tuple[int, ...] = ()) -> LatencyProfile:
        """Return the profile of the model."""
        return measure_profile(
            self.run,
            make_config(batch_size_max),
            buckets=buckets,
            memory_bytes=123,
            device="d",
            torch_version="t",
            fingerprint="f",
            clock_ns=lambda: self.now_ns,
            budget_s=budget_s,
            on_progress=self.progress.append,
        )


def test_buckets_alone_are_measured_and_make_a_staircase() -> None:
    buckets = (1, 2, 4, 8)
    bench = Bench(lambda size, _: (bucket_of(buckets, size) + 5) * MS)
    profile = bench.measure(8, 1.0, buckets)
    assert set(bench.sizes) == set(buckets)
    assert profile.buckets == buckets
    assert profile.table_ns(8) == tuple((bucket_of(buckets, size) + 5) * MS for size in range(1, 9))
    assert (profile.input_ns[-1], profile.output_ns[-1]) == (80, 160)
    assert profile.memory_bytes == 123
    assert LatencyProfile.from_json(profile.to_json(), "f.json") == profile


def line(size: int, _: int) -> int:
    """1 ms per request, 5 ms per batch."""
    return (size + 5) * MS


# ---- what is measured ------------------------------------------------------------------------------------------


def test_profile_is_what_the_model_takes() -> None:
    """Median, p99, what it was measured on."""
    profile = Bench(line).measure(8)
    assert profile.batch_sizes == tuple(range(1, 9))
    assert profile.median_ns == profile.p99_ns == tuple(line(size, 0) for size in range(1, 9))
    assert (profile.model, profile.version, profile.device) == ("m", "1", "d")
    assert (profile.torch_version, profile.fingerprint) == ("t", "f")
    assert len(profile.measured_on) == 10


@given(st.integers(1, 4096))
def test_first_sizes_have_both_ends_and_grow(batch_size_max: int) -> None:
    """All while there are few, else about two for each doubling."""
    sizes = batch_sizes_to_measure(batch_size_max)
    assert sizes[0] == 1 and sizes[-1] == batch_size_max
    assert sizes == sorted(set(sizes))
    if batch_size_max <= ALL_SIZES_MAX:
        assert sizes == list(range(1, batch_size_max + 1))
    else:
        assert len(sizes) <= 2 * batch_size_max.bit_length()
        assert all(high <= 2 * low for low, high in pairwise(sizes))


def test_all_sizes_are_measured_when_that_is_cheap() -> None:
    """And not when it is not."""
    assert Bench(lambda size, _: 1000).measure(CHEAP_SIZES_MAX).batch_sizes == tuple(range(1, CHEAP_SIZES_MAX + 1))
    slow = Bench(lambda size, _: (size + 5) * 10 * MS)
    assert slow.measure(CHEAP_SIZES_MAX).batch_sizes == tuple(batch_sizes_to_measure(CHEAP_SIZES_MAX))


def test_straight_line_needs_few_sizes() -> None:
    """One look into each steep gap, and no more; the table is exact."""
    profile = Bench(line).measure(1024, budget_s=100.0)
    first = batch_sizes_to_measure(1024)
    middles = {(low + high) // 2 for low, high in pairwise(first)}
    assert set(first) < set(profile.batch_sizes) <= set(first) | middles
    assert profile.table_ns(1024) == tuple(line(size, 0) for size in range(1, 1025))


def test_edges_of_a_staircase_are_found() -> None:
    """Batches run padded to 48, 160, 900 and 1024: just above an edge is a bad size, and the table must know."""

    def padded(size: int, _: int) -> int:
        return next(bucket for bucket in (48, 160, 900, 1024) if size <= bucket) * 20_000

    profile = Bench(padded).measure(1024)
    for edge in (48, 160, 900):
        assert {edge, edge + 1} <= set(profile.batch_sizes)
    assert profile.table_ns(1024) == tuple(padded(size, 0) for size in range(1, 1025))
    assert len(profile.batch_sizes) <= SIZE_COUNT_MAX


@given(st.sets(st.integers(1, 1023), max_size=1), st.lists(st.floats(1.2, 3.0), min_size=2, max_size=2))
@example({512, 768}, [1.25, 1.25, 1.25])
@example({48, 160, 900}, [3.0, 5.0, 1.2, 1.2])
@example({64, 128, 192, 256, 512}, [1.5] * 6)
def test_step_is_found_wherever_it_is(edges: set[int], factors: list[float]) -> None:
    """At first sizes and between them, if it is at least a fifth high."""
    heights, buckets = [20_000], [*sorted(edges), 1024]
    for factor in factors:
        heights.append(round(heights[-1] * factor))
    steps = [heights[bisect_left(buckets, size)] for size in range(1, 1025)]
    search, measured = GapSearch(), batch_sizes_to_measure(1024)
    while finer := search.next_sizes({size: steps[size - 1] for size in measured}, SIZE_COUNT_MAX - len(measured)):
        measured = sorted([*measured, *finer])
    counts = (1,) * len(measured)
    medians = tuple(steps[size - 1] for size in measured)
    profile = LatencyProfile(tuple(measured), medians, medians, counts, "m", "1", "d", "t", "", "f")
    assert profile.table_ns(1024) == tuple(steps)


def test_gap_that_rises_little_is_left_alone() -> None:
    """A line across it cannot be wrong by more than it rises."""
    assert GapSearch().next_sizes({1: 100, 9: 105, 17: 110}, 9) == []
    assert GapSearch().next_sizes({1: 100, 9: 106, 17: 110}, 9) == [5]


def test_middle_on_the_line_closes_its_gap() -> None:
    """And one off the line opens both halves."""
    straight, bent = GapSearch(), GapSearch()
    assert straight.next_sizes({1: 100, 9: 180}, 9) == bent.next_sizes({1: 100, 9: 180}, 9) == [5]
    assert straight.next_sizes({1: 100, 5: 148, 9: 180}, 9) == []
    assert bent.next_sizes({1: 100, 5: 151, 9: 180}, 9) == [3, 7]


def test_steepest_gap_comes_first() -> None:
    """It is the one to know if not all can be."""
    assert GapSearch().next_sizes({1: 10, 9: 10, 17: 15, 25: 15, 33: 60, 41: 60}, 9) == [29, 13]
    assert GapSearch().next_sizes({1: 10, 9: 10, 17: 15, 25: 15, 33: 60, 41: 60}, 1) == [29]
    assert GapSearch().next_sizes({1: 10, 9: 20}, 0) == GapSearch().next_sizes({1: 10, 9: 20}, -1) == []


def test_number_of_sizes_is_limited() -> None:
    """However rough the latency is."""
    rough = Bench(lambda size, _: round(1000 * 1.2 ** (size // 64)))
    assert len(rough.measure(4096, budget_s=600.0).batch_sizes) == SIZE_COUNT_MAX


def test_finer_sizes_are_not_added_beyond_the_budget() -> None:
    """A slow model keeps the first ones."""

    def padded(size: int, _: int) -> int:
        return (1 + (size - 1) // 100) * 1000 * MS

    assert Bench(padded).measure(256, budget_s=20.0).batch_sizes == tuple(batch_sizes_to_measure(256))


def test_finer_sizes_leave_time_for_samples() -> None:
    """The first rounds take 60 s: of 100 s the rest is for samples of these, of 200 s some is for finding the step."""

    def step(size: int, _: int) -> int:
        return MS if size <= 16 else 1000 * MS

    first = batch_sizes_to_measure(1024)
    assert Bench(step).measure(1024, budget_s=100.0).batch_sizes == tuple(first)
    assert set(Bench(step).measure(1024, budget_s=200.0).batch_sizes) == {*first, 17, 18, 20}


# ---- how it is measured ----------------------------------------------------------------------------------------


def test_sizes_are_interleaved_up_and_down() -> None:
    """One run of each size in a round."""
    bench = Bench(line)
    bench.measure(4, budget_s=0.001)
    assert bench.sizes[:8] == [1, 2, 3, 4, 4, 3, 2, 1]


def test_drift_does_not_favour_a_size() -> None:
    """The machine slows down to half its speed meanwhile: every size is told to be slower by the same share."""
    plain = Bench(lambda size, _: size * MS)
    runs = SAMPLE_COUNT_MAX * 8
    plain_profile = plain.measure(8)
    drifting = Bench(lambda size, number: size * MS * (runs + number) // runs).measure(8)
    assert len(plain.sizes) == runs
    shares = [slow / fast for slow, fast in zip(drifting.median_ns, plain_profile.median_ns, strict=True)]
    assert all(share == pytest.approx(1.5, rel=0.01) for share in shares)


def test_outliers_move_the_p99_and_not_the_median() -> None:
    """One run in forty takes ten times as long."""
    profile = Bench(lambda size, number: (10 if number % 41 == 40 else 1) * size * MS).measure(8)
    assert profile.median_ns == tuple(size * MS for size in range(1, 9))
    assert profile.p99_ns == tuple(10 * size * MS for size in range(1, 9))


def test_measuring_stops_when_the_budget_is_spent() -> None:
    """To within a round."""
    bench = Bench(line)
    profile = bench.measure(8, budget_s=2.0)
    round_ns = sum(line(size, 0) for size in range(1, 9))
    assert 2e9 <= bench.now_ns < 2e9 + round_ns
    assert SAMPLE_COUNT_MIN < min(profile.sample_counts) < SAMPLE_COUNT_MAX


def test_slow_model_still_gets_its_least_number_of_samples() -> None:
    """A median of one run would be chance."""
    profile = Bench(line).measure(8, budget_s=0.001)
    assert profile.sample_counts == (SAMPLE_COUNT_MIN,) * 8


def test_quick_model_is_not_measured_for_ever() -> None:
    """Nor does a clock that stands still hurt."""
    assert Bench(lambda size, _: 100).measure(4).sample_counts == (SAMPLE_COUNT_MAX,) * 4
    assert Bench(lambda size, _: 0).measure(4).median_ns == (1,) * 4


@pytest.mark.parametrize("budget_s", [0.001, 2.0, 1000.0])
@pytest.mark.parametrize("batch_size_max", [1, 8, 100, 1000])
def test_progress_rises_to_one(budget_s: float, batch_size_max: int) -> None:
    """Never back, and never beyond."""
    bench = Bench(lambda size, number: (1 + size // 33) * MS)
    bench.measure(batch_size_max, budget_s)
    assert bench.progress == sorted(bench.progress)
    assert bench.progress[0] > 0.0 and bench.progress[-1] == 1.0


def test_error_of_the_model_is_passed_on() -> None:
    """Nothing is guessed for a size that fails."""

    def fail(size: int, _: int) -> int:
        raise RuntimeError(f"no memory for {size}")

    with pytest.raises(RuntimeError, match="no memory for 1"):
        Bench(fail).measure(8)


def test_quantile_is_a_sample() -> None:
    """The p99 of fewer than 100 is the largest; of 100 the last but one."""
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile([4, 3, 1, 2], 0.5) == 2
    assert quantile(list(range(99)), 0.99) == 98
    assert quantile(list(range(100)), 0.99) == 98
    assert quantile([7], 0.99) == quantile([7], 0.5) == 7


# ---- samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3)])
@pytest.mark.parametrize("datatype", DATATYPES)
def test_samples_have_the_declared_shape_and_datatype(datatype: str, shape: tuple[int, ...]) -> None:
    """As the wire would bring them."""
    samples = sample_inputs(make_config(inputs=(TensorSpec("x", datatype, shape),)), np.random.default_rng(1), 5)
    assert len(samples) == 5
    for sample in samples:
        assert sample.keys() == {"x"}
        assert sample["x"].shape == shape and sample["x"].dtype == NUMPY_DTYPES[datatype]


def test_samples_are_plausible() -> None:
    """Finite floats that differ, integers any vocabulary has, texts of some words."""

    def draw(datatype: str) -> np.ndarray[Any, Any]:
        (sample,) = sample_inputs(make_config(inputs=(TensorSpec("x", datatype, (50,)),)), np.random.default_rng(1), 1)
        return sample["x"]

    for datatype in ("FP16", "FP32", "FP64"):
        assert np.isfinite(draw(datatype)).all() and len(set(draw(datatype).tolist())) > 40
    bf16 = (draw("BF16").astype(np.uint32) << 16).view(np.float32)
    assert np.isfinite(bf16).all() and 0.5 < bf16.std() < 2.0
    assert set(draw("INT64").tolist()) == {0, 1}
    assert all(4 <= len(text.decode().split()) <= 23 for text in draw("BYTES"))


def test_samples_repeat_with_their_seed() -> None:
    """And differ with another."""
    config = make_config()
    one, again, other = (sample_inputs(config, np.random.default_rng(seed), 2)[1]["x"].tolist() for seed in (1, 1, 2))
    assert one == again != other


def test_model_may_make_its_own_samples() -> None:
    """One call for each request."""
    calls: list[int] = []

    def sample(rng: np.random.Generator) -> dict[str, Any]:
        calls.append(int(rng.integers(0, 100)))
        return {"x": np.full(4, len(calls), np.float32), "more": 1}

    samples = sample_inputs(make_config(), np.random.default_rng(1), 3, sample)
    assert [one["x"][0] for one in samples] == [1.0, 2.0, 3.0]
    assert samples[0].keys() == {"x"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, 'gave no input "x"; return every input'),
        (None, 'gave no input "x"'),
        ({"x": np.zeros(3, np.float32)}, r'gave input "x" as float32\[3\]: model.toml declares FP32\[4\]'),
        ({"x": np.zeros((1, 4), np.float32)}, r"float32\[1, 4\]"),
        ({"x": np.zeros(4)}, r"float64\[4\]"),
    ],
)
def test_own_sample_that_is_not_as_declared_is_refused(given: Any, said: str) -> None:
    """With both shapes."""
    with pytest.raises(ModelLoadError, match=said):
        sample_inputs(make_config(), np.random.default_rng(1), 1, lambda rng: given)


# ---- fingerprint -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model's folder; the user's cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "m"
    (folder / "weights").mkdir(parents=True)
    (folder / "model.toml").write_text("")
    (folder / "model.py").write_text("code")
    (folder / "weights" / "a.bin").write_bytes(b"weights")
    return folder


def test_fingerprint_stays_while_nothing_that_matters_changes(folder: Path) -> None:
    """Profiles, compiled code, comments in model.toml and the SLO do not."""
    before = fingerprint(make_config(), folder)
    for name in ("profiles", "__pycache__", "weights/__pycache__"):
        (folder / name).mkdir()
        (folder / name / "x").write_text("x")
    (folder / "model.toml").write_text("# comment")
    assert fingerprint(make_config(slo_ms=99.0, queue_count_max=7), folder) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"entry": "model.py:Other"},
        {"format": "torchscript"},
        {"batch_size_max": 9},
        {"inputs": (TensorSpec("x", "FP32", (5,)),)},
        {"outputs": (TensorSpec("y", "FP16", (2,)),)},
        {"parameters": {"a": 1}},
    ],
)
def test_fingerprint_changes_with_what_is_run(folder: Path, changes: dict[str, Any]) -> None:
    """The keys of model.toml that the latency depends on."""
    assert fingerprint(make_config(**changes), folder) != fingerprint(make_config(), folder)


def test_fingerprint_changes_with_the_files(folder: Path) -> None:
    """Content of the same length, a new one, a moved one, one less."""
    seen = {fingerprint(make_config(), folder)}
    (folder / "weights" / "a.bin").write_bytes(b"WEIGHTS")
    seen.add(fingerprint(make_config(), folder))
    (folder / "new").write_text("")
    seen.add(fingerprint(make_config(), folder))
    (folder / "new").rename(folder / "weights" / "new")
    seen.add(fingerprint(make_config(), folder))
    (folder / "model.py").unlink()
    seen.add(fingerprint(make_config(), folder))
    assert len(seen) == 5


def test_large_file_counts_by_size_and_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading gigabytes at each start would take longer than it saves."""
    monkeypatch.setattr(profile_store, "DIGEST_BYTES_MAX", 6)
    file = folder / "weights" / "a.bin"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    before = fingerprint(make_config(), folder)
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=times)
    assert fingerprint(make_config(), folder) == before
    os.utime(file, ns=(times[0], times[1] + 1))
    assert fingerprint(make_config(), folder) != before


def test_fingerprint_of_a_model_in_a_package_counts_its_module(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code is not in the folder."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "symphony_test_profiled.py").write_text("one")
    monkeypatch.syspath_prepend(str(site))
    config = make_config(entry="symphony_test_profiled:make")
    before = fingerprint(config, folder)
    (site / "symphony_test_profiled.py").write_text("two")
    assert fingerprint(config, folder) != before
    missing = make_config(entry="symphony_test_missing.inner:make")
    assert fingerprint(missing, folder) == fingerprint(missing, folder)


# ---- the store -------------------------------------------------------------------------------------------------


def make_profile(device: str = "cpu x2 threads", mark: str = "f") -> LatencyProfile:
    """Return a small profile."""
    return LatencyProfile((1, 2), (10, 20), (11, 21), (5, 5), "m", "1", device, "t", "2026-01-31", mark)


def test_saved_profile_is_found_beside_the_model(folder: Path) -> None:
    """Under its device's name, and nothing else is left there."""
    assert ProfileStore(folder).save(make_profile()) == folder / "profiles" / "cpu-x2-threads.json"
    assert ProfileStore(folder).load("cpu x2 threads", "t", "f") == make_profile()
    assert [path.name for path in (folder / "profiles").iterdir()] == ["cpu-x2-threads.json"]


def test_saved_profile_is_used_only_where_it_holds(folder: Path) -> None:
    """Device, torch and fingerprint must all match."""
    store = ProfileStore(folder)
    assert store.load("cpu x2 threads", "t", "f") is None
    store.save(make_profile())
    assert store.load("cpu x1 threads", "t", "f") is None
    assert store.load("cpu x2 threads", "u", "f") is None
    assert store.load("cpu x2 threads", "t", "g") is None


def test_devices_whose_files_share_a_name_are_not_confused(folder: Path) -> None:
    """The file says of which it is."""
    store = ProfileStore(folder)
    store.save(make_profile("A-100"))
    store.save(make_profile("A 100"))
    assert store.load("A-100", "t", "f") is None
    assert store.load("A 100", "t", "f") == make_profile("A 100")
    assert store.save(make_profile("图形")) == folder / "profiles" / "device.json"


def test_profile_is_replaced_by_a_newer_one(folder: Path) -> None:
    """In one step."""
    store = ProfileStore(folder)
    store.save(make_profile(mark="old"))
    store.save(make_profile(mark="new"))
    assert store.load("cpu x2 threads", "t", "old") is None
    assert store.load("cpu x2 threads", "t", "new") is not None


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"x" * (PROFILE_BYTES_MAX + 1)])
def test_damaged_file_is_ignored_with_a_word_in_the_log(
    folder: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """And measured again, not fatal."""
    store = ProfileStore(folder)
    file = store.save(make_profile())
    assert file is not None
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert store.load("cpu x2 threads", "t", "f") is None
    assert "saved profile ignored" in caplog.text


def test_read_only_folder_falls_back_to_the_cache(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a line in the log; another folder has another place there. (A file in the way, since root may write all.)"""
    (folder / "profiles").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        file = ProfileStore(folder).save(make_profile())
    assert file is not None and file.is_relative_to(tmp_path / "cache" / "symphony" / "profiles")
    assert f"profile not saved in {folder / 'profiles'}" in caplog.text
    assert ProfileStore(folder).load("cpu x2 threads", "t", "f") == make_profile()
    assert ProfileStore(tmp_path / "other").load("cpu x2 threads", "t", "f") is None


def test_failed_save_leaves_the_old_profile_and_no_draft(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of it."""
    store = ProfileStore(folder)
    store.save(make_profile(mark="old"))
    write_text = Path.write_text

    def fill_up(path: Path, text: str, **options: Any) -> int:
        write_text(path, text[:20], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    assert store.save(make_profile(mark="new")) is None
    assert store.load("cpu x2 threads", "t", "old") is not None
    assert [path.name for path in (folder / "profiles").iterdir()] == ["cpu-x2-threads.json"]


def test_no_home_is_no_trouble(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with an unknown user."""
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert ProfileStore(folder).save(make_profile()) is not None
    (folder / "other").mkdir()
    (folder / "other" / "profiles").write_text("in the way")
    assert ProfileStore(folder / "other").save(make_profile()) is None
