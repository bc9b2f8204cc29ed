"""Open a node's doors: one port, the hot path in front, aiohttp behind it; if asked for, more for gRPC and managers."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

from symphony.config import NodeConfig
from symphony.dashboard import Hub, add_dashboard
from symphony.errors import ConfigError
from symphony.ingress import InferExchange, IngressLimits, build_app, guarded, make_runner
from symphony.ingress.app import ALL_SCOPES
from symphony.ingress.callers import Callers
from symphony.ingress.hot import HotServer
from symphony.server.node import Node
from symphony.server.reloading import Followed, Reloader, read_keys
from symphony.server.showing import Showing
from symphony.server.tls import Certificate

if TYPE_CHECKING:
    from symphony.ingress.grpc import GrpcServer

_log = logging.getLogger(__name__)

BACKLOG = 1024
PUBLIC_SCOPES = frozenset(("infer", None))
"""What is on the main port where managers have their own."""
MANAGEMENT_SCOPES = frozenset(("manage", "metrics", None))


class Front:
    """The listening sockets of a node and what answers on them; make it with `open`."""

    def __init__(self, config: NodeConfig, callers: Callers, certificate: Certificate | None) -> None:
        self.port = 0
        self.management_port: int | None = None
        self.grpc: GrpcServer | None = None
        """The port for gRPC, if there is one."""
        self.scheme = "http" if certificate is None else "https"
        self._config = config
        self._tls = None if certificate is None else certificate.context
        self._servers: list[asyncio.Server] = []
        self._runners: list[web.AppRunner] = []
        self._hot: HotServer | None = None
        self._hub: Hub | None = None
        self._showing: asyncio.Task[None] | None = None
        followed = []
        if config.keys is not None:
            file = config.keys
            followed.append(Followed("keys", (file,), lambda: callers.replace(read_keys(file))))
        if certificate is not None:
            followed.append(Followed("certificate and key", certificate.files, certificate.renew))
        self._reloader = Reloader(followed)

    @classmethod
    async def open(cls, node: Node, config: NodeConfig) -> Front:
        """Listen on the configured addresses; raise ConfigError when that is not possible."""
        limits = IngressLimits(
            body_bytes_max=config.body_bytes_max,
            in_flight_max=config.request_count_max,
            timeout_ms_max=config.timeout_ms_max,
            connection_count_max=config.connection_count_max,
            header_timeout_s=config.header_timeout_s,
            body_timeout_s=config.body_timeout_s,
            keepalive_timeout_s=config.keepalive_timeout_s,
        )
        callers = Callers(None if config.keys is None else read_keys(config.keys))
        certificate = None
        if config.tls_cert is not None and config.tls_key is not None:
            certificate = Certificate(config.tls_cert, config.tls_key, config.tls_client_ca)
        front = cls(config, callers, certificate)
        try:
            await front._open(node, limits, callers)
        except ConfigError:
            await front.close()
            raise
        front._warn()
        front._reloader.start()
        return front

    async def _open(self, node: Node, limits: IngressLimits, callers: Callers) -> None:
        config = self._config
        exchanges = InferExchange(node, limits, clock_ns=node.arrival_clock, callers=callers)
        has_management = config.management_port is not None
        app = build_app(node, limits, exchanges, *([PUBLIC_SCOPES] if has_management else []))
        if not has_management:
            self._show(node, app, exchanges)
        self._hot = HotServer(exchanges, await self._set_up(make_runner(app, limits)), limits)
        self.port = await self._listen(self._hot, config.host, config.port, "--port")
        if config.grpc_port is not None:
            self.grpc = await _open_grpc(exchanges, config, config.grpc_port)
        if config.management_port is not None:
            # Connections of its own: a flood at the main port closes no manager's.
            exchanges = InferExchange(node, limits, clock_ns=node.arrival_clock, callers=callers)
            app = build_app(node, limits, exchanges, MANAGEMENT_SCOPES)
            self._show(node, app, exchanges)
            make_protocol = await self._set_up(make_runner(app, limits))
            self.management_port = await self._listen(
                make_protocol, config.management_host, config.management_port, "--management-port"
            )

    def _show(self, node: Node, app: web.Application, exchanges: InferExchange) -> None:
        """Add the live page where metrics are; it needs a key as they do."""
        self._hub = Hub(Showing(node), asdict(node.build), node.timeline, node.journal)
        add_dashboard(app, self._hub, lambda handler: guarded(handler, "metrics", exchanges))
        self._showing = asyncio.create_task(self._hub.run())

    async def _set_up(self, runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
        self._runners.append(runner)
        await runner.setup()
        assert runner.server is not None
        return runner.server

    async def _listen(self, make_protocol: Callable[[], asyncio.Protocol], host: str, port: int, flag: str) -> int:
        """Return the port listened on."""
        settings: dict[str, Any] = {}
        if self._tls is not None:
            settings = {"ssl": self._tls, "ssl_handshake_timeout": self._config.header_timeout_s}
        try:
            server = await asyncio.get_running_loop().create_server(
                make_protocol, host, port, backlog=BACKLOG, **settings
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}; choose another {flag} or stop what uses it"
            ) from error
        self._servers.append(server)
        found: int = server.sockets[0].getsockname()[1]
        return found

    def _warn(self) -> None:
        """Say in the log what a stranger could do."""
        config = self._config
        is_open = not is_loopback(config.host)
        is_managed_here = config.management_port is None
        if config.keys is None and is_open:
            _log.warning(
                "anybody who reaches %s may use this node%s: no keys are needed; make some with `symphony keys new`, "
                "and give --keys",
                config.host,
                ", load and unload models" if is_managed_here else "",
            )
        if config.keys is not None and self._tls is None and is_open:
            _log.warning("keys come to %s in clear text; give --tls-cert and --tls-key", config.host)
        if config.keys is None and not is_managed_here and not is_loopback(config.management_host):
            _log.warning("anybody who reaches %s may load and unload models: give --keys", config.management_host)

    def reload(self) -> None:
        """Read keys and certificate again."""
        self._reloader.reload()

    async def close(self) -> None:
        """Stop listening; close idle connections now and the others once they are answered."""
        self._reloader.stop()
        for server in self._servers:
            server.close()
        if self._hot is not None:
            self._hot.close()
        if self._hub is not None and self._showing is not None:
            self._hub.close()
            self._showing.cancel()
        if self.grpc is not None:
            await self.grpc.close()
        for runner in self._runners:
            await runner.cleanup()


async def _open_grpc(exchanges: InferExchange, config: NodeConfig, port: int) -> GrpcServer:
    """Listen for gRPC; raise ConfigError when the packages for it are not installed, the address is taken, or the node
    speaks TLS, which this port does not.
    """
    if config.tls_cert is not None:
        raise ConfigError(
            "grpc_port and tls_cert do not go together: the gRPC port speaks no TLS, and would take in clear text what "
            "the others encrypt; leave --grpc-port out, or leave TLS to a proxy before both ports"
        )
    try:
        from symphony.ingress.grpc import GrpcServer
    except ImportError as error:
        raise ConfigError(
            f'gRPC needs packages that are not installed ({error}): pip install "symphony-serve[grpc]", or leave '
            "grpc_port out"
        ) from error
    scopes = ALL_SCOPES if config.management_port is None else PUBLIC_SCOPES
    try:
        return await GrpcServer.open(exchanges, config.host, port, scopes=scopes)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host}:{port} for gRPC: {error}; choose another --grpc-port or stop what uses it"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
