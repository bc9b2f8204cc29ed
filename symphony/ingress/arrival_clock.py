"""Say when the request that is being read arrived, although the event loop may have been busy when it did."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from symphony.units import NS_PER_MS, NS_PER_US

SLEPT_NS = 100 * NS_PER_US
"""A longer pause between two stretches of work means that the loop slept: what it finds then has just arrived."""
BACKDATED_NS_MAX = 20 * NS_PER_MS
"""A longer stretch is a stall, not load, and says little about when within it a request arrived."""


class ArrivalClock:
    """Stamp arrivals, in monotonic nanoseconds, no later than they were.

    The kernel takes requests while the loop answers others, and the loop finds them when it polls next. All that it
    finds then gets one stamp: that poll's instant if it slept before, else the beginning of the work that kept it. So
    time spent waiting for the loop counts against the deadline, as it does for the caller. The stretch is known from
    this clock's own use and from `worked`; one call per turn of the loop costs a callback, the others nothing.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        self._turn_ns = 0
        """When the loop polled; 0 between turns in which something was read."""
        self._stamp_ns = 0
        self._busy_since_ns = 0
        self._busy_until_ns = 0

    def __call__(self) -> int:
        """Return the stamp of what is being read in this turn of the running loop."""
        if self._turn_ns == 0:
            now_ns = self._clock_ns()
            self._turn_ns = self._stamp_ns = now_ns
            if now_ns - self._busy_until_ns <= SLEPT_NS:
                self._stamp_ns = max(self._busy_since_ns, now_ns - BACKDATED_NS_MAX)
            asyncio.get_running_loop().call_soon(self._turn_ended)
        return self._stamp_ns

    def worked(self, since_ns: int, until_ns: int) -> None:
        """Hear that a callback other than a read kept the loop busy."""
        if since_ns - self._busy_until_ns > SLEPT_NS:
            self._busy_since_ns = since_ns
        self._busy_until_ns = until_ns

    def _turn_ended(self) -> None:
        # What arrived before this turn's poll was read in it: the stretch for the next turn begins there.
        self._busy_since_ns, self._busy_until_ns = self._turn_ns, self._clock_ns()
        self._turn_ns = 0
