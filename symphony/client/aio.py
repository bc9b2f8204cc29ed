"""Call a node from asyncio."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from symphony.client.calls import Calls, InferResult, model_path
from symphony.client.connection import ConnectionPool
from symphony.client.http import Address, Response
from symphony.errors import SymphonyError


class AsyncClient:
    """A client of one node; use it from one event loop, as an async context manager or with `close`.

    `url` is `http://host:port` or `https://...` (with `tls` for other than the system's certificates). `form` is how tensors
    travel: "framed" (fastest), "msgpack" or "json". `timeout_s` bounds each call as a whole.
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
        address = Address.parse(url, tls)
        self.url = url
        self._calls = Calls(address, form)
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
    ) -> InferResult:
        """Run one request (or, with a leading batch dimension, several that share a deadline) and return its outputs.

        `inputs` maps names to arrays or what `np.asarray` takes; str and bytes become BYTES. `timeout_ms` is the
        deadline from arrival at the node (default: the model's SLO), `priority` 1 (highest) to 8. Raises SymphonyError with the
        node's reason and `retry_after_s`, TransportError (a ConnectionError) when the node cannot be reached, TimeoutError
        after the client's own `timeout_s`.
        """
        data = self._calls.infer(model, inputs, version, timeout_ms, priority, outputs, request_id, parameters, headers)
        return self._calls.read_infer(await self._exchange(data))

    async def is_live(self) -> bool:
        """Return whether the node answers that it lives."""
        return await self._is_true("/v2/health/live")

    async def is_ready(self) -> bool:
        """Return whether the node takes requests."""
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
        await self._other("POST", f"/v2/repository/models/{model}/load", {})

    async def unload(self, model: str) -> None:
        """Unload the model; return when its requests have ended."""
        await self._other("POST", f"/v2/repository/models/{model}/unload", {})

    async def close(self) -> None:
        """Close the connections."""
        self._pool.close()

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
        return self._calls.read_other(await self._exchange(self._calls.other(method, path, body)))

    async def _is_true(self, path: str) -> bool:
        try:
            await self._get(path)
        except SymphonyError:
            return False
        return True

    async def _exchange(self, data: bytes) -> Response:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(data)
        except TimeoutError:
            raise TimeoutError(
                f"no answer from {self._calls.address} within {self._timeout_s:g} s (timeout_s); allow more, or check the server"
            ) from None

    async def _send(self, data: bytes) -> Response:
        connection = self._pool.take_idle() or await self._pool.acquire()
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
            connection.give_up()
            raise
