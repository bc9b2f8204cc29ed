"""Ten thousand batches with faults at random: every request ends once and rightly, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from symphony.client import AsyncClient
from symphony.config import NodeConfig, parse_devices
from symphony.errors import Reason, SymphonyError
from symphony.ingress import InferExchange, IngressLimits
from symphony.ingress.replies import EncodedReply
from symphony.metrics import ModelStats, Outcome
from symphony.server.front import Front
from symphony.server.node import Node
from symphony.wire import InferRequest, decode_error, decode_response, encode_request
from tests.server.conftest import write_echo

pytestmark = [pytest.mark.sockets, pytest.mark.slow]

SEED = 7
DEVICE_COUNT = 4
BATCH_COUNT_PHASE = 5_200
"""Plans per phase; the first warms up, growth is measured over the second."""
RSS_GROWTH_BYTES_MAX = 2 * 1024 * 1024
"""Of the whole process, clients included: 400 bytes a batch, a tenth of what the requests of one hold."""
OBJECT_GROWTH_COUNT_MAX = 800
"""Of objects that the garbage collector knows: one for six batches. Loading models anew is in it."""
REASONS = {
    Reason.WORKER_FAILED,
    Reason.WOULD_MISS,
    Reason.EXPIRED,
    Reason.NOT_READY,
    Reason.NO_GPU,
    Reason.QUEUE_FULL,
}
"""All that a right request may meet here."""
KINDS = ("steady", "fails", "shapes", "nans", "large", "hangs", "mixed", "gone")


def write_faulty(root: Path, kind: str, rng: random.Random) -> None:
    """Write an emulated model, l(b) = 0.1 b + 0.5 ms, whose faults are of its kind and come as often as `rng` says."""
    faults = {
        "steady": "",
        "fails": f"fail_every = {rng.randint(2, 20)}",
        "shapes": f"wrong_shape_every = {rng.randint(2, 20)}",
        "nans": f"nan_every = {rng.randint(1, 10)}",
        "large": f"memory_size_max = {rng.randint(1, 3)}",
        "hangs": f"hang_every = {rng.randint(60, 200)}",
        "mixed": f"fail_every = {rng.randint(3, 9)}\nwrong_shape_every = {rng.randint(3, 9)}\n"
        f"memory_size_max = {rng.randint(1, 4)}\nhang_every = {rng.randint(100, 300)}",
        "gone": "",
    }
    write_echo(
        root,
        name=kind,
        slo_ms=rng.choice((60, 100, 200)),
        alpha_ms=0.1,
        beta_ms=0.5,
        extra="run_timeout_ms = 40" if "hang" in faults[kind] else "",
        output_extra="allow_nan = false",
        emulated_extra=f"{faults[kind]}\njitter = 0.1\nseed = {rng.randint(0, 99)}",
    )


@dataclass
class Tally:
    """What clients saw, by model: statuses 200 and -1 (cancelled before an answer), and reasons of refusals."""

    seen: Counter[tuple[str, Any]] = field(default_factory=Counter)
    sent_count: int = 0
    hang_count: int = 0
    """Requests whose batch hung."""

    def note(self, model: str, status: int, content_type: str, body: bytes, value: int) -> None:
        """Check one answer and count it."""
        if status == 200:
            assert decode_response(body, content_type).outputs["y"].tolist() == [value, value]
            self.seen[model, 200] += 1
            return
        self.note_error(model, status, decode_error(status, body, content_type))

    def note_error(self, model: str, status: int, error: SymphonyError) -> None:
        """Check one refusal and count it."""
        assert error.reason in REASONS and error.reason.http_status == status, error
        assert error.message and error.model == model, error
        assert model != "steady" or error.reason is not Reason.WORKER_FAILED, error
        self.seen[model, error.reason] += 1
        self.hang_count += "run_timeout_ms" in error.message


class Soak:
    """A node with what loads it, what changes it and what watches it."""

    def __init__(self, node: Node, root: Path, url: str) -> None:
        self.node = node
        self.tally = Tally()
        self.stats: dict[int, tuple[str, ModelStats]] = {}
        self._exchanges = InferExchange(node, IngressLimits(), clock_ns=node.arrival_clock)
        self._root = root
        self._url = url
        self._value = 0
        self._until = 0
        self.note_stats()

    @property
    def plan_count(self) -> int:
        """Return how many batches were dispatched so far."""
        return int(self.node.loop.driver.dispatch_count)

    def note_stats(self) -> None:
        """Keep every entry's counters: a load replaces the entry."""
        for entry in self.node.models():
            self.stats[id(entry.stats)] = (entry.config.name, entry.stats)

    def next_value(self) -> int:
        """Return a number that no other request has, exact as float32."""
        self._value += 1
        assert self._value < 1 << 24
        return self._value

    async def run_phase(self, batch_count: int, seed: int) -> None:
        """Load the node from all sides until so many more batches were dispatched; then come to rest."""
        self._until = self.plan_count + batch_count
        clients = [self._call_directly(random.Random(f"{seed}/{number}")) for number in range(40)]
        clients += [self._call_by_socket(random.Random(f"{seed}/socket/{number}")) for number in range(4)]
        clients.append(self._go_away(random.Random(f"{seed}/gone")))
        clients.append(self._change_models(random.Random(f"{seed}/change")))
        async with asyncio.timeout(90):
            await asyncio.gather(*clients)
        end = time.monotonic() + 5
        while len(self.node._table) or self.node.loop.queued_count or self.node.node_stats().gpus_needed is None:
            assert time.monotonic() < end, f"{len(self.node._table)} slots are still held"
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        self.assert_workers_are_as_many_as_devices()

    def assert_workers_are_as_many_as_devices(self) -> None:
        """Check that abandoned workers have ended."""
        names = sorted(thread.name for thread in threading.enumerate())
        for kind in ("launch", "complete"):
            assert [name for name in names if name.startswith(f"{kind}-")] == [
                f"{kind}-emulated:{number}" for number in range(DEVICE_COUNT)
            ]

    async def _call_directly(self, rng: random.Random) -> None:
        """Start calls where the transports do, so that a second reply would be seen; give some up."""
        kinds = KINDS[:-1]
        while self.plan_count < self._until:
            model, value = rng.choice(kinds), self.next_value()
            encoded = encode_request(InferRequest(inputs={"x": np.full(8, value, np.float32)}))
            replies: list[EncodedReply] = []
            is_answered = asyncio.Event()

            def on_reply(reply: EncodedReply, replies: list[EncodedReply] = replies, done: Any = is_answered) -> None:
                replies.append(reply)
                done.set()

            self.tally.sent_count += 1
            headers = {"content-type": encoded.content_type}
            exchange = self._exchanges.start(model, None, headers, b"".join(encoded.parts), on_reply)
            if rng.random() < 0.03:
                await asyncio.sleep(rng.uniform(0.0, 0.004))
                if not replies:
                    exchange.cancel()
                    self.tally.seen[model, -1] += 1
                    await asyncio.sleep(0.001)
                    assert not replies, "a cancelled call was answered"
                    continue
            await is_answered.wait()
            (reply,) = replies
            self.tally.note(model, reply.status, reply.content_type, bytes(reply.body()), value)
            if reply.status == 503:
                await asyncio.sleep(0.002)
            assert len(replies) == 1, "a call was answered twice"

    async def _call_by_socket(self, rng: random.Random) -> None:
        async with AsyncClient(self._url) as client:
            while self.plan_count < self._until:
                model, value = rng.choice(KINDS[:-1]), self.next_value()
                self.tally.sent_count += 1
                try:
                    result = await client.infer(model, {"x": np.full(8, value, np.float32)})
                except SymphonyError as error:
                    self.tally.note_error(model, error.reason.http_status, error)
                else:
                    assert result["y"].tolist() == [value, value]
                    self.tally.seen[model, 200] += 1

    async def _go_away(self, rng: random.Random) -> None:
        """Break off connections with a call under way; what the node has read of them by then is not known."""
        async with AsyncClient(self._url) as client:
            while self.plan_count < self._until:
                call = client.infer("gone", {"x": np.full(8, self.next_value(), np.float32)})
                with suppress(TimeoutError, SymphonyError):
                    async with asyncio.timeout(rng.uniform(0.0, 0.004)):
                        await call
                await asyncio.sleep(0.005)

    async def _change_models(self, rng: random.Random) -> None:
        """Load a model with other faults, or unload one for a moment, now and then."""
        while self.plan_count < self._until:
            await asyncio.sleep(rng.uniform(0.1, 0.4))
            kind = rng.choice(("hangs", "mixed", *KINDS))
            write_faulty(self._root, kind, rng)
            if rng.random() < 0.3:
                await self.node.unload(kind)
                await asyncio.sleep(rng.uniform(0.0, 0.05))
            await self.node.load(kind)
            self.note_stats()

    def assert_counts_add_up(self) -> None:
        """Check the node's counters against what clients saw, model by model and reason by reason."""
        counted: Counter[tuple[str, Any]] = Counter()
        for name, stats in self.stats.values():
            assert stats.in_flight == 0
            counted[name, 200] += stats.good + stats.late
            for (outcome, reason), count in stats.unanswered.items():
                counted[name, -1 if outcome is Outcome.CANCELLED else reason] += count
        exact = {key: count for key, count in counted.items() if key[0] != "gone" and count}
        assert exact == dict(self.tally.seen)
        assert sum(exact.values()) == self.tally.sent_count


