"""Estimate a quantile of the last seconds from a histogram that only grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

LOOK_COUNT = 5
"""How many looks back the estimate reaches; the owner looks once a second."""


class RecentQuantile:
    """Remember the counts of the last looks at one histogram."""

    def __init__(self, share: float = 0.99) -> None:
        self._share = share
        self._looks: deque[tuple[int, ...]] = deque(maxlen=LOOK_COUNT + 1)

    def look(self, bounds: Sequence[int], counts: Sequence[int]) -> int:
        """Return the quantile of what came within the last looks, 0 when nothing did.

        Within a bucket values are taken to be spread evenly; above the last bound, to lie on it.
        """
        self._looks.append(tuple(counts))
        oldest = self._looks[0]
        fresh = [now - before for now, before in zip(counts, oldest, strict=True)]
        wanted = self._share * sum(fresh)
        if wanted <= 0:
            return 0
        seen = 0
        for index, count in enumerate(fresh[:-1]):
            if seen + count >= wanted:
                low = bounds[index - 1] if index else 0
                return round(low + (bounds[index] - low) * (wanted - seen) / count)
            seen += count
        return bounds[-1]
