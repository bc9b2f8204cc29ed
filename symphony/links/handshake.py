"""Let two nodes show each other that they hold the cluster's key, before either reads anything else.

Three frames. HELLO: who dials whom, a nonce. WELCOME: the other's nonce, and an HMAC-SHA256 under the key over both.
PROOF: the dialer's HMAC over all that was said. Each MAC covers role, version, both ids, both nonces and both sides'
limits, so it fits this conversation and this direction only. The instants in the frames make one round trip of the
clocks for each side. Pure: nonces and time are arguments.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final

from symphony.links.clocks import INSTANT_NS_MAX, RoundTrip
from symphony.links.faults import HandshakeError
from symphony.links.frames import VERSION
from symphony.links.limits import LinkLimits

KEY_BYTES_MIN: Final = 32
KEY_BYTES_MAX: Final = 4096
NONCE_BYTES: Final = 32
MAC_BYTES: Final = 32
ID_BYTES_MAX: Final = 128
GREETING: Final = Struct("<32sQqqIIIIQQBB")
"""nonce, incarnation, received at, sent at, limits (frame, streams, calls, zero, message, assembly), lengths of ids."""
PROOF: Final = Struct("<qq32s")
"""received at, sent at, MAC."""
_LENGTH: Final = Struct("<I")


class ClusterKey:
    """The secret that all nodes of a cluster share. It is not shown by `repr`, and leaves only in MACs."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        """Refuse a key that could be guessed by its length."""
        if not KEY_BYTES_MIN <= len(secret) <= KEY_BYTES_MAX:
            raise ValueError(
                f"the cluster's key has {len(secret)} bytes, allowed are {KEY_BYTES_MIN} to {KEY_BYTES_MAX}; "
                f"make one with: head -c 32 /dev/urandom | base64"
            )
        self._secret = secret

    def __repr__(self) -> str:
        return "ClusterKey(...)"

    def __reduce__(self) -> tuple[type, ...]:
        raise TypeError("a cluster key is not pickled: it would leave the process")

    def mac(self, label: str, *parts: bytes) -> bytes:
        """Return the HMAC-SHA256 of the label (what is being said) and the parts, told apart by their lengths."""
        text = b"".join(_LENGTH.pack(len(part)) + part for part in (label.encode(), *parts))
        return hmac.digest(self._secret, text, "sha256")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a node is: its id (1 to 128 bytes of UTF-8), and a number drawn anew by each process of that node."""

    node: str
    incarnation: int

    def __post_init__(self) -> None:
        """Refuse an id that does not fit a greeting."""
        check_node_id(self.node)


def check_node_id(node: str) -> None:
    """Raise ValueError unless `node` can be a node's id."""
    if not 0 < len(node.encode()) <= ID_BYTES_MAX or not node.isprintable():
        raise ValueError(f"a node's id is {node!r}, expected 1 to {ID_BYTES_MAX} bytes of printable text")


@dataclass(frozen=True, slots=True)
class Greeting:
    """What either side says of itself, and of the clocks so far."""

    nonce: bytes
    identity: Identity
    peer: str
    limits: LinkLimits
    received_at_ns: int
    sent_at_ns: int

    def pack(self) -> bytes:
        """Return the payload of a HELLO; a WELCOME's has a MAC behind it."""
        limits, node, peer = self.limits, self.identity.node.encode(), self.peer.encode()
        fixed = GREETING.pack(
            self.nonce,
            self.identity.incarnation,
            self.received_at_ns,
            self.sent_at_ns,
            limits.frame_bytes_max,
            limits.stream_count_max,
            limits.call_count_max,
            0,
            limits.message_bytes_max,
            limits.assembly_bytes_max,
            len(node),
            len(peer),
        )
        return fixed + node + peer

    @classmethod
    def unpack(cls, payload: bytes) -> Greeting:
        """Return the greeting in a payload; raise HandshakeError for anything else."""
        if len(payload) < GREETING.size:
            raise HandshakeError(f"a greeting of {len(payload)} bytes, expected {GREETING.size} or more")
        nonce, incarnation, received, sent, frame, streams, calls, zero, message, assembly, node_length, peer_length = (
            GREETING.unpack_from(payload)
        )
        ids = payload[GREETING.size :]
        if zero or len(ids) != node_length + peer_length:
            raise HandshakeError(f"a greeting of {len(payload)} bytes whose ids have {node_length} and {peer_length}")
        if abs(received) > INSTANT_NS_MAX or abs(sent) > INSTANT_NS_MAX:
            raise HandshakeError("a greeting holds an instant that no clock shows")
        try:
            node, peer = ids[:node_length].decode(), ids[node_length:].decode()
            check_node_id(peer)
            limits = LinkLimits(frame, message, streams, assembly, calls)
            return cls(nonce, Identity(node, incarnation), peer, limits, received, sent)
        except ValueError as error:
            raise HandshakeError(f"a greeting that cannot be: {error}") from None


