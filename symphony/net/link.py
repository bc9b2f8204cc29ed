"""Talk to one other node: records, messages and calls over one connection, and the comparison of the two clocks.

What a link does not do: repeat anything. A call that ends in LinkDown or CallTimeout may or may not have been run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from struct import Struct
from typing import Any, Final, NamedTuple, Protocol

from symphony.errors import Reason, SymphonyError
from symphony.links.clocks import INSTANT_NS_MAX, ClockJumped, LinkClock, RoundTrip
from symphony.links.faults import FrameError, HandshakeError
from symphony.links.frames import SMALL_BYTES_MAX, Frame, Kind
from symphony.links.handshake import Greeting
from symphony.links.messages import Assembler, Message, OutgoingMessage, Role
from symphony.links.records import RECORDS, Records, read_records, write_records
from symphony.net.connection import Connection
from symphony.net.faults import CallFailed, CallTimeout, LinkDown, LinkFull
from symphony.net.greeting import close_text, send_close
from symphony.net.settings import LinkSettings
from symphony.units import NEVER_NS, NS_PER_S

PING: Final = Struct("<q")
"""Sent at, on the sender's clock."""
PONG: Final = Struct("<qqq")
"""The ping's instant; received at and sent at on the answering clock."""
RECORD_BYTES_MAX: Final = 64 * 1024
"""Records in one frame; more go in several, between which other control frames get their turn."""
TIMER_EARLY_S: Final = 0.002
"""The loop's timers are whole milliseconds and fire up to more than one early: no call ends before its deadline."""
ERROR_LENGTH_MAX: Final = 2000

