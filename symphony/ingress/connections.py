"""Bound how many connections there are, and how long each may keep the server waiting.

Every protocol of the listening sockets, the hot one and aiohttp's, adds itself here and says on demand for how long it
has waited for its client; once a second all are looked at. A newcomer that finds no place takes that of the oldest
connection that never got a whole request across, such as a slow client that dribbles its head: whoever floods the
node with connections displaces himself first. Only if there is none, one that is idle between requests has to go.
"""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import Protocol

from symphony.ingress.limits import IngressLimits
from symphony.metrics import NodeStats

SWEEP_EVERY_S = 1.0
LOOKED_AT_MAX = 64
"""Connections among which a newcomer looks for an idle one."""


class Connection(Protocol):
    """What this module needs of a protocol."""

    def is_idle(self) -> bool:
        """Return whether no request of it is under way or half received."""
        ...

    def close_if_slow(self, now_s: float) -> None:
        """Close it if it has kept the server waiting for longer than the limits allow; `now_s` is monotonic."""
        ...

    def abort(self) -> None:
        """Close it at once."""
        ...


class Connections:
    """All connections of a node's listening sockets. Dicts serve as sets that remember who came first."""

    def __init__(self, limits: IngressLimits, stats: NodeStats) -> None:
        self._limits = limits
        self._stats = stats
        self._new: dict[Connection, None] = {}
        """Those that have not got a whole request across."""
        self._proven: dict[Connection, None] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._new) + len(self._proven)

    def add(self, connection: Connection) -> bool:
        """Take a connection that was just made; return False when it must close at once."""
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)
        is_taken = len(self) < self._limits.connection_count_max or self._make_room()
        if is_taken:
            self._new[connection] = None
            self._stats.connection_count += 1
        return is_taken

    def prove(self, connection: Connection) -> None:
        """Note that a whole request came in; call it once for a connection."""
        if connection in self._new:
            del self._new[connection]
            self._proven[connection] = None

    def discard(self, connection: Connection) -> None:
        """Forget a connection that is closed or another's now; do nothing for one that is not known."""
        for kept in (self._new, self._proven):
            if connection in kept:
                del kept[connection]
                self._stats.connection_count -= 1

    def close(self) -> None:
        """Look after them no more."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _make_room(self) -> bool:
        victim = next(iter(self._new), None)
        if victim is None:
            victim = next((one for one in islice(self._proven, LOOKED_AT_MAX) if one.is_idle()), None)
        if victim is None:
            return False
        self.discard(victim)
        victim.abort()
        return True

    def _sweep(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)
        now_s = time.monotonic()
        for kept in (self._new, self._proven):
            for connection in list(kept):
                connection.close_if_slow(now_s)
