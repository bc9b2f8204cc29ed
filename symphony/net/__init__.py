"""Carry what nodes say: authenticated, multiplexed, bounded links over TCP or TLS (docs/cluster-wire.md).

What is said is not decided here. Nothing is repeated, and nothing is kept for a peer that is away.
"""

from symphony.net.faults import CallFailed, CallTimeout, LinkDown, LinkError, LinkFull
from symphony.net.key import read_key
from symphony.net.link import Answer, Link, LinkReceiver
from symphony.net.links import Links, TlsContexts
from symphony.net.settings import DEFAULT_SETTINGS, LinkSettings

__all__ = [
    "DEFAULT_SETTINGS",
    "Answer",
    "CallFailed",
    "CallTimeout",
    "Link",
    "LinkDown",
    "LinkError",
    "LinkFull",
    "LinkReceiver",
    "LinkSettings",
    "Links",
    "TlsContexts",
    "read_key",
]
