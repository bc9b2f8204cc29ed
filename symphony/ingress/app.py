"""Put the routes together as an aiohttp application, and run it with answers that are always ours.

Whatever goes wrong, on any path and in aiohttp itself, is answered with `{"error", "reason", "model"}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from aiohttp import StreamReader, hdrs, web

from symphony.config import SCOPES
from symphony.errors import Reason, SymphonyError
from symphony.ingress.bodies import too_large
from symphony.ingress.callers import Callers
from symphony.ingress.connections import Connections
from symphony.ingress.exchange import InferExchange
from symphony.ingress.infer import InferHandler, peer_of, to_response
from symphony.ingress.limits import IngressLimits
from symphony.ingress.replies import JSON_TYPE, error_reply, internal_error, wants_msgpack
from symphony.ingress.routes import Routes
from symphony.ingress.service import Service, unknown_model

_log = logging.getLogger(__name__)

ALL_SCOPES: frozenset[str | None] = frozenset((None, *SCOPES))
HEAD_END = b"\r\n\r\n"
_EXCHANGES = web.AppKey("exchanges", InferExchange)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MODEL_PATH = re.compile(
    r"/v2/(?:models|repository/models)/(?P<name>.+?)(?:/(?:infer|ready|config|stats|load|unload|profile))?/?$"
)


def build_app(
    service: Service,
    limits: IngressLimits,
    exchanges: InferExchange | None = None,
    scopes: Collection[str | None] = ALL_SCOPES,
) -> web.Application:
    """Return the application that answers for `service`.

    `exchanges` is given when another transport shares it (one limit of calls in flight for both). `scopes`: which
    routes it has, of the scopes of keys, and None for those that need no key. Serve it with
    `make_runner`, or else compressed bodies, cancellation and aiohttp's own errors are not handled.
    """
    exchanges = InferExchange(service, limits) if exchanges is None else exchanges
    callers = exchanges.callers
    # The limit of aiohttp itself is never reached: bodies are read by our own code, with our own error.
    app = web.Application(middlewares=[_error_middleware(service, callers)], client_max_size=limits.body_bytes_max)
    app[_EXCHANGES] = exchanges
    routes = Routes(service, limits, callers)
    infer = InferHandler(exchanges)
    expect = _expect_handler(limits.body_bytes_max)

    def get(path: str, handler: _Handler, scope: str | None = "infer") -> None:
        if scope in scopes:
            app.router.add_get(path, _guarded(handler, scope, exchanges), expect_handler=expect)

    def post(path: str, handler: _Handler, scope: str | None = "infer") -> None:
        if scope in scopes:
            app.router.add_post(path, _guarded(handler, scope, exchanges), expect_handler=expect)

    get("/", routes.landing)
    get("/metrics", routes.metrics, "metrics")
    get("/v2", routes.server_metadata, None)
    get("/v2/", routes.server_metadata, None)
    get("/v2/health/live", routes.live, None)
    get("/v2/health/ready", routes.ready, None)
    get("/v2/models/stats", routes.all_stats, "metrics")  # before {model}: no model can be called "stats" here
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        if "infer" in scopes:  # it asks for the key itself, before it reads the body
            app.router.add_post(f"{prefix}/infer", infer.__call__, expect_handler=expect)
        get(prefix, routes.model_metadata)
        get(f"{prefix}/ready", routes.model_ready)
        get(f"{prefix}/config", routes.model_config)
        get(f"{prefix}/stats", routes.model_stats, "metrics")
    post("/v2/repository/index", routes.repository_index, "manage")
    post("/v2/repository/models/{model}/load", routes.load, "manage")
    post("/v2/repository/models/{model}/unload", routes.unload, "manage")
    post("/v2/repository/models/{model}/profile", routes.profile, "manage")
    for path in (
        "/v2/logging",
        "/v2/trace/setting",
        "/v2/models/{model}/trace/setting",
        "/v2/systemsharedmemory/{rest:.*}",
        "/v2/cudasharedmemory/{rest:.*}",
    ):
        app.router.add_route("*", path, routes.unsupported, expect_handler=expect)
    return app


def make_runner(app: web.Application, limits: IngressLimits, shutdown_timeout_s: float = 1.0) -> web.AppRunner:
    """Return the runner of `build_app`'s application; after `setup()`, calling `runner.server` makes a protocol.

    On `cleanup()` handlers still at work have `shutdown_timeout_s` to end: drain the service first.
    """
    return _Runner(
        app,
        limits,
        app[_EXCHANGES].connections,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        shutdown_timeout=shutdown_timeout_s,
        keepalive_timeout=limits.keepalive_timeout_s,
        lingering_time=limits.lingering_s,
        max_line_size=limits.header_line_bytes_max,
        max_field_size=limits.header_line_bytes_max,
        max_headers=limits.header_count_max,
    )


def _guarded(handler: _Handler, scope: str | None, exchanges: InferExchange) -> _Handler:
    """Return the handler behind a look at the caller's key, if the route needs one."""
    if scope is None:
        return handler

    async def guarded(request: web.Request) -> web.StreamResponse:
        model = request.match_info.get("model")
        try:
            exchanges.check_call(request.headers, peer_of(exchanges, request), scope, model)
        except SymphonyError as error:
            exchanges.service.stats.request_refused(error.reason)
            raise
        return await handler(request)

    return guarded


