"""Talk to a server over connections kept alive, by callback: no task and no future for a request.

A connection carries one request at a time. The pool gives out idle ones, the youngest first, opens more up to its
limit, and lets requests wait in order beyond it.

A request is written once. If its connection breaks before the whole answer came, the caller is told, and decides:
whether the server ran it is not known, unless the error's `is_unsent` says that it never left. Connections idle for
longer than `IDLE_S` are not used again, so that a server closing its idle ones (after 75 s here) is not met half-way.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from symphony.client.http import Address, OnResponse, ResponseReader, TransportError, cannot_connect

IDLE_S = 60.0


class HttpConnection(asyncio.Protocol):
    """One connection of a pool. `transport` is None before it is open and once it is closed."""

    __slots__ = ("_on_response", "_pool", "_reader", "idle_since_s", "transport")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._reader = ResponseReader()
        self._on_response: OnResponse | None = None
        self.transport: asyncio.Transport | None = None
        self.idle_since_s = 0.0

    @property
    def is_open(self) -> bool:
        """Return whether a request could be written."""
        return self.transport is not None and not self.transport.is_closing()

    @property
    def is_reused(self) -> bool:
        """Return whether it has carried an answer before."""
        return self._reader.response_count > 0

    @property
    def has_begun(self) -> bool:
        """Return whether part of the answer that is waited for has come."""
        return self._reader.has_begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = transport  # type: ignore[assignment]

    def send(self, data: bytes, on_response: OnResponse) -> None:
        """Write one request; `on_response(response, error)` is called once, later.

        Raise TransportError (`is_unsent`) if the connection was closed meanwhile; then nobody is called.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            self.abort()
            raise TransportError(
                f"the server at {self._pool.address} closed the connection before the request was sent; try again",
                is_unsent=True,
            )
        assert self._on_response is None, "a connection carries one request at a time"
        self._on_response = on_response
        transport.write(data)

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
            self.abort()  # an answer nobody asked for
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

    def fail(self, error: TransportError) -> None:
        """Close at once and tell whoever waits."""
        self._end(error)

    def _end(self, error: TransportError) -> None:
        on_response, self._on_response = self._on_response, None
        self.abort()
        if on_response is not None:
            on_response(None, error)


class ConnectionPool:
    """Up to `connection_count_max` connections to one address, those being opened included."""

    def __init__(self, address: Address, connection_count_max: int, connect_timeout_s: float = 10.0) -> None:
        self.address = address
        self.connection_count_max = connection_count_max
        self._connect_timeout_s = connect_timeout_s
        self._idle: dict[HttpConnection, None] = {}
        self._connections: set[HttpConnection] = set()
        self._waiting: deque[asyncio.Future[HttpConnection]] = deque()
        self._openers: set[asyncio.Task[None]] = set()
        self._count = 0
        self._is_closed = False

    @property
    def count(self) -> int:
        """Return how many connections are open or being opened."""
        return self._count

    @property
    def idle_count(self) -> int:
        """Return how many connections could send at once."""
        return len(self._idle)

    def take_idle(self) -> HttpConnection | None:
        """Return an idle connection, None if there is none."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_open and time.monotonic() - connection.idle_since_s <= IDLE_S:
                return connection
            connection.abort()
        return None

    def drop_idle(self) -> None:
        """Close the idle connections."""
        while self._idle:
            connection, _ = self._idle.popitem()
            connection.abort()

    async def acquire(self) -> HttpConnection:
        """Return a connection, opened or waited for; raise TransportError if none can be had."""
        if self._is_closed:
            raise _closed()
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
        """Open one more connection, which the caller owns; raise TransportError if that fails."""
        self._count += 1
        address = self.address
        is_kept = False
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: HttpConnection(self), address.host, address.port, ssl=address.tls
                )
            if self._is_closed:
                connection.abort()
                raise _closed()
            if connection.transport is None:
                raise TransportError(
                    f"the server at {address} closed the connection at once; is it at its limit of connections?",
                    is_unsent=True,
                )
            self._connections.add(connection)
            is_kept = True
            return connection
        except TransportError:
            raise
        except TimeoutError:
            raise TransportError(
                f"no connection to {address} within {self._connect_timeout_s:g} s; is it up?", is_unsent=True
            ) from None
        except OSError as error:
            raise cannot_connect(address, error) from error
        finally:
            if not is_kept:
                self._forget()

    def release(self, connection: HttpConnection) -> None:
        """Take a connection back; the longest waiting request gets it."""
        if self._is_closed or not connection.is_open:
            connection.abort()
            return
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return
        connection.idle_since_s = time.monotonic()
        self._idle[connection] = None

    def lost(self, connection: HttpConnection) -> None:
        """Hear that a connection is gone."""
        if connection in self._connections:
            self._connections.remove(connection)
            self._idle.pop(connection, None)
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
        """Close every connection and refuse further requests; those in flight or waiting fail with TransportError."""
        self._is_closed = True
        for connection in list(self._connections):
            connection.fail(
                TransportError(
                    f"the client was closed before {self.address} answered; it may or may not have run the request"
                )
            )
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(_closed())


def _closed() -> TransportError:
    return TransportError("the client is closed; make a new one", is_unsent=True)
