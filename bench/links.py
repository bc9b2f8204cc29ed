"""Measure what a link between two processes carries: records, tensors, and control frames beside tensors.

    python bench/links.py [--duration-s 3] [--smoke]

Two nodes on loopback, a process each, authenticated, without TLS. Records: SUBMITs of 24 bytes, so many in a frame.
Tensors: messages of one segment, two at a time, received into memory of their own. Control frames: one record each, at
random every 2 ms; the time from before it is queued until the receiver has it, on the clock that both processes share.
The sender makes bulk and control frames in the same event loop, as a node does; both processes share the machine's
cores with everything else on it. Prints a table and one JSON line. The smoke mode sends a fixed number of messages and
checks the digest (CRC-32) of what arrived.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import time
from typing import Any
from zlib import crc32

import numpy as np
import uvloop

from symphony.links.clocks import ClockJumped
from symphony.links.frames import Kind
from symphony.links.handshake import ClusterKey
from symphony.links.messages import Message
from symphony.links.records import BATCH_STARTED, SUBMIT, Records
from symphony.net import Answer, Link, LinkFull, Links

KEY = ClusterKey(b"only for this benchmark, on loopback")
BATCHES = (1, 64, 1024)
TENSOR_MIB = (1, 16, 64)
CONTROL_GAP_S = 0.002
SEED = 1


class Counter:
    """Take what comes, count it, and report when called."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.record_count = self.tensor_bytes = self.digest = 0
        self.one_way_ns: list[int] = []

    def link_up(self, link: Link) -> None:
        """Nothing to do."""

    def link_down(self, link: Link, reason: str) -> None:
        """Nothing to do."""

    def clock_jumped(self, link: Link, jump: ClockJumped) -> None:
        """Nothing to do."""

    def records_received(self, link: Link, kind: Kind, records: Records) -> None:
        if kind is Kind.BATCH_STARTED:
            now_ns = time.monotonic_ns()
            self.one_way_ns += [now_ns - int(at_ns) for at_ns in records["at_ns"]]
        else:
            self.record_count += len(records)
            self.digest = crc32(records, self.digest)

    def message_received(self, link: Link, message: Message) -> None:
        for segment in message.segments:
            self.tensor_bytes += len(segment)
            if message.metadata["digest"]:  # takes milliseconds, which is nothing to do beside control frames
                self.digest = crc32(segment, self.digest)

    async def call_received(self, link: Link, message: Message) -> Answer:
        report = {
            "records": self.record_count,
            "bytes": self.tensor_bytes,
            "digest": self.digest,
            "one_way_ns": sorted(self.one_way_ns)[:: max(1, len(self.one_way_ns) // 4000)],
        }
        self.reset()
        return Answer(report)


async def receive() -> None:
    """Be the second process: print the address, serve until stdin ends."""
    links = Links("receiver", KEY, Counter())
    print(json.dumps(await links.start()), flush=True)
    links.set_members({"a sender": ("127.0.0.1", 1)})  # its address counts for nothing: it dials
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await links.close()


async def records(link: Link, batch: int, seconds: float, count_max: int) -> dict[str, Any]:
    """Send SUBMITs in frames of `batch`, for a time or up to a number of frames; return the rate of arrival."""
    made = np.zeros(batch, SUBMIT)
    made["request"] = np.arange(batch)
    made["priority"] = 4
    began_s = time.perf_counter()
    sent = 0
    while sent < count_max and time.perf_counter() - began_s < seconds:
        try:
            for _ in range(min(64, count_max - sent)):
                link.post_records(Kind.SUBMIT, made)
                sent += 1
        except LinkFull:
            await asyncio.sleep(0.001)
        else:
            await asyncio.sleep(0)
    report = (await link.call({})).metadata
    took_s = time.perf_counter() - began_s
    assert report["records"] == sent * batch
    return {"batch": batch, "frames_s": sent / took_s, "records_s": sent * batch / took_s, "digest": report["digest"]}


async def bulk(link: Link, tensor: np.ndarray, until: asyncio.Event, count_max: int, has_digest: bool) -> int:
    """Send a tensor again and again, two at a time; return how many."""
    sent = 0

    async def one() -> None:
        nonlocal sent
        while not until.is_set() and sent < count_max:
            sent += 1
            await link.post({"digest": has_digest}, [tensor])

    await asyncio.gather(one(), one())
    return sent


async def tensors(link: Link, size_mib: int, seconds: float, count_max: int) -> dict[str, Any]:
    """Send tensors for a time or up to a number; return the rate at which they arrived."""
    tensor = np.random.default_rng(SEED).integers(0, 255, size_mib << 20, np.uint8)
    until = asyncio.Event()
    timer = asyncio.get_running_loop().call_later(seconds, until.set)
    began_s = time.perf_counter()
    sent = await bulk(link, tensor, until, count_max, has_digest=count_max < 100)
    report = (await link.call({})).metadata
    took_s = time.perf_counter() - began_s
    timer.cancel()
    assert report["bytes"] == sent * tensor.nbytes
    return {"mib": size_mib, "mb_s": sent * tensor.nbytes / took_s / 1e6, "digest": report["digest"]}


async def control(link: Link, size_mib: int, seconds: float) -> dict[str, Any]:
    """Send control frames beside tensors of a size (0: alone); return the quantiles of their one-way time."""
    until = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, until.set)
    beside = None
    if size_mib:
        tensor = np.zeros(size_mib << 20, np.uint8)
        beside = asyncio.create_task(bulk(link, tensor, until, 1 << 30, has_digest=False))
    rng = random.Random(SEED)
    began_s = time.perf_counter()
    while not until.is_set():
        link.post_records(Kind.BATCH_STARTED, np.array([(1, time.monotonic_ns(), 0)], BATCH_STARTED))
        await asyncio.sleep(rng.uniform(0, 2 * CONTROL_GAP_S))
    if beside is not None:
        await beside
    report = (await link.call({})).metadata
    times = report["one_way_ns"]
    at = lambda share: times[min(len(times) - 1, int(share * len(times)))] / 1e3  # noqa: E731
    return {
        "beside_mib": size_mib,
        "count": len(times),
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "max_us": times[-1] / 1e3,
        "bulk_mb_s": report["bytes"] / (time.perf_counter() - began_s) / 1e6,
    }


async def send(options: argparse.Namespace) -> dict[str, Any]:
    """Be the first process: start the second, measure, stop it."""
    process = subprocess.Popen(  # noqa: ASYNC220 - starting it holds up nothing that is measured
        [sys.executable, __file__, "--receive"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    links = Links("a sender", KEY, Counter())
    try:
        assert process.stdout is not None
        address = json.loads(await asyncio.get_running_loop().run_in_executor(None, process.stdout.readline))
        links.set_members({"receiver": tuple(address)})
        async with asyncio.timeout(30):
            await links.wait_up("receiver")
        link = links.link("receiver")
        seconds, count_max = (30.0, 256) if options.smoke else (options.duration_s, 1 << 30)
        return {
            "records": [await records(link, batch, seconds, count_max) for batch in BATCHES],
            "tensors": [await tensors(link, size, seconds, 2 if options.smoke else count_max) for size in TENSOR_MIB],
            "control": [await control(link, size, min(seconds, 0.5 if options.smoke else seconds)) for size in (0, 64)],
            "round_trip_us": link.clock.round_trip_ns / 1e3,
        }
    finally:
        await links.close()
        with contextlib.suppress(BrokenPipeError):
            process.communicate(timeout=20)


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration-s", type=float, default=3.0, help="of each of the eight measurements")
    parser.add_argument("--smoke", action="store_true", help="a fixed number of messages; checks the digest")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        uvloop.run(receive())
        return 0
    result = uvloop.run(send(options))
    for row in result["records"]:
        print(
            f"records, {row['batch']:5} a frame: {row['frames_s']:10,.0f} frames/s {row['records_s']:12,.0f} records/s"
        )
    for row in result["tensors"]:
        print(f"tensors of {row['mib']:3} MiB:     {row['mb_s']:10,.0f} MB/s")
    for row in result["control"]:
        beside = (
            f"beside tensors of {row['beside_mib']} MiB ({row['bulk_mb_s']:,.0f} MB/s)"
            if row["beside_mib"]
            else "alone"
        )
        quantiles = ", ".join(f"{name} {row[f'{name}_us']:,.0f} us" for name in ("p50", "p99", "max"))
        print(f"control frame {beside}: {quantiles}")
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}
    print(json.dumps({"benchmark": "links", "seed": SEED, **result, "machine": machine}))
    if options.smoke:
        digests = [row["digest"] for row in (*result["records"], *result["tensors"])]
        if digests != SMOKE_DIGESTS:
            print(f"digests are {digests}, expected {SMOKE_DIGESTS}")
            return 1
    return 0


SMOKE_DIGESTS = [1349779880, 3567661379, 1169697519, 3782516830, 20759657, 1081609093]

if __name__ == "__main__":
    sys.exit(main())
