"""Hold the handshake over a connection, frame by frame, and hand the connection on the moment it is done.

No task is involved: frames that follow the last of the handshake in the same read already reach the link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from symphony.links.clocks import RoundTrip
from symphony.links.faults import FrameError, HandshakeError
from symphony.links.frames import Frame, Kind
from symphony.links.handshake import Acceptor, Dialer, Greeting
from symphony.net.connection import Connection
from symphony.net.faults import LinkDown

CLOSE_BYTES_MAX: Final = 512
"""Of the text that says why a connection is closed."""

OnDone = Callable[[Greeting, RoundTrip], object]
"""(who the peer is, the clocks' first round trip): takes the connection over."""


def close_text(payload: memoryview) -> str:
    """Return what a CLOSE says, fit to be logged."""
    text = bytes(payload[:CLOSE_BYTES_MAX]).decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def send_close(connection: Connection, reason: str) -> None:
    """Say why, then close. Does nothing if the connection is closed or closing."""
    if not connection.is_open:
        return
    connection.send_control(Kind.CLOSE, reason.encode()[:CLOSE_BYTES_MAX], is_reserved=True)
    connection.finish(reason)


class _Greeting:
    """What both sides have in common: one frame awaited at a time, and a future of how it ended."""

    def __init__(self, connection: Connection, clock_ns: Callable[[], int], on_done: OnDone) -> None:
        self._connection = connection
        self._clock_ns = clock_ns
        self._on_done = on_done
        self.is_handed_on = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the connection was handed on; LinkDown if it ended before."""
        connection.hand_to(self)

    def frame_received(self, frame: Frame, at_ns: int) -> None:
        raise NotImplementedError

    def place(self, stream: int, count: int) -> memoryview:
        """Refuse: nothing large comes before the handshake is done."""
        raise FrameError(f"a chunk of stream {stream} during the handshake")

    def connection_ended(self, reason: str) -> None:
        """Tell whoever waits."""
        if not self.done.done():
            self.done.set_exception(LinkDown(reason))

    def _finish(self, peer: Greeting | None, trip: RoundTrip | None) -> None:
        assert peer is not None
        assert trip is not None
        self._connection.open_up(peer.limits)
        self._on_done(peer, trip)
        self.is_handed_on = True
        if not self.done.done():
            self.done.set_result(None)


class Dialing(_Greeting):
    """The side that connected: HELLO out, WELCOME in, PROOF out, READY in."""

    def __init__(self, connection: Connection, handshake: Dialer, clock_ns: Callable[[], int], on_done: OnDone) -> None:
        super().__init__(connection, clock_ns, on_done)
        self._handshake = handshake
        self._awaited = Kind.WELCOME

    def begin(self) -> None:
        """Say hello."""
        self._connection.send_control(Kind.HELLO, lambda: self._handshake.hello(self._clock_ns()))

    def frame_received(self, frame: Frame, at_ns: int) -> None:
        """Take the frame awaited, or the reason why there will be none."""
        if frame.kind is Kind.CLOSE:
            raise HandshakeError(f"the node refused: {close_text(frame.payload)}")
        if frame.kind is not self._awaited:
            raise HandshakeError(f"a {frame.kind.name} frame, expected {self._awaited.name}")
        if frame.kind is Kind.WELCOME:
            proof = self._handshake.welcomed(bytes(frame.payload), at_ns, self._clock_ns)
            self._awaited = Kind.READY
            self._connection.send_control(Kind.PROOF, proof)
        else:
            self._finish(self._handshake.peer, self._handshake.round_trip)


class Accepting(_Greeting):
    """The side that was connected to: HELLO in, WELCOME out, PROOF in, READY out.

    `admit(peer)` raises HandshakeError to refuse a peer that has shown who it is; the peer is told why.
    """

    def __init__(
        self,
        connection: Connection,
        handshake: Acceptor,
        clock_ns: Callable[[], int],
        admit: Callable[[Greeting], None],
        on_done: OnDone,
    ) -> None:
        super().__init__(connection, clock_ns, on_done)
        self._handshake = handshake
        self._admit = admit
        self._awaited = Kind.HELLO

    def frame_received(self, frame: Frame, at_ns: int) -> None:
        """Take the frame awaited."""
        if frame.kind is not self._awaited:
            raise HandshakeError(f"a {frame.kind.name} frame, expected {self._awaited.name}")
        if frame.kind is Kind.HELLO:
            welcome = self._handshake.greeted(bytes(frame.payload), at_ns, self._clock_ns)
            self._awaited = Kind.PROOF
            self._connection.send_control(Kind.WELCOME, welcome)
            return
        peer = self._handshake.proved(bytes(frame.payload), at_ns)
        try:
            self._admit(peer)
        except HandshakeError as error:
            send_close(self._connection, str(error))
            return
        self._connection.send_control(Kind.READY)
        self._finish(peer, self._handshake.round_trip)
