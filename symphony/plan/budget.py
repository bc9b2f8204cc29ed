"""Share out the time that an answer may take. The clock is an argument."""

from __future__ import annotations

from collections.abc import Callable


class OutOfBudget(Exception):
    """Report that a search must end with what it knows."""


class Budget:
    """So many seconds from now, by `clock_s`; parts of it end with it."""

    def __init__(self, seconds: float, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._end_s = self._began_s + seconds

    @property
    def left_s(self) -> float:
        """Return the seconds left, 0 when it is spent."""
        return max(0.0, self._end_s - self._clock_s())

    @property
    def passed_s(self) -> float:
        """Return the seconds since it began."""
        return self._clock_s() - self._began_s

    def part(self, share: float) -> Budget:
        """Return a budget of this share of what is left."""
        return Budget(self.left_s * share, self._clock_s)

    def check(self) -> None:
        """Raise OutOfBudget when nothing is left."""
        if self.left_s <= 0.0:
            raise OutOfBudget
