"""Know who calls over gRPC, and turn away who may not before a message is read."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import grpc

from symphony.errors import SymphonyError
from symphony.ingress.callers import Caller, Callers, Headers
from symphony.ingress.exchange import InferExchange
from symphony.ingress.grpc.errors import abort

_SERVICE = "/inference.GRPCInferenceService/"
_SCOPES: Mapping[str, str | None] = {
    "ServerLive": None,
    "ServerReady": None,
    "ServerMetadata": None,
    "ModelStatistics": "metrics",
    "RepositoryIndex": "manage",
    "RepositoryModelLoad": "manage",
    "RepositoryModelUnload": "manage",
}
"""What a key must be for, as on the HTTP routes; None: no key is needed. Whatever is not here is for "infer"."""


class Asker(NamedTuple):
    """Who calls: what the call's metadata says, and who is at the other end of the connection."""

    headers: Headers
    peer: Caller


def asker_of(callers: Callers, context: Any) -> Asker:
    """Return who calls, from a handler's context."""
    return Asker(_headers(context.invocation_metadata()), callers.peer(_address(context.peer())))


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Ask for the key of a call, and whether its method is on this port at all, before its message is received.

    What the key may do with which model, and how often, is asked when the message names the model: here for all calls
    but infer's, which `infer` asks for itself, for each request of a stream.
    """

    def __init__(self, exchanges: InferExchange, scopes: Collection[str | None]) -> None:
        self._exchanges = exchanges
        self._scopes = scopes

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """Return the method's handler, guarded, or one that ends the call."""
        handler = await continuation(details)
        if handler is None:
            return None
        scope = _SCOPES.get(details.method.removeprefix(_SERVICE), "infer")
        if scope not in self._scopes:
            return _ending(grpc.StatusCode.UNIMPLEMENTED, "not on this port: the node has another for its managers")
        if scope is None:
            return handler
        try:
            self._exchanges.callers.identify(_headers(details.invocation_metadata))
        except SymphonyError as error:
            self._exchanges.service.stats.request_refused(error.reason)
            return _refusing(error)
        if handler.unary_unary is None or details.method == f"{_SERVICE}ModelInfer":
            return handler
        inner, exchanges = handler.unary_unary, self._exchanges

        async def guarded(request: Any, context: Any) -> Any:
            name = getattr(request, "model_name", "") or getattr(request, "name", "") or None
            try:
                asker = asker_of(exchanges.callers, context)
                exchanges.check_call(asker.headers, asker.peer, scope, name)
            except SymphonyError as error:
                exchanges.service.stats.request_refused(error.reason)
                await abort(context, error)
            return await inner(request, context)

        return grpc.unary_unary_rpc_method_handler(guarded, handler.request_deserializer, handler.response_serializer)


def _refusing(error: SymphonyError) -> Any:
    """Return the handler that ends a call with the error. It takes a stream, and so waits for no message."""

    async def refuse(_requests: Any, context: Any) -> None:
        await abort(context, error)

    return grpc.stream_unary_rpc_method_handler(refuse)


def _ending(code: grpc.StatusCode, text: str) -> Any:
    """Return the handler that ends a call with a code of gRPC's own; it waits for no message either."""

    async def end(_requests: Any, context: Any) -> None:
        await context.abort(code, text)

    return grpc.stream_unary_rpc_method_handler(end)


def _headers(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _address(peer: str) -> tuple[str] | None:
    """Return the host of gRPC's name for a peer ("ipv4:10.0.0.1:5000", "ipv6:%5B::1%5D:5000"), None if it has none."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return None
    host = unquote(rest).rpartition(":")[0].strip("[]")
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (host,)
