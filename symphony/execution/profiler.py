"""Measure a latency profile.

Every round runs each batch size once, upwards and then downwards, so that a drift of clocks or of a neighbour's load
touches all sizes alike. First come powers of two and the points half-way between them, 1 and the largest always among
them; then, if the budget bears it, all sizes, else those where a straight line between the first would mislead.
Where batches are padded to buckets, the buckets are measured and nothing else: the profile is their staircase.

What a run takes is what its device says (`Timing`): on a GPU the time between two events on the compute stream, so
neither the copies nor what else the GPU is doing is in it.
"""

from __future__ import annotations

import datetime
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from symphony.config import ModelConfig
from symphony.execution.batch_sizes import GapSearch, batch_sizes_to_measure
from symphony.execution.devices.base import Timing
from symphony.execution.profile_store import ProfileStore, fingerprint
from symphony.profiles import LatencyProfile

__all__ = ["ProfileStore", "batch_sizes_to_measure", "fingerprint", "measure_profile", "quantile"]

CHEAP_SIZES_MAX = 256
"""Up to this max_batch_size every size is measured if the budget bears `CHEAP_SAMPLE_COUNT` samples of each."""
CHEAP_SAMPLE_COUNT = 20
SAMPLE_COUNT_MIN, SAMPLE_COUNT_MAX = 5, 200
SIZE_COUNT_MAX = 64
"""So many sizes are measured at most where not all are."""
FINER_BUDGET_SHARE = 0.5
"""Finer sizes are added only while this share of the budget is not spent."""


def measure_profile(
    run: Callable[[int], Timing],
    config: ModelConfig,
    *,
    buckets: Sequence[int] = (),
    memory_bytes: int = 0,
    device: str,
    torch_version: str,
    fingerprint: str,
    clock_ns: Callable[[], int],
    budget_s: float,
    on_progress: Callable[[float], None] = lambda share: None,
) -> LatencyProfile:
    """Return l(b) measured by `run(b)`, which runs one whole batch of b (already warm), within about `budget_s`.

    `buckets`: `run` pads to these sizes, the last of them the largest size; empty: it runs each batch as it is.

    `on_progress` hears the share of the work done, from 0 to 1, never falling. At least `SAMPLE_COUNT_MIN` rounds of
    the first sizes are made even if they take longer than the budget. What `run` raises is passed on.
    """
    rounds = _Rounds(run, clock_ns, budget_s, on_progress)
    rounds.add(buckets or batch_sizes_to_measure(config.batch_size_max))
    while not buckets and (finer := rounds.finer_sizes(config.batch_size_max)):
        rounds.add(finer)
    rounds.run_until_spent()
    sizes = _with_steps(buckets) if buckets else {size: size for size in sorted(rounds.samples)}
    ordered = [rounds.samples[measured] for measured in sizes.values()]
    copies = [rounds.copies[measured] for measured in sizes.values()]
    return LatencyProfile(
        batch_sizes=tuple(sizes),
        median_ns=tuple(quantile(samples, 0.5) for samples in ordered),
        p99_ns=tuple(quantile(samples, 0.99) for samples in ordered),
        sample_counts=tuple(len(samples) for samples in ordered),
        input_ns=tuple(quantile([into for into, _ in pairs], 0.5) for pairs in copies),
        output_ns=tuple(quantile([back for _, back in pairs], 0.5) for pairs in copies),
        buckets=tuple(buckets),
        memory_bytes=memory_bytes,
        model=config.name,
        version=config.version,
        device=device,
        torch_version=torch_version,
        measured_on=datetime.date.today().isoformat(),
        fingerprint=fingerprint,
    )


