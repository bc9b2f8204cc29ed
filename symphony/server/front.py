"""Open a node's door: one port, the hot path in front, aiohttp behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from symphony.config import NodeConfig
from symphony.errors import ConfigError
from symphony.ingress import InferExchange, IngressLimits, build_app, make_runner
from symphony.ingress.hot import HotServer
from symphony.server.node import Node

if TYPE_CHECKING:
    from symphony.ingress.grpc import GrpcServer

BACKLOG = 1024


class Front:
    """The listening socket of a node and what answers on it; make it with `open`."""

    def __init__(self, server: asyncio.Server, hot: HotServer, runner: web.AppRunner) -> None:
        self._server = server
        self._hot = hot
        self._runner = runner
        self.grpc: GrpcServer | None = None
        """The second port, for gRPC, if there is one."""
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
        runner = make_runner(build_app(node, limits, exchanges), limits)
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
        front = cls(server, hot, runner)
        if config.grpc_port is not None:
            try:
                front.grpc = await _open_grpc(exchanges, config.host, config.grpc_port)
            except ConfigError:
                await front.close()
                raise
        return front

    async def close(self) -> None:
        """Stop listening; close idle connections now and the others once they are answered."""
        self._server.close()
        self._hot.close()
        if self.grpc is not None:
            await self.grpc.close()
        await self._runner.cleanup()


async def _open_grpc(exchanges: InferExchange, host: str, port: int) -> GrpcServer:
    """Listen for gRPC; raise ConfigError when the packages for it are not installed, or the address is taken."""
    try:
        from symphony.ingress.grpc import GrpcServer
    except ImportError as error:
        raise ConfigError(
            f'gRPC needs packages that are not installed ({error}): pip install "symphony-serve[grpc]", or leave '
            "grpc_port out"
        ) from error
    try:
        return await GrpcServer.open(exchanges, host, port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} for gRPC: {error}; choose another --grpc-port or stop what uses it"
        ) from error
