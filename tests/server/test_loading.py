"""Models come and go while the node serves: no request fails, no answer is mixed up, a faulty change does nothing."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.server.catalog import MODEL_COUNT_MAX
from symphony.server.loading import load_model
from tests.server.conftest import write_echo

pytestmark = pytest.mark.sockets


async def test_load_and_unload_at_run_time_lose_nothing(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """A reload under load answers every request; an unloaded model is not ready, a new one is found by name."""
    write_echo(tmp_path / "models", slo_ms=30)
    async with run_node("2xemulated") as node:
        stop = asyncio.Event()
        statuses: list[int] = []

        async def load() -> None:
            while not stop.is_set():
                statuses.append((await node.infer(1))[0])

        tasks = [asyncio.create_task(load()) for _ in range(8)]
        for _ in range(5):
            async with node.session.post(f"{node.url}/v2/repository/models/echo/load", json={}) as reply:
                assert reply.status == 200, await reply.text()
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*tasks)
        assert len(statuses) > 50 and set(statuses) == {200}
        write_echo(tmp_path / "models", name="late")
        assert (await node.infer(1, model="late"))[0] == 404
        async with node.session.post(f"{node.url}/v2/repository/models/late/load", json={}) as reply:
            assert reply.status == 200
        assert (await node.infer(1, model="late"))[0] == 200
        async with node.session.post(f"{node.url}/v2/repository/models/echo/unload", json={}) as reply:
            assert reply.status == 200
        assert (await node.infer(1))[0] == 503
        async with node.session.post(f"{node.url}/v2/repository/models/nothing/load", json={}) as reply:
            assert reply.status == 404 and "nothing" in await reply.text()
        await node.assert_at_rest()


async def test_faulty_reload_leaves_the_old_one_serving(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """And says what is wrong."""
    folder = write_echo(tmp_path / "models")
    async with run_node() as node:
        write_echo(tmp_path / "models", slo_ms=2)
        async with node.session.post(f"{node.url}/v2/repository/models/echo/load", json={}) as reply:
            assert reply.status == 400 and "SLO 2 ms" in await reply.text()
        assert (await node.infer(5))[0] == 200
        (folder / "model.toml").write_text("name = 3")
        async with node.session.post(f"{node.url}/v2/repository/models/echo/load", json={}) as reply:
            assert reply.status in (400, 404) and "model.toml" in await reply.text()
        assert (await node.infer(5))[0] == 200


async def test_model_loaded_while_a_device_is_renewed_runs_on_the_new_one(
    tmp_path: Path, run_node: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the streams of the one that another model's hang holds."""
    write_echo(tmp_path / "models", emulated_extra="hang_every = 2", extra="run_timeout_ms = 30", slo_ms=50)
    async with run_node() as node:
        go_on = threading.Event()

        def load_slowly(*args: Any) -> Any:
            found = load_model(*args)
            assert go_on.wait(10)
            return found

        monkeypatch.setattr("symphony.server.node.load_model", load_slowly)
        write_echo(tmp_path / "models", name="late", slo_ms=1_000)
        loading = asyncio.create_task(node.node.load("late"))
        hung = node.node._workers[0]
        assert [(await node.infer(number))[0] for number in range(2)] == [200, 500]
        await until(lambda: has(lambda: node.node._workers[0] is not hung))
        go_on.set()
        await loading
        worker = node.node._workers[0]
        assert worker.models[node.node.find("late", None).index]._device is worker.device
        assert (await node.infer(5, model="late"))[0] == 200
        await node.assert_at_rest()


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 5.0) -> None:
    """Wait until the condition holds."""
    end = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < end, "it did not come about in time"
        await asyncio.sleep(0.02)


