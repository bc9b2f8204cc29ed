"""Real nodes for tests: in this process on a free port, with emulated or cpu devices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from symphony.config import NodeConfig, parse_devices
from symphony.server.front import Front
from symphony.server.node import Node
from symphony.wire import InferRequest, decode_response, encode_request

ECHO = """
name = "{name}"
version = "{version}"
slo_ms = {slo_ms}
max_batch_size = 32
format = "emulated"
{extra}
[[inputs]]
name = "x"
datatype = "FP32"
shape = [8]
{input_extra}
[[outputs]]
name = "y"
datatype = "FP32"
shape = [2]
{output_extra}
[emulated]
alpha_ms = {alpha_ms}
beta_ms = {beta_ms}
{emulated_extra}
"""


def write_echo(root: Path, name: str = "echo", folder: str | None = None, **values: Any) -> Path:
    """Write an emulated model that answers with the first two numbers of its input; return its folder."""
    defaults = {
        "name": name,
        "version": "1",
        "slo_ms": 100,
        "alpha_ms": 0.5,
        "beta_ms": 3.0,
        "extra": "",
        "input_extra": "",
        "output_extra": "",
        "emulated_extra": "",
    }
    path = root / (folder or name)
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.toml").write_text(ECHO.format(**(defaults | values)))
    return path


@dataclass
class Running:
    """A node under test and a session to it."""

    node: Node
    url: str
    session: aiohttp.ClientSession
    faults: list[BaseException]
    front: Front

    async def infer(self, value: float, model: str = "echo", **headers: str) -> tuple[int, Any]:
        """Send one framed request whose input starts with `value`; return (status, output or error body)."""
        request = InferRequest(inputs={"x": np.full(8, value, np.float32)})
        encoded = encode_request(request)
        kind = {"Content-Type": encoded.content_type} | {name.replace("_", "-"): text for name, text in headers.items()}
        body = b"".join(encoded.parts)
        async with self.session.post(f"{self.url}/v2/models/{model}/infer", data=body, headers=kind) as reply:
            data = await reply.read()
            if reply.status == 200:
                return 200, decode_response(data, reply.headers["Content-Type"]).outputs["y"]
            return reply.status, data

    async def metrics(self) -> dict[str, float]:
        """Return every sample as `name{label=value,...}` -> value."""
        async with self.session.get(f"{self.url}/metrics") as reply:
            text = await reply.text()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    async def assert_at_rest(self) -> None:
        """Check that nothing is held: no slot, no gauge, no batch."""
        end = asyncio.get_running_loop().time() + 2
        while True:
            metrics = await self.metrics()
            busy = {
                name: value
                for name, value in metrics.items()
                if value and name.startswith(("symphony_requests_in_flight", "symphony_requests_queued"))
            }
            if metrics["symphony_gpus_in_use"]:
                busy["symphony_gpus_in_use"] = metrics["symphony_gpus_in_use"]
            if not busy and len(self.node._table) == 0 and self.node.loop.queued_count == 0:
                return
            assert asyncio.get_running_loop().time() < end, f"still held: {busy}, {len(self.node._table)} slots"
            await asyncio.sleep(0.01)


@pytest.fixture
def run_node(tmp_path: Path) -> Callable[..., Any]:
    """Return an async context manager that runs a node on `tmp_path / "models"`."""

    @asynccontextmanager
    async def run(devices: str = "1xemulated", **settings: Any) -> AsyncIterator[Running]:
        (tmp_path / "models").mkdir(exist_ok=True)
        config = NodeConfig(port=0, repository=tmp_path / "models", devices=parse_devices(devices), **settings)
        faults: list[BaseException] = []
        node = Node(config, faults.append)
        front = await Front.open(node, config)
        await node.start()
        connector = aiohttp.TCPConnector(limit=0)
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                running = Running(node, f"http://127.0.0.1:{front.port}", session, faults, front)
                yield running
        finally:
            await node.stop()
            await front.close()
        assert faults == []

    return run
