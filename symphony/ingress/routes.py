"""Answer every route but infer: health, metadata, statistics, repository, metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import msgpack
from aiohttp import web

from symphony.errors import Reason, SymphonyError
from symphony.ingress.bodies import inflate, read_body
from symphony.ingress.callers import Callers
from symphony.ingress.limits import IngressLimits
from symphony.ingress.metadata import index_entry, model_config, model_metadata, server_metadata
from symphony.ingress.replies import JSON_TYPE, MSGPACK_TYPE, wants_msgpack
from symphony.ingress.service import READY, ServedModel, Service, unknown_model, versions_of
from symphony.metrics import triton_statistics
from symphony.wire import DEFAULT_LIMITS
from symphony.wire.msgpack_form import unpack


class Routes:
    """The handlers, over one `Service`. Each returns JSON, or raises SymphonyError for the error middleware."""

    def __init__(self, service: Service, limits: IngressLimits, callers: Callers) -> None:
        self._service = service
        self._limits = limits
        self._callers = callers

    async def landing(self, request: web.Request) -> web.Response:
        """Say what this is and where to look next; of the models those that the caller may use."""
        may_use = self._callers.identify(request.headers).may_use
        names = sorted({model.config.name for model in self._service.models()})
        return _answer(
            request,
            {
                "name": self._service.name,
                "version": self._service.version,
                "models": [f"/v2/models/{name}" for name in filter(may_use, names)],
                "health": "/v2/health/ready",
                "metrics": "/metrics",
                "dashboard": "/dashboard",
            },
        )

    async def server_metadata(self, request: web.Request) -> web.Response:
        """Answer `GET /v2`."""
        return _answer(request, server_metadata(self._service))

    async def live(self, request: web.Request) -> web.Response:
        """Answer `GET /v2/health/live`: 503 once the node should be restarted."""
        health = self._service.health()
        return _state(request, "live", health.is_live, health.reason)

    async def ready(self, request: web.Request) -> web.Response:
        """Answer `GET /v2/health/ready`: 503 while the node should get no requests."""
        health = self._service.health()
        return _state(request, "ready", health.is_ready, health.reason)

    async def model_metadata(self, request: web.Request) -> web.Response:
        """Answer `GET /v2/models/{m}`."""
        model = self._find(request)
        versions = versions_of(self._service, model, request.match_info.get("version"))
        return _answer(request, model_metadata(model.config, versions))

    async def model_ready(self, request: web.Request) -> web.Response:
        """Answer `GET /v2/models/{m}/ready`: 503 until it is loaded, warmed and profiled."""
        model = self._find(request)
        return _state(request, "ready", model.state == READY, model.reason or model.state, model.config.name)

    async def model_config(self, request: web.Request) -> web.Response:
        """Answer `GET /v2/models/{m}/config`."""
        return _answer(request, model_config(self._find(request).config))

    async def model_stats(self, request: web.Request) -> web.Response:
        """Answer `GET /v2/models/{m}/stats`: of all its versions unless one is named."""
        model = self._find(request)
        models = [model] if "version" in request.match_info else self._versions(model.config.name)
        return _answer(request, {"model_stats": [_statistics(each) for each in models]})

    async def all_stats(self, request: web.Request) -> web.Response:
        """Answer `GET /v2/models/stats`."""
        return _answer(request, {"model_stats": [_statistics(model) for model in self._service.models()]})

    async def repository_index(self, request: web.Request) -> web.Response:
        """Answer `POST /v2/repository/index`; `{"ready": true}` leaves out what is not ready."""
        body = await self._json(request)
        is_ready_only = body.get("ready", False)
        if not isinstance(is_ready_only, bool):
            raise SymphonyError(Reason.BAD_INPUT, f'"ready" is {is_ready_only!r:.64}, expected true or false')
        models = [model for model in self._service.models() if model.state == READY or not is_ready_only]
        return _answer(request, [index_entry(model) for model in models])

    async def load(self, request: web.Request) -> web.Response:
        """Answer `POST /v2/repository/models/{m}/load`: when the model is ready."""
        name = request.match_info["model"]
        parameters = (await self._json(request)).get("parameters") or {}
        if parameters:
            raise SymphonyError(
                Reason.BAD_INPUT,
                f'model "{name}": load takes no parameters here; change the folder in the repository, then load it',
                model=name,
            )
        await self._service.load(name)
        return _answer(request, {})

    async def unload(self, request: web.Request) -> web.Response:
        """Answer `POST /v2/repository/models/{m}/unload`: when its accepted requests have ended."""
        await self._json(request)
        await self._service.unload(request.match_info["model"])
        return _answer(request, {})

    async def profile(self, request: web.Request) -> web.Response:
        """Answer `POST /v2/repository/models/{m}/profile`: when the model was measured again, with its new profiles."""
        await self._json(request)
        return _answer(request, {"profiles": await self._service.profile(request.match_info["model"])})

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer `GET /metrics`. Rendered in a thread: with many models it takes longer than an SLO."""
        text, content_type = await asyncio.to_thread(self._service.metrics_text, request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def unsupported(self, request: web.Request) -> web.Response:
        """Answer the extensions of the protocol that this server does not have: 501, as the clients expect."""
        raise web.HTTPNotImplemented(reason=f"{request.path} is not supported by this server")

    def _versions(self, name: str) -> list[ServedModel]:
        return [model for model in self._service.models() if model.config.name == name]

    def _find(self, request: web.Request) -> ServedModel:
        name, version = request.match_info["model"], request.match_info.get("version")
        try:
            return self._service.find(name, version)
        except SymphonyError:
            caller = self._callers.identify(request.headers)
            if caller.key is None:
                raise
            names = (model.config.name for model in self._service.models())
            raise unknown_model(name, version, filter(caller.may_use, names)) from None

    async def _json(self, request: web.Request) -> dict[str, Any]:
        limits = self._limits
        body: bytes | bytearray = await read_body(request, limits.control_body_bytes_max, limits.body_timeout_s)
        encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity":
            body = await inflate(body, encoding, limits.control_body_bytes_max)
        if not body.strip():
            return {}
        form = "msgpack" if "msgpack" in request.content_type else "JSON"
        try:
            value = unpack(body, DEFAULT_LIMITS) if form == "msgpack" else json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SymphonyError(Reason.BAD_INPUT, f"the body is not {form}: {error}") from None
        if not isinstance(value, dict):
            raise SymphonyError(
                Reason.BAD_INPUT, f"the body is a {type(value).__name__}, expected an object or nothing"
            )
        return value


def _statistics(model: ServedModel) -> dict[str, Any]:
    return triton_statistics(model.config.name, model.config.version, model.stats)


def _state(request: web.Request, key: str, is_so: bool, reason: str, model: str = "") -> web.Response:
    """Return 200 `{key: true}`, or 503 with the error body besides `{key: false}`."""
    named = {"name": model} if model else {}
    if is_so:
        return _answer(request, {**named, key: True})
    what = f'model "{model}"' if model else "the server"
    error = SymphonyError(Reason.NOT_READY, f"{what} is not {key}: {reason or 'no reason given'}", model=model)
    return _answer(request, {**named, key: False, **error.body()}, 503, {"Retry-After": "1"})


def _answer(
    request: web.Request, value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return the value as JSON, or as msgpack to those who ask for that."""
    if wants_msgpack(request.content_type, request.headers.get("Accept", "")):
        packed, kind = msgpack.packb(value), MSGPACK_TYPE
    else:
        packed, kind = json.dumps(value).encode(), JSON_TYPE
    return web.Response(body=packed, status=status, content_type=kind, headers=headers)
