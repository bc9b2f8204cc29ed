"""Talk to a server over connections kept alive, by callback: no task and no future for a request.

A connection carries one request at a time. The pool gives out idle ones, the youngest first, opens more up to its limit, and
lets requests wait in order beyond it.

A request is written once. If its connection breaks before the whole answer came, the caller is told, and decides: whether
the server ran it is not known. Connections idle for longer than `IDLE_S` are not used again, so that a server closing
its idle ones (after 75 s here) is not met half-way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from symphony.client.http import Address, OnResponse, ResponseReader, TransportError

IDLE_S = 60.0


class HttpConnection(asyncio.Protocol):
    """One connection of a pool."""

    __slots__ = ("_on_response", "_pool", "_reader", "idle_since_s", "transport")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._reader = ResponseReader()
        self._on_response: OnResponse | None = None
        self.transport: asyncio.Transport | None = None
        self.idle_since_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = transport  # type: ignore[assignment]

    def send(self, data: bytes, on_response: OnResponse) -> None:
        """Write one request; `on_response(response, error)` is called once, later."""
        assert self.transport is not None and self._on_response is None
        self._on_response = on_response
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Collect the answer."""
        try:
            is_whole = self._reader.feed(data)
        except TransportError as error:
            self._end(error)
            return
        if not is_whole:
            return
        response = self._reader.take()
        on_response, self._on_response = self._on_response, None
        if on_response is None:
            self.abort()
            return
        if self._reader.keeps_alive:
            self._pool.release(self)
        else:
            self.abort()
        on_response(response, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the pool, and whoever waits."""
        began = "after part of" if self._reader.has_begun else "before"
        self._end(
            TransportError(
                f"the server at {self._pool.address} closed the connection {began} its answer"
                f"{f' ({exc})' if exc else ''}; it may or may not have run the request"
            )
        )

    def give_up(self) -> None:
        """Stop waiting for the answer: the connection is closed, which tells the server; nobody is called."""
        self._on_response = None
        self.abort()

    def abort(self) -> None:
        """Close at once."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
            self._pool.lost(self)

    def _end(self, error: TransportError) -> None:
        on_response, self._on_response = self._on_response, None
        self.abort()
        if on_response is not None:
            on_response(None, error)


class ConnectionPool:
    """Up to `connection_count_max` connections to one address."""

    def __init__(self, address: Address, connection_count_max: int, connect_timeout_s: float = 10.0) -> None:
        self.address = address
        self.connection_count_max = connection_count_max
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[HttpConnection] = []
        self._waiting: deque[asyncio.Future[HttpConnection]] = deque()
        self._openers: set[asyncio.Task[None]] = set()
        self._count = 0
        self._is_closed = False

    @property
    def idle_count(self) -> int:
        """Return how many connections could send at once."""
        return len(self._idle)

    def take_idle(self) -> HttpConnection | None:
        """Return an idle connection, None if there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.transport is None or connection.transport.is_closing():
                continue
            if time.monotonic() - connection.idle_since_s <= IDLE_S:
                return connection
            connection.abort()
        return None

    async def acquire(self) -> HttpConnection:
        """Return a connection, opened or waited for; raise TransportError if none can be had."""
        if self._is_closed:
            raise TransportError("the client is closed; make a new one")
        connection = self.take_idle()
        if connection is not None:
            return connection
        if self._count < self.connection_count_max:
            return await self.open()
        future: asyncio.Future[HttpConnection] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            raise

    async def open(self) -> HttpConnection:
        """Open one more connection, which the caller owns."""
        self._count += 1
        address = self.address
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: HttpConnection(self), address.host, address.port, ssl=address.tls
                )
        except TimeoutError:
            self._forget()
            raise TransportError(
                f"no connection to {address} within {self._connect_timeout_s:g} s; is it up?"
            ) from None
        except OSError as error:
            self._forget()
            raise TransportError(
                f"cannot connect to {address}: {error.strerror or error}; is the server up and the port right?"
            ) from error
        except BaseException:
            self._forget()
            raise
        return connection

    def release(self, connection: HttpConnection) -> None:
        """Take a connection back; the longest waiting request gets it."""
        if self._is_closed or connection.transport is None:
            connection.abort()
            return
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return
        connection.idle_since_s = time.monotonic()
        self._idle.append(connection)

    def lost(self, connection: HttpConnection) -> None:
        """Hear that a connection is gone."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._forget()

    def _forget(self) -> None:
        self._count -= 1
        while self._waiting and not self._is_closed:
            future = self._waiting.popleft()
            if not future.done():
                task = asyncio.get_running_loop().create_task(self._open_for(future))
                self._openers.add(task)
                task.add_done_callback(self._openers.discard)
                return

    async def _open_for(self, future: asyncio.Future[HttpConnection]) -> None:
        """Open a connection in place of a lost one for a request that waits."""
        try:
            connection = await self.open()
        except TransportError as error:
            if not future.done():
                future.set_exception(error)
            return
        if future.done():
            self.release(connection)
        else:
            future.set_result(connection)

    def close(self) -> None:
        """Close every idle connection and refuse further requests; those in flight fail."""
        self._is_closed = True
        for connection in list(self._idle):
            connection.abort()
        for future in self._waiting:
            if not future.done():
                future.set_exception(TransportError("the client was closed while the request waited"))
        self._waiting.clear()
