"""A fake node behind the ingress: it answers at once, later, with an error, or never."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from symphony.config import ModelConfig, TensorSpec
from symphony.driver.requests import PendingRequest
from symphony.errors import Reason, SymphonyError
from symphony.ingress import Health, InferExchange, IngressLimits, build_app, make_runner, unknown_model
from symphony.ingress.app import ALL_SCOPES
from symphony.ingress.callers import Caller, Callers
from symphony.ingress.hot import HotServer
from symphony.metrics import BuildInfo, ModelRow, ModelStats, NodeStats, make_registry, render


def make_config(name: str = "scale", **changes) -> ModelConfig:
    """Return a model that takes `x` FP32[4] and gives `y` FP32[2]."""
    values = {
        "name": name,
        "version": "1",
        "slo_ms": 50.0,
        "batch_size_max": 8,
        "inputs": (TensorSpec("x", "FP32", (4,)),),
        "outputs": (TensorSpec("y", "FP32", (2,)),),
        "format": "emulated",
        "entry": "",
        "device_kinds": ("emulated",),
    }
    return ModelConfig(**(values | changes))


@dataclass
class FakeModel:
    config: ModelConfig
    index: int
    state: str = "READY"
    reason: str = ""
    stats: ModelStats = field(init=False)
    refusal_error: SymphonyError | None = None
    entered: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.stats = ModelStats(self.config.batch_size_max)

    def refusal(self, caller: Caller) -> SymphonyError | None:
        return self.refusal_error

    def enter(self, caller: Caller, count: int, priority: int) -> int:
        self.entered[caller.id] += count
        return priority

    def leave(self, caller: Caller, count: int) -> None:
        self.entered[caller.id] -= count


class FakeService:
    """Answer as `mode` says: "now" (from inside submit), "soon" (next turn of the loop) or "never".

    The answer to a request is twice the first two numbers of its `x`, or `answer_error`; `submit` may raise
    `submit_error`. `inside` holds the requests submitted and not ended.
    """

    def __init__(self) -> None:
        self.name = "symphony"
        self.version = "0.1.0"
        self.stats = NodeStats(BuildInfo("0.1.0"))
        self.served: dict[str, FakeModel] = {}
        self.mode = "soon"
        self.submit_error: SymphonyError | None = None
        self.answer_error: SymphonyError | None = None
        self.submit_count_max: int | None = None
        self.inside: list[PendingRequest] = []
        self.submitted: list[PendingRequest] = []
        self.cancelled: list[PendingRequest] = []
        self.health_now = Health(True, True, "")
        self.calls: list[tuple[str, str]] = []
        self.broken: Exception | None = None
        self.add(make_config())
        self.add(make_config("strict", inputs=(TensorSpec("x", "FP32", (4,), allow_nan=False),)))
        self.add(
            make_config(
                "pair",
                inputs=(TensorSpec("a", "INT64", (2, 3)), TensorSpec("b", "BYTES", ())),
                parameters={"deep": True},
            )
        )

    def add(self, config: ModelConfig) -> FakeModel:
        model = self.served[config.name] = FakeModel(config, len(self.served))
        return model

    def health(self) -> Health:
        return self.health_now

    def models(self) -> list[FakeModel]:
        return list(self.served.values())

    def find(self, name: str, version: str | None) -> FakeModel:
        if self.broken is not None:
            raise self.broken
        model = self.served.get(name)
        if model is None or version not in (None, model.config.version):
            raise unknown_model(name, version, self.served)
        return model

    def submit(self, request: PendingRequest) -> None:
        if self.submit_error is not None:
            raise self.submit_error
        if self.submit_count_max is not None and len(self.submitted) >= self.submit_count_max:
            raise SymphonyError(Reason.QUEUE_FULL, "the queue is full", retry_after_s=2.5)
        self.submitted.append(request)
        self.inside.append(request)
        if self.mode == "now":
            self.finish(request)
        elif self.mode == "soon":
            asyncio.get_running_loop().call_soon(self.finish, request)

    def finish(self, request: PendingRequest) -> None:
        if request not in self.inside:
            return
        self.inside.remove(request)
        request.started_ns = request.finished_ns = request.arrived_ns
        if self.answer_error is not None:
            request.error = self.answer_error
        else:
            x = request.inputs.get("x")
            request.outputs = {"y": np.zeros(2, np.float32) if x is None else (x[:2] * 2).astype(np.float32)}
        request.on_done(request)

    def cancel(self, request: PendingRequest) -> None:
        self.inside.remove(request)
        self.cancelled.append(request)

    async def load(self, name: str) -> None:
        self.calls.append(("load", name))
        self.find(name, None)

    async def unload(self, name: str) -> None:
        self.calls.append(("unload", name))
        self.find(name, None)

    async def profile(self, name: str) -> list[dict[str, Any]]:
        self.calls.append(("profile", name))
        return [{"model": self.find(name, None).config.name}]

    def metrics_text(self, accept: str) -> tuple[bytes, str]:
        rows = [ModelRow(model.config.name, model.config.version, model.stats) for model in self.served.values()]
        source = SimpleNamespace(model_rows=lambda: rows, node_stats=lambda: self.stats)
        return render(make_registry(source), accept)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@dataclass
class Server:
    """A running ingress on a real socket, and a client of it."""

    port: int
    exchanges: InferExchange
    client: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(params=["aiohttp", "hot"])
async def start(request: pytest.FixtureRequest, service: FakeService) -> AsyncIterator[Callable]:
    """Return a function that starts the ingress with given limits; everything is shut down afterwards.

    Once with aiohttp alone and once with the hot path in front of it, as a node has it: both must behave alike.
    """
    servers: list[tuple[asyncio.Server, Any]] = []
    runners: list[web.AppRunner] = []
    sessions: list[aiohttp.ClientSession] = []
    started: list[InferExchange] = []

    async def start(keys=None, scopes=ALL_SCOPES, tls=None, **limits) -> Server:
        bounds = IngressLimits(**limits)
        exchanges = InferExchange(service, bounds, callers=Callers(keys))
        started.append(exchanges)
        runner = make_runner(build_app(service, bounds, exchanges, scopes), bounds)
        runners.append(runner)
        await runner.setup()
        make_protocol = runner.server
        if request.param == "hot":
            make_protocol = HotServer(exchanges, runner.server, bounds)
        server = await asyncio.get_running_loop().create_server(make_protocol, "127.0.0.1", 0, ssl=tls)
        servers.append((server, make_protocol))
        port = server.sockets[0].getsockname()[1]
        session = aiohttp.ClientSession(base_url=f"http://127.0.0.1:{port}")
        sessions.append(session)
        return Server(port, exchanges, session)

    yield start
    for session in sessions:
        await session.close()
    for server, make_protocol in servers:
        server.close()
        if request.param == "hot":
            make_protocol.close()
    for runner in runners:
        await runner.cleanup()
    for exchanges in started:
        assert (exchanges.in_flight, exchanges.body_bytes) == (0, 0), "a call left a trace"
        assert len(exchanges.connections) == service.stats.connection_count == 0, "a connection left a trace"
        assert not any(model.entered.total() for model in service.served.values())
    assert not service.inside


def pytest_make_parametrize_id(val: object) -> str | None:
    """Keep long byte strings out of test names."""
    return f"{len(val)}bytes" if isinstance(val, bytes) and len(val) > 20 else None