def rss_bytes() -> int:
    """Return the process's resident memory, once what nobody refers to is freed."""
    gc.collect()
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_things() -> tuple[list[str], int, int]:
    """Return the names of Python's threads, the count of all threads, and that of open file descriptors."""
    names = sorted(thread.name for thread in threading.enumerate())
    return names, len(list(Path("/proc/self/task").iterdir())), len(list(Path("/proc/self/fd").iterdir()))


async def soak(root: Path, phases: list[int]) -> dict[str, Any]:
    """Run a node through the phases; return what was measured after each, and in all."""
    rng = random.Random(SEED)
    for kind in KINDS:
        write_faulty(root, kind, rng)
    config = NodeConfig(port=0, repository=root, devices=parse_devices(f"{DEVICE_COUNT}xemulated"), policy="eager")
    faults: list[BaseException] = []
    node = Node(config, faults.append)
    front = await Front.open(node, config)
    await node.start()
    measured: list[tuple[int, int]] = []
    try:
        run = Soak(node, root, f"http://127.0.0.1:{front.port}")
        for number, batch_count in enumerate(phases):
            await run.run_phase(batch_count, SEED + number)
            gc.collect()
            measured.append((rss_bytes(), len(gc.get_objects())))
    finally:
        await node.stop()
        await front.close()
    assert faults == []
    run.assert_counts_add_up()
    totals = [stats for _, stats in run.stats.values()]
    return {
        "measured": measured,
        "plan_count": run.plan_count,
        "failed_count": sum(stats.batch_failed_count for stats in totals),
        "load_count": len(totals),
        "seen": run.tally.seen,
        "sent_count": run.tally.sent_count,
        "hang_count": run.tally.hang_count,
    }