def _error_middleware(service: Service, callers: Callers) -> Any:
    @web.middleware
    async def answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except SymphonyError as error:
            return _error_response(request, error)
        except web.HTTPException as answer:
            return _route_error(request, answer, service, callers)
        except Exception:
            _log.exception("cannot answer %s %s", request.method, request.path)
            return _error_response(request, internal_error())

    return answer_errors


def _route_error(request: web.Request, answer: web.HTTPException, service: Service, callers: Callers) -> web.Response:
    """Return our answer in place of one of aiohttp's text pages."""
    path = request.path
    if isinstance(answer, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(answer.allowed_methods))
        error = SymphonyError(Reason.BAD_INPUT, f"{request.method[:32]} is not allowed on {path}; use {allowed}")
        response = _error_response(request, error, status=answer.status)
        response.headers[hdrs.ALLOW] = allowed
        return response
    if isinstance(answer, web.HTTPNotFound):
        match = _MODEL_PATH.match(path)
        if match is not None and not callers.needs_key:  # who has shown no key is told no model's name
            names = [model.config.name for model in service.models()]
            if match["name"].partition("/")[0] not in names:
                error = unknown_model(match["name"][:128], None, names)
                service.stats.request_refused(error.reason)
                return _error_response(request, error)
        error = SymphonyError(Reason.BAD_INPUT, f"there is nothing at {path[:256]}; GET / names the entry points")
        return _error_response(request, error, status=answer.status)
    return _error_response(request, SymphonyError(Reason.BAD_INPUT, answer.reason), status=answer.status)


def _error_response(request: web.BaseRequest, error: SymphonyError, status: int | None = None) -> web.Response:
    headers = request.headers
    is_msgpack = wants_msgpack(headers.get(hdrs.CONTENT_TYPE, ""), headers.get(hdrs.ACCEPT, ""))
    return to_response(error_reply(error, is_msgpack, status=status))


