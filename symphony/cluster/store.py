"""Say what a backend must do: single attempts on named entries, some of them held by a lease.

The backends (memory, etcd, Kubernetes) are like one another only here, so what is hard and the same for all of them
lives above this line, once: when a holder must stand down, when to try again, how a watch resumes.

An entry lives in an area under a name. Members and the leader are *held*: acquired by a token for a time to live,
gone when it passes without a renewal. Models are *written*, by compare-and-swap, and stay.

Every call is one attempt. It returns what the store answered, or raises StoreUnavailable when there was no usable
answer within the store's own time limit (the request may have been carried out all the same), or CoordinatorRefused
when trying again cannot help.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Area(Enum):
    """A group of entries that is listed and watched as one; the value is its part of a key."""

    MEMBERS = "members"
    ELECTION = "election"
    MODELS = "models"


LEADER = "leader"
"""The one name in the area ELECTION."""
ABSENT = ""
"""The revision of an entry that does not exist."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `revision` changes with each write (opaque); `term` counts the acquisitions of a held one, else 0."""

    name: str
    value: bytes
    revision: str
    term: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries of an area at one moment, and the cursor from which to watch what follows."""

    entries: tuple[Entry, ...]
    cursor: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What happened next in an area, in order: entries put, names gone. An empty one is a sign of life."""

    put: tuple[Entry, ...] = ()
    gone: tuple[str, ...] = ()
    cursor: str = ""


class Store(Protocol):
    """One node's connection to a coordinator's data. Calls may overlap."""

    where: str
    """The store in words, for messages: no credentials."""

    async def acquire(self, area: Area, name: str, value: bytes, token: int, ttl_ns: int) -> int | None:
        """Hold (area, name) as `token` for `ttl_ns` from no earlier than the call; return the term.

        None while another token holds it. By `token` itself it is renewed, so a repeated attempt finds itself. The
        term is above that of every earlier acquisition of the name.
        """

    async def renew(self, area: Area, name: str, token: int, ttl_ns: int) -> bool:
        """Hold on for `ttl_ns` from no earlier than the call; return False if `token` does not hold it."""

    async def release(self, area: Area, name: str, token: int) -> None:
        """Give it up at once; nothing happens if `token` does not hold it."""

    async def read(self, area: Area, name: str) -> Entry | None:
        """Return the entry as every write that was answered left it, None if there is none."""

    async def write(self, area: Area, name: str, value: bytes, expected: str) -> str | None:
        """Write if the revision is `expected` (ABSENT: if there is none); return the new revision, else None."""

    async def erase(self, area: Area, name: str, expected: str) -> bool:
        """Remove if the revision is `expected`; return whether it was."""

    async def entries(self, area: Area) -> Listing:
        """Return all entries of the area, as every write that was answered left them."""

    def watch(self, area: Area, cursor: str) -> AsyncGenerator[Batch, None]:
        """Yield what happens after `cursor`, without a gap; raise CursorLost if that is no longer known.

        The first batch, maybe empty, says that the store answered. The iterator may end at any time: go on from the
        last cursor.
        """

    async def close(self) -> None:
        """Close connections. Leases end by themselves."""
