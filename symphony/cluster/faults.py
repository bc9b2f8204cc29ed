"""Name what can go wrong between a node and its coordinator; each says what the caller may conclude from it."""

from __future__ import annotations


class CoordinationError(Exception):
    """Report an operation of the coordinator that did not succeed."""


class CoordinatorUnavailable(CoordinationError):
    """No usable answer came within the operation's time, retries included.

    A write that ends so may or may not have been made: read before writing again.
    """


class CoordinatorRefused(CoordinationError):
    """The coordinator answered, and said no for a reason that trying again will not mend.

    Wrong credentials, missing permission, a server that is not what the address says, a limit.
    """


class RevisionConflict(CoordinationError):
    """The document is not at the revision that the write was made for; nothing was written.

    `found` is its revision now, None when there is no such document.
    """

    def __init__(self, message: str, found: str | None) -> None:
        super().__init__(message)
        self.found = found


class NodeIdTaken(CoordinationError):
    """Another process is a member under this node id."""


class RecordError(CoordinationError):
    """A node record or a document is malformed or above its limit."""


class LeaseLost(CoordinationError):
    """What was held by a lease (membership, leadership) is held no longer."""


class StoreUnavailable(Exception):
    """One attempt got no usable answer: the request may or may not have been carried out. Raised by stores only."""


class CursorLost(Exception):
    """A watch cannot go on from this cursor because the store no longer keeps what followed. Raised by stores only."""