_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a call is answered with."""

    metadata: Mapping[str, Any]
    segments: Iterable[Any] = ()


class LinkReceiver(Protocol):
    """Whoever takes what links bring. Called on the event loop; an exception is logged and harms no link."""

    def link_up(self, link: Link) -> None:
        """Take note of a link that can be used; its clocks have been compared once."""

    def link_down(self, link: Link, reason: str) -> None:
        """Take note, once for each `link_up`, that it cannot any more. Its calls have ended with LinkDown."""

    def clock_jumped(self, link: Link, jump: ClockJumped) -> None:
        """Take note that instants turned before `jump` may be wrong by more than their bounds."""

    def records_received(self, link: Link, kind: Kind, records: Records) -> None:
        """Take records; the array is read-only and may be kept."""

    def message_received(self, link: Link, message: Message) -> None:
        """Take a message that wants no answer."""

    def call_received(self, link: Link, message: Message) -> Awaitable[Answer]:
        """Return the answer to a call; a SymphonyError reaches the caller as such. Cancelled if that gives up."""


class Link:
    """One link that is up, until it is down. Made by `Links`."""

    def __init__(
        self,
        connection: Connection,
        peer: Greeting,
        trip: RoundTrip,
        receiver: LinkReceiver,
        settings: LinkSettings,
        clock_ns: Callable[[], int],
        on_down: Callable[[Link], None],
    ) -> None:
        """Take over a connection that has been greeted; `on_down` is called once, before the receiver hears of it.

        Raise HandshakeError if a clock jumped during the handshake.
        """
        self._connection = connection
        self._receiver = receiver
        self._on_down = on_down
        self._settings = settings
        self._clock_ns = clock_ns
        self._loop = asyncio.get_running_loop()
        self._assembler = Assembler(settings.limits)
        self._numbers = count(1)
        self._calls: dict[int, asyncio.Future[Message]] = {}
        self._abandoned: set[int] = set()
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering_bytes = 0
        self._pings: deque[int] = deque()
        self._ping_queued_at_ns: int | None = None
        self._ticked_at_ns = clock_ns()
        self._was_late = False
        self._timer: asyncio.TimerHandle | None = None
        self._is_down = False
        self.peer = peer.identity.node
        self.peer_greeting = peer
        self.clock = LinkClock(settings.drift_ppm)
        try:
            self.clock.update(trip)
        except ValueError as error:
            raise HandshakeError(f"the clock of {self.peer!r} cannot be compared: {error}") from None
        self.odd_trip_count = 0
        """Round trips that no clocks can show: one of them jumped meanwhile."""
        self.late_answer_count = 0
        """Answers to calls that had ended."""
        self.ended: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, when the link is down."""

    def __repr__(self) -> str:
        return f"<Link to {self.peer!r} at {self._connection.address}{' (down)' if self._is_down else ''}>"

    def start(self) -> None:
        """Take the connection over, say that the link is up, begin to ping."""
        self._connection.hand_to(self)
        self._notify(self._receiver.link_up, self)
        if not self._is_down:
            self._tick()

    # Sending

    @property
    def is_up(self) -> bool:
        """Return whether the link can be used."""
        return not self._is_down

    @property
    def call_count(self) -> int:
        """Return how many calls wait for their answers here."""
        return len(self._calls)

    @property
    def answering_count(self) -> int:
        """Return how many calls of the peer are being answered."""
        return len(self._answering)

    @property
    def assembly_bytes(self) -> int:
        """Return the size of the messages of which a part has come."""
        return self._assembler.bytes

    @property
    def connection(self) -> Connection:
        """Return what the link runs on, for its counters."""
        return self._connection

    def post_records(self, kind: Kind, records: Records) -> None:
        """Queue records to go before all messages. Raise LinkFull or LinkDown; ValueError for another type of record.

        All or none: LinkFull means that nothing was queued.
        """
        self._check_up()
        payload = write_records(kind, records)
        size = RECORDS[kind].itemsize
        step = RECORD_BYTES_MAX // size * size
        with self._down_named():
            self._connection.send_controls(kind, [payload[at : at + step] for at in range(0, len(payload), step)])

    def post_urgent(self, metadata: Mapping[str, Any], segments: Iterable[Any] = ()) -> None:
        """Queue a small message to go before all others. Raise LinkFull or LinkDown; ValueError if it is not small."""
        self._check_up()
        self._send_urgent(next(self._numbers), self._outgoing(Role.POST, metadata, segments))

    async def post(self, metadata: Mapping[str, Any], segments: Iterable[Any] = ()) -> None:
        """Send a message that wants no answer; return when the kernel has it (not: the peer).

        The segments must not change before. Raise LinkFull or LinkDown; ValueError if it is too large for the peer.
        Cancelled, a chunk of them may still be on its way into the kernel: memory that is used again at once would
        break that chunk's checksum, and so the link.
        """
        self._check_up()
        with self._down_named():
            await self._connection.send(self._outgoing(Role.POST, metadata, segments), next(self._numbers))

    async def call(
        self,
        metadata: Mapping[str, Any],
        segments: Iterable[Any] = (),
        *,
        deadline_ns: int = NEVER_NS,
        is_urgent: bool = False,
    ) -> Message:
        """Send a call and return its answer. `deadline_ns` is on this node's clock; the peer sees it, too.

        Raise CallTimeout at the deadline, LinkDown as soon as the link is, LinkFull, CallFailed or SymphonyError if
        the peer fails to answer, ValueError if the call is too large (`is_urgent`: not small). Cancelled or timed out,
        the peer is told to give up.
        """
        self._check_up()
        limit = self._connection.peer_limits.call_count_max
        if len(self._calls) + len(self._abandoned) >= limit:
            raise LinkFull(f"{limit} calls wait for answers of {self.peer!r}, which takes no more (call_count_max)")
        if not -INSTANT_NS_MAX <= deadline_ns <= INSTANT_NS_MAX and deadline_ns != NEVER_NS:
            raise ValueError(f"deadline_ns is {deadline_ns}, which no clock will show; leave it out for none")
        left_ns = deadline_ns - self._clock_ns()
        outgoing = self._outgoing(Role.CALL, metadata, segments, deadline_ns=deadline_ns)
        number = next(self._numbers)
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._calls[number] = answer
        try:
            async with asyncio.timeout(None if deadline_ns == NEVER_NS else left_ns / NS_PER_S + TIMER_EARLY_S):
                if left_ns <= 0:
                    raise TimeoutError
                if is_urgent:
                    self._send_urgent(number, outgoing)
                else:
                    with self._down_named():
                        await self._connection.send(outgoing, number)
                return await answer
        except TimeoutError:
            raise CallTimeout(
                f"{self.peer!r} did not answer within {max(left_ns, 0) / 1e6:.1f} ms, the call's deadline"
            ) from None
        finally:
            if self._calls.pop(number, None) is not None and outgoing.is_finished and not self._is_down:
                self._abandon(number)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen: the call may have ended otherwise a moment before

    def close(self, reason: str) -> None:
        """Say why, let control frames that are queued leave, and be down at once."""
        if not self._is_down:
            send_close(self._connection, reason)
            self.connection_ended(reason)

    def abort(self, reason: str) -> None:
        """Be down at once, without a word."""
        self._connection.abort(reason)
        self.connection_ended(reason)

    # Receiving

    def frame_received(self, frame: Frame, at_ns: int) -> None:
        """Take one frame. Raises FrameError for one that breaks the protocol, which ends the link."""
        kind, stream, payload = frame
        if kind in RECORDS:
            self._notify(self._receiver.records_received, self, kind, read_records(kind, payload))
        elif kind is Kind.CHUNK:
            self._take(self._assembler.chunk(stream, len(payload)))
        elif kind is Kind.OPEN:
            self._take(self._assembler.open(stream, payload))
        elif kind is Kind.PING:
            self._pinged(payload, at_ns)
        elif kind is Kind.PONG:
            self._ponged(payload, at_ns)
        elif kind is Kind.ABORT:
            self._assembler.abort(stream)
        elif kind is Kind.DROP:
            task = self._answering.pop(stream, None)
            if task is not None:
                task.cancel()
        elif kind is Kind.CLOSE:
            self._connection.abort(f"{self.peer!r} closed the link: {close_text(payload)}")
        else:
            raise FrameError(f"a {kind.name} frame after the handshake")

    def place(self, stream: int, count: int) -> memoryview:
        """Return where a chunk belongs."""
        return self._assembler.place(stream, count)

    def connection_ended(self, reason: str) -> None:
        """End all calls, either way, and say that the link is down."""
        if self._is_down:
            return
        self._is_down = True
        if self._timer is not None:
            self._timer.cancel()
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(LinkDown(self._down_text(reason)))
        self._calls.clear()
        for task in list(self._answering.values()):
            task.cancel()
        self.ended.set_result(reason)
        self._on_down(self)
        self._notify(self._receiver.link_down, self, reason)

    def _take(self, message: Message | None) -> None:
        if message is None:
            return
        if message.role is Role.POST:
            self._notify(self._receiver.message_received, self, message)
        elif message.role is Role.CALL:
            self._called(message)
        else:
            self._answered(message)

    def _answered(self, message: Message) -> None:
        answer = self._calls.pop(message.call, None)
        if answer is None or answer.done():
            self.late_answer_count += 1
        elif message.role is Role.REPLY:
            answer.set_result(message)
        else:
            answer.set_exception(_failure(self.peer, message.metadata))

    def _called(self, message: Message) -> None:
        # Twice the limit that the peer keeps: an answer that has left frees its place there a moment before it does so
        # here.
        if message.call in self._answering or len(self._answering) >= 2 * self._settings.limits.call_count_max:
            raise FrameError(
                f"call {message.call} while {len(self._answering)} are being answered, allowed are "
                f"{self._settings.limits.call_count_max} (call_count_max), each with a number of its own"
            )
        size = sum(map(len, message.segments))
        refusal = None
        if self._answering_bytes + size > self._settings.answering_bytes_max:
            refusal = SymphonyError(
                Reason.QUEUE_FULL,
                f"calls with {self._answering_bytes} bytes are being answered, with {size} more there were more than "
                f"{self._settings.answering_bytes_max} (answering_bytes_max); try again",
            )
            size, message = 0, replace(message, segments=())
        self._answering_bytes += size
        task = self._loop.create_task(self._answer(message, refusal))
        self._answering[message.call] = task
        self._tasks.add(task)
        # Not in the task itself: one that is cancelled before its first step never runs.
        task.add_done_callback(partial(self._answer_ended, message.call, size))

    def _answer_ended(self, number: int, size: int, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._answering_bytes -= size
        if self._answering.get(number) is task:
            del self._answering[number]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a call of %r was not answered", self.peer, exc_info=error)

    async def _answer(self, message: Message, refusal: SymphonyError | None) -> None:
        try:
            answer = await self._ask_receiver(message, refusal)
            del message  # a call's tensors are not kept while its answer waits to leave
            # Past the limit of waiting messages: there are no more answers than calls.
            await self._connection.send(answer, next(self._numbers), is_reserved=True)
        except LinkDown:
            pass  # nobody is left to be told

    async def _ask_receiver(self, message: Message, refusal: SymphonyError | None) -> OutgoingMessage:
        try:
            if refusal is not None:
                raise refusal
            metadata, segments = await self._receiver.call_received(self, message)
            return self._outgoing(Role.REPLY, metadata, segments, call=message.call)
        except SymphonyError as error:
            body: Mapping[str, Any] = {
                key: value[:ERROR_LENGTH_MAX] if isinstance(value, str) else value
                for key, value in error.body().items()
            }
        except Exception:
            _log.exception("a call of %r failed", self.peer)
            body = {"error": "the call failed; the log of the node that was called has the reason"}
        return self._outgoing(Role.ERROR, body, (), call=message.call)

    # Clocks and life

    def deadline_here(self, message: Message) -> tuple[int, int]:
        """Return a message's deadline on this node's clock, and how far off that may be; (NEVER_NS, 0) without one."""
        if message.deadline_ns == NEVER_NS:
            return NEVER_NS, 0
        return self.clock.to_local(message.deadline_ns)

    def _tick(self) -> None:
        """Ping, unless a ping still waits to be written; give up a peer that has not answered one for too long."""
        now_ns = self._clock_ns()
        # A loop that was held up has not read the answers that may have come meanwhile: judge next time, late or not.
        is_late = now_ns - self._ticked_at_ns > 2 * self._settings.ping_s * NS_PER_S and not self._was_late
        self._ticked_at_ns, self._was_late = now_ns, is_late
        oldest_ns = self._pings[0] if self._pings else self._ping_queued_at_ns
        if oldest_ns is not None and not is_late and now_ns - oldest_ns > self._settings.peer_timeout_s * NS_PER_S:
            self.abort(f"{self.peer!r} has not answered a ping for {self._settings.peer_timeout_s} s (peer_timeout_s)")
            return
        if self._ping_queued_at_ns is None:
            self._ping_queued_at_ns = now_ns
            self._connection.send_control(Kind.PING, self._write_ping, is_reserved=True)
        self._timer = self._loop.call_later(self._settings.ping_s, self._tick)

    def _write_ping(self) -> bytes:
        now_ns = self._clock_ns()
        self._ping_queued_at_ns = None
        self._pings.append(now_ns)
        return PING.pack(now_ns)

    def _pinged(self, payload: memoryview, at_ns: int) -> None:
        if len(payload) != PING.size:
            raise FrameError(f"a PING of {len(payload)} bytes, expected {PING.size}")
        (sent_there_at_ns,) = PING.unpack(payload)
        self._connection.send_pong(lambda: PONG.pack(sent_there_at_ns, at_ns, self._clock_ns()))

    def _ponged(self, payload: memoryview, at_ns: int) -> None:
        if len(payload) != PONG.size:
            raise FrameError(f"a PONG of {len(payload)} bytes, expected {PONG.size}")
        sent_at_ns, there_at_ns, back_there_at_ns = PONG.unpack(payload)
        if sent_at_ns not in self._pings:
            raise FrameError("a PONG for no PING that waits for one")
        while self._pings.popleft() != sent_at_ns:
            pass  # earlier pings that the peer was too busy to answer
        try:
            jump = self.clock.update(RoundTrip(sent_at_ns, there_at_ns, back_there_at_ns, at_ns))
        except ValueError:
            self.odd_trip_count += 1
            return
        if jump is not None:
            _log.warning("the clock of %r jumped by about %.3f ms against this node's", self.peer, jump.by_ns / 1e6)
            self._notify(self._receiver.clock_jumped, self, jump)

    # Inside

    def _outgoing(
        self,
        role: Role,
        metadata: Mapping[str, Any],
        segments: Iterable[Any],
        call: int = 0,
        deadline_ns: int = NEVER_NS,
    ) -> OutgoingMessage:
        return OutgoingMessage(role, metadata, segments, self._connection.peer_limits, call, deadline_ns)

    def _send_urgent(self, number: int, outgoing: OutgoingMessage) -> None:
        if not outgoing.is_small:
            raise ValueError(
                f"an urgent message has {SMALL_BYTES_MAX} bytes at most, metadata included; send it as any other"
            )
        kind, parts = outgoing.next_frame(0)
        with self._down_named():
            self._connection.send_control(kind, b"".join(parts), number)

    def _abandon(self, number: int) -> None:
        """Tell the peer that nobody waits for an answer. Until that is written, the call counts as one it answers."""

        def written() -> bytes:
            self._abandoned.discard(number)
            return b""

        self._abandoned.add(number)
        self._connection.send_control(Kind.DROP, written, number, is_reserved=True)

    def _check_up(self) -> None:
        if self._is_down:
            raise LinkDown(self._down_text(self.ended.result()))

    def _down_text(self, reason: str) -> str:
        return f"the link to {self.peer!r} is down: {reason}"

    def _down_named(self) -> _DownNamed:
        return _DownNamed(self)

    def _notify(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            _log.exception("what came from %r was not taken", self.peer)


class _DownNamed:
    """Say of which link a connection's LinkDown tells."""

    __slots__ = ("_link",)

    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, LinkDown):
            raise LinkDown(self._link._down_text(str(error))) from None


def _failure(peer: str, body: Mapping[str, Any]) -> Exception:
    """Return the exception that an ERROR stands for."""
    text, token, model = (str(body.get(key, ""))[:ERROR_LENGTH_MAX] for key in ("error", "reason", "model"))
    try:
        reason = Reason.from_token(token)
    except KeyError:
        return CallFailed(f"{peer!r} could not answer: {text}")
    return SymphonyError(reason, text, model=model)
