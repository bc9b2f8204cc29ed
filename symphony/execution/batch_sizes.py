"""Choose the batch sizes at which a latency profile is measured."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

ALL_SIZES_MAX = 16
"""Up to this max_batch_size every size is measured, whatever it costs."""
BEND_SHARE = 0.05
"""Where a straight line between measured sizes may be wrong by more than this share of l(b), sizes are added."""


def batch_sizes_to_measure(batch_size_max: int) -> list[int]:
    """Return the sizes to begin with, from 1 to `batch_size_max`: all, or powers of two and points between them."""
    if batch_size_max <= ALL_SIZES_MAX:
        return list(range(1, batch_size_max + 1))
    sizes = {1, batch_size_max}
    power = 1
    while power < batch_size_max:
        sizes |= {power, power + power // 2}
        power *= 2
    return sorted(size for size in sizes if size <= batch_size_max)


class GapSearch:
    """Find the sizes between measured ones at which l(b) must be looked at more closely, a few at a time.

    Since l(b) does not fall, a line across a gap is wrong by less than the rise within it. Where that is too much the
    gap's middle is asked for. If it lies on the line the gap counts as straight, else both halves are gaps themselves.
    """

    def __init__(self) -> None:
        self._asked: list[tuple[int, int, int]] = []
        self._straight: set[tuple[int, int]] = set()

    def next_sizes(self, latency_ns: Mapping[int, int], count_max: int) -> list[int]:
        """Return at most `count_max` sizes to measure next, those in the steepest gaps first.

        `latency_ns` maps every size measured so far, those of the last call among them, to its latency.
        """
        for low, middle, high in self._asked:
            line_ns = latency_ns[low] + (latency_ns[high] - latency_ns[low]) * (middle - low) / (high - low)
            if abs(line_ns - latency_ns[middle]) <= BEND_SHARE * latency_ns[high]:
                self._straight |= {(low, middle), (middle, high)}
        steep: list[tuple[float, int, int]] = []
        for low, high in pairwise(sorted(latency_ns)):
            share = (latency_ns[high] - latency_ns[low]) / latency_ns[high]
            if high - low > 1 and share > BEND_SHARE and (low, high) not in self._straight:
                steep.append((share, low, high))
        steep = sorted(steep, reverse=True)[: max(0, count_max)]
        self._asked = [(low, (low + high) // 2, high) for _, low, high in steep]
        return [middle for _, middle, _ in self._asked]
