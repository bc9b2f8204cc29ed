"""Compare two monotonic clocks by round trips, and say how far off an instant of one may be on the other.

Each round trip confines the offset (their clock minus ours) to an interval: whatever the two directions took, the truth
is inside. Between round trips the interval widens by the drift allowed. What is kept is the intersection of the widened
interval with each new one, so the bound is never larger than that of the best round trip so far, widened since (NTP's
clock filter keeps that one alone). An empty intersection means that a clock jumped: the past is forgotten.

A jump too small to empty the intersection can hide, but never makes the estimate leave the newest round trip's
interval: until it is seen, the error is at most that round trip's duration plus the drift since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

PPM: Final = 1_000_000
DRIFT_PPM: Final = 500
"""Crystals are within 50 ppm each; a time daemon may slew Linux's monotonic clock by up to 500 ppm more."""
DRIFT_PPM_MAX: Final = PPM // 10
INSTANT_NS_MAX: Final = 1 << 62
"""Instants beyond are refused: no clock shows them for a century, and differences of two fit 64 bits."""


class RoundTrip(NamedTuple):
    """One question and its answer: sent and back on our clock, received and answered on theirs. Instants in ns."""

    sent_at_ns: int
    received_there_at_ns: int
    answered_there_at_ns: int
    back_at_ns: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Their clock minus ours is `offset_ns`, give or take `bound_ns`, at our instant `at_ns`."""

    offset_ns: int
    bound_ns: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class ClockJumped:
    """One of two clocks moved by about `by_ns` (theirs against ours) some time before `at_ns` on ours."""

    by_ns: int
    at_ns: int


class LinkClock:
    """What we know of another node's clock. Nothing until the first round trip; `estimate` is None then."""

    __slots__ = ("_at_ns", "_drift_ppm", "_high_ns", "_is_known", "_low_ns", "jump_count", "round_trip_ns")

    def __init__(self, drift_ppm: int = DRIFT_PPM) -> None:
        """Allow the clocks to drift apart by `drift_ppm` millionths of the time."""
        if not 0 <= drift_ppm <= DRIFT_PPM_MAX:
            raise ValueError(f"drift_ppm must be 0 to {DRIFT_PPM_MAX}, got {drift_ppm}")
        self._drift_ppm = drift_ppm
        self._is_known = False
        self._low_ns = self._high_ns = self._at_ns = 0
        self.jump_count = 0
        self.round_trip_ns = 0
        """Of the last round trip, the time that the answer took there left out."""

    def update(self, trip: RoundTrip) -> ClockJumped | None:
        """Take a round trip into account; return the jump if it contradicts all before.

        Raise ValueError for one that no clocks can show: back before it was sent, answered before it was received, or
        longer there than here beyond the drift allowed. Nothing is changed then.
        """
        sent, received, answered, back = trip
        if not all(-INSTANT_NS_MAX <= instant <= INSTANT_NS_MAX for instant in trip):
            raise ValueError(f"{trip} holds an instant that no clock shows")
        there_ns, here_ns = answered - received, back - sent
        # The offset is confined as it was when the answer left; from then until now it may have drifted.
        drift_ns = self._drift_over(here_ns)
        low_ns, high_ns = answered - back, received - sent + self._drift_over(there_ns)
        if here_ns < 0 or there_ns < 0 or low_ns > high_ns:
            raise ValueError(f"{trip} cannot be: {here_ns} ns here hold {there_ns} ns there")
        low_ns -= drift_ns
        high_ns += drift_ns
        self.round_trip_ns = max(here_ns - there_ns, 0)
        jumped = None
        if self._is_known:
            aged_ns = self._drift_over(back - self._at_ns)
            old_low_ns, old_high_ns = self._low_ns - aged_ns, self._high_ns + aged_ns
            if low_ns > old_high_ns or high_ns < old_low_ns:
                self.jump_count += 1
                jumped = ClockJumped((low_ns + high_ns - old_low_ns - old_high_ns) // 2, back)
            else:
                low_ns, high_ns = max(low_ns, old_low_ns), min(high_ns, old_high_ns)
        self._is_known = True
        self._low_ns, self._high_ns, self._at_ns = low_ns, high_ns, back
        return jumped

    @property
    def estimate(self) -> Estimate | None:
        """Return the offset as of the last round trip, None before the first."""
        if not self._is_known:
            return None
        offset_ns = (self._low_ns + self._high_ns) // 2
        return Estimate(offset_ns, self._high_ns - offset_ns, self._at_ns)

    def to_local(self, instant_there_ns: int) -> tuple[int, int]:
        """Return an instant of their clock on ours, and how far off that may be: (instant_ns, bound_ns).

        The bound grows with the instant's distance from the last round trip, either way. Raise LookupError before the
        first one.
        """
        estimate = self._known()
        here_ns = instant_there_ns - estimate.offset_ns
        return here_ns, self._bound_at(estimate, here_ns)

    def to_remote(self, instant_here_ns: int) -> tuple[int, int]:
        """Return an instant of our clock on theirs, and how far off that may be, as `to_local` does."""
        estimate = self._known()
        return instant_here_ns + estimate.offset_ns, self._bound_at(estimate, instant_here_ns)

    def _known(self) -> Estimate:
        estimate = self.estimate
        if estimate is None:
            raise LookupError("the clocks have not been compared yet: wait until the link is up")
        return estimate

    def _bound_at(self, estimate: Estimate, here_ns: int) -> int:
        # The instant itself is only known within the bound, and the offset drifts over that too.
        bound_ns = estimate.bound_ns + self._drift_over(here_ns - estimate.at_ns)
        return bound_ns * PPM // (PPM - self._drift_ppm) + 1

    def _drift_over(self, duration_ns: int) -> int:
        """Return how far the clocks may drift apart over a duration of either sign, rounded up."""
        return -(-abs(duration_ns) * self._drift_ppm // PPM)