class Dialer:
    """The side that connects: `hello`, then `welcomed` with the answer. `peer` is known once it has returned."""

    def __init__(self, identity: Identity, peer: str, key: ClusterKey, limits: LinkLimits, nonce: bytes) -> None:
        self._identity = identity
        self._peer = peer
        self._key = key
        self._limits = limits
        self._nonce = nonce
        self._hello = b""
        self._sent_at_ns = 0
        self.peer: Greeting | None = None
        self.round_trip: RoundTrip | None = None

    def hello(self, sent_at_ns: int) -> bytes:
        """Return the payload of the HELLO."""
        self._sent_at_ns = sent_at_ns
        greeting = Greeting(self._nonce, self._identity, self._peer, self._limits, 0, sent_at_ns)
        self._hello = greeting.pack()
        return self._hello

    def welcomed(self, payload: bytes, received_at_ns: int, clock_ns: Callable[[], int]) -> bytes:
        """Check a WELCOME; return the payload of the PROOF. Raise HandshakeError if the other is not the peer."""
        said, mac = payload[:-MAC_BYTES], payload[-MAC_BYTES:]
        if not hmac.compare_digest(mac, self._key.mac(f"symphony link {VERSION} welcome", self._hello, said)):
            raise HandshakeError(
                f"the node that answers for {self._peer!r} does not hold this cluster's key; "
                f"give all nodes the same key file"
            )
        peer = Greeting.unpack(said)
        if peer.identity.node != self._peer or peer.peer != self._identity.node:
            raise HandshakeError(
                f"dialled {self._peer!r} and reached {peer.identity.node!r}, which greets {peer.peer!r}; "
                f"correct the member's address"
            )
        self.round_trip = RoundTrip(self._sent_at_ns, peer.received_at_ns, peer.sent_at_ns, received_at_ns)
        sent_at_ns = clock_ns()
        stamps = PROOF.pack(received_at_ns, sent_at_ns, b"")[:-MAC_BYTES]
        self.peer = peer
        return stamps + self._key.mac(f"symphony link {VERSION} proof", self._hello, payload, stamps)


class Acceptor:
    """The side that is connected to: `greeted` with the HELLO, then `proved` with the PROOF.

    Until `proved` has returned, nothing that the other says may be believed, its id included.
    """

    def __init__(self, identity: Identity, key: ClusterKey, limits: LinkLimits, nonce: bytes) -> None:
        self._identity = identity
        self._key = key
        self._limits = limits
        self._nonce = nonce
        self._hello = b""
        self._welcome = b""
        self._sent_at_ns = 0
        self.peer: Greeting | None = None
        self.round_trip: RoundTrip | None = None

    def greeted(self, payload: bytes, received_at_ns: int, clock_ns: Callable[[], int]) -> bytes:
        """Read a HELLO; return the payload of the WELCOME. Raise HandshakeError if it is meant for another node."""
        peer = Greeting.unpack(payload)
        if peer.peer != self._identity.node:
            raise HandshakeError(f"this is {self._identity.node!r}, a greeting for {peer.peer!r} came here")
        if peer.identity.node == self._identity.node:
            raise HandshakeError(
                f"a node that calls itself {peer.identity.node!r}, too; give each node an id of its own"
            )
        self.peer = peer
        self._hello = payload
        self._sent_at_ns = clock_ns()
        said = Greeting(
            self._nonce, self._identity, peer.identity.node, self._limits, received_at_ns, self._sent_at_ns
        ).pack()
        self._welcome = said + self._key.mac(f"symphony link {VERSION} welcome", payload, said)
        return self._welcome

    def proved(self, payload: bytes, received_at_ns: int) -> Greeting:
        """Check a PROOF; return the dialer's greeting, which can be believed now. Raise HandshakeError otherwise."""
        if len(payload) != PROOF.size or self.peer is None:
            raise HandshakeError(f"a proof of {len(payload)} bytes, expected {PROOF.size}")
        stamps = payload[:-MAC_BYTES]
        expected = self._key.mac(f"symphony link {VERSION} proof", self._hello, self._welcome, stamps)
        if not hmac.compare_digest(payload[-MAC_BYTES:], expected):
            raise HandshakeError(
                f"the node that calls itself {self.peer.identity.node!r} does not hold this cluster's key; "
                f"give all nodes the same key file"
            )
        there_at_ns, back_there_at_ns, _ = PROOF.unpack(payload)
        self.round_trip = RoundTrip(self._sent_at_ns, there_at_ns, back_there_at_ns, received_at_ns)
        return self.peer
