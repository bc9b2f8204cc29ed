"""Find the least number that holds, where each question is dear and a good guess is at hand."""

from __future__ import annotations

from collections.abc import Callable


def find_least(holds: Callable[[int], bool], start: int, limit: int, step: int = 1, resolution: int = 1) -> int | None:
    """Return the least n in 1..`limit` for which `holds(n)` is true; None if not even `limit` holds.

    Gallops from `start` in steps that double from `step`, down or up, then bisects: for an answer d away from the start
    about 2 log2(d / step) + log2(step) questions. Where answers are noisy and so not monotone, the n returned was found
    to hold, and n - 1 was found not to; with a coarser `resolution` n less that much.
    """
    start = max(1, min(limit, start))
    low, high = 0, start
    if holds(start):
        while high > 1:
            n = max(1, high - step)
            if not holds(n):
                low = n
                break
            high, step = n, step * 2
    else:
        low = start
        while True:
            if low >= limit:
                return None
            high, step = min(limit, low + step), step * 2
            if holds(high):
                break
            low = high
    while high - low > resolution:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
