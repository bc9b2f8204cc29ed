"""Who is a member, who leads, and which models are served, kept by a consensus system that is not ours.

`Coordinator` is what a node sees; a `Store` (memory, etcd, Kubernetes) is what speaks to the system. Three cuts were
weighed:

- a backend per system that implements the whole coordinator: each uses what its system does best, but when a holder
  must stand down, how retries know their own earlier attempts and how watches resume would be written three times, and
  these are the parts where a mistake gives a cluster two leaders;
- one coordinator over a plain key-value store with compare-and-swap: written once, but Kubernetes has no keys that
  expire, so its lease would have to be imitated on top, and etcd's leases would go unused;
- the one taken: a store knows *held* entries (acquire, renew, release, with a term) and *written* ones (compare and
  swap), makes single attempts, and never waits. What is hard is above it, once, and runs in tests on a clock that
  is set by hand.

Operations that need an answer raise CoordinatorUnavailable after `Timing.operation_ns`; campaigns and watches wait as
long as it takes. Nothing here decides anything about requests: a node whose coordinator is away goes on serving.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from symphony.cluster.faults import (
    CoordinationError,
    CoordinatorUnavailable,
    NodeIdTaken,
    RecordError,
    RevisionConflict,
    StoreUnavailable,
)
from symphony.cluster.records import (
    Document,
    Leader,
    NodeRecord,
    checked_document_name,
    decode_document,
    encode_document,
)
from symphony.cluster.store import ABSENT, LEADER, Area, Entry, Store
from symphony.cluster.timing import Backoff, LeaseTime, Timing
from symphony.coordination.clock import Clock, SystemClock, within
from symphony.coordination.following import Follower, Watch
from symphony.coordination.hold import Hold, Leadership, Membership
from symphony.coordination.retrying import Retrying

SomeHold = TypeVar("SomeHold", bound=Hold)
Value = TypeVar("Value")


class Coordinator:
    """One node's view of the cluster. Belongs to the event loop it is made in.

    `chance` draws tokens and spreads retries: give each node its own generator, for tokens must differ.
    """

    def __init__(
        self,
        store: Store,
        timing: Timing | None = None,
        *,
        clock: Clock | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.timing = timing or Timing()
        self._store = store
        self._clock = clock or SystemClock()
        self._chance = chance or random.SystemRandom()
        self._retrying = Retrying(store.where, self.timing, self._clock, self._chance.random)
        self._followers: dict[Area, Follower[Any]] = {}
        self._holds: set[Hold] = set()
        self._abandoned: dict[tuple[Area, str], int] = {}
        self._releasing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # Membership

    async def join(self, record: NodeRecord) -> Membership:
        """Become a member and stay one until `leave()` or until the lease is lost (`Membership.lost()`).

        After a loss, join again. Raise NodeIdTaken while another process is a member under this id,
        CoordinatorUnavailable, CoordinatorRefused.
        """
        self._check_open()
        area, token = Area.MEMBERS, self._token()
        try:
            membership = await self._retrying.run(
                f"joining as {record.id}", lambda: self._hold(Membership, area, record.id, record.encode(), token)
            )
        except BaseException:
            self._abandon(area, record.id, token)
            raise
        if membership is None:
            raise NodeIdTaken(
                f"node id {record.id} is held by another process at {self._store.where}; give each process an id "
                f"of its own, or wait {self.timing.ttl_ns / 1e9:g} s for the lease of one that died"
            )
        return membership

    def members(self) -> Watch[NodeRecord]:
        """Return a watch of the members, by node id."""
        return self._watch(Area.MEMBERS, _member)

    # Election

    async def campaign(self, record: NodeRecord) -> Leadership:
        """Wait until this node leads; cancel to stop. An unreachable store is waited for.

        Raise CoordinatorRefused.
        """
        self._check_open()
        area, token = Area.ELECTION, self._token()
        value = NodeRecord(record.id, record.address).encode()
        watch = self.leader()
        backoff = Backoff(self.timing, self._chance.random)
        try:
            while True:
                wait_ns = round(self.timing.contest_ns * (0.75 + 0.5 * self._chance.random()))
                try:
                    leadership = await self._hold(Leadership, area, LEADER, value, token)
                    if leadership is not None:
                        return leadership
                    backoff.reset()
                except StoreUnavailable:
                    wait_ns = backoff.next_ns()
                with suppress(TimeoutError):
                    await within(self._clock, self._clock.now_ns() + wait_ns, watch.next())
        except BaseException:
            self._abandon(area, LEADER, token)
            raise

    def leader(self) -> Watch[Leader]:
        """Return a watch of the leader, under the name LEADER; no item while there is none."""
        return self._watch(Area.ELECTION, _leader)

    # The models that are served

    async def put(self, name: str, content: Mapping[str, Any], expected: str = ABSENT) -> str:
        """Write a document if its revision is `expected` (ABSENT: if there is none); return its new revision.

        Raise RevisionConflict if it is not, RecordError for a bad name or content, CoordinatorUnavailable (it may or
        may not have been written), CoordinatorRefused.
        """
        self._check_open()
        write_id = f"{self._chance.getrandbits(64):016x}"
        value = encode_document(checked_document_name(name), content, write_id)
        is_unsure = False

        async def attempt() -> str:
            nonlocal is_unsure
            try:
                revision = await self._store.write(Area.MODELS, name, value, expected)
            except StoreUnavailable:
                is_unsure = True
                raise
            if revision is not None:
                return revision
            found = await self._store.read(Area.MODELS, name)
            if is_unsure and found is not None and _write_id(found) == write_id:
                return found.revision
            raise self._conflict(name, expected, found, is_unsure)

        return await self._retrying.run(f"writing document {name}", attempt)

    async def remove(self, name: str, expected: str) -> None:
        """Remove a document if its revision is `expected`; raise as `put` does."""
        self._check_open()
        checked_document_name(name)
        if expected == ABSENT:
            raise RecordError(f"document {name} cannot be removed without its revision; read it first")
        is_unsure = False

        async def attempt() -> None:
            nonlocal is_unsure
            try:
                is_removed = await self._store.erase(Area.MODELS, name, expected)
            except StoreUnavailable:
                is_unsure = True
                raise
            if not is_removed:
                found = await self._store.read(Area.MODELS, name)
                if not (is_unsure and found is None):
                    raise self._conflict(name, expected, found, is_unsure)

        await self._retrying.run(f"removing document {name}", attempt)

    async def get(self, name: str) -> Document | None:
        """Return a document as the last answered write left it, None if there is none.

        Raise RecordError if it cannot be read, CoordinatorUnavailable, CoordinatorRefused.
        """
        self._check_open()
        checked_document_name(name)
        entry = await self._retrying.run(f"reading document {name}", lambda: self._store.read(Area.MODELS, name))
        return _document(entry) if entry is not None else None

    def models(self) -> Watch[Document]:
        """Return a watch of all documents, by name."""
        return self._watch(Area.MODELS, _document)

    async def close(self) -> None:
        """Resign, leave, stop watching and disconnect; what the store cannot be told ends with its lease.

        Everything that waits here ends with CoordinationError; a second time is nothing.
        """
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.gather(*(hold._release() for hold in self._holds), return_exceptions=True)
        for task in tuple(self._releasing):
            task.cancel()
        if self._releasing:
            await asyncio.wait(self._releasing)
        for follower in self._followers.values():
            await follower.close()
        await self._store.close()

    # Inside

    def _check_open(self) -> None:
        if self._is_closed:
            raise CoordinationError(f"the coordinator at {self._store.where} was closed; open another")

    def _token(self) -> int:
        return self._chance.getrandbits(62) | 1 << 61  # of one length, positive as an int64

    def _watch(self, area: Area, decode: Callable[[Entry], Value]) -> Watch[Value]:
        self._check_open()
        if area not in self._followers:
            self._followers[area] = Follower(self._store, area, decode, self.timing, self._clock, self._chance.random)
        return Watch(self._followers[area])

    async def _hold(self, kind: type[SomeHold], area: Area, name: str, value: bytes, token: int) -> SomeHold | None:
        """Make one attempt to hold a name; None while another holds it."""
        self._check_open()
        if (area, name) in self._abandoned:
            await self._store.release(area, name, self._abandoned[area, name])
            self._abandoned.pop((area, name), None)
        sent_at_ns = self._clock.now_ns()
        term = await self._store.acquire(area, name, value, token, self.timing.ttl_ns)
        if term is None:
            return None
        lease = LeaseTime(self.timing, sent_at_ns)
        if not lease.is_held(self._clock.now_ns()):
            raise StoreUnavailable(f"{self._store.where} granted a lease that was over when its answer came")
        hold = kind(
            self._store,
            area,
            name,
            token,
            term,
            lease,
            self.timing,
            self._clock,
            self._chance.random,
            lambda lost: self._abandon(area, name, token),
        )
        self._holds.add(hold)
        hold._keeper.add_done_callback(lambda _: self._holds.discard(hold))
        return hold

    def _abandon(self, area: Area, name: str, token: int) -> None:
        """Have what the store may still hold released as soon as it can be told, so that nobody waits for it."""
        if self._is_closed:
            return
        self._abandoned[area, name] = token

        async def release() -> None:
            with suppress(CoordinationError):
                await self._retrying.run(f"giving up {name}", lambda: self._store.release(area, name, token))
                if self._abandoned.get((area, name)) == token:
                    del self._abandoned[area, name]

        task = asyncio.get_running_loop().create_task(release(), name=f"release {area.value}/{name}")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    def _conflict(self, name: str, expected: str, found: Entry | None, is_unsure: bool) -> CoordinationError:
        now = f"it is at {found.revision}" if found is not None else "there is none"
        meant = f"revision {expected}" if expected != ABSENT else "no such document"
        if is_unsure:
            return CoordinatorUnavailable(
                f"document {name}: an attempt on {meant} got no answer, and now {now}; whether it was made in "
                "between is not known, read it again"
            )
        return RevisionConflict(
            f"document {name}: the change is for {meant}, but {now}; read it again",
            found.revision if found is not None else None,
        )


def _member(entry: Entry) -> NodeRecord:
    record = NodeRecord.decode(entry.value)
    if record.id != entry.name:
        raise RecordError(f"the record of node {record.id} lies under the name {entry.name}; remove it")
    return record


def _leader(entry: Entry) -> Leader:
    record = NodeRecord.decode(entry.value)
    return Leader(record.id, record.address, entry.term)


def _document(entry: Entry) -> Document:
    content, _ = decode_document(entry.value)
    return Document(checked_document_name(entry.name), content, entry.revision)


def _write_id(entry: Entry) -> str:
    try:
        return decode_document(entry.value)[1]
    except RecordError:
        return ""
