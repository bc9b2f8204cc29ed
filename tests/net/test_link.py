"""One link: calls, messages and records arrive as sent; what waits is bounded; every call ends."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace

import numpy as np
import pytest

from symphony.errors import Reason, SymphonyError
from symphony.links.clocks import INSTANT_NS_MAX, RoundTrip
from symphony.links.frames import SMALL_BYTES_MAX, Kind
from symphony.links.limits import KIB, MIB, LinkLimits
from symphony.links.records import BATCH_STARTED, SUBMIT
from symphony.net import CallFailed, CallTimeout, LinkDown, LinkFull, LinkSettings
from symphony.units import NEVER_NS, NS_PER_MS, NS_PER_S
from tests.net.nodes import QUICK, Cluster, eventually

pytestmark = pytest.mark.sockets

SMALL_LIMITS = LinkLimits(message_bytes_max=2 * MIB, assembly_bytes_max=3 * MIB, stream_count_max=2, call_count_max=4)


def submits(count: int) -> np.ndarray:
    records = np.zeros(count, SUBMIT)
    records["request"] = np.arange(count)
    records["deadline_ns"] = -np.arange(count)
    return records


async def test_call_brings_back_tensors_of_every_size(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    rng = np.random.default_rng(1)
    for size in (0, 1, 63, 64, SMALL_BYTES_MAX, 128 * KIB, 128 * KIB + 1, 5 * MIB):
        tensors = [rng.integers(0, 255, size, np.uint8), np.arange(7, dtype="<f4")]
        for here, there in ((a, "b"), (b, "a")):
            reply = await here.links.call(there, {"size": size}, tensors)
            assert reply.metadata == {"size": size}
            assert [bytes(segment) for segment in reply.segments] == [tensor.tobytes() for tensor in tensors]


async def test_calls_in_flight_are_answered_each_with_its_own(cluster: Cluster) -> None:
    a, _ = await cluster.link("a", "b")
    sizes = [n * 7919 % 200_000 for n in range(200)]
    calls = [a.links.call("b", {"do": "give", "n": n, "bytes": size}) for n, size in enumerate(sizes)]
    for n, reply in enumerate(await asyncio.gather(*calls)):
        assert reply.metadata["n"] == n
        assert len(reply.segments[0]) == sizes[n]


async def test_records_and_posts_arrive_once_and_in_order(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    link = a.links.link("b")
    link.post_records(Kind.SUBMIT, submits(10_000))  # several frames
    started = np.array([(7, 123, 2)], BATCH_STARTED)
    a.links.post_records("b", Kind.BATCH_STARTED, started)
    for n in range(100):
        a.links.post_urgent("b", {"n": n})
    await a.links.post("b", {"n": 100}, [bytes(1000)])
    await eventually(lambda: len(b.messages) == 101)
    assert [message.metadata["n"] for message, _ in b.messages] == list(range(101))
    assert np.array_equal(
        np.concatenate([records for kind, records, _ in b.records if kind is Kind.SUBMIT]), submits(10_000)
    )
    assert len(b.records) > 2
    kind, records, _ = b.records[-1]
    assert kind is Kind.BATCH_STARTED
    assert np.array_equal(records, started)


async def test_failing_call_says_why_without_secrets(cluster: Cluster, caplog) -> None:
    a, _ = await cluster.link("a", "b")
    with pytest.raises(CallFailed, match="the log of the node") as caught:
        await a.links.call("b", {"do": "raise"})
    assert "secret" not in str(caught.value)
    assert "a secret of this node" in caplog.text
    with pytest.raises(SymphonyError, match="no time left") as refused:
        await a.links.call("b", {"do": "refuse"})
    assert (refused.value.reason, refused.value.model) == (Reason.WOULD_MISS, "m")
    assert (await a.links.call("b", {"still": "up"})).metadata == {"still": "up"}


async def test_receiver_that_raises_harms_no_link(cluster: Cluster, caplog) -> None:
    a, b = await cluster.link("a", "b")
    await a.links.post("b", {"do": "raise"})
    await a.links.call("b", {})
    assert len(b.messages) == 1
    assert "a receiver with a bug" in caplog.text
    assert a.downs == 0


async def test_call_ends_at_its_deadline_and_the_other_node_gives_up(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    began_ns = time.monotonic_ns()
    deadline_ns = began_ns + 50 * NS_PER_MS
    with pytest.raises(CallTimeout, match=r"'b' did not answer within (50\.0|49\.\d) ms"):
        await a.links.call("b", {"do": "wait"}, deadline_ns=deadline_ns)
    assert time.monotonic_ns() >= deadline_ns
    assert time.monotonic_ns() - began_ns < 1 * NS_PER_S
    await eventually(lambda: b.cancelled_count == 1)
    with pytest.raises(CallTimeout):
        await a.links.call("b", {}, deadline_ns=began_ns)
    assert len(b.calls) == 1


async def test_deadline_far_away_is_no_deadline_and_one_beyond_all_clocks_is_refused(cluster: Cluster) -> None:
    a, _ = await cluster.link("a", "b")
    assert (await a.links.call("b", {"n": 1}, deadline_ns=INSTANT_NS_MAX)).metadata == {"n": 1}
    for deadline_ns in (INSTANT_NS_MAX + 1, 1 << 80, -INSTANT_NS_MAX - 1):
        with pytest.raises(ValueError, match="no clock will show"):
            await a.links.call("b", {}, deadline_ns=deadline_ns)


async def test_node_whose_clock_runs_backwards_gets_no_link(cluster: Cluster, caplog) -> None:
    caplog.set_level(logging.INFO)
    (a,) = await cluster.add("a")
    (b,) = await cluster.add("b", clock_ns=lambda: -time.monotonic_ns())
    cluster.introduce()
    await asyncio.sleep(0.3)
    assert a.ups == b.ups == 0
    assert "the clock of 'a' cannot be compared" in caplog.text  # whose proof comes first


async def test_cancelled_call_is_cancelled_there(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    call = asyncio.create_task(a.links.call("b", {"do": "wait"}))
    await eventually(lambda: len(b.calls) == 1)
    call.cancel()
    await asyncio.wait([call])
    await eventually(lambda: b.cancelled_count == 1)
    assert a.links.link("b").call_count == b.links.link("a").answering_count == 0


async def test_deadline_arrives_on_the_other_clock_within_its_bound(cluster: Cluster) -> None:
    (a,) = await cluster.add("a")
    ahead_ns = 3_600 * NS_PER_S
    await cluster.add("b", clock_ns=lambda: time.monotonic_ns() + ahead_ns)
    cluster.introduce()
    await cluster.wait_linked()
    deadline_ns = time.monotonic_ns() + NS_PER_S
    for _ in range(5):
        reply = await a.links.call("b", {"do": "deadline"}, deadline_ns=deadline_ns)
        there_ns, bound_ns = reply.metadata["deadline"]
        assert abs(there_ns - (deadline_ns + ahead_ns)) <= bound_ns
        assert bound_ns < 100 * NS_PER_MS
        await asyncio.sleep(0.06)
    assert (await a.links.call("b", {"do": "deadline"})).metadata["deadline"] == [NEVER_NS, 0]


async def test_clocks_are_compared_while_the_link_is_up_and_a_jump_is_noticed(cluster: Cluster) -> None:
    (a,) = await cluster.add("a")
    offset_ns = 0
    await cluster.add("b", clock_ns=lambda: time.monotonic_ns() + offset_ns)
    cluster.introduce()
    await cluster.wait_linked()
    link = a.links.link("b")
    first = link.clock.estimate
    assert abs(first.offset_ns) <= first.bound_ns  # known before anything is sent: the handshake has a round trip
    await eventually(lambda: link.clock.estimate.at_ns > first.at_ns + 200 * NS_PER_MS)
    assert abs(link.clock.estimate.offset_ns) <= link.clock.estimate.bound_ns
    offset_ns = 10 * NS_PER_S
    await eventually(lambda: len(a.jumps) == 1)
    assert abs(a.jumps[0].by_ns - offset_ns) < NS_PER_S
    assert abs(link.clock.estimate.offset_ns - offset_ns) <= link.clock.estimate.bound_ns
    assert a.downs == 0


async def test_link_loss_fails_every_call_at_once(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    calls = [asyncio.create_task(a.links.call("b", {"do": "wait"})) for _ in range(20)]
    calls += [asyncio.create_task(a.links.call("b", {"do": "wait"}, [bytes(20 * MIB)])) for _ in range(3)]
    await eventually(lambda: len(b.calls) >= 20)
    began_s = time.monotonic()
    b.links.link("a").abort("for the test")
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - began_s < 1.0
    assert {type(result) for result in results} == {LinkDown}
    assert all("the link to 'b' is down" in str(result) for result in results)
    await eventually(lambda: b.cancelled_count == len(b.calls))


async def test_call_dropped_before_it_was_begun_leaves_nothing_behind(cluster: Cluster) -> None:
    """The call and the link's end come in one read, so the answer's task is cancelled before its first step."""
    a, b = await cluster.link("a", "b")
    call = asyncio.create_task(a.links.call("b", {}, [bytes(1000)], is_urgent=True))
    await asyncio.sleep(0)
    a.links.link("b").connection.send_control(Kind.CHUNK, b"of no message", 77)
    with pytest.raises(LinkDown):
        await call
    await eventually(lambda: b.downs == 1)
    assert not b.calls
    await eventually(lambda: b.all_links[0].answering_count == 0)
    assert b.all_links[0]._answering_bytes == 0


async def test_calls_beyond_what_the_peer_takes_are_refused_here(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b", settings=LinkSettings(limits=SMALL_LIMITS))
    calls = [asyncio.create_task(a.links.call("b", {"do": "wait"})) for _ in range(4)]
    await eventually(lambda: len(b.calls) == 4)
    with pytest.raises(LinkFull, match=r"4 calls wait .*call_count_max"):
        await a.links.call("b", {})
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await eventually(lambda: b.cancelled_count == 4)
    for _ in range(20):
        await asyncio.gather(*(a.links.call("b", {}) for _ in range(4)))
    assert a.downs == b.downs == 0


async def test_message_is_sent_at_the_peers_limit_and_refused_above(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b", settings=LinkSettings(limits=SMALL_LIMITS))
    await asyncio.gather(*(a.links.post("b", {}, [bytes(2 * MIB)]) for _ in range(6)))
    await eventually(lambda: len(b.messages) == 6)
    with pytest.raises(ValueError, match="message_bytes_max"):
        await a.links.post("b", {}, [bytes(2 * MIB + 1)])
    with pytest.raises(CallFailed):
        await a.links.call("b", {"do": "give", "n": 1, "bytes": 2 * MIB + 1})
    assert a.downs == b.downs == 0


async def test_urgent_message_must_be_small(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    a.links.post_urgent("b", {}, [bytes(SMALL_BYTES_MAX - 64)])
    reply = await a.links.call("b", {"n": 1}, is_urgent=True)
    assert reply.metadata == {"n": 1}
    with pytest.raises(ValueError, match="16384 bytes at most"):
        a.links.post_urgent("b", {}, [bytes(SMALL_BYTES_MAX)])
    with pytest.raises(ValueError, match="16384 bytes at most"):
        await a.links.call("b", {}, [bytes(SMALL_BYTES_MAX)], is_urgent=True)
    await a.links.call("b", {})
    assert len(b.messages) == 1


async def test_send_waits_for_the_kernel_so_tensors_are_not_piled_up(cluster: Cluster) -> None:
    """While the peer's process does not read, a message of 200 MB is not done, and little of it has left."""
    a, b = await cluster.link("a", "b")
    b.links.link("a").connection._transport.pause_reading()
    tensor = np.zeros(200 * MIB, np.uint8)
    post = asyncio.create_task(a.links.post("b", {}, [tensor]))
    await asyncio.sleep(0.3)
    assert not post.done()
    connection = a.links.link("b").connection
    assert connection.under_way_bytes <= QUICK.window_bytes + QUICK.chunk_bytes
    assert connection.sent_bytes < 2 * MIB
    b.links.link("a").connection._transport.resume_reading()
    await post


