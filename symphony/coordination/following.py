"""Follow an area of the store: list it, watch it from there on, and begin again wherever that breaks.

What is given out are snapshots, not events. A reader that is slow gets the newest and never a backlog, so nothing
here grows with time; and after a list that followed a compaction there is nothing to explain: the new snapshot
is the difference. One task per area serves all its readers.

A watch that ended quietly goes on from its cursor. One that broke is begun with a new listing, although it could go
on, too: a store says that it watches before it has told what was missed, and only a listing shows that nothing is.
So a snapshot is called fresh only when it holds everything that was written before it was read, and it lags behind by
no more than a watch may be silent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from types import MappingProxyType
from typing import Generic, TypeVar

from symphony.cluster.faults import (
    CoordinationError,
    CoordinatorRefused,
    CursorLost,
    RecordError,
    StoreUnavailable,
)
from symphony.cluster.limits import ENTRY_COUNT_MAX
from symphony.cluster.snapshot import Snapshot
from symphony.cluster.store import Area, Entry, Store
from symphony.cluster.timing import Backoff, Timing
from symphony.coordination.clock import Clock
from symphony.units import NS_PER_S

Value = TypeVar("Value")

_log = logging.getLogger(__name__)

_LASTING_NS = NS_PER_S
"""A watch that lasted so long is begun again without growing waits."""


class Follower(Generic[Value]):
    """Keep the newest snapshot of an area; `decode` makes its items, or raises RecordError."""

    def __init__(
        self,
        store: Store,
        area: Area,
        decode: Callable[[Entry], Value],
        timing: Timing,
        clock: Clock,
        chance: Callable[[], float],
    ) -> None:
        self._store = store
        self._area = area
        self._decode = decode
        self._backoff = Backoff(timing, chance)
        self._clock = clock
        self._items: dict[str, Value] = {}
        self._faults: dict[str, str] = {}
        self._cursor: str | None = None
        self._changed = asyncio.Event()
        self.is_closed = False
        self.latest: Snapshot[Value] = Snapshot({}, f"{store.where} has not been read yet")
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"follow {area.value}")

    async def newer_than(self, version: int) -> Snapshot[Value]:
        """Return the newest snapshot once its version is above `version`; raise CoordinationError when closed."""
        while self.latest.version <= version:
            if self.is_closed:
                raise CoordinationError(f"the coordinator at {self._store.where} was closed")
            await self._changed.wait()
        return self.latest

    async def close(self) -> None:
        """Stop following; whoever waits is told."""
        self.is_closed = True
        self._tell()
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self) -> None:
        while True:
            began_at_ns = self._clock.now_ns()
            stale_reason = ""
            try:
                if self._cursor is None:
                    listing = await self._store.entries(self._area)
                    self._replace(listing.entries)
                    self._cursor = listing.cursor
                await self._watch(self._cursor)
            except CursorLost:
                self._cursor = None
            except (StoreUnavailable, CoordinatorRefused) as error:
                stale_reason = str(error)
            except Exception as error:  # a fault of ours must not look like a quiet store
                _log.exception("following %s failed", self._area.value)
                stale_reason = f"following it failed: {error!r}"
            if stale_reason:
                self._cursor = None
                self._publish(stale_reason)
            elif self._clock.now_ns() - began_at_ns >= _LASTING_NS:
                self._backoff.reset()
            await self._clock.sleep_until(self._clock.now_ns() + self._backoff.next_ns())

    async def _watch(self, cursor: str) -> None:
        async with aclosing(self._store.watch(self._area, cursor)) as batches:
            async for batch in batches:
                self._take(batch.put, batch.gone, batch.cursor)

    def _replace(self, entries: tuple[Entry, ...]) -> None:
        self._check_count(len(entries))
        items, faults = dict(self._items), dict(self._faults)
        self._items, self._faults = {}, {}
        for entry in entries:
            self._put(entry)
        if (items, faults) != (self._items, self._faults) or not self.latest.is_fresh:
            self._publish()

    def _take(self, put: Iterable[Entry], gone: Iterable[str], cursor: str) -> None:
        is_changed = False
        for name in gone:
            is_changed |= self._items.pop(name, None) is not None or self._faults.pop(name, None) is not None
        for entry in put:
            self._put(entry)
            is_changed = True
        self._check_count(len(self._items) + len(self._faults))
        self._cursor = cursor
        if is_changed or not self.latest.is_fresh:
            self._publish()

    def _check_count(self, count: int) -> None:
        if count > ENTRY_COUNT_MAX:
            raise CoordinatorRefused(
                f"{self._store.where} holds {count} entries or more of {self._area.value}; "
                f"the limit is {ENTRY_COUNT_MAX}; remove some"
            )

    def _put(self, entry: Entry) -> None:
        self._items.pop(entry.name, None)
        self._faults.pop(entry.name, None)
        try:
            self._items[entry.name] = self._decode(entry)
        except RecordError as error:
            self._faults[entry.name] = str(error)

    def _publish(self, stale_reason: str = "") -> None:
        if stale_reason and stale_reason == self.latest.stale_reason:
            return
        if stale_reason and self.latest.is_fresh:
            _log.warning("%s may be out of date: %s", self._area.value, stale_reason)
        self.latest = Snapshot(
            MappingProxyType(dict(self._items)),
            stale_reason,
            MappingProxyType(dict(self._faults)),
            self.latest.version + 1,
        )
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Watch(Generic[Value]):
    """One reader of an area: each snapshot it is given is newer than the one before. Costs nothing when dropped."""

    def __init__(self, follower: Follower[Value]) -> None:
        self._follower = follower
        self._version = 0

    @property
    def latest(self) -> Snapshot[Value]:
        """Return the newest snapshot without waiting."""
        return self._follower.latest

    async def next(self) -> Snapshot[Value]:
        """Wait for something newer than was returned last, and return it; it may be stale, and says so."""
        snapshot = await self._follower.newer_than(self._version)
        self._version = snapshot.version
        return snapshot

    async def fresh(self) -> Snapshot[Value]:
        """Return the newest snapshot if the store answers, else wait until it does."""
        snapshot = self.latest
        while not snapshot.is_fresh:
            snapshot = await self._follower.newer_than(snapshot.version)
        self._version = snapshot.version
        return snapshot

    async def __aiter__(self) -> AsyncIterator[Snapshot[Value]]:
        """Yield snapshots until the coordinator is closed."""
        while not self._follower.is_closed:
            try:
                snapshot = await self.next()
            except CoordinationError:
                return
            yield snapshot