async def test_repository_that_is_polled_is_followed_without_a_failed_request(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """What comes is loaded, what changes replaces the old one, a faulty change leaves it, what goes is unloaded."""
    root = tmp_path / "models"
    write_echo(root, slo_ms=100)
    async with run_node("2xemulated", poll_s=0.05) as node:
        stop = asyncio.Event()
        statuses: list[int] = []

        async def load() -> None:
            while not stop.is_set():
                statuses.append((await node.infer(1))[0])

        tasks = [asyncio.create_task(load()) for _ in range(4)]
        write_echo(root, name="late")
        await until(lambda: is_answered(node, "late"))
        first = node.node.find("echo", "1")
        write_echo(root, slo_ms=90)
        await until(lambda: has(lambda: node.node.find("echo", "1").config.slo_ms == 90.0))
        assert node.node.find("echo", "1") is not first
        (root / "echo" / "model.toml").write_text("name = 3")
        await asyncio.sleep(0.3)
        assert node.node.find("echo", "1").config.slo_ms == 90.0
        stop.set()
        await asyncio.gather(*tasks)
        assert len(statuses) > 50 and set(statuses) == {200}
        shutil.rmtree(root / "late")
        await until(lambda: is_not_ready(node, "late"))
        assert (await node.infer(1))[0] == 200
        shutil.rmtree(root)
        await asyncio.sleep(0.2)
        assert (await node.infer(1))[0] == 200, "a repository that cannot be read takes nothing away"
        await node.assert_at_rest()


async def is_answered(node: Any, model: str) -> bool:
    return (await node.infer(1, model=model))[0] == 200


async def is_not_ready(node: Any, model: str) -> bool:
    return (await node.infer(1, model=model))[0] == 503


async def has(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_highest_version_that_is_ready_is_the_latest(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Two versions side by side; when the newer one goes, requests without a version go to the older."""
    root = tmp_path / "models"
    write_echo(root, folder="one", version="1")
    write_echo(root, folder="two", version="2")
    async with run_node(poll_s=0.05) as node:
        assert node.node.find("echo", None).config.version == "2"
        assert node.node.find("echo", "1").state == "READY"
        shutil.rmtree(root / "two")
        await until(lambda: has(lambda: node.node.find("echo", None).config.version == "1"))
        assert (await node.infer(1))[0] == 200


async def test_model_unloaded_by_hand_stays_so_until_its_folder_changes(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_echo(tmp_path / "models")
    async with run_node(poll_s=0.03) as node:
        async with node.session.post(f"{node.url}/v2/repository/models/echo/unload", json={}) as reply:
            assert reply.status == 200
        await asyncio.sleep(0.2)
        assert await is_not_ready(node, "echo")
        write_echo(tmp_path / "models", slo_ms=77)
        await until(lambda: is_answered(node, "echo"))


@pytest.mark.slow
async def test_a_thousand_loads_and_unloads_at_random_under_load(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Every answer is its request's own, or says that the model is not there; at the end all is as it should be."""
    root = tmp_path / "models"
    names = ("a", "b", "c")
    for name in names:
        write_echo(root, name=name, slo_ms=2_000)
    async with run_node("2xemulated") as node:
        stop = asyncio.Event()
        seen: Counter[int] = Counter()

        async def ask(number: int) -> None:
            value = 0
            while not stop.is_set():
                value = (value + 1) % 1000
                status, answer = await node.infer(value + number / 16, model=names[number % 3])
                seen[status] += 1
                if status == 200:
                    assert answer[0] == value + number / 16
                else:
                    assert status == 503 and (b"not_ready" in answer or b"not loaded" in answer), answer
                    await asyncio.sleep(0.002)

        async def change(number: int) -> None:
            rng = np.random.default_rng(number)
            for _ in range(125):
                name, what = names[rng.integers(3)], ("load", "load", "unload")[rng.integers(3)]
                async with node.session.post(f"{node.url}/v2/repository/models/{name}/{what}", json={}) as reply:
                    assert reply.status == 200, await reply.text()

        asking = [asyncio.create_task(ask(number)) for number in range(12)]
        await asyncio.gather(*(change(number) for number in range(8)))
        for name in names:
            async with node.session.post(f"{node.url}/v2/repository/models/{name}/load", json={}) as reply:
                assert reply.status == 200
        stop.set()
        await asyncio.gather(*asking)
        assert seen[200] > 100 and set(seen) <= {200, 503}, seen
        for name in names:
            assert await is_answered(node, name)
        assert len(node.node._catalog.by_index) == 3 and node.node._catalog.free_count == MODEL_COUNT_MAX - 3
        await node.assert_at_rest()
