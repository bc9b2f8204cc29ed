"""The page and its stream, from a real node over real sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from symphony.dashboard import View, hub, routes
from symphony.dashboard.hub import BAR_FIELDS
from tests.server.conftest import Running, write_echo

pytestmark = pytest.mark.sockets


async def messages(node: Running) -> AsyncIterator[dict[str, Any]]:
    async with node.session.get(f"{node.url}/dashboard/stream") as reply:
        assert reply.status == 200
        assert reply.headers["Content-Type"].startswith("text/event-stream")
        buffer = b""
        async for chunk in reply.content.iter_any():
            buffer += chunk
            *whole, buffer = buffer.split(b"\n\n")
            for message in whole:
                yield json.loads(message.removeprefix(b"data: "))


async def test_stream_tells_of_every_batch_once_and_agrees_with_the_metrics(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_echo(tmp_path / "models")
    async with run_node("2xemulated") as node:
        await asyncio.gather(*(node.infer(number) for number in range(40)))
        view, size, count = View(), 0, 0
        async with asyncio.timeout(60):
            async for message in messages(node):
                view.apply(message)
                rows = list(zip(*[iter(message["bars"])] * len(BAR_FIELDS), strict=True))
                if "hello" in message:
                    assert [event[1:3] for event in message["events"]] == [["model", "ready"]]
                    await asyncio.gather(*(node.infer(number) for number in range(60)))
                size += sum(row[2] for row in rows)
                count += sum(row[8] for row in rows)
                assert all(row[4] > 3_000 for row in rows), "l(1) is 3.5 ms"
                if size == 100:
                    break
                assert size < 100
        metrics = await node.metrics()
        assert metrics["symphony_batch_size_count{model=echo,version=1}"] == count
        (model,) = view.models
        assert (model.name, model.state, model.slo_ms) == ("echo", "READY", 100)
        assert view.gpu_names == ["emulated:0", "emulated:1"]
        await node.assert_at_rest()


async def test_viewer_that_went_is_counted_out_and_one_too_many_is_refused(
    tmp_path: Path, run_node: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "VIEWER_COUNT_MAX", 1)
    async with run_node() as node:
        async for _ in messages(node):
            async with node.session.get(f"{node.url}/dashboard/stream") as reply:
                assert reply.status == 503
                assert (await reply.json())["reason"] == "queue_full"
            break
        async with asyncio.timeout(30):
            while True:
                async with node.session.get(f"{node.url}/dashboard/stream") as reply:
                    if reply.status == 200:
                        break
                await asyncio.sleep(0.05)


async def test_viewer_that_does_not_read_is_let_go_while_others_go_on(
    tmp_path: Path, run_node: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that takes nothing holds a few frames' bytes and no more, and is cut after the time-out."""
    monkeypatch.setattr(routes, "WRITE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(hub, "FRAME_EVERY_S", 0.01)
    greeting = hub.Hub.greeting
    monkeypatch.setattr(
        hub.Hub, "greeting", lambda self, has_history: greeting(self, has_history)[:-2] + b" " * 200_000 + b"\n\n"
    )
    encode = hub._encode
    monkeypatch.setattr(hub, "_encode", lambda said: encode(said)[:-2] + b" " * 200_000 + b"\n\n")
    async with run_node() as node:
        host, port = node.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET /dashboard/stream HTTP/1.1\r\nHost: a\r\n\r\n")
        seen = 0
        async with asyncio.timeout(60):
            async for _ in messages(node):
                seen += 1
                if seen == 50:
                    break
            # The silent one's transport was aborted: once what the sockets hold is read, there is an end.
            await asyncio.sleep(2)
            received = 0
            try:
                while chunk := await reader.read(1 << 20):
                    received += len(chunk)
            except ConnectionError:
                pass
        writer.close()
        assert received < 30_000_000


async def test_page_asks_no_other_host_and_its_policy_allows_only_its_own_scripts(
    run_node: Callable[..., Any],
) -> None:
    async with run_node() as node:
        async with node.session.get(f"{node.url}/dashboard") as reply:
            assert reply.status == 200
            text, headers = await reply.text(), reply.headers
        assert "<!-- script" not in text and "<!-- style" not in text
        assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", text) == []
        policy = headers["Content-Security-Policy"]
        blocks = re.findall(r"<(script|style)>(.*?)</\1>", text, re.DOTALL)
        assert len(blocks) >= 8
        for _, block in blocks:
            assert base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() in policy
        assert "default-src 'none'" in policy and "unsafe" not in policy
        async with node.session.get(f"{node.url}/dashboard", headers={"If-None-Match": headers["ETag"]}) as reply:
            assert reply.status == 304


async def test_stream_ends_when_the_node_stops(run_node: Callable[..., Any]) -> None:
    async with aiohttp.ClientSession() as session:

        async def watch(url: str) -> int:
            async with session.get(f"{url}/dashboard/stream") as reply:
                return (await reply.read()).count(b"data: ")

        async with run_node() as node:
            watching = asyncio.create_task(watch(node.url))
            await asyncio.sleep(1)
        async with asyncio.timeout(30):
            assert await watching >= 2
