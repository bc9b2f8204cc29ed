"""Answer infer calls without aiohttp's per-request cost, and hand every other connection to aiohttp.

A connection starts here. As long as its messages are plain infer calls (see heads.py) they run through the same
`InferExchange` as everywhere, and are answered with one write. The first message that is anything else moves the
connection, with the bytes received and not yet used, to an aiohttp protocol for the rest of its life. So both paths
behave alike and only one place knows each rule; the tests of the infer route run against both.

Reason: aiohttp's request, task, future and response objects cost more than decoding, scheduling and encoding together.

One message at a time: what a client pipelines behind an unanswered call waits in `_buffer` with reading paused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus

from symphony.errors import SymphonyError
from symphony.ingress.bodies import too_slow
from symphony.ingress.callers import Caller
from symphony.ingress.exchange import Exchange, InferExchange
from symphony.ingress.heads import HeadReader, InferHead
from symphony.ingress.limits import IngressLimits
from symphony.ingress.replies import EncodedReply, error_reply

_PREFIX = b"POST /v2/models/"
_HEAD_END = b"\r\n\r\n"
_STATUSES = frozenset(HTTPStatus)
_BODY_WHOLE_BYTES_MAX = 1 << 20
"""Bodies up to this size get their place at once, larger ones as they come: zeroing 64 MiB takes longer than an SLO."""


class HotServer:
    """Make the protocols of one listening socket; bound how long a connection may dawdle."""

    def __init__(
        self, exchanges: InferExchange, make_other: Callable[[], asyncio.Protocol], limits: IngressLimits
    ) -> None:
        self.exchanges = exchanges
        self.make_other = make_other
        self.head_bytes_max = limits.header_line_bytes_max * 2
        self.limits = limits
        self.connections: set[HotProtocol] = set()
        self.heads = HeadReader()

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection: the protocol factory of `loop.create_server`."""
        return HotProtocol(self)

    def close(self) -> None:
        """Close the connections that are idle, and the others as soon as they have been answered."""
        self.exchanges.connections.close()
        for connection in list(self.connections):
            connection.close_when_idle()


