"""Call a node from asyncio."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from symphony.client.calls import Ask, Calls, InferResult, load_path, model_path
from symphony.client.connection import ConnectionPool, HttpConnection
from symphony.client.http import Address, Response, TransportError
from symphony.errors import SymphonyError


class AsyncClient:
    """A client of one node; use it from one event loop, as an async context manager or with `close`.

    `url` is `http://host:port` or `https://...` (with `tls` for other than the system's certificates). `form` is how
    tensors travel: "framed" (fastest), "msgpack" or "json". `timeout_s` bounds each call as a whole. `api_key`
    goes with each call, where the node needs one.

    An infer request is sent again by itself only if it certainly never left whole, so it never runs twice unknown to
    the caller; after any other broken connection the caller gets a TransportError and decides. Reads (health, metadata)
    are repeated once when a connection kept alive turns out closed.
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
        address = Address.parse(url, tls)
        self.url = url
        self._calls = Calls(address, form, api_key)
        self._pool = ConnectionPool(address, connection_count_max)
        self._timeout_s = timeout_s

    async def infer(
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
        """Run one request (or, with a leading batch dimension, several that share a deadline) and return its outputs.

        `inputs` maps names to arrays or what `np.asarray` takes; str and bytes become BYTES, and the uint16 arrays
        named in `bf16_names` are raw BF16 bits. `timeout_ms` is the deadline from arrival at the node (default: the
        model's SLO), `priority` 1 (highest) to 8, `outputs` the names wanted (default: all). Raises SymphonyError with
        the node's reason and `retry_after_s`, TransportError (a ConnectionError) when the node cannot be reached or
        breaks off, TimeoutError after the client's own `timeout_s`, ValueError or TypeError for what cannot be sent.
        """
        data = self._calls.infer(
            model, inputs, version, timeout_ms, priority, outputs, request_id, parameters, headers, bf16_names
        )
        return self._calls.read_infer(await self._exchange(data))

    async def infer_many(
        self,
        model: str,
        asks: Sequence[Ask],
        *,
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[InferResult | SymphonyError]:
        """Run many requests in one body; return their answers in order: the outputs, or why there are none.

        Each has a deadline of its own and is scheduled for itself; the answers come once all are there. Raises as
        `infer` does where the call as a whole fails, ValueError for none or more than 256 requests.
        """
        data = self._calls.infer_many(model, asks, version, headers)
        return self._calls.read_infer_many(await self._exchange(data), len(asks))

    async def is_live(self) -> bool:
        """Return whether the node answers that it lives; raise TransportError when it cannot be reached."""
        return await self._is_true("/v2/health/live")

    async def is_ready(self) -> bool:
        """Return whether the node takes requests; raise TransportError when it cannot be reached."""
        return await self._is_true("/v2/health/ready")

    async def metadata(self) -> Any:
        """Return the node's name, version and extensions."""
        return await self._get("/v2")

    async def model_metadata(self, model: str, version: str | None = None) -> Any:
        """Return the model's inputs and outputs."""
        return await self._get(model_path(model, version))

    async def model_config(self, model: str, version: str | None = None) -> Any:
        """Return the model's configuration."""
        return await self._get(f"{model_path(model, version)}/config")

    async def model_statistics(self, model: str, version: str | None = None) -> Any:
        """Return the model's counters."""
        return await self._get(f"{model_path(model, version)}/stats")

    async def models(self) -> Any:
        """Return every model of the node with its state and reason."""
        return await self._other("POST", "/v2/repository/index")

    async def load(self, model: str) -> None:
        """Load the model (again) from the node's repository; return when it is ready."""
        await self._other("POST", load_path(model, "load"), {})

    async def unload(self, model: str) -> None:
        """Unload the model; return when its requests have ended."""
        await self._other("POST", load_path(model, "unload"), {})

    async def profile(self, model: str) -> list[dict[str, Any]]:
        """Have the model measured again while it is served; return its new latency profiles, one per kind of device.

        It takes about `profile_budget_s` of the node for each: allow as much with `timeout_s`.
        """
        answer = await self._other("POST", load_path(model, "profile"), {})
        profiles: list[dict[str, Any]] = answer["profiles"]
        return profiles

    async def close(self) -> None:
        """Close the connections; calls in flight fail with TransportError."""
        self._pool.close()
        await asyncio.sleep(0)  # lets the loop close the sockets

    async def __aenter__(self) -> AsyncClient:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    async def _get(self, path: str) -> Any:
        return await self._other("GET", path)

    async def _other(self, method: str, path: str, body: Any = None) -> Any:
        data = self._calls.other(method, path, body)
        return self._calls.read_other(await self._exchange(data, is_repeatable=method == "GET"))

    async def _is_true(self, path: str) -> bool:
        try:
            await self._get(path)
        except SymphonyError:
            return False
        return True

    async def _exchange(self, data: bytes, is_repeatable: bool = False) -> Response:
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = self._pool.take_idle() or await self._pool.acquire()
                try:
                    return await _send(connection, data)
                except TransportError as error:
                    is_lost_read = is_repeatable and connection.is_reused and not connection.has_begun
                    if not (error.is_unsent or is_lost_read):
                        raise
                self._pool.drop_idle()  # they are probably as dead as the one just tried
                return await _send(await self._pool.acquire(), data)
        except TimeoutError:
            raise TimeoutError(
                f"no answer from {self._calls.address} within {self._timeout_s:g} s (timeout_s); allow more, or check "
                "the server"
            ) from None


async def _send(connection: HttpConnection, data: bytes) -> Response:
    """Send one request and wait for its answer; a caller that stops waiting closes the connection."""
    answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def on_response(response: Response | None, error: Exception | None) -> None:
        if answered.done():
            return
        if response is not None:
            answered.set_result(response)
        else:
            answered.set_exception(error or ConnectionError())

    connection.send(data, on_response)
    try:
        return await answered
    except asyncio.CancelledError:
        if not answered.done() or answered.cancelled():
            connection.give_up()
        raise
