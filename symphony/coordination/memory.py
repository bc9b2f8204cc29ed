"""Keep the cluster's data in this process: for a node that is alone, and for several nodes in one process in tests.

Nodes that share a MemorySpace are a cluster. It belongs to one event loop, and forgets everything with the process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from symphony.cluster.faults import CursorLost
from symphony.cluster.store import ABSENT, Area, Batch, Entry, Listing
from symphony.coordination.clock import Clock, SystemClock, within

CHANGE_COUNT_MAX = 1_000
"""Changes that are kept for watches to go on from."""


@dataclass(frozen=True, slots=True)
class _Lease:
    token: int
    ends_at_ns: int


class MemorySpace:
    """The data that nodes share, on the clock by which leases end."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.entries: dict[Area, dict[str, Entry]] = {area: {} for area in Area}
        self.leases: dict[tuple[Area, str], _Lease] = {}
        self.changes: deque[tuple[int, Area, Batch]] = deque()
        self.revision = 0
        self.forgotten_revision = 0
        self._changed = asyncio.Event()

    def put(self, area: Area, name: str, value: bytes, is_held: bool) -> Entry:
        """Write an entry at the next revision, which is the term of a held one."""
        self.revision += 1
        entry = Entry(name, value, str(self.revision), self.revision if is_held else 0)
        self.entries[area][name] = entry
        self._record(area, Batch(put=(entry,), cursor=str(self.revision)))
        return entry

    def remove(self, area: Area, name: str) -> None:
        """Remove an entry and the lease that it may be held by."""
        self.revision += 1
        del self.entries[area][name]
        self.leases.pop((area, name), None)
        self._record(area, Batch(gone=(name,), cursor=str(self.revision)))

    def expire(self) -> None:
        """Remove what is held by leases that have ended."""
        now_ns = self.clock.now_ns()
        for area, name in [key for key, lease in self.leases.items() if now_ns >= lease.ends_at_ns]:
            self.remove(area, name)

    def forget(self) -> None:
        """Forget the changes so far: watches that have not seen them lose their cursors."""
        self.changes.clear()
        self.forgotten_revision = self.revision
        self._tell()

    async def change(self) -> None:
        """Wait until something changes or a lease ends."""
        ends_at_ns = min((lease.ends_at_ns for lease in self.leases.values()), default=None)
        if ends_at_ns is None:
            await self._changed.wait()
        else:
            with suppress(TimeoutError):
                await within(self.clock, ends_at_ns, self._changed.wait())

    def _record(self, area: Area, batch: Batch) -> None:
        self.changes.append((self.revision, area, batch))
        if len(self.changes) > CHANGE_COUNT_MAX:
            self.forgotten_revision = self.changes.popleft()[0]
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class MemoryStore:
    """One node's connection to a space; it never fails."""

    where = "memory"

    def __init__(self, space: MemorySpace | None = None) -> None:
        self._space = space or MemorySpace()

    async def acquire(self, area: Area, name: str, value: bytes, token: int, ttl_ns: int) -> int | None:
        """See Store."""
        space = self._space
        if await self.renew(area, name, token, ttl_ns):
            return space.entries[area][name].term
        if name in space.entries[area]:
            return None
        entry = space.put(area, name, value, is_held=True)
        space.leases[area, name] = _Lease(token, space.clock.now_ns() + ttl_ns)
        return entry.term

    async def renew(self, area: Area, name: str, token: int, ttl_ns: int) -> bool:
        """See Store."""
        self._space.expire()
        lease = self._space.leases.get((area, name))
        if lease is None or lease.token != token:
            return False
        self._space.leases[area, name] = _Lease(token, self._space.clock.now_ns() + ttl_ns)
        return True

    async def release(self, area: Area, name: str, token: int) -> None:
        """See Store."""
        self._space.expire()
        lease = self._space.leases.get((area, name))
        if lease is not None and lease.token == token:
            self._space.remove(area, name)

    async def read(self, area: Area, name: str) -> Entry | None:
        """See Store."""
        self._space.expire()
        return self._space.entries[area].get(name)

    async def write(self, area: Area, name: str, value: bytes, expected: str) -> str | None:
        """See Store."""
        if self._revision(area, name) != expected:
            return None
        return self._space.put(area, name, value, is_held=False).revision

    async def erase(self, area: Area, name: str, expected: str) -> bool:
        """See Store."""
        if expected == ABSENT or self._revision(area, name) != expected:
            return False
        self._space.remove(area, name)
        return True

    async def entries(self, area: Area) -> Listing:
        """See Store."""
        self._space.expire()
        return Listing(tuple(self._space.entries[area].values()), str(self._space.revision))

    async def watch(self, area: Area, cursor: str) -> AsyncGenerator[Batch, None]:
        """See Store."""
        space, seen = self._space, int(cursor)
        yield Batch(cursor=cursor)
        while True:
            space.expire()
            if seen < space.forgotten_revision:
                raise CursorLost
            for revision, changed, batch in tuple(space.changes):
                if revision > seen:
                    seen = revision
                    if changed is area:
                        yield batch
            if seen == space.revision:
                await space.change()

    async def close(self) -> None:
        """See Store."""

    def _revision(self, area: Area, name: str) -> str:
        self._space.expire()
        entry = self._space.entries[area].get(name)
        return entry.revision if entry is not None else ABSENT
