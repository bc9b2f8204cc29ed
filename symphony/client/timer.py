"""Wake an event loop at precise instants: a kernel timer that the loop reads as a file.

Loop timers will not do: uvloop's are whole milliseconds and fire up to one early. This one is about 60 us late at the
median.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class PreciseTimer:
    """Call `on_due()` once after each `set`, at or just after the instant given on `time.monotonic_ns`'s clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_due: Callable[[], None]) -> None:
        self._fd = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = loop
        self._on_due = on_due
        self._value = _Itimerspec()
        loop.add_reader(self._fd, self._ready)

    def set(self, at_ns: int) -> None:
        """Be called at `at_ns`; an instant that has passed means at once."""
        value = self._value.value
        value.seconds, value.nanoseconds = divmod(max(1, at_ns), 1_000_000_000)
        if _LIBC.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(self._value), None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def close(self) -> None:
        """Stop and free the timer."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ready(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        self._on_due()
