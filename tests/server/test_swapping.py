"""More models than a device's memory holds: they share it by demand, and clients see right answers, only later ones."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.conftest import Running, write_echo

pytestmark = pytest.mark.sockets

GPU = "{gpu=emulated:0}"


def write_models(root: Path, count: int, **values: Any) -> list[str]:
    names = [f"m{number}" for number in range(count)]
    for name in names:
        extra = values.get("emulated_extra", "memory_mb = 100\nload_ms = 8")
        write_echo(root, name, **({"slo_ms": 300, "beta_ms": 1.0} | values | {"emulated_extra": extra}))
    return names


async def ask(node: Running, model: str, value: float) -> int:
    """Send one request; check that a good answer is its own; return the status."""
    status, answer = await node.infer(value, model=model)
    if status == 200:
        assert np.array_equal(answer, np.full(2, value, np.float32)), f"{model} got another's answer"
    return status


async def test_fifty_models_share_memory_for_ten(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    names = write_models(tmp_path / "models", 50)
    async with run_node(device_memory_mb=1000) as node:
        dice = random.Random(4)
        statuses: Counter[int] = Counter()

        async def client(number: int) -> None:
            for turn in range(25):
                name = names[min(int(dice.paretovariate(0.8)) - 1, 49)] if turn % 2 else dice.choice(names)
                statuses[await ask(node, name, number * 100.0 + turn)] += 1
                await asyncio.sleep(dice.random() * 0.1)

        await asyncio.gather(*(client(number) for number in range(12)))
        metrics = await node.metrics()
        assert statuses[200] >= 0.97 * sum(statuses.values()), statuses
        assert metrics[f"symphony_gpu_models{GPU}"] <= 10
        assert metrics[f"symphony_gpu_model_loads_total{GPU}"] > 50
        await node.assert_at_rest()


async def test_memory_that_is_free_is_filled_before_anybody_asks(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_models(tmp_path / "models", 4)
    async with run_node(device_memory_mb=300) as node:
        for _ in range(100):
            if (await node.metrics())[f"symphony_gpu_models{GPU}"] == 3:
                break
            await asyncio.sleep(0.01)
        assert (await node.metrics())[f"symphony_gpu_model_loads_total{GPU}"] == 3


async def test_a_model_larger_than_the_memory_is_refused_with_the_remedy(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_models(tmp_path / "models", 1)
    async with run_node(device_memory_mb=50) as node:
        assert (await node.infer(1, model="m0"))[0] == 503
        reason = node.node.find("m0", None).reason
        assert "takes 100 MB" in reason and "device_memory_mb is 50" in reason and "raise it" in reason


async def test_a_load_that_fails_costs_its_requests_only(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """The model is tried again; the others are served on."""
    write_models(tmp_path / "models", 2)
    write_models(tmp_path / "models", 1, emulated_extra="memory_mb = 100\nload_ms = 1\nload_fail_every = 1")
    async with run_node(device_memory_mb=100) as node:
        statuses: Counter[tuple[str, int]] = Counter()
        for turn in range(20):
            for name in ("m0", "m1"):
                statuses[name, await ask(node, name, turn)] += 1
        assert statuses["m1", 200] == 20, statuses
        assert statuses["m0", 200] == 0 and statuses["m0", 503] + statuses["m0", 504] == 20, statuses
        await node.assert_at_rest()


async def test_models_come_and_go_while_memory_is_short(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Random loads and unloads through the repository API under traffic: every answer is right or says why not."""
    names = write_models(tmp_path / "models", 8)
    async with run_node("2xemulated", device_memory_mb=200) as node:
        dice = random.Random(6)
        stop = asyncio.Event()
        statuses: Counter[int] = Counter()

        async def client() -> None:
            while not stop.is_set():
                statuses[await ask(node, dice.choice(names), dice.randrange(1000))] += 1

        tasks = [asyncio.create_task(client()) for _ in range(8)]
        for _ in range(60):
            action = dice.choice(("load", "load", "unload"))
            url = f"{node.url}/v2/repository/models/{dice.choice(names)}/{action}"
            async with node.session.post(url, json={}) as reply:
                assert reply.status == 200, await reply.text()
        for name in names:
            async with node.session.post(f"{node.url}/v2/repository/models/{name}/load", json={}) as reply:
                assert reply.status == 200
        stop.set()
        await asyncio.gather(*tasks)
        assert set(statuses) <= {200, 503, 504} and statuses[200] > 100, statuses
        assert Counter([await ask(node, name, 7) for name in names]) == {200: 8}
        await node.assert_at_rest()


async def test_a_device_whose_batch_hangs_comes_back_with_empty_memory(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_models(tmp_path / "models", 3)
    extra = "memory_mb = 100\nload_ms = 1\nhang_every = 3"
    write_models(tmp_path / "models", 1, emulated_extra=extra, extra="run_timeout_ms = 50")
    async with run_node(device_memory_mb=200) as node:
        statuses = [await ask(node, "m0", turn) for turn in range(4)]
        assert 500 in statuses, statuses
        assert Counter([await ask(node, name, 5) for name in ("m1", "m2", "m0") for _ in range(2)])[200] >= 5
        await node.assert_at_rest()
