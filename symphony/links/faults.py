"""Name what can be wrong with bytes that another node sent. Either way the connection they came over has no future."""

from __future__ import annotations


class FrameError(Exception):
    """Report bytes that are no frame of this protocol, or one that breaks its rules: what, the value, the limit."""


class HandshakeError(Exception):
    """Report a peer that did not show that it is the node it should be. Never holds key, nonce or MAC."""
