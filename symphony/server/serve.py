"""Run a node as a process: sockets, signals, exit codes."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import signal
import sys
from collections.abc import Callable

import uvloop

from symphony.config import NodeConfig
from symphony.execution.devices import DeviceLostError
from symphony.server.front import Front
from symphony.server.node import Node

_log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAULT = 70
"""A broken invariant ended the process (see the log): a supervisor should restart it."""
EXIT_UNDRAINED = 75
"""The drain limit passed before all accepted requests had ended."""
EXIT_DEVICE_LOST = 76
"""A device is lost to this process (see the log): a supervisor should start a new one."""
DESCRIPTORS_SPARE = 512
"""File descriptors for everything but connections."""
GC_THRESHOLDS = (20_000, 20, 100)
"""Requests die with their last reference; a collection every 700 objects costs a twentieth of the node."""
SWITCH_INTERVAL_S = 0.0005
"""How long a thread may hold the GIL while another waits: a tenth of the default, so that workers launch in time."""


def serve(config: NodeConfig) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code.

    The first signal drains: not ready, new requests refused, accepted ones finished within `drain_timeout_s`. A second
    one ends at once. SIGHUP reads keys and certificate again. Raise ConfigError for a configuration that cannot be
    used.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    _allow_descriptors(config.connection_count_max)
    return uvloop.run(_serve(config))


def _allow_descriptors(connection_count_max: int) -> None:
    """Let the process have as many descriptors as its connections may need; say so if that is forbidden."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connection_count_max + DESCRIPTORS_SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            _log.warning(
                "%d connections may need %d file descriptors, but only %d are allowed; raise the limit (ulimit -n) or "
                "lower connection_count_max",
                connection_count_max,
                wanted,
                allowed,
            )


async def _serve(config: NodeConfig) -> int:
    asyncio_loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = asyncio_loop.create_future()

    def fatal(error: BaseException) -> None:
        if isinstance(error, DeviceLostError):
            # What other devices hold is finished first; a supervisor then starts the process anew.
            _log.critical("%s; ending once the accepted requests have", error)
            if not draining:
                draining.append(asyncio.create_task(_drain(node, config.drain_timeout_s, ended, EXIT_DEVICE_LOST)))
            return
        _log.critical("%s", error, exc_info=error)
        if not ended.done():
            ended.set_result(EXIT_FAULT)

    node = Node(config, fatal)
    front = await Front.open(node, config)
    _log.info("listening on %s://%s:%d", front.scheme, config.host, front.port)
    if front.grpc is not None:
        _log.info("listening on grpc://%s:%d", config.host, front.grpc.port)
    if front.management_port is not None:
        _log.info("managed at %s://%s:%d", front.scheme, config.management_host, front.management_port)

    def on_signal() -> None:
        if draining:
            _log.warning("second signal: ending without waiting")
            if not ended.done():
                ended.set_result(EXIT_UNDRAINED)
            return
        draining.append(asyncio.create_task(_drain(node, config.drain_timeout_s, ended)))

    draining: list[asyncio.Task[None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio_loop.add_signal_handler(number, on_signal)
    asyncio_loop.add_signal_handler(signal.SIGHUP, front.reload)
    starting = asyncio.create_task(_start(node, fatal))
    code = await ended
    starting.cancel()
    await node.stop()
    await front.close()
    _log.info("ended with code %d", code)
    return code


async def _start(node: Node, fatal: Callable[[BaseException], None]) -> None:
    try:
        await node.start()
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        fatal(error)
        return
    # What was loaded stays; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    ready = [
        f"{entry.config.name} (SLO {entry.config.slo_ms:g} ms)" for entry in node.models() if entry.state == "READY"
    ]
    failed = [entry.config.name for entry in node.models() if entry.state != "READY"]
    _log.info("ready: %s", ", ".join(ready) or "no model")
    if failed:
        _log.warning("not served: %s (reasons above)", ", ".join(failed))


async def _drain(node: Node, timeout_s: float, ended: asyncio.Future[int], code: int = EXIT_OK) -> None:
    _log.info("draining: new requests are refused, accepted ones are finished within %g s", timeout_s)
    is_empty = await node.drain(timeout_s)
    if not is_empty:
        _log.error("requests were still running after %g s (drain_timeout_s); they fail", timeout_s)
    if not ended.done():
        ended.set_result(code if is_empty or code else EXIT_UNDRAINED)
