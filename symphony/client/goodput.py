"""Find the goodput: the largest offered load with at least 99 % good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PROBE_COUNT_MAX = 40
REPEAT_COUNT_MAX = 3
"""So often at most is one probe made in which the sender was too late to say anything."""
RESOLUTION = 0.01


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of the search: whether its rate was held, and whether the run says so (its sender kept up)."""

    is_held: bool
    is_valid: bool = True


def find_goodput(probe: Callable[[float, int], Probe], start_rate: float, seed: int) -> float:
    """Return the goodput in requests per second: 0 when nothing was held.

    `probe(rate, seed)` runs one load. Doubles or halves from `start_rate` until the border is between two rates,
    bisects to 1 %, then steps down by 1 % until a rate holds with another seed too. A probe that is not valid is made
    again; one that never is counts as not held.
    """
    made_count = 0

    def has_budget() -> bool:
        return made_count < PROBE_COUNT_MAX

    def holds(rate: float, with_seed: int) -> bool:
        nonlocal made_count
        for _ in range(REPEAT_COUNT_MAX):
            made_count += 1
            found = probe(rate, with_seed)
            if found.is_valid:
                return found.is_held
            if not has_budget():
                break
        return False

    low, high = 0.0, start_rate
    while has_budget() and holds(high, seed):
        low, high = high, high * 2
    if low == 0.0:
        while has_budget() and high > 1.0:
            low = high / 2
            if holds(low, seed):
                break
            high, low = low, 0.0
    while has_budget() and low and high - low > RESOLUTION * low:
        middle = (low + high) / 2
        if holds(middle, seed):
            low = middle
        else:
            high = middle
    while low and has_budget() and not holds(low, seed + 1):
        low *= 1 - RESOLUTION
    return low
