"""Call a node from plain threads: the same calls as `AsyncClient`, on blocking sockets, without an event loop."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from symphony.client.calls import Ask, Calls, InferResult, load_path, model_path
from symphony.client.connection import IDLE_S
from symphony.client.http import Address, Response, ResponseReader, TransportError, cannot_connect
from symphony.errors import SymphonyError

READ_BYTES = 1 << 18


class _Line:
    """One connection with its reader."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        raw: socket.socket | None = None
        try:
            raw = socket.create_connection((address.host, address.port), timeout_s)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket = address.tls.wrap_socket(raw, server_hostname=address.host) if address.tls else raw
        except OSError as error:
            if raw is not None:
                raw.close()
            if isinstance(error, TimeoutError):
                raise
            raise cannot_connect(address, error) from error
        self.reader = ResponseReader()
        self.idle_since_s = 0.0

    @property
    def is_usable(self) -> bool:
        """Return whether an idle connection may be used: not idle for long, and nothing has come, such as its end."""
        if time.monotonic() - self.idle_since_s > IDLE_S:
            return False
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        return not poller.poll(0)

    def talk(self, data: bytes, address: Address, ends_s: float) -> Response:
        """Send one request and return its answer; raise TransportError, or TimeoutError at `ends_s`."""
        broken: OSError | None = None
        try:
            self.socket.settimeout(_left_s(ends_s))
            self.socket.sendall(data)
        except TimeoutError:
            raise
        except OSError as error:
            broken = error  # a server that refuses early may have answered before it closed
        try:
            while True:
                self.socket.settimeout(_left_s(ends_s))
                received = self.socket.recv(READ_BYTES)
                if not received:
                    break
                if self.reader.feed(received):
                    response = self.reader.take()
                    self.reader.keeps_alive = self.reader.keeps_alive and broken is None
                    return response
        except (TimeoutError, TransportError):
            raise
        except OSError as error:
            broken = broken or error
        began = "after part of" if self.reader.has_begun else "before"
        why = f" ({broken.strerror or broken})" if broken is not None else ""
        raise TransportError(
            f"the server at {address} closed the connection {began} its answer{why}; "
            "it may or may not have run the request"
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.close()


class Client:
    """A client of one node for threads, as a context manager or with `close`. Any number of threads may share it.

    It needs no event loop, and may be called where one runs (which then waits). Arguments, errors and what is sent
    again are those of `AsyncClient`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        form: str = "framed",
        connection_count_max: int = 256,
        timeout_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
        api_key: str | None = None,
    ) -> None:
        if connection_count_max < 1 or not timeout_s > 0:
            raise ValueError(
                f"connection_count_max is {connection_count_max}, timeout_s {timeout_s}: both must be above 0"
            )
        self.url = url
        self._calls = Calls(Address.parse(url, tls), form, api_key)
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
        bf16_names: Collection[str] = (),
    ) -> InferResult:
        """Run one request and return its outputs; see `AsyncClient.infer`."""
        data = self._calls.infer(
            model, inputs, version, timeout_ms, priority, outputs, request_id, parameters, headers, bf16_names
        )
        return self._calls.read_infer(self._exchange(data))

    def infer_many(
        self,
        model: str,
        asks: Sequence[Ask],
        *,
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[InferResult | SymphonyError]:
        """Run many requests in one body; see `AsyncClient.infer_many`."""
        data = self._calls.infer_many(model, asks, version, headers)
        return self._calls.read_infer_many(self._exchange(data), len(asks))

    def is_live(self) -> bool:
        """Return whether the node answers that it lives; raise TransportError when it cannot be reached."""
        return self._is_true("/v2/health/live")

    def is_ready(self) -> bool:
        """Return whether the node takes requests; raise TransportError when it cannot be reached."""
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
        self._other("POST", load_path(model, "load"), {})

    def unload(self, model: str) -> None:
        """Unload the model; return when its requests have ended."""
        self._other("POST", load_path(model, "unload"), {})

    def profile(self, model: str) -> list[dict[str, Any]]:
        """Have the model measured again while it is served; see `AsyncClient.profile`."""
        profiles: list[dict[str, Any]] = self._other("POST", load_path(model, "profile"), {})["profiles"]
        return profiles

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
        data = self._calls.other(method, path, body)
        return self._calls.read_other(self._exchange(data, is_repeatable=method == "GET"))

    def _is_true(self, path: str) -> bool:
        try:
            self._other("GET", path)
        except SymphonyError:
            return False
        return True

    def _exchange(self, data: bytes, is_repeatable: bool = False) -> Response:
        ends_s = time.monotonic() + self._timeout_s
        if not self._slots.acquire(timeout=self._timeout_s):
            raise self._timed_out()
        try:
            line = self._take()
            if line is not None:
                try:
                    return self._talk(line, data, ends_s)
                except TransportError:
                    if not is_repeatable or line.reader.has_begun:
                        raise
                self._drop_idle()  # they are probably as dead as the one just tried
            return self._talk(_Line(self._calls.address, _left_s(ends_s)), data, ends_s)
        except TimeoutError:
            raise self._timed_out() from None
        finally:
            self._slots.release()

    def _talk(self, line: _Line, data: bytes, ends_s: float) -> Response:
        is_reusable = False
        try:
            response = line.talk(data, self._calls.address, ends_s)
            is_reusable = line.reader.keeps_alive
            return response
        finally:
            self._put_back(line, is_reusable)

    def _take(self) -> _Line | None:
        """Return an idle connection, None if there is none that can be used."""
        with self._lock:
            if self._is_closed:
                raise TransportError("the client is closed; make a new one", is_unsent=True)
            while self._idle:
                line = self._idle.pop()
                if line.is_usable:
                    return line
                line.close()
        return None

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for line in idle:
            line.close()

    def _put_back(self, line: _Line, is_reusable: bool) -> None:
        with self._lock:
            if is_reusable and not self._is_closed:
                line.idle_since_s = time.monotonic()
                self._idle.append(line)
                return
        line.close()

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(
            f"no answer from {self._calls.address} within {self._timeout_s:g} s (timeout_s); "
            "allow more, or check the server"
        )


def _left_s(ends_s: float) -> float:
    """Return the seconds until an instant, never quite none: 0 would mean not to wait at all."""
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