def _expect_handler(body_bytes_max: int) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Return what answers `Expect: 100-continue`: refuse a body that is too large before the client sends it."""

    async def answer_expect(request: web.Request) -> web.StreamResponse | None:
        expected = request.headers.get(hdrs.EXPECT, "")
        if expected.lower() != "100-continue":
            error = SymphonyError(Reason.BAD_INPUT, f"Expect {expected[:32]!r} is not known; use 100-continue or none")
            return _error_response(request, error, status=417)
        declared = request.content_length
        if declared is not None and declared > body_bytes_max:
            return _error_response(request, too_large(declared, body_bytes_max))
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What was written so far is no answer yet; aiohttp would otherwise take a later error for a broken one.
        request.writer.output_size = 0
        return None

    return answer_expect


class _Protocol(web.RequestHandler):
    """aiohttp's connection, except that requests it cannot parse get our error body instead of a text page, and that
    heads are bounded as a whole, in bytes and in time; so is the time for which a client does not read its answer.
    """

    __slots__ = (
        "_connections",
        "_head_bytes",
        "_is_proven",
        "_limits",
        "_payload",
        "_since_s",
        "_tail",
        "_unread_since_s",
    )

    def __init__(self, manager: web.Server, limits: IngressLimits, connections: Connections, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._limits = limits
        self._connections = connections
        self._is_proven = False
        self._payload: StreamReader | None = None
        """The body of the last request."""
        self._head_bytes = 0
        """Of a head that is not whole yet."""
        self._since_s = 0.0
        """When its first byte came."""
        self._tail = b""
        """The last three bytes of a head that is not whole."""
        self._unread_since_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, if there is a place for the connection."""
        super().connection_made(transport)
        if not self._connections.add(self):
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; count what belongs to a head."""
        if data and (self._payload is None or self._payload.is_eof()):
            if self._head_bytes == 0:
                self._since_s = time.monotonic()
            if self._is_too_long(data):
                self._refuse_head()
                return
            self._head_bytes += len(data)
            self._tail = data[-3:] if len(data) >= 3 else (self._tail + data)[-3:]
        count = self._request_count
        super().data_received(data)
        if self._request_count > count and self._messages:
            self._payload = self._messages[-1][1]
            self._head_bytes = 0
            if not self._is_proven:
                self._is_proven = True
                self._connections.prove(self)

    def _is_too_long(self, data: bytes) -> bool:
        """Return whether the head that `data` goes on with has more bytes than allowed. Asked before it is parsed: what
        is not parsed leaves nothing behind.
        """
        left = self._limits.header_bytes_max - self._head_bytes
        return len(data) > left and HEAD_END not in (self._tail if self._head_bytes else b"") + data[: max(0, left)]

    def _refuse_head(self) -> None:
        if self.transport is None or self._force_close:
            return
        error = SymphonyError(
            Reason.BAD_INPUT,
            f"the request's head has more than {self._limits.header_bytes_max} bytes (header_bytes_max); send fewer or "
            "shorter headers",
        )
        body = json.dumps(error.body()).encode()
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.force_close()

    def pause_writing(self) -> None:
        """Note since when the client has not read."""
        self._unread_since_s = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on."""
        self._unread_since_s = None
        super().resume_writing()

    def is_idle(self) -> bool:
        """Return whether no request is under way or half received."""
        return self._current_request is None and not self._messages and self._head_bytes == 0

    def close_if_slow(self, now_s: float) -> None:
        """Close a connection whose head, or whose reader, takes too long; aiohttp looks after silent ones itself."""
        limits = self._limits
        is_unread = self._unread_since_s is not None and now_s - self._unread_since_s > limits.body_timeout_s
        if is_unread or (self._head_bytes and now_s - self._since_s > limits.header_timeout_s):
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, whatever was not sent."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already, no other can be sent")
        if status >= 500:
            _log.error("cannot answer a request", exc_info=exc)
            error = internal_error()
        else:
            text = " ".join((message or "").split())[:512] or "no further detail"
            error = SymphonyError(Reason.BAD_INPUT, f"this is not a valid HTTP request: {text}")
            if exc is not None:
                # It keeps alive the frame that holds it, and what was received, until the next garbage collection.
                exc.__traceback__ = None
        response = web.Response(status=status, text=json.dumps(error.body()), content_type=JSON_TYPE)
        response.force_close()
        return response


class _Server(web.Server):
    def __init__(self, limits: IngressLimits, connections: Connections, *handler: Any, **settings: Any) -> None:
        super().__init__(*handler, **settings)
        self._limits = limits
        self._connections_all = connections

    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, self._limits, self._connections_all, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    def __init__(self, app: web.Application, limits: IngressLimits, connections: Connections, **settings: Any) -> None:
        super().__init__(app, **settings)
        self._limits = limits
        self._connections_all = connections

    async def cleanup(self) -> None:
        """End, and look after the connections no more."""
        self._connections_all.close()
        await super().cleanup()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            self._limits,
            self._connections_all,
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
