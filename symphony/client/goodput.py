"""Find the goodput: the largest offered load with at least 99 % good."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PROBE_COUNT_MAX = 30
RESOLUTION = 0.01


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of the search: its rate and seed, the share of good requests, and whether it counts as held."""

    rate: float
    seed: int
    good_share: float
    is_held: bool


def find_goodput(
    probe: Callable[[float, int], Probe], start_rate: float, seed: int, on_probe: Callable[[Probe], None]
) -> tuple[float, list[Probe]]:
    """Return (goodput in requests per second, every probe made): 0 when nothing was held.

    `probe(rate, seed)` runs one load. Doubles or halves from `start_rate` until the border is between two rates,
    bisects to 1 %, then steps down by 1 % until a rate holds with another seed too.
    """
    made: list[Probe] = []

    def holds(rate: float, with_seed: int) -> bool:
        found = probe(rate, with_seed)
        made.append(found)
        on_probe(found)
        return found.is_held

    def has_budget() -> bool:
        return len(made) < PROBE_COUNT_MAX

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
    return low, made
