"""Decide when a lease is renewed, when its holder must stand down, and how long to wait before trying again.

A store counts a lease's time from when it handled the request; the holder counts from *before it sent* it, on its own
monotonic clock, and stops `margin_ns` earlier. So the holder's idea of the lease always ends first, however long the
request or its answer took, and whatever happened meanwhile to the process or the network; the margin covers what is
left: two clocks that run at slightly different speeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from symphony.units import NS_PER_MS, NS_PER_S

TTL_NS_MIN: Final = NS_PER_S
TTL_NS_MAX: Final = 300 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of a coordinator, in nanoseconds. Raise ValueError for what cannot work.

    `ttl_ns` is how long a lease lives without renewal, `margin_ns` how much earlier its holder stands down,
    `operation_ns` how long an operation may take with all its retries. Waits between attempts double from
    `backoff_ns_min` to `backoff_ns_max`.
    """

    ttl_ns: int = 5 * NS_PER_S
    margin_ns: int = 500 * NS_PER_MS
    operation_ns: int = 10 * NS_PER_S
    backoff_ns_min: int = 20 * NS_PER_MS
    backoff_ns_max: int = 1 * NS_PER_S

    def __post_init__(self) -> None:
        if not TTL_NS_MIN <= self.ttl_ns <= TTL_NS_MAX:
            raise ValueError(
                f"a lease of {self.ttl_ns / NS_PER_S:g} s; it must be {TTL_NS_MIN // NS_PER_S} to "
                f"{TTL_NS_MAX // NS_PER_S} s: shorter ones are lost to a busy moment, longer ones leave the cluster "
                "without a leader for too long"
            )
        if not 0 < self.margin_ns <= self.ttl_ns // 3:
            raise ValueError(
                f"a margin of {self.margin_ns / NS_PER_S:g} s; it must be above 0 and at most a third of the lease's "
                f"{self.ttl_ns / NS_PER_S:g} s"
            )
        if self.operation_ns <= 0 or not 0 < self.backoff_ns_min <= self.backoff_ns_max:
            raise ValueError("operation_ns and the backoffs must be above 0, the largest backoff at least the smallest")

    @classmethod
    def of_ttl(cls, ttl_ns: int) -> Timing:
        """Return the timing for leases of `ttl_ns`: a tenth of it as margin, operations bounded by twice of it."""
        return cls(ttl_ns, margin_ns=ttl_ns // 10, operation_ns=2 * ttl_ns, backoff_ns_max=max(ttl_ns // 5, 20_000_000))

    @property
    def renewal_ns(self) -> int:
        """Return how long after a renewal was sent the next one is: two may fail before the lease is lost."""
        return self.ttl_ns // 3

    @property
    def contest_ns(self) -> int:
        """Return how often a candidate looks whether the leadership is free, beside being told."""
        return self.ttl_ns // 4


class LeaseTime:
    """Know until when a lease is held, by the holder's clock. Pure arithmetic on instants that are given."""

    __slots__ = ("_timing", "renew_at_ns", "until_ns")

    def __init__(self, timing: Timing, sent_at_ns: int) -> None:
        self._timing = timing
        self.until_ns = sent_at_ns
        self.renew_at_ns = sent_at_ns
        self.granted(sent_at_ns)

    def granted(self, sent_at_ns: int) -> None:
        """Hear that a request sent at `sent_at_ns` was granted; an older one than those heard changes nothing."""
        self.until_ns = max(self.until_ns, sent_at_ns + self._timing.ttl_ns - self._timing.margin_ns)
        self.renew_at_ns = max(self.renew_at_ns, sent_at_ns + self._timing.renewal_ns)

    def is_held(self, now_ns: int) -> bool:
        """Return whether nobody else can hold it yet."""
        return now_ns < self.until_ns


class Backoff:
    """Spread retries: each wait is drawn evenly between half and all of a bound that doubles.

    `chance` returns evenly spread numbers in [0, 1).
    """

    __slots__ = ("_bound_ns", "_chance", "_timing")

    def __init__(self, timing: Timing, chance: Callable[[], float]) -> None:
        self._timing = timing
        self._chance = chance
        self._bound_ns = timing.backoff_ns_min

    def next_ns(self) -> int:
        """Return how long to wait before the next attempt."""
        wait_ns = round(self._bound_ns * (0.5 + 0.5 * self._chance()))
        self._bound_ns = min(2 * self._bound_ns, self._timing.backoff_ns_max)
        return wait_ns

    def reset(self) -> None:
        """Hear that an attempt succeeded."""
        self._bound_ns = self._timing.backoff_ns_min
