"""Tell the time and wait, so that tests can do both by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from symphony.units import NS_PER_S

Result = TypeVar("Result")


class Clock(Protocol):
    """A monotonic clock of one process, in nanoseconds."""

    def now_ns(self) -> int:
        """Return the present instant."""

    async def sleep_until(self, at_ns: int) -> None:
        """Return at `at_ns` or later, never earlier."""


class SystemClock:
    """The kernel's monotonic clock: it goes on while the process is stopped, not while the machine sleeps."""

    def now_ns(self) -> int:
        """Return the present instant."""
        return time.monotonic_ns()

    async def sleep_until(self, at_ns: int) -> None:
        """Return at `at_ns` or later; an event loop's timers alone may be a millisecond early."""
        while (left_ns := at_ns - time.monotonic_ns()) > 0:
            await asyncio.sleep(left_ns / NS_PER_S)


async def within(clock: Clock, at_ns: int, call: Coroutine[Any, Any, Result]) -> Result:
    """Return what `call` returns; cancel it at `at_ns` and raise TimeoutError."""
    running = asyncio.ensure_future(call)
    alarm = asyncio.ensure_future(clock.sleep_until(at_ns))
    try:
        await asyncio.wait((running, alarm), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise TimeoutError
    finally:
        alarm.cancel()
        if not running.done():
            running.cancel()
            await asyncio.wait((running,))
        if not running.cancelled():
            running.exception()  # it was seen: one that lost the race must not be logged as never retrieved
