"""A clock that a test sets: time passes only in `advance`, and whoever sleeps wakes in order."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

SETTLING_TURNS = 40
"""Turns of the event loop that let everything that is ready run: more than any chain of awaits here is long."""


class ManualClock:
    """Implement symphony.coordination.clock.Clock by hand."""

    def __init__(self, now_ns: int = 1_000_000_000) -> None:
        self._now_ns = now_ns
        self._sleepers: list[tuple[int, int, asyncio.Event]] = []
        self._order = count()

    def now_ns(self) -> int:
        """Return the present instant."""
        return self._now_ns

    async def sleep_until(self, at_ns: int) -> None:
        """Return once the test has advanced the clock to `at_ns`."""
        while self._now_ns < at_ns:
            woken = asyncio.Event()
            heapq.heappush(self._sleepers, (at_ns, next(self._order), woken))
            await woken.wait()

    async def settle(self) -> None:
        """Let everything run that does not wait for time."""
        for _ in range(SETTLING_TURNS):
            await asyncio.sleep(0)

    async def advance(self, duration_ns: int) -> None:
        """Let time pass, stopping wherever somebody wakes."""
        await self.settle()
        ends_at_ns = self._now_ns + duration_ns
        while self._sleepers and self._sleepers[0][0] <= ends_at_ns:
            self._now_ns = max(self._now_ns, self._sleepers[0][0])
            while self._sleepers and self._sleepers[0][0] <= self._now_ns:
                heapq.heappop(self._sleepers)[2].set()
            await self.settle()
        self._now_ns = ends_at_ns
        await self.settle()

    async def jump(self, duration_ns: int) -> None:
        """Let time pass while nothing runs, as for a process that was stopped."""
        self._now_ns += duration_ns
