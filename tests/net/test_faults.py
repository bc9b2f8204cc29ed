"""What networks do to bytes: whatever it is, nothing hangs, and no message arrives twice or altered."""

from __future__ import annotations

import asyncio
import random
import time
from zlib import crc32

import numpy as np
import pytest

from symphony.links.frames import Kind
from symphony.links.limits import MIB
from symphony.links.records import SUBMIT
from symphony.net import CallTimeout, LinkDown, LinkFull
from symphony.units import NS_PER_MS, NS_PER_S
from tests.net.nodes import QUICK, Cluster, Node, eventually
from tests.net.proxy import Alter, Proxy, cut_at, flip, leave_out, repeat, swap

pytestmark = pytest.mark.sockets

MESSAGE_COUNT = 60


async def link_through_proxy(cluster: Cluster) -> tuple[Node, Node, Proxy]:
    """Return two nodes whose link goes through a proxy."""
    a, b = await cluster.add("a", "b")
    proxy = await Proxy(b.address).start()
    cluster.closers.append(proxy.close)
    cluster.through["b"] = proxy.address
    cluster.introduce()
    await cluster.wait_linked()
    return a, b, proxy


class Talk:
    """Messages with numbers and checksums from both sides; what went wrong is counted, what arrives is checked."""

    def __init__(self, *nodes: Node, seed: int) -> None:
        self.nodes = nodes
        self.rng = random.Random(seed)
        self.answered_count = self.failed_count = 0
        self._numbers = iter(range(10**9))

    async def run(self, count: int) -> None:
        """Make calls, eight at a time each way; each ends within its deadline of 2 s."""
        await asyncio.gather(*(self._speak(here, there, count // 8) for here, there in self._ways() for _ in range(8)))

    def _ways(self) -> list[tuple[Node, Node]]:
        a, b = self.nodes
        return [(a, b), (b, a)]

    async def _speak(self, here: Node, there: Node, count: int) -> None:
        peer = there.links.node
        for _ in range(count):
            size = self.rng.choice([0, 10, 5_000, 100_000, 400_000])
            body = self.rng.randbytes(size)
            metadata = {"n": next(self._numbers), "crc": crc32(body)}
            began_s = time.monotonic()
            try:
                async with asyncio.timeout(2):
                    await here.links.wait_up(peer)
                reply = await here.links.call(peer, metadata, [body], deadline_ns=time.monotonic_ns() + 2 * NS_PER_S)
                assert reply.metadata == metadata
                assert bytes(reply.segments[0]) == body
                self.answered_count += 1
            except (LinkDown, CallTimeout, TimeoutError, LinkFull):
                self.failed_count += 1
            assert time.monotonic() - began_s < 6

    def check(self) -> None:
        """Fail unless everything that arrived anywhere had been sent, and came once."""
        for node in self.nodes:
            numbers = [call.metadata["n"] for call in node.calls]
            assert len(numbers) == len(set(numbers))
            for call in node.calls:
                assert crc32(call.segments[0]) == call.metadata["crc"]


OFFSETS = [5, 100, 300, 3_000, 60_000, 1_000_000]
FAULTS = {
    "flip": flip,
    "leave out a byte": lambda at: leave_out(at, 1),
    "leave out a frame": lambda at: leave_out(at, 5_000),
    "repeat": repeat,
    "swap": swap,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("way", ["to_target", "to_source"])
async def test_altered_bytes_are_noticed_and_never_delivered(cluster: Cluster, fault: str, way: str) -> None:
    a, b, proxy = await link_through_proxy(cluster)
    talk = Talk(a, b, seed=1)
    for at in OFFSETS:
        ups = a.ups
        proxy.cut()
        setattr(proxy, way, FAULTS[fault](at))
        await talk.run(16)
        setattr(proxy, way, None)
        await cluster.wait_linked()
        assert a.ups > ups
    altered = [reason for node in (a, b) for reason in node.reasons if "frame" in reason or "chunk" in reason]
    assert len(altered) >= len(OFFSETS) // 2
    before = talk.failed_count
    await talk.run(16)
    assert talk.failed_count == before
    talk.check()


@pytest.mark.parametrize("seed", range(2))
async def test_connection_cut_anywhere_ends_calls_and_is_made_again(cluster: Cluster, seed: int) -> None:
    a, b, proxy = await link_through_proxy(cluster)
    rng = random.Random(seed)
    talk = Talk(a, b, seed=seed)
    alters: list[Alter] = [cut_at(rng.choice([50, 200, 700, 5_000, 100_000, 500_000])) for _ in range(4)]
    for alter in alters:
        setattr(proxy, rng.choice(["to_target", "to_source"]), alter)
        proxy.cut()
        await asyncio.wait_for(asyncio.gather(talk.run(16), asyncio.sleep(0.1)), 20)
        proxy.to_target = proxy.to_source = None
        await cluster.wait_linked()
    talk.check()
    before = talk.failed_count
    await talk.run(16)
    assert talk.failed_count == before


async def test_cut_and_connect_in_quick_turns_leaves_one_link(cluster: Cluster) -> None:
    a, b, proxy = await link_through_proxy(cluster)
    talk = Talk(a, b, seed=3)
    rng = random.Random(3)
    running = asyncio.create_task(talk.run(MESSAGE_COUNT * 4))
    for _ in range(30):
        await asyncio.sleep(rng.uniform(0, 0.05))
        proxy.cut()
    await asyncio.wait_for(running, 30)
    await cluster.wait_linked()
    talk.check()
    assert a.ups - a.downs == b.ups - b.downs == 1
    assert talk.answered_count > 0


async def test_delayed_link_works_and_its_clock_bound_says_so(cluster: Cluster) -> None:
    a, b, proxy = await link_through_proxy(cluster)
    proxy.cut()
    proxy.delay_s = 0.03
    await eventually(lambda: a.ups == 2 and a.downs == 1)
    await cluster.wait_linked()
    talk = Talk(a, b, seed=4)
    await talk.run(MESSAGE_COUNT)
    talk.check()
    assert talk.failed_count == 0
    for here, there in ((a, "b"), (b, "a")):
        estimate = here.links.link(there).clock.estimate
        assert estimate.bound_ns > 25 * NS_PER_MS
        assert abs(estimate.offset_ns) <= estimate.bound_ns


async def test_throttled_link_stays_up_and_records_pass_what_waits(cluster: Cluster) -> None:
    a, b, proxy = await link_through_proxy(cluster)
    proxy.rate_bytes_s = 4 * MIB
    post = asyncio.create_task(a.links.post("b", {}, [bytes(24 * MIB)]))
    await asyncio.sleep(1.5)
    assert not post.done()
    assert a.downs == b.downs == 0
    connection = a.links.link("b").connection
    assert connection.sent_bytes < 12 * MIB
    # The proxy and four kernel buffers could hold several MiB; the window lets 1 MiB into them, 250 ms at 4 MiB/s.
    took_ns = []
    for count in range(1, 5):
        assert connection.under_way_bytes <= QUICK.window_bytes + QUICK.chunk_bytes
        sent_ns = time.monotonic_ns()
        a.links.post_records("b", Kind.SUBMIT, np.zeros(1, SUBMIT))
        await eventually(lambda count=count: len(b.records) == count)
        took_ns.append(b.records[-1][2] - sent_ns)
    assert not post.done()
    assert min(took_ns) < 450 * NS_PER_MS
    proxy.rate_bytes_s = 0
    await post
    await eventually(lambda: len(b.messages) == 1)


async def test_stalled_link_is_given_up_and_every_call_ends(cluster: Cluster) -> None:
    a, b, proxy = await link_through_proxy(cluster)
    calls = [asyncio.create_task(a.links.call("b", {"do": "wait"}, [bytes(size)])) for size in (0, MIB, 50 * MIB)]
    calls += [asyncio.create_task(b.links.call("a", {"do": "wait"}))]
    await asyncio.sleep(0.05)
    proxy.stall()
    began_s = time.monotonic()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {LinkDown}
    assert time.monotonic() - began_s < 3.0
    await eventually(lambda: b.downs == 1)
    assert "has not answered a ping" in a.reasons[0] + b.reasons[0]
    proxy.cut()
    proxy.resume()
    await cluster.wait_linked()


async def test_memory_is_bounded_while_a_peer_does_not_read(cluster: Cluster) -> None:
    """Answers of 1 MiB that nobody reads: at most those of calls in flight exist, and the kernel takes a few."""
    a, b, proxy = await link_through_proxy(cluster)
    calls = [asyncio.create_task(a.links.call("b", {"do": "give", "n": n, "bytes": MIB})) for n in range(60)]
    await eventually(lambda: len(b.calls) == 60)
    proxy.stall()
    await asyncio.sleep(0.3)
    there = b.links.link("a") if b.links.up else None
    if there is not None:
        assert there.answering_count <= 60
        assert there.connection.send_count <= 60
        assert there.connection.sent_bytes < 30 * MIB
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(result, LinkDown) for result in results)
    proxy.cut()
    proxy.resume()


async def test_refused_connections_are_tried_until_one_is_taken(cluster: Cluster) -> None:
    a, _, proxy = await link_through_proxy(cluster)
    proxy.is_refusing = True
    proxy.cut()
    await eventually(lambda: proxy.accepted_count > 4)
    with pytest.raises(LinkDown):
        await a.links.call("b", {})
    proxy.is_refusing = False
    await cluster.wait_linked()
    await a.links.call("b", {})
