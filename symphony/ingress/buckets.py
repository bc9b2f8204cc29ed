"""Limit how often something may happen: a token bucket. Pure: the time is an argument."""

from __future__ import annotations


class TokenBucket:
    """Hold up to `burst` tokens, filled with `rate` a second; full to begin with.

    Taking needs a whole token. What costs more than was known when it was let in is charged afterwards, and may leave
    the bucket in debt: then nothing is let in until the debt is paid.
    """

    __slots__ = ("_at_ns", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = max(1.0, burst)
        self._tokens = self.burst
        self._at_ns: int | None = None

    def take(self, now_ns: int) -> bool:
        """Take one token; return whether there was one."""
        self._fill(now_ns)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def charge(self, count: int) -> None:
        """Take `count` more for what was let in."""
        self._tokens -= count

    def wait_s(self) -> float:
        """Return how long after the last look there is a token again, in seconds."""
        return max(0.0, (1.0 - self._tokens) / self.rate)

    def _fill(self, now_ns: int) -> None:
        # A clock that stamps arrivals may step back a little: that fills nothing.
        if self._at_ns is not None and now_ns > self._at_ns:
            self._tokens = min(self.burst, self._tokens + self.rate * (now_ns - self._at_ns) / 1e9)
        if self._at_ns is None or now_ns > self._at_ns:
            self._at_ns = now_ns
