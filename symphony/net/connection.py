"""Carry frames over one TCP or TLS connection: control before bulk, bulk in turns, nothing kept that is not bounded.

At most one chunk of bulk waits in user space, and at most `window_bytes` of it are under way that the peer has not
read, wherever they are held: in either kernel, or in what lies between. So a control frame overtakes all of a large
tensor but that. What is received goes where the decoder says, large payloads in place.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, Protocol, cast

from symphony.links.faults import FrameError, HandshakeError
from symphony.links.frames import Buffer, Frame, FrameDecoder, FrameEncoder, Kind
from symphony.links.limits import HANDSHAKE_BYTES_MAX, KIB, MIB, LinkLimits
from symphony.links.messages import OutgoingMessage
from symphony.net.faults import LinkDown, LinkFull
from symphony.net.settings import TAKEN_BYTES, LinkSettings

BURST_BYTES_MAX: Final = 1 * MIB
"""Bulk handed over before other events get their turn, should the kernel take it all."""
CONTROL_BATCH_BYTES: Final = 64 * KIB
NOTSENT_BYTES: Final = 128 * KIB
PONG_COUNT_MAX: Final = 8
"""Pongs that may wait; whoever pings faster than they leave gets the later ones only once."""
TAKEN: Final = Struct("<Q")
"""Payload of OPENs and CHUNKs read so far, in all."""
_BULK: Final = frozenset({Kind.OPEN, Kind.CHUNK})
PAYLOAD_OVERHEAD_BYTES: Final = 128
"""What a queued frame takes beside its payload, so that empty frames are bounded, too."""

Payload = bytes | Callable[[], bytes]
"""What a control frame carries, or what makes it when the frame is written: stamps of clocks."""


class FrameReceiver(Protocol):
    """Whoever takes what a connection brings."""

    def frame_received(self, frame: Frame, at_ns: int) -> None:
        """Take a frame whose last bytes came at `at_ns`. FrameError and HandshakeError end the connection."""

    def place(self, stream: int, count: int) -> memoryview:
        """Return where the `count` bytes of a CHUNK belong; FrameError ends the connection."""

    def connection_ended(self, reason: str) -> None:
        """Take note, once, that nothing will come or go any more."""


class _Sending:
    """A message on its way, and the future of whoever waits until it has left."""

    __slots__ = ("done", "message", "stream")

    def __init__(self, message: OutgoingMessage, stream: int, done: asyncio.Future[None]) -> None:
        self.message = message
        self.stream = stream
        self.done = done


class Connection(asyncio.BufferedProtocol):
    """One connection. Until `open_up` only small frames are taken; `peer_limits` are ours until then."""

    def __init__(self, settings: LinkSettings, clock_ns: Callable[[], int], is_encrypted: bool) -> None:
        self._settings = settings
        self._clock_ns = clock_ns
        self._encoder = FrameEncoder(is_checked=not is_encrypted)
        self._decoder = FrameDecoder(HANDSHAKE_BYTES_MAX, self._place, is_checked=not is_encrypted)
        self._receiver: FrameReceiver | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._control: deque[tuple[Kind, int, Payload]] = deque()
        self._control_bytes = 0
        self._pong_count = 0
        self._active: deque[_Sending] = deque()
        self._active_bytes = 0
        self._waiting: deque[_Sending] = deque()
        self._unwritten: list[asyncio.Future[None]] = []
        # Payload of OPENs and CHUNKs in all: sent, read by the peer as it says; read here, and as the peer was told.
        self._bulk_sent_bytes = self._bulk_taken_bytes = 0
        self._bulk_read_bytes = self._bulk_told_bytes = 0
        self._is_telling = False
        self._is_opened_up = False
        self._is_paused = False
        self._is_flush_due = False
        self._is_ended = False
        self._is_closing = False
        self._reason = ""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done once the transport has let go of the socket."""
        self.peer_limits: LinkLimits = settings.limits
        self.address = "?"
        self.received_bytes = self.sent_bytes = self.received_frames = self.sent_frames = 0

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare the socket: no delay, and little of the bulk in the kernel before it can leave."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "?"
        self._transport.set_write_buffer_limits(high=1, low=0)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # a socket that is no TCP has nothing to set
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes belong."""
        return self._decoder.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on the frames that are whole now."""
        at_ns = self._clock_ns()
        decoder = self._decoder
        self.received_bytes += nbytes
        decoder.advance(nbytes)
        try:
            while not self._is_ended and (frame := decoder.next_frame()) is not None:
                self.received_frames += 1
                if self._receiver is None:
                    raise HandshakeError(f"a {frame.kind.name} frame that nobody awaits")
                if frame.kind is Kind.TAKEN and self._is_opened_up:
                    self._peer_took(frame.payload)
                    continue
                self._receiver.frame_received(frame, at_ns)
                if frame.kind in _BULK:
                    self._take(len(frame.payload))
        except (FrameError, HandshakeError) as error:
            self.abort(str(error))

    def eof_received(self) -> None:
        """Close: half a connection is of no use."""
        self._reason = self._reason or "the peer closed the connection"

    def pause_writing(self) -> None:
        """Write nothing more: what was written last has not left yet."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on writing."""
        self._is_paused = False
        self._tell_written()
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        if exc is not None:
            self._reason = self._reason or f"the connection broke ({exc})"
        self._end(self._reason or "the connection was closed")
        if not self.closed.done():
            self.closed.set_result(None)

    # What the owner calls

    def hand_to(self, receiver: FrameReceiver) -> None:
        """Give all further frames to `receiver`."""
        self._receiver = receiver

    def open_up(self, peer_limits: LinkLimits) -> None:
        """Take frames of full size from now on: the peer has shown who it is, and said what it takes."""
        self.peer_limits = peer_limits
        self._is_opened_up = True
        self._decoder.payload_bytes_max = self._settings.limits.frame_bytes_max

    @property
    def is_open(self) -> bool:
        """Return whether frames can be queued."""
        return not (self._is_ended or self._is_closing)

    @property
    def control_bytes(self) -> int:
        """Return how much of the quota for control frames is taken."""
        return self._control_bytes

    @property
    def under_way_bytes(self) -> int:
        """Return how much of messages has left that the peer has not said to have read."""
        return self._bulk_sent_bytes - self._bulk_taken_bytes

    @property
    def send_count(self) -> int:
        """Return how many messages wait to be sent, begun ones included."""
        return len(self._active) + len(self._waiting)

    def send_controls(self, kind: Kind, payloads: Sequence[bytes]) -> None:
        """Queue several frames as `send_control` does one: all or none."""
        size = sum(map(len, payloads)) + PAYLOAD_OVERHEAD_BYTES * len(payloads)
        self._check_quota(size)
        for payload in payloads:
            self.send_control(kind, payload, is_reserved=True)

    def send_control(self, kind: Kind, payload: Payload = b"", stream: int = 0, *, is_reserved: bool = False) -> None:
        """Queue a frame to go before all bulk. Raise LinkFull when the quota is taken, LinkDown when there is no link.

        `is_reserved`: past the quota, for frames whose number is bounded otherwise.
        """
        if not self.is_open:
            raise LinkDown(self._reason or "the connection was closed")
        size = PAYLOAD_OVERHEAD_BYTES + (0 if callable(payload) else len(payload))
        if not is_reserved:
            self._check_quota(size)
        self._control_bytes += size
        self._control.append((kind, stream, payload))
        self._flush_soon()

    def send_pong(self, payload: Callable[[], bytes]) -> None:
        """Queue an answer to a ping, unless so many wait that the peer cannot be waiting for this one."""
        if self._pong_count < PONG_COUNT_MAX:
            self._pong_count += 1
            self.send_control(Kind.PONG, payload, is_reserved=True)

    async def send(self, message: OutgoingMessage, stream: int, *, is_reserved: bool = False) -> None:
        """Send a message in turns with others; return when the kernel has the last of it, which is the back-pressure.

        Raise LinkFull if too many wait already (unless `is_reserved`: bounded otherwise), LinkDown if the connection
        ends before. Cancelled, the rest of the message is not sent, and the peer forgets what it has of it; a chunk
        that is being written may still be read from the caller's memory.
        """
        if not self.is_open:
            raise LinkDown(self._reason or "the connection was closed")
        if not is_reserved and self.send_count >= self._settings.send_count_max:
            raise LinkFull(
                f"{self.send_count} messages wait to be sent to {self.address}, allowed are "
                f"{self._settings.send_count_max} (send_count_max)"
            )
        sending = _Sending(message, stream, self._loop.create_future())
        self._waiting.append(sending)
        self._flush_soon()
        try:
            await sending.done
        except asyncio.CancelledError:
            self._give_up(sending)
            raise

    def finish(self, reason: str) -> None:
        """Write what control frames are queued, then close. Bulk that waits is given up."""
        if self._is_ended or self._is_closing:
            return
        self._reason = self._reason or reason
        self._flush_control()
        self._is_closing = True
        self._fail_sendings()
        if self._transport is not None:
            self._transport.pause_reading()
            self._transport.close()

    def abort(self, reason: str) -> None:
        """Close at once, and tell everyone who waits."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()
        self._end(self._reason)

    # Writing

    def _check_quota(self, size: int) -> None:
        if self._control_bytes + size > self._settings.control_bytes_max:
            raise LinkFull(
                f"{self._control_bytes} bytes of control frames wait to be sent to {self.address}, with {size} more "
                f"there were more than {self._settings.control_bytes_max} (control_bytes_max): it reads too slowly"
            )

    def _flush_soon(self) -> None:
        if not self._is_flush_due and not self._is_paused:
            self._is_flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write until the kernel takes no more, control first; give other events a turn after a burst."""
        self._is_flush_due = False
        left = BURST_BYTES_MAX
        while self._can_write():
            if self._control:
                self._flush_control()
            elif not self._activate() or self.under_way_bytes >= self._settings.window_bytes:
                return
            elif left <= 0:
                self._flush_soon()
                return
            else:
                left -= self._write_chunk()

    def _can_write(self) -> bool:
        transport = self._transport
        return self.is_open and not self._is_paused and transport is not None and not transport.is_closing()

    def _flush_control(self) -> None:
        """Write control frames, many at once."""
        while self._control and self._can_write():
            parts: list[Buffer] = []
            size = 0
            while self._control and size < CONTROL_BATCH_BYTES:
                kind, stream, payload = self._control.popleft()
                if kind is Kind.OPEN:
                    self._bulk_sent_bytes += len(payload) if isinstance(payload, bytes) else 0
                self._control_bytes -= PAYLOAD_OVERHEAD_BYTES
                if callable(payload):
                    payload = payload()
                    self._pong_count -= kind is Kind.PONG
                else:
                    self._control_bytes -= len(payload)
                parts += self._encoder.encode(kind, stream, (payload,))
                self.sent_frames += 1
                size += PAYLOAD_OVERHEAD_BYTES + len(payload)
            self._write([b"".join(parts)])

    def _activate(self) -> bool:
        """Begin as many messages as the peer takes at a time; return whether there is one to write."""
        limits = self.peer_limits
        while self._waiting and len(self._active) < limits.stream_count_max:
            sending = self._waiting[0]
            body_bytes = sending.message.body_bytes
            if self._active and self._active_bytes + body_bytes > limits.assembly_bytes_max:
                break
            self._active_bytes += body_bytes
            self._active.append(self._waiting.popleft())
        return bool(self._active)

    def _write_chunk(self) -> int:
        """Write a frame of the message whose turn it is; return its size."""
        sending = self._active.popleft()
        message = sending.message
        chunk_bytes = min(self._settings.chunk_bytes, self.peer_limits.frame_bytes_max)
        kind, parts = message.next_frame(chunk_bytes)
        self._bulk_sent_bytes += sum(map(len, parts))
        if message.is_finished:
            self._active_bytes -= message.body_bytes
        else:
            self._active.append(sending)
        frame = self._encoder.encode(kind, sending.stream, parts)
        self.sent_frames += 1
        size = self._write(frame)
        if message.is_finished:
            self._unwritten.append(sending.done)
            if not self._is_paused:
                self._tell_written()
        return size

    def _tell_written(self) -> None:
        """Tell senders that the kernel has all of their messages: the memory that these were in is theirs again."""
        for done in self._unwritten:
            if not done.done():
                done.set_result(None)
        self._unwritten.clear()

    def _write(self, parts: list[Buffer]) -> int:
        assert self._transport is not None
        size = sum(map(len, parts))
        self.sent_bytes += size
        if len(parts) == 1:
            self._transport.write(parts[0])
        else:
            self._transport.writelines(parts)
        return size

    def _give_up(self, sending: _Sending) -> None:
        """Take out a message that nobody sends any more."""
        if self._is_ended or sending.message.is_finished:
            return
        if sending in self._waiting:
            self._waiting.remove(sending)
        elif sending in self._active:
            self._active.remove(sending)
            self._active_bytes -= sending.message.body_bytes
            if sending.message.is_opened and not self._is_closing:
                # At most as many as streams are open at a time: the next opens only once this one was written.
                self.send_control(Kind.ABORT, stream=sending.stream, is_reserved=True)
        self._flush_soon()

    # The window

    def _take(self, count: int) -> None:
        """Note that so much of messages was read, and tell the peer now and then."""
        self._bulk_read_bytes += count
        if self._bulk_read_bytes - self._bulk_told_bytes >= TAKEN_BYTES and not self._is_telling and self.is_open:
            self._is_telling = True  # one at a time: it says how much when it is written
            self.send_control(Kind.TAKEN, self._write_taken, is_reserved=True)

    def _write_taken(self) -> bytes:
        self._is_telling = False
        self._bulk_told_bytes = self._bulk_read_bytes
        return TAKEN.pack(self._bulk_told_bytes)

    def _peer_took(self, payload: memoryview) -> None:
        if len(payload) != TAKEN.size:
            raise FrameError(f"a TAKEN of {len(payload)} bytes, expected {TAKEN.size}")
        (taken_bytes,) = TAKEN.unpack(payload)
        if not self._bulk_taken_bytes <= taken_bytes <= self._bulk_sent_bytes:
            raise FrameError(f"the peer has read {taken_bytes} bytes of {self._bulk_sent_bytes}, it says")
        self._bulk_taken_bytes = taken_bytes
        self._flush_soon()

    # Ending

    def _place(self, stream: int, count: int) -> memoryview | None:
        if self._receiver is None:
            raise HandshakeError("a CHUNK frame that nobody awaits")
        return self._receiver.place(stream, count)

    def _fail_sendings(self) -> None:
        for done in (*(sending.done for sending in (*self._active, *self._waiting)), *self._unwritten):
            if not done.done():
                done.set_exception(LinkDown(self._reason))
        self._unwritten.clear()
        self._active.clear()
        self._waiting.clear()
        self._active_bytes = 0

    def _end(self, reason: str) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        self._reason = reason
        self._fail_sendings()
        self._control.clear()
        self._control_bytes = 0
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.connection_ended(reason)