def test_ten_thousand_batches_with_random_faults_end_each_request_once_and_leave_nothing(tmp_path: Path) -> None:
    """Failures, wrong shapes, NaN, memory, hangs, clients that go away, models that come and go; four devices.

    Each request gets one reply, its own answer or a documented error; the counters add up to what clients saw; threads,
    descriptors, memory and objects are afterwards as before.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(soak(tmp_path / "warm-up", [50]))
    time.sleep(0.5)  # threads that are told to end, and not waited for, need a moment
    before = own_things()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(soak(tmp_path / "models", [BATCH_COUNT_PHASE, BATCH_COUNT_PHASE]))
    end = time.monotonic() + 5
    while own_things() != before and time.monotonic() < end:
        time.sleep(0.02)
    assert own_things() == before
    print(f"seed {SEED}: {found}")
    assert found["plan_count"] >= 10_000
    by_reason: Counter[Any] = Counter()
    for (_, what), count in found["seen"].items():
        by_reason[what] += count
    assert found["failed_count"] > 500 and by_reason[200] > 5_000
    assert found["hang_count"] >= 3
    assert by_reason[Reason.WORKER_FAILED] > 50 and by_reason[Reason.NOT_READY] > 0 and by_reason[-1] > 50
    (rss_before, objects_before), (rss_after, objects_after) = found["measured"]
    assert objects_after - objects_before < OBJECT_GROWTH_COUNT_MAX
    assert rss_after - rss_before < RSS_GROWTH_BYTES_MAX
