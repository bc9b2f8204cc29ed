"""Give each node a monotonic clock of its own: started at some time, a little fast or slow, still while suspended."""

from __future__ import annotations

from tests.cluster.simulated.world import World


class Clock:
    """now = offset + (true time - time suspended) * (1 + ppm / 10^6), in whole nanoseconds."""

    def __init__(self, world: World, offset_ns: int, ppm: int) -> None:
        self._world = world
        self._offset_ns = offset_ns
        self._ppm = ppm
        self._suspended_ns = 0
        self._suspended_at_ns: int | None = None

    def now_ns(self) -> int:
        """Return what it shows."""
        true_ns = self._world.now_ns if self._suspended_at_ns is None else self._suspended_at_ns
        running_ns = true_ns - self._suspended_ns
        return self._offset_ns + running_ns + running_ns * self._ppm // 1_000_000

    def true_ns(self, shown_ns: int) -> int:
        """Return the first true instant at which it shows `shown_ns` or more."""
        running_ns = (shown_ns - self._offset_ns) * 1_000_000 // (1_000_000 + self._ppm)
        true_ns = running_ns + self._suspended_ns
        return true_ns + 2

    @property
    def is_suspended(self) -> bool:
        return self._suspended_at_ns is not None

    def suspend(self) -> None:
        """Stand still."""
        self._suspended_at_ns = self._world.now_ns

    def resume(self) -> None:
        """Go on from where it stood."""
        if self._suspended_at_ns is not None:
            self._suspended_ns += self._world.now_ns - self._suspended_at_ns
            self._suspended_at_ns = None
