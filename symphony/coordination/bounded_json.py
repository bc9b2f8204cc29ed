"""Read JSON from a server that is not trusted to keep it short: a whole body, or a stream of objects, one a line."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from symphony.cluster.faults import CoordinatorRefused

LINE_BYTES_MAX = 16 * 1024 * 1024
"""One line: a batch of changes, or one object."""


async def bounded_body(response: aiohttp.ClientResponse, bytes_max: int, where: str) -> bytes:
    """Return the body; raise CoordinatorRefused as soon as it is longer than `bytes_max`."""
    held = bytearray()
    async for chunk in response.content.iter_any():
        held += chunk
        if len(held) > bytes_max:
            raise CoordinatorRefused(f"{where} sent an answer above the limit of {bytes_max} bytes")
    return bytes(held)


async def json_lines(content: aiohttp.StreamReader, where: str) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the objects of a stream until it ends; raise CoordinatorRefused for anything else or too long a line."""
    held = bytearray()
    async for chunk in content.iter_any():
        searched = len(held)
        held += chunk
        while (end := held.find(b"\n", searched)) >= 0:
            line = bytes(held[:end])
            del held[: end + 1]
            searched = 0
            if line.strip():
                yield json_object(line, where)
        if len(held) > LINE_BYTES_MAX:
            raise CoordinatorRefused(f"{where} sent a line above the limit of {LINE_BYTES_MAX} bytes")
    if held.strip():
        yield json_object(bytes(held), where)


def json_object(text: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in `text`; raise CoordinatorRefused if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise CoordinatorRefused(f"{where} answered with something else than a JSON object: {text[:80]!r}")
    return value