async def test_memory_of_a_message_that_was_sent_can_be_used_again(cluster: Cluster) -> None:
    """A post is done when the kernel has it all, not when the transport does: then overwriting harms nothing."""
    a, b = await cluster.link("a", "b", settings=replace(QUICK, window_bytes=256 * MIB, peer_timeout_s=5.0))
    b.links.link("a").connection._transport.pause_reading()
    posts: list[tuple[asyncio.Task, bytearray]] = []
    is_stuck = False
    while not is_stuck:
        body = bytearray(b"x" * 100_000)
        posts.append((asyncio.create_task(a.links.post("b", {}, [body])), body))
        _, waiting = await asyncio.wait([posts[-1][0]], timeout=0.2)
        is_stuck = bool(waiting)
    for post, body in posts:
        if post.done():
            body[:] = bytes(len(body))
    b.links.link("a").connection._transport.resume_reading()
    await posts[-1][0]
    await eventually(lambda: len(b.messages) == len(posts))
    assert all(bytes(message.segments[0]) == b"x" * 100_000 for message, _ in b.messages)
    assert a.downs == 0


async def test_control_frames_and_waiting_messages_are_bounded_when_the_peer_stops_reading(cluster: Cluster) -> None:
    settings = LinkSettings(control_bytes_max=256 * KIB, send_count_max=5, ping_s=0.1, peer_timeout_s=1.5)
    a, b = await cluster.link("a", "b", settings=settings)
    b.links.link("a").connection._transport.pause_reading()
    link = a.links.link("b")
    posts = [asyncio.create_task(a.links.post("b", {}, [bytes(32 * MIB)])) for _ in range(5)]
    await asyncio.sleep(0.2)
    with pytest.raises(LinkFull, match="send_count_max"):
        await a.links.post("b", {})
    with pytest.raises(LinkFull, match="control_bytes_max"):
        for _ in range(10_000):
            link.post_records(Kind.SUBMIT, submits(1000))
    assert link.connection.control_bytes <= 256 * KIB
    # A peer that does not read does not answer pings either: it is given up, and everything that waits ends.
    began_s = time.monotonic()
    results = await asyncio.gather(*posts, return_exceptions=True)
    assert {type(result) for result in results} == {LinkDown}
    assert time.monotonic() - began_s < 3.0
    await eventually(lambda: b.downs == 1)
    assert any("peer_timeout_s" in reason for reason in a.reasons + b.reasons)  # whoever notices first


