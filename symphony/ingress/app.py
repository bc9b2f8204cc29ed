"""Put the routes together as an aiohttp application, and run it with answers that are always ours.

Whatever goes wrong, on any path and in aiohttp itself, is answered with `{"error", "reason", "model"}`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import hdrs, web

from symphony.errors import Reason, SymphonyError
from symphony.ingress.bodies import too_large
from symphony.ingress.exchange import InferExchange
from symphony.ingress.infer import InferHandler, to_response
from symphony.ingress.limits import IngressLimits
from symphony.ingress.replies import JSON_TYPE, error_reply, internal_error, wants_msgpack
from symphony.ingress.routes import Routes
from symphony.ingress.service import Service, unknown_model

_log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MODEL_PATH = re.compile(
    r"/v2/(?:models|repository/models)/(?P<name>.+?)(?:/(?:infer|ready|config|stats|load|unload|profile))?/?$"
)


def build_app(service: Service, limits: IngressLimits, exchanges: InferExchange | None = None) -> web.Application:
    """Return the application that answers for `service`.

    `exchanges` is given when another transport shares it (one limit of calls in flight for both). Serve it with
    `make_runner`, or else compressed bodies, cancellation and aiohttp's own errors are not handled.
    """
    exchanges = InferExchange(service, limits) if exchanges is None else exchanges
    # The limit of aiohttp itself is never reached: bodies are read by our own code, with our own error.
    app = web.Application(middlewares=[_error_middleware(service)], client_max_size=limits.body_bytes_max)
    routes = Routes(service, limits)
    infer = InferHandler(exchanges)
    expect = _expect_handler(limits.body_bytes_max)

    def get(path: str, handler: _Handler) -> None:
        app.router.add_get(path, handler, expect_handler=expect)

    def post(path: str, handler: _Handler) -> None:
        app.router.add_post(path, handler, expect_handler=expect)

    get("/", routes.landing)
    get("/metrics", routes.metrics)
    get("/v2", routes.server_metadata)
    get("/v2/", routes.server_metadata)
    get("/v2/health/live", routes.live)
    get("/v2/health/ready", routes.ready)
    get("/v2/models/stats", routes.all_stats)  # before {model}: no model can be called "stats" here
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        post(f"{prefix}/infer", infer.__call__)
        get(prefix, routes.model_metadata)
        get(f"{prefix}/ready", routes.model_ready)
        get(f"{prefix}/config", routes.model_config)
        get(f"{prefix}/stats", routes.model_stats)
    post("/v2/repository/index", routes.repository_index)
    post("/v2/repository/models/{model}/load", routes.load)
    post("/v2/repository/models/{model}/unload", routes.unload)
    post("/v2/repository/models/{model}/profile", routes.profile)
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


def _error_middleware(service: Service) -> Any:
    @web.middleware
    async def answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except SymphonyError as error:
            return _error_response(request, error)
        except web.HTTPException as answer:
            return _route_error(request, answer, service)
        except Exception:
            _log.exception("cannot answer %s %s", request.method, request.path)
            return _error_response(request, internal_error())

    return answer_errors


def _route_error(request: web.Request, answer: web.HTTPException, service: Service) -> web.Response:
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
        if match is not None:
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
    """aiohttp's connection, except that requests it cannot parse get our error body instead of a text page."""

    __slots__ = ()

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
        response = web.Response(status=status, text=json.dumps(error.body()), content_type=JSON_TYPE)
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class _Runner(web.AppRunner):
    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