def quantile(samples: Sequence[int], share: float) -> int:
    """Return the sample at or just above the quantile: an actual measurement, the largest for few samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _with_steps(buckets: Sequence[int]) -> dict[int, int]:
    """Return the sizes at both ends of each bucket, ascending, each with the bucket that was measured for it."""
    sizes: dict[int, int] = {}
    first = 1
    for bucket in buckets:
        sizes[first] = sizes[bucket] = bucket
        first = bucket + 1
    return sizes


class _Rounds:
    """Run batches of every size in rounds and keep how long each took."""

    def __init__(
        self,
        run: Callable[[int], Timing],
        clock_ns: Callable[[], int],
        budget_s: float,
        on_progress: Callable[[float], None],
    ) -> None:
        self.samples: dict[int, list[int]] = {}
        self.copies: dict[int, list[tuple[int, int]]] = {}
        self._gaps = GapSearch()
        self._run = run
        self._clock_ns = clock_ns
        self._budget_ns = budget_s * 1e9
        self._on_progress = on_progress
        self._began_ns = clock_ns()
        self._progress = 0.0
        self._least_count = 0
        """Samples taken of the least number, `SAMPLE_COUNT_MIN` of each size."""
        self._full_count = 0
        """Samples taken of the largest number, `SAMPLE_COUNT_MAX` of each size."""
        self._is_upwards = True

    def add(self, sizes: Sequence[int]) -> None:
        """Take up new sizes and run the least number of rounds over them."""
        self.samples |= {size: [] for size in sizes}
        self.copies |= {size: [] for size in sizes}
        for _ in range(SAMPLE_COUNT_MIN):
            self._round(sizes)

    def run_until_spent(self) -> None:
        """Run rounds over all sizes until the budget is spent or every size has `SAMPLE_COUNT_MAX` samples."""
        sizes = sorted(self.samples)
        while self._spent_ns() < self._budget_ns and self._sample_count() < SAMPLE_COUNT_MAX:
            self._round(sizes)
        self._report(1.0)

    def finer_sizes(self, batch_size_max: int) -> list[int]:
        """Return the sizes worth adding now, none when the shape is known or the budget does not bear more."""
        sizes = sorted(self.samples)
        left_ns = self._budget_ns * FINER_BUDGET_SHARE - self._spent_ns()
        medians = {size: quantile(self.samples[size], 0.5) for size in sizes}
        missing = [size for size in range(1, batch_size_max + 1) if size not in medians]
        if batch_size_max <= CHEAP_SIZES_MAX and self._cost_ns(medians, missing, CHEAP_SAMPLE_COUNT) <= left_ns:
            return missing
        # Noise only ever adds, so with few samples the smallest shows the shape best.
        shape = {size: min(self.samples[size]) for size in sizes}
        finer = sorted(self._gaps.next_sizes(shape, SIZE_COUNT_MAX - len(sizes)))
        return finer if self._cost_ns(medians, finer, SAMPLE_COUNT_MIN) <= left_ns else []

    def _round(self, sizes: Sequence[int]) -> None:
        for size in sizes if self._is_upwards else reversed(sizes):
            timing = self._run(size)
            self.samples[size].append(max(1, timing.duration_ns))
            self.copies[size].append((timing.input_ns, timing.output_ns))
            count = len(self.samples[size])
            self._least_count += count <= SAMPLE_COUNT_MIN
            self._full_count += count <= SAMPLE_COUNT_MAX
            by_least = self._least_count / (SAMPLE_COUNT_MIN * len(self.samples))
            by_full = self._full_count / (SAMPLE_COUNT_MAX * len(self.samples))
            self._report(max(by_full, min(by_least, self._spent_ns() / self._budget_ns)))
        self._is_upwards = not self._is_upwards

    def _report(self, share: float) -> None:
        self._progress = max(self._progress, min(1.0, share))
        self._on_progress(self._progress)

    def _sample_count(self) -> int:
        return min(len(samples) for samples in self.samples.values())

    def _spent_ns(self) -> int:
        return self._clock_ns() - self._began_ns

    @staticmethod
    def _cost_ns(medians: Mapping[int, int], sizes: Sequence[int], count: int) -> int:
        """Return about how long `count` samples of each of `sizes` take: each as long as the next larger known one."""
        known = sorted(medians)
        return count * sum(medians[known[bisect_left(known, size)]] for size in sizes)
