"""Histograms with fixed, roughly logarithmic buckets: one bisection and two additions for each observation."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from symphony.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram at one moment, in the unit it is exported in.

    `bounds` are the buckets' inclusive upper limits, ascending; `counts` has one more entry than `bounds`, the last for
    everything above, each counting its own bucket only; `total` is the sum of what was observed.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.bounds) + 1:
            raise ValueError(
                f"histogram snapshot: {len(self.counts)} counts for {len(self.bounds)} bounds, expected one more"
            )

    @property
    def count(self) -> int:
        """Return how many values were observed."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (`le`, count at or below) pairs as Prometheus wants them, `+Inf` last."""
        labels = [*(format_bound(bound) for bound in self.bounds), "+Inf"]
        return [(label, float(count)) for label, count in zip(labels, accumulate(self.counts), strict=True)]


def format_bound(bound: float) -> str:
    """Return a bucket bound as the `le` label spells it: always a float ("0.05", "1.0")."""
    return repr(float(bound))


class Histogram:
    """Count integers in the buckets given by ascending `bounds` (inclusive upper limits)."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        if list(bounds) != sorted(set(bounds)) or not bounds:
            raise ValueError(f"histogram bounds must be ascending, distinct and not empty, got {list(bounds)}")
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0

    def observe(self, value: int) -> None:
        """Count `value`. About 0.2 us."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self, unit: int = NS_PER_S) -> HistogramSnapshot:
        """Return what was counted, bounds and total divided by `unit` (nanoseconds to seconds by default)."""
        return HistogramSnapshot(tuple(bound / unit for bound in self.bounds), tuple(self.counts), self.total / unit)
