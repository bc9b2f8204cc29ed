"""Answer /dashboard and its stream (server-sent events: one way, plain HTTP, browsers reconnect by themselves)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from symphony.dashboard.hub import Hub
from symphony.dashboard.page import load_page

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
WRITE_TIMEOUT_S = 10.0
"""A viewer that takes nothing for so long is let go."""
STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


def add_dashboard(
    app: web.Application, hub: Hub, guard: Callable[[Handler], Handler] = lambda handler: handler
) -> None:
    """Add the page and its stream to the application, each behind `guard`."""
    page = load_page()

    async def dashboard(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == page.etag:
            return web.Response(status=304, headers={"ETag": page.etag})
        return web.Response(body=page.body, headers=page.headers)

    async def stream(_request: web.Request) -> web.StreamResponse:
        return await _stream(_request, hub)

    app.router.add_get("/dashboard", guard(dashboard))
    app.router.add_get("/dashboard/", guard(dashboard))
    app.router.add_get("/dashboard/stream", guard(stream))


async def _stream(request: web.Request, hub: Hub) -> web.StreamResponse:
    hub.join()
    try:
        response = web.StreamResponse(headers=STREAM_HEADERS)
        await response.prepare(request)
        position = hub.position
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write(hub.greeting(has_history=True))
        while True:
            frames, position, missed_count = await hub.next(position)
            if not frames:
                break
            if missed_count:
                frames = [hub.greeting(has_history=False), frames[-1]]
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                for frame in frames:
                    await response.write(frame)
    except (TimeoutError, ConnectionError):
        if request.transport is not None:
            request.transport.abort()
    finally:
        hub.leave()
    return response
