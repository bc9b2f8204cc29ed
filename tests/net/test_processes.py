"""Nodes as processes of their own: killed, stopped and started anew, as nodes are."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from symphony.links.limits import MIB
from symphony.net import LinkDown
from tests.net.nodes import KEY, Cluster, Node, eventually

pytestmark = [pytest.mark.sockets, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


class Process:
    """One node in a process of its own."""

    def __init__(self, name: str, port: int, key_file: Path, members: dict) -> None:
        self._arguments = [name, str(port), str(key_file), json.dumps(members)]
        self.process: asyncio.subprocess.Process

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.net.process_node", *self._arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            assert await self.process.stdout.readline()

    async def stop(self) -> dict:
        """End it in order; return what it counted."""
        self.process.stdin.close()
        async with asyncio.timeout(10):
            said = json.loads(await self.process.stdout.readline())
            assert await self.process.wait() == 0
        return said

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


Start = Callable[..., object]


@pytest.fixture
async def start(cluster: Cluster, tmp_path: Path) -> AsyncIterator[Start]:
    """Return a function that starts this process's node and others: (names) -> (node, processes)."""
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY._secret)
    key_file.chmod(0o600)
    started: list[Process] = []

    async def start(own: str, *names: str) -> tuple[Node, dict[str, Process]]:
        (node,) = await cluster.add(own)
        members = {own: node.address} | {name: ("127.0.0.1", free_port()) for name in names}
        processes = {name: Process(name, members[name][1], key_file, members) for name in names}
        started.extend(processes.values())
        await asyncio.gather(*(process.start() for process in processes.values()))
        node.links.set_members(members)
        async with asyncio.timeout(10):
            await node.links.wait_up(*names)
        return node, processes

    yield start
    for process in started:
        await process.kill()


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_three_processes_answer_one_another(start: Start) -> None:
    a, processes = await start("a", "b", "c")
    tensor = np.random.default_rng(2).integers(0, 255, 3 * MIB, np.uint8)
    for _ in range(3):
        for name in processes:
            reply = await a.links.call(name, {"to": name}, [tensor])
            assert reply.metadata == {"to": name}
            assert np.array_equal(np.frombuffer(reply.segments[0], np.uint8), tensor)
            link = a.links.link(name)
            assert abs(link.clock.estimate.offset_ns) <= link.clock.estimate.bound_ns  # one machine, one clock
    await asyncio.sleep(0.2)
    said = [await process.stop() for process in processes.values()]
    assert [each["calls"] for each in said] == [3, 3]
    assert [each["ups"] for each in said] == [2, 2]


@pytest.mark.parametrize("own", ["a", "z"], ids=["dialler", "acceptor"])
async def test_killed_node_fails_calls_at_once_and_is_found_when_it_is_back(start: Start, own: str) -> None:
    node, processes = await start(own, "m")
    calls = [asyncio.create_task(node.links.call("m", {"do": "wait"})) for _ in range(10)]
    await asyncio.sleep(0.1)
    began_s = time.monotonic()
    await processes["m"].kill()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {LinkDown}
    assert time.monotonic() - began_s < 0.5
    await processes["m"].start()
    async with asyncio.timeout(5):
        await node.links.wait_up("m")
    assert (await node.links.call("m", {"n": 1})).metadata == {"n": 1}


async def test_stopped_process_is_given_up_while_memory_stays_bounded(start: Start) -> None:
    tensor = np.ones(128 * MIB, np.uint8)
    a, processes = await start("a", "b")
    await a.links.call("b", {}, [bytes(MIB)])
    before_bytes = rss_bytes()
    processes["b"].process.send_signal(signal.SIGSTOP)
    try:
        posts = [asyncio.create_task(a.links.post("b", {}, [tensor])) for _ in range(20)]
        await asyncio.sleep(0.5)
        assert rss_bytes() - before_bytes < 16 * MIB  # 2.5 GiB wait to be sent
        began_s = time.monotonic()
        results = await asyncio.gather(*posts, return_exceptions=True)
        assert {type(result) for result in results} == {LinkDown}
        assert time.monotonic() - began_s < 2.5
    finally:
        processes["b"].process.send_signal(signal.SIGCONT)
    await eventually(lambda: "b" in a.links.up)
    assert (await a.links.call("b", {"n": 2})).metadata == {"n": 2}
