"""Call a node from plain threads: the same calls as `AsyncClient`, on blocking sockets, without an event loop."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from symphony.client.calls import Calls, InferResult, model_path
from symphony.client.connection import IDLE_S
from symphony.client.http import Address, Response, ResponseReader, TransportError
from symphony.errors import SymphonyError

READ_BYTES = 1 << 18


class _Line:
    """One connection with its reader."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        try:
            raw = socket.create_connection((address.host, address.port), timeout_s)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = address.tls.wrap_socket(raw, server_hostname=address.host) if address.tls else raw
        except TimeoutError:
            raise
        except OSError as error:
            raise TransportError(
                f"cannot connect to {address}: {error.strerror or error}; is the server up and the port right?"
            ) from error
        self.reader = ResponseReader()
        self.idle_since_s = 0.0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()


class Client:
    """A client of one node for threads, as a context manager or with `close`. Any number of threads may share it.

    Arguments and errors are those of `AsyncClient`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        form: str = "framed",
        connection_count_max: int = 256,
        timeout_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if connection_count_max < 1 or not timeout_s > 0:
            raise ValueError(
                f"connection_count_max is {connection_count_max}, timeout_s {timeout_s}: both must be above 0"
            )
        self.url = url
        self._calls = Calls(Address.parse(url, tls), form)
        self._timeout_s = timeout_s
        self._slots = threading.BoundedSemaphore(connection_count_max)
        self._lock = threading.Lock()
        self._idle: list[_Line] = []
        self._is_closed = False

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: str | None = None,
        timeout_ms: float | None = None,
        priority: int | None = None,
        outputs: Sequence[str] | None = None,
        request_id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> InferResult:
        """Run one request and return its outputs; see `AsyncClient.infer`."""
        data = self._calls.infer(model, inputs, version, timeout_ms, priority, outputs, request_id, parameters, headers)
        return self._calls.read_infer(self._exchange(data))

    def is_live(self) -> bool:
        """Return whether the node answers that it lives."""
        return self._is_true("/v2/health/live")

    def is_ready(self) -> bool:
        """Return whether the node takes requests."""
        return self._is_true("/v2/health/ready")

    def metadata(self) -> Any:
        """Return the node's name, version and extensions."""
        return self._other("GET", "/v2")

    def model_metadata(self, model: str, version: str | None = None) -> Any:
        """Return the model's inputs and outputs."""
        return self._other("GET", model_path(model, version))

    def model_config(self, model: str, version: str | None = None) -> Any:
        """Return the model's configuration."""
        return self._other("GET", f"{model_path(model, version)}/config")

    def model_statistics(self, model: str, version: str | None = None) -> Any:
        """Return the model's counters."""
        return self._other("GET", f"{model_path(model, version)}/stats")

    def models(self) -> Any:
        """Return every model of the node with its state and reason."""
        return self._other("POST", "/v2/repository/index")

    def load(self, model: str) -> None:
        """Load the model (again) from the node's repository; return when it is ready."""
        self._other("POST", f"/v2/repository/models/{model}/load", {})

    def unload(self, model: str) -> None:
        """Unload the model; return when its requests have ended."""
        self._other("POST", f"/v2/repository/models/{model}/unload", {})

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their call ends."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def __enter__(self) -> Client:
        """Return the client."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        self.close()

    def _other(self, method: str, path: str, body: Any = None) -> Any:
        return self._calls.read_other(self._exchange(self._calls.other(method, path, body)))

    def _is_true(self, path: str) -> bool:
        try:
            self._other("GET", path)
        except SymphonyError:
            return False
        return True

    def _exchange(self, data: bytes) -> Response:
        ends_s = time.monotonic() + self._timeout_s
        line: _Line | None = None
        is_reusable = False
        if not self._slots.acquire(timeout=self._timeout_s):
            raise self._timed_out()
        try:
            line = self._take() or _Line(self._calls.address, self._timeout_s)
            response = self._talk(line, data, ends_s)
            is_reusable = line.reader.keeps_alive
            return response
        except TimeoutError:
            raise self._timed_out() from None
        finally:
            if line is not None:
                self._put_back(line, is_reusable)
            self._slots.release()

    def _talk(self, line: _Line, data: bytes, ends_s: float) -> Response:
        address = self._calls.address
        try:
            line.socket.settimeout(max(0.001, ends_s - time.monotonic()))
            line.socket.sendall(data)
            while True:
                line.socket.settimeout(max(0.001, ends_s - time.monotonic()))
                received = line.socket.recv(READ_BYTES)
                if not received:
                    raise TransportError(
                        f"the server at {address} closed the connection before its answer was whole; it may or may not have "
                        "run the request"
                    )
                if line.reader.feed(received):
                    return line.reader.take()
        except (TimeoutError, TransportError):
            raise
        except OSError as error:
            raise TransportError(
                f"the connection to {address} broke: {error.strerror or error}; it may or may not have run the request"
            ) from error

    def _take(self) -> _Line | None:
        with self._lock:
            if self._is_closed:
                raise TransportError("the client is closed; make a new one")
            while self._idle:
                line = self._idle.pop()
                if time.monotonic() - line.idle_since_s <= IDLE_S and not _was_closed(line.socket):
                    return line
                line.close()
        return None

    def _put_back(self, line: _Line, is_reusable: bool) -> None:
        with self._lock:
            if is_reusable and not self._is_closed:
                line.idle_since_s = time.monotonic()
                self._idle.append(line)
                return
        line.close()

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(
            f"no answer from {self._calls.address} within {self._timeout_s:g} s (timeout_s); allow more, or check the server"
        )


def _was_closed(connection: socket.socket) -> bool:
    """Return whether the server closed an idle connection, or sent what nobody asked for."""
    if isinstance(connection, ssl.SSLSocket):
        # TLS may hold records of its own; the call itself will tell.
        return False
    try:
        connection.setblocking(False)
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
