"""Name how talking to another node can end badly. None of them says whether the other side has done what was asked."""

from __future__ import annotations


class LinkError(Exception):
    """Report that another node could not be asked, or did not answer."""


class LinkDown(LinkError):
    """There is no link to the node, or it went down while it was used: which node, and why."""


class LinkFull(LinkError):
    """So much waits to be sent, or to be answered, that no more is taken now: what, how much, the limit."""


class CallTimeout(LinkError):
    """The deadline of a call came before its answer; the other node is told that nobody waits any more."""


class CallFailed(LinkError):
    """The other node could not do what the call asked, for a reason of its own (its log has it)."""