async def test_records_are_queued_all_or_none(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b", settings=LinkSettings(control_bytes_max=256 * KIB))
    link = a.links.link("b")
    with pytest.raises(LinkFull):
        link.post_records(Kind.SUBMIT, submits(256 * KIB // 24))
    link.post_records(Kind.SUBMIT, submits(5))
    await eventually(lambda: len(b.records) == 1)
    assert len(b.records[0][1]) == 5


async def test_large_tensor_does_not_delay_a_small_control_frame(cluster: Cluster) -> None:
    """64 MiB take long; records pass them: within 20 ms in the middle, though two cores are shared by all."""
    a, b = await cluster.link("a", "b")
    tensor = np.zeros(64 * MIB, np.uint8)
    took_ns: list[int] = []
    bulk_ns: list[int] = []
    for count in (1, 2, 3):
        began_ns = time.monotonic_ns()
        post = asyncio.create_task(a.links.post("b", {"bulk": True}, [tensor]))
        await asyncio.sleep(0)
        for _ in range(5):
            if post.done():
                break
            sent_ns, seen = time.monotonic_ns(), len(b.records)
            a.links.post_records("b", Kind.SUBMIT, submits(1))
            await eventually(lambda seen=seen: len(b.records) > seen)
            took_ns.append(b.records[-1][2] - sent_ns)
        await post
        await eventually(lambda count=count: len(b.messages) == count)
        bulk_ns.append(b.messages[-1][1] - began_ns)
    assert len(took_ns) >= 5
    took_ns.sort()
    assert took_ns[len(took_ns) // 2] < 20 * NS_PER_MS
    assert took_ns[0] < min(bulk_ns) / 2


async def test_small_message_is_not_behind_a_large_one(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    large = asyncio.create_task(a.links.post("b", {"n": 1}, [np.zeros(128 * MIB, np.uint8)]))
    await asyncio.sleep(0)
    await a.links.post("b", {"n": 2}, [bytes(100_000)])
    await large
    await eventually(lambda: len(b.messages) == 2)
    assert [message.metadata["n"] for message, _ in b.messages] == [2, 1]


async def test_message_given_up_half_way_is_forgotten_there(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    there = b.links.link("a")
    for _ in range(3):
        post = asyncio.create_task(a.links.post("b", {}, [np.zeros(128 * MIB, np.uint8)]))
        await eventually(lambda: there.assembly_bytes > 0)
        post.cancel()
        await asyncio.wait([post])
        await eventually(lambda: there.assembly_bytes == 0)
    await a.links.call("b", {})
    assert not b.messages
    assert a.downs == 0


async def test_calls_with_too_many_bytes_are_answered_with_queue_full(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b", settings=LinkSettings(answering_bytes_max=3 * MIB))
    calls = [a.links.call("b", {"do": "wait", "s": 0.2, "n": n}, [bytes(MIB)]) for n in range(5)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, SymphonyError)]
    assert len(refused) == 2
    assert {error.reason for error in refused} == {Reason.QUEUE_FULL}
    assert len(b.calls) == 3


async def test_busy_loop_is_not_taken_for_a_dead_peer(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    time.sleep(1.5)  # noqa: ASYNC251 - holds the loop up for longer than peer_timeout_s
    await asyncio.sleep(0.3)
    assert a.downs == b.downs == 0


async def test_impossible_round_trip_is_left_out(cluster: Cluster) -> None:
    a, _ = await cluster.link("a", "b")
    link = a.links.link("b")
    before = link.clock.estimate
    with pytest.raises(ValueError, match="cannot be"):
        link.clock.update(RoundTrip(0, 0, 10**9, 10))
    assert link.clock.estimate == before


def test_settings_that_could_keep_no_link_are_refused() -> None:
    for options in (
        {"ping_s": 0},
        {"peer_timeout_s": 0.3},
        {"backoff_max_s": 0.01},
        {"send_count_max": 0},
        {"window_bytes": 1000},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            LinkSettings(**options)
