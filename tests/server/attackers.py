"""What a hostile client does, as a process of its own: `python -m tests.server.attackers KIND PORT SECONDS`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

SLOW_COUNT = 1000
INFER = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n"


async def slowloris(port: int, end_s: float) -> None:
    """Keep a thousand connections that send a byte now and then; come back whenever one is closed."""
    beginnings = [b"GET /v2/models/e", INFER + b"X: ", INFER + b"Content-Length: 100000\r\n\r\n"]

    async def one(number: int) -> None:
        await asyncio.sleep(number / SLOW_COUNT)
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(beginnings[number % 3])
                while time.monotonic() < end_s and not writer.is_closing():
                    await asyncio.sleep(1.0)
                    writer.write(b"a")
                    await writer.drain()
                writer.transport.abort()
            await asyncio.sleep(0.5)

    await asyncio.gather(*(one(number) for number in range(SLOW_COUNT)))


async def send_again(port: int, end_s: float, data: bytes) -> None:
    """Send the same from eight connections at a time, over and over."""

    async def one() -> None:
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                async with asyncio.timeout(2.0):
                    await writer.drain()
                    await reader.read(1000)
                writer.transport.abort()
            await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(8)))


async def bomb(port: int, end_s: float) -> None:
    """Send gzip bodies that would inflate to 256 MiB."""
    deflator = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1 << 20)
    body = b"".join(deflator.compress(zeros) for _ in range(256)) + deflator.flush()
    head = INFER + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    await send_again(port, end_s, head + body)


async def declared(port: int, end_s: float) -> None:
    """Declare bodies of 10 GiB, and begin to send them."""
    await send_again(port, end_s, INFER + b"Content-Length: %d\r\n\r\n" % (10 << 30) + bytes(100_000))


async def headers(port: int, end_s: float) -> None:
    """Send heads that do not end."""
    await send_again(port, end_s, INFER + b"".join(b"H%d: %b\r\n" % (number, b"x" * 100) for number in range(20_000)))


ATTACKS: dict[str, Callable[[int, float], Coroutine[Any, Any, None]]] = {
    "slowloris": slowloris,
    "bomb": bomb,
    "declared": declared,
    "headers": headers,
}

if __name__ == "__main__":
    kind, port, seconds = sys.argv[1:]
    asyncio.run(ATTACKS[kind](int(port), time.monotonic() + float(seconds)))
