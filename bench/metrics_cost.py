"""Measure what counting costs the ingress: the same requests served with the metrics and without, in turns.

    python bench/metrics_cost.py [--pairs 40] [--requests 3000] [--smoke]

One node in this process with an emulated model whose batches take next to no time; 64 connections, without sockets,
each of which sends the next framed request when the last is answered. What is compared is the CPU time of the asyncio
thread per request: from bytes to bytes, all that bounds a node's ingress. "Without" replaces the counters of the model,
the node's histograms and the dashboard's ring by ones that do nothing (a request in flight is still counted: admission
needs it). The order within a pair changes from pair to pair. Prints one line and one of JSON; exits 1 when the median
over the pairs is above 3 % (not in smoke mode).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from symphony.config import NodeConfig, parse_devices
from symphony.ingress import InferExchange, IngressLimits
from symphony.ingress.hot import HotServer
from symphony.metrics import ModelStats
from symphony.server.node import Node
from symphony.wire import InferRequest, encode_request

SHARE_MAX = 0.03
CONNECTION_COUNT = 64
MODEL = """
name = "echo"
version = "1"
slo_ms = 500
max_batch_size = 64
format = "emulated"
[[inputs]]
name = "x"
datatype = "FP32"
shape = [8]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [2]
[emulated]
alpha_ms = 0.001
beta_ms = 0.2
"""


class NoStats(ModelStats):
    """Count only what admission needs."""

    __slots__ = ()

    def request_answered(self, latency_ns: int, queueing_ns: int, is_late: bool) -> None:
        self.in_flight -= 1

    def batch_finished(self, *_: int) -> None:
        pass


class NoHistogram:
    """Observe nothing."""

    counts: tuple[int, ...] = ()
    total = 0

    def observe(self, _value: int) -> None:
        pass


class Transport:
    """Stand in for a connection: an answer makes the owner send its next request."""

    def __init__(self, run: Run, request: bytes) -> None:
        self._run = run
        self._request = request
        self._protocol: Any = None

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def attach(self, protocol: Any) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    def send(self) -> None:
        if self._run.left > 0:
            self._run.left -= 1
            self._protocol.data_received(self._request)

    def write(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 200"):
            self._run.bad += 1
        self._run.answered += 1
        if self._run.answered == self._run.count:
            self._run.done.set_result(None)
        else:
            asyncio.get_running_loop().call_soon(self.send)

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Run:
    """So many requests over the connections."""

    def __init__(self) -> None:
        self.left = self.count = self.answered = self.bad = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(self, transports: list[Transport], count: int) -> float:
        """Return the asyncio thread's CPU time for each request, in microseconds."""
        self.left = self.count = count
        self.answered = 0
        self.done = asyncio.get_running_loop().create_future()
        began_ns = time.thread_time_ns()
        for transport in transports:
            transport.send()
        await self.done
        return (time.thread_time_ns() - began_ns) / 1e3 / count


def switch(node: Node, counted: dict[str, Any], is_counting: bool) -> None:
    """Let the node count, or not."""
    entry = node.find("echo", "1")
    entry.stats = counted["stats"] if is_counting else counted["none"]
    for name in ("ingress_lag", "handover_lag"):
        setattr(node.stats, name, counted[name] if is_counting else NoHistogram())
    node._answers._show = counted["show"] if is_counting else lambda *_: None  # type: ignore[method-assign]


async def measure(pairs: int, count: int) -> tuple[list[tuple[float, float]], int]:
    """Return (with, without) for each pair in microseconds a request, and how many answers were not 200."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "echo").mkdir()
        await asyncio.to_thread((Path(folder) / "echo" / "model.toml").write_text, MODEL)
        faults: list[BaseException] = []
        node = Node(NodeConfig(repository=Path(folder), devices=parse_devices("2xemulated")), faults.append)
        await node.start()
        try:
            limits = IngressLimits()
            hot = HotServer(InferExchange(node, limits, clock_ns=node.arrival_clock), asyncio.Protocol, limits)
            encoded = encode_request(InferRequest(inputs={"x": np.arange(8, dtype=np.float32)}))
            body = b"".join(encoded.parts)
            head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Type: {encoded.content_type}\r\n"
            request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            run = Run()
            transports = [Transport(run, request) for _ in range(CONNECTION_COUNT)]
            for transport in transports:
                transport.attach(hot())
            entry = node.find("echo", "1")
            counted = {
                "stats": entry.stats,
                "none": NoStats(64),
                "show": node._answers._show,
                "ingress_lag": node.stats.ingress_lag,
                "handover_lag": node.stats.handover_lag,
            }
            await run.serve(transports, count)
            found = []
            for pair in range(pairs):
                took = {}
                for is_counting in (True, False) if pair % 2 else (False, True):
                    switch(node, counted, is_counting)
                    took[is_counting] = await run.serve(transports, count)
                found.append((took[True], took[False]))
            hot.close()
        finally:
            await node.stop()
        if faults:
            raise faults[0]
        return found, run.bad


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--requests", type=int, default=3000, help="in each half of a pair")
    parser.add_argument("--smoke", action="store_true", help="two short pairs, and judge nothing")
    options = parser.parse_args()
    if options.smoke:
        options.pairs, options.requests = 2, 300
    sys.setswitchinterval(0.0005)
    found, bad = uvloop.run(measure(options.pairs, options.requests))
    shares = sorted(counted / plain - 1 for counted, plain in found)
    median = statistics.median(shares)
    low, high = shares[len(shares) // 4], shares[-1 - len(shares) // 4]
    plain_us = statistics.median(plain for _, plain in found)
    counted_us = statistics.median(counted for counted, _ in found)
    print(
        f"counting costs {median:.1%} of the ingress (quartiles {low:.1%} to {high:.1%} over {len(found)} pairs): "
        f"{counted_us:.2f} us a request with, {plain_us:.2f} us without"
    )
    result = {
        "benchmark": "metrics_cost",
        "share_median": round(median, 4),
        "share_quartiles": [round(low, 4), round(high, 4)],
        "with_us": round(counted_us, 3),
        "without_us": round(plain_us, 3),
        "not_answered": bad,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
    }
    print(json.dumps(result))
    if bad:
        print(f"{bad} requests were not answered with 200: this measures something else", file=sys.stderr)
        return 1
    return 0 if options.smoke or median <= SHARE_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
