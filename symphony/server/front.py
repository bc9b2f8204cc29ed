"""Open a node's door: one port, the hot path in front, aiohttp behind it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from aiohttp import web

from symphony.config import NodeConfig
from symphony.dashboard import Hub, add_dashboard
from symphony.errors import ConfigError
from symphony.ingress import InferExchange, IngressLimits, build_app, make_runner
from symphony.ingress.hot import HotServer
from symphony.server.node import Node
from symphony.server.showing import Showing

BACKLOG = 1024


class Front:
    """The listening socket of a node and what answers on it; make it with `open`."""

    def __init__(self, server: asyncio.Server, hot: HotServer, runner: web.AppRunner, hub: Hub) -> None:
        self._server = server
        self._hot = hot
        self._runner = runner
        self._hub = hub
        self._showing = asyncio.create_task(hub.run())
        self.port: int = server.sockets[0].getsockname()[1]

    @classmethod
    async def open(cls, node: Node, config: NodeConfig) -> Front:
        """Listen on the configured address; raise ConfigError when that is not possible."""
        limits = IngressLimits(
            body_bytes_max=config.body_bytes_max,
            in_flight_max=config.request_count_max,
            timeout_ms_max=config.timeout_ms_max,
        )
        exchanges = InferExchange(node, limits, clock_ns=node.arrival_clock)
        app = build_app(node, limits, exchanges)
        hub = Hub(Showing(node), asdict(node.build), node.timeline, node.journal)
        add_dashboard(app, hub)
        runner = make_runner(app, limits)
        await runner.setup()
        assert runner.server is not None
        hot = HotServer(exchanges, runner.server, limits)
        try:
            server = await asyncio.get_running_loop().create_server(hot, config.host, config.port, backlog=BACKLOG)
        except OSError as error:
            await runner.cleanup()
            raise ConfigError(
                f"cannot listen on {config.host}:{config.port}: {error.strerror or error}; choose another --port or "
                "stop what uses it"
            ) from error
        return cls(server, hot, runner, hub)

    async def close(self) -> None:
        """Stop listening; close idle connections now and the others once they are answered."""
        self._server.close()
        self._hot.close()
        self._hub.close()
        self._showing.cancel()
        await self._runner.cleanup()
