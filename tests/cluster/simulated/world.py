"""Keep virtual time: one queue of what will happen, in the order (instant, when it was scheduled)."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

US = 1_000
MS = 1_000_000
S = 1_000_000_000


class World:
    """True time, which no node knows."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.event_count = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple]] = []
        self._order = count()

    def at(self, at_ns: int, what: Callable[..., None], *args: object) -> None:
        """Have something happen, not before now."""
        heapq.heappush(self._queue, (max(at_ns, self.now_ns), next(self._order), what, args))

    def after(self, wait_ns: int, what: Callable[..., None], *args: object) -> None:
        """Have something happen a while from now."""
        self.at(self.now_ns + wait_ns, what, *args)

    def run(self, until_ns: int) -> None:
        """Let everything happen that is due until then."""
        while self._queue and self._queue[0][0] <= until_ns:
            self.now_ns, _, what, args = heapq.heappop(self._queue)
            self.event_count += 1
            what(*args)
        self.now_ns = until_ns