class HotProtocol(asyncio.Protocol):
    """One connection, until it is handed to aiohttp."""

    __slots__ = (
        "_body",
        "_buffer",
        "_caller",
        "_exchange",
        "_head",
        "_is_closing",
        "_is_proven",
        "_is_reading_paused",
        "_is_write_paused",
        "_peer",
        "_received",
        "_server",
        "_since_s",
        "_transport",
    )

    def __init__(self, server: HotServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._body: bytearray | None = None
        self._received = 0
        self._head: InferHead | None = None
        self._exchange: Exchange | None = None
        self._peer: Caller | None = None
        self._caller: Caller | None = None
        self._is_proven = False
        self._is_closing = False
        self._is_reading_paused = False
        self._is_write_paused = False
        self._since_s = time.monotonic()

    # ---- transport ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection, if there is a place for it."""
        self._transport = transport  # type: ignore[assignment]
        exchanges = self._server.exchanges
        if not exchanges.connections.add(self):
            self.abort()
            return
        self._server.connections.add(self)
        self._peer = exchanges.callers.peer(transport.get_extra_info("peername"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what the client no longer waits for."""
        self._server.connections.discard(self)
        self._server.exchanges.connections.discard(self)
        if self._body is not None:
            self._release_body()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
        self._transport = None

    def pause_writing(self) -> None:
        """Take no further message while the client does not read its answers."""
        self._is_write_paused = True

    def resume_writing(self) -> None:
        """Go on with what waits."""
        self._is_write_paused = False
        if self._exchange is None:
            self._go_on()

    def data_received(self, data: bytes) -> None:
        """Collect a message and run it; called by the event loop with whatever has arrived."""
        if self._body is not None:
            assert self._head is not None
            left = self._head.body_bytes - self._received
            used = data if len(data) <= left else data[:left]
            self._body[self._received : self._received + len(used)] = used
            self._received += len(used)
            if len(data) < left:
                return
            self._buffer = data[left:]
            self._body_complete(self._body)
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        elif self._exchange is None:
            self._since_s = time.monotonic()
        if self._exchange is not None or self._is_write_paused:
            self._buffer = data
            self._pause_reading()
            return
        self._message(data)

    # ---- messages ----------------------------------------------------------------------------------------------

    def _message(self, data: bytes) -> None:
        """Start the message at the beginning of `data`, or keep it until its head is whole."""
        if data[: len(_PREFIX)] != _PREFIX[: len(data)]:
            self._hand_over(data)
            return
        end = data.find(_HEAD_END)
        if end < 0:
            if len(data) > self._server.head_bytes_max:
                self._hand_over(data)
            else:
                self._buffer = data
            return
        end += len(_HEAD_END)
        head = self._server.heads.read(data[:end])
        if head is None:
            self._hand_over(data)
            return
        self._head = head
        need = head.body_bytes
        have = len(data) - end
        if not self._is_proven and have >= need:
            self._is_proven = True
            self._server.exchanges.connections.prove(self)
        exchanges = self._server.exchanges
        try:
            caller = exchanges.callers.identify(head.headers, self._peer)
            if have < need and exchanges.refusal(need, caller) is not None:
                self._hand_over(data)
                return
            if caller.key is not None:
                exchanges.check_call(head.headers, caller, "infer", head.model)
        except SymphonyError as error:
            if have < need:
                self._hand_over(data)
            else:
                self._buffer = data[end + need :]
                self._reply(exchanges.refuse(error, head.model, head.headers, head.is_msgpack))
            return
        self._caller = caller
        if have >= need:
            self._buffer = data[end + need :]
            if not head.has_id:
                refused = exchanges.refusal_unread(caller, head.model, head.version, head.is_msgpack)
                if refused is not None:
                    self._reply(refused)
                    return
            self._run(data[end : end + need], is_let_in=not head.has_id)
            return
        exchanges.reserve(need, caller)
        body = bytearray(need if need <= _BODY_WHOLE_BYTES_MAX else 0)
        body[:have] = data[end:]
        self._body, self._received = body, have

    def _body_complete(self, body: bytearray) -> None:
        if not self._is_proven:
            self._is_proven = True
            self._server.exchanges.connections.prove(self)
        self._release_body()
        self._run(body)

    def _release_body(self) -> None:
        assert self._head is not None and self._caller is not None
        self._body = None
        self._server.exchanges.reserve(-self._head.body_bytes, self._caller)

    def _run(self, body: bytes | bytearray, is_let_in: bool = False) -> None:
        head = self._head
        assert head is not None
        start = self._server.exchanges.start
        exchange = start(head.model, head.version, head.headers, body, self._reply, is_let_in, self._caller)
        if not exchange.is_done:
            self._exchange = exchange

    def _reply(self, reply: EncodedReply) -> None:
        """Write the answer, then go on with what the client sent meanwhile."""
        self._exchange = None
        transport = self._transport
        if transport is None:
            return
        assert self._head is not None
        is_last = self._is_closing or not self._head.keeps_alive or reply.status == 413
        lines: list[bytes | bytearray | memoryview] = [
            _first_lines(reply.status, reply.content_type),
            b"%d\r\n" % reply.body_bytes,
        ]
        for name, value in reply.headers:
            lines.append(f"{name}: {value}\r\n".encode("latin-1"))
        lines.append(b"Connection: close\r\n\r\n" if is_last else b"\r\n")
        lines += reply.parts
        transport.write(b"".join(lines))
        self._since_s = time.monotonic()
        if is_last:
            transport.close()
        elif self._buffer or self._is_reading_paused:
            # Not from inside data_received: a pipelining client must not nest calls.
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._transport is None or self._exchange is not None or self._is_write_paused:
            return
        data, self._buffer = self._buffer, b""
        if data:
            self._message(data)
        if self._exchange is None and self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and self._transport is not None:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # ---- the end -----------------------------------------------------------------------------------------------

    def _hand_over(self, data: bytes) -> None:
        """Make the connection aiohttp's, with everything received and not yet used.

        What refuses a call whose body has yet to come hands it over, too: aiohttp refuses it for the same reason, and
        goes on reading for a moment, so that the client sees the answer before the connection closes.
        """
        transport = self._transport
        assert transport is not None
        self._server.connections.discard(self)
        self._server.exchanges.connections.discard(self)
        self._buffer = b""
        self._transport = None
        other = self._server.make_other()
        transport.set_protocol(other)
        other.connection_made(transport)
        if self._is_reading_paused:
            transport.resume_reading()
        other.data_received(data)

    def close_when_idle(self) -> None:
        """Close now, or right after the answer under way."""
        self._is_closing = True
        if self._exchange is None and self._transport is not None:
            self._transport.close()

    def close_if_slow(self, now_s: float) -> None:
        """Close a connection that has been silent, or has not finished a message, for too long."""
        if self._exchange is not None or self._transport is None:
            return
        limits = self._server.limits
        silent_s = now_s - self._since_s
        if self._body is not None:
            if silent_s > limits.body_timeout_s:
                self._refuse_slow_body()
        elif silent_s > (limits.header_timeout_s if self._buffer else limits.keepalive_timeout_s):
            self._transport.abort()

    def is_idle(self) -> bool:
        """Return whether no message is under way or half received."""
        return self._exchange is None and self._body is None and not self._buffer

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _refuse_slow_body(self) -> None:
        head = self._head
        assert head is not None
        self._is_closing = True
        self._release_body()
        error = too_slow(self._server.limits.body_timeout_s)
        error.model = head.model
        self._server.exchanges.service.stats.request_refused(error.reason)
        self._reply(error_reply(error, head.is_msgpack))


@lru_cache(maxsize=256)
def _first_lines(status: int, content_type: str) -> bytes:
    """Return a reply's head up to the digits of its length."""
    phrase = HTTPStatus(status).phrase if status in _STATUSES else "Client Closed Request"
    return f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\nContent-Length: ".encode("latin-1")
