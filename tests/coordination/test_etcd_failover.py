"""A cluster over three real etcd members while these, and the nodes, are killed and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from symphony.cluster import CoordinatorUnavailable, NodeRecord
from symphony.cluster.faults import CursorLost
from symphony.cluster.store import LEADER, Area
from symphony.coordination import Coordinator, open_coordinator
from tests.coordination.conftest import etcd_store, wait_for
from tests.coordination.etcd_cluster import ROOT, EtcdCluster
from tests.coordination.faulty_store import FaultyStore

pytestmark = [pytest.mark.sockets, pytest.mark.slow]

TTL_S = 3.0
OPERATION_S = 2 * TTL_S
ALICE, BOB = NodeRecord("alice", "a:1"), NodeRecord("bob", "b:1")
NewNode = Callable[..., Coroutine[Any, Any, Coordinator]]


@pytest.fixture(scope="module")
def members(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    cluster = EtcdCluster(etcd_binary, tmp_path_factory.mktemp("etcd3"), 3)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def three(members: EtcdCluster) -> EtcdCluster:
    """All three members, up."""
    members.start()
    members.wait_until_ready()
    return members


@pytest.fixture
def url(three: EtcdCluster, prefix: str) -> str:
    return f"etcd://{three.hosts}/{prefix}?ttl_s={TTL_S:g}"


@pytest_asyncio.fixture
async def new_node(three: EtcdCluster, url: str) -> AsyncIterator[NewNode]:
    nodes: list[Coordinator] = []

    async def make(ttl_s: float = TTL_S) -> Coordinator:
        nodes.append(await open_coordinator(f"{url.partition('?')[0]}?ttl_s={ttl_s:g}"))
        return nodes[-1]

    yield make
    three.start()  # what is held is given up in no time while a majority is up
    three.wait_until_ready()
    for node in nodes:
        await node.close()


def start_holder(url: str, file: Path) -> subprocess.Popen[bytes]:
    """Start a process that campaigns and writes down when it acts as leader."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.coordination.holder", url, "holder", str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def test_death_of_etcds_leader_costs_neither_membership_nor_leadership_nor_a_write(
    three: EtcdCluster, new_node: NewNode
) -> None:
    node, other = await new_node(ttl_s=5), await new_node()  # the default: an election of etcd's takes a second or so
    membership, leadership = await node.join(ALICE), await node.campaign(ALICE)
    watch = other.models()
    await watch.fresh()
    revision, longest_s = "", 0.0
    for number in range(60):
        if number == 20:
            three.kill(three.leader())
        began = time.monotonic()
        revision = await node.put("m/1", {"n": number}, revision)
        longest_s = max(longest_s, time.monotonic() - began)
        await asyncio.sleep(0.05)
    assert longest_s < 10
    assert membership.is_held()
    assert leadership.require() == leadership.term
    async with asyncio.timeout(OPERATION_S):
        await wait_for(watch, lambda snapshot: snapshot.items["m/1"].content == {"n": 59})


async def test_without_a_majority_everything_ends_in_time_says_so_and_comes_back(
    three: EtcdCluster, new_node: NewNode
) -> None:
    node = await new_node()
    membership, leadership = await node.join(ALICE), await node.campaign(ALICE)
    watch = node.members()
    await wait_for(watch, lambda snapshot: snapshot.items)
    revision = await node.put("m/1", {"n": 1})

    three.kill(0, 2)
    killed = time.monotonic()
    operations: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: node.put("m/1", {"n": 2}, revision),
        lambda: node.get("m/1"),
        lambda: node.join(BOB),
    ]
    for operation, result in zip(
        operations, await asyncio.gather(*(timed(each()) for each in operations)), strict=True
    ):
        error, took_s = result
        assert isinstance(error, CoordinatorUnavailable), f"{operation}: {error!r}"
        assert took_s < OPERATION_S + 0.5
    assert time.monotonic() - killed > TTL_S
    assert not leadership.is_held()
    assert not membership.is_held()
    assert "not renewed in time" in await leadership.lost()
    assert not watch.latest.is_fresh
    assert watch.latest.items == {ALICE.id: ALICE}, "what was known is kept"

    three.start(0, 2)
    three.wait_until_ready()
    async with asyncio.timeout(5 * TTL_S):
        again = await node.campaign(ALICE)
        rejoined = await node.join(ALICE)
        await wait_for(watch, lambda snapshot: ALICE.id in snapshot.items)
    assert again.term > leadership.term
    assert rejoined.is_held()
    found = await node.get("m/1")
    assert found is not None
    assert found.content["n"] in (1, 2)


async def timed(operation: Coroutine[Any, Any, Any]) -> tuple[BaseException | None, float]:
    """Return the error that an operation ends with, and how long it took."""
    began = time.monotonic()
    try:
        await operation
    except Exception as error:
        return error, time.monotonic() - began
    return None, time.monotonic() - began


async def test_data_and_terms_survive_the_death_of_all_members(three: EtcdCluster, new_node: NewNode) -> None:
    node = await new_node()
    leadership = await node.campaign(ALICE)
    revision = await node.put("m/1", {"n": 1})
    three.kill(0, 1, 2)
    three.start()
    three.wait_until_ready()
    await node.put("m/1", {"n": 2}, revision)
    if not leadership.is_held():
        again = await node.campaign(ALICE)
        assert again.term > leadership.term


async def test_holder_that_was_stopped_does_nothing_more_when_it_goes_on(
    three: EtcdCluster, new_node: NewNode, url: str, tmp_path: Path
) -> None:
    file = tmp_path / "acts"
    node = await new_node()
    holder = start_holder(url, file)
    try:
        watch = node.leader()
        async with asyncio.timeout(30):
            await wait_for(watch, lambda snapshot: snapshot.items and snapshot.items[LEADER].id == "holder")
        await asyncio.sleep(0.5)
        campaign = asyncio.create_task(node.campaign(BOB))
        holder.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(5 * TTL_S):
            leadership = await campaign
        won_ns = time.monotonic_ns()
        holder.send_signal(signal.SIGCONT)
        await asyncio.sleep(2 * TTL_S)
        assert leadership.is_held(), "the one that went on took the leadership back"
    finally:
        holder.kill()
        holder.wait()
    lines = [line.split() for line in file.read_text().splitlines()]
    acts = [(int(at), int(term)) for at, term in lines if int(term) > 0]
    ends = [(int(at), -int(term)) for at, term in lines if int(term) < 0]
    assert len(acts) > 10
    assert all(at_ns < won_ns and term < leadership.term for at_ns, term in acts)
    assert len(ends) == 1, "it knew once that it leads no more"
    assert ends[0][0] > won_ns


async def test_killed_leader_is_replaced_within_its_lease_and_a_margin(
    three: EtcdCluster, new_node: NewNode, url: str, tmp_path: Path
) -> None:
    node = await new_node()
    holder = start_holder(url, tmp_path / "acts")
    try:
        async with asyncio.timeout(30):
            await wait_for(node.leader(), lambda snapshot: snapshot.items)
        campaign = asyncio.create_task(node.campaign(BOB))
        await asyncio.sleep(0.5)
    finally:
        holder.kill()
        holder.wait()
    began = time.monotonic()
    await campaign
    assert time.monotonic() - began < 2 * TTL_S + 1


async def test_watch_that_was_cut_while_etcd_forgot_history_sees_the_last_state(
    three: EtcdCluster, new_node: NewNode, prefix: str
) -> None:
    writer = await new_node()
    store = FaultyStore(etcd_store(three, prefix))
    reader = Coordinator(store)
    try:
        gone = await writer.put("gone/1", {})
        revision = await writer.put("m/1", {"n": 0})
        watch = reader.models()
        before = await watch.fresh()
        store.cut()
        await watch.next()
        await writer.remove("gone/1", gone)
        for number in range(1, 20):
            revision = await writer.put("m/1", {"n": number}, revision)
        three.compact()
        store.mend()
        async with asyncio.timeout(10):
            after = await watch.fresh()
        assert after.items["m/1"].content == {"n": 19}
        assert after.since(before).gone == ("gone/1",)
    finally:
        await reader.close()


async def test_store_says_when_it_cannot_go_on_from_a_cursor(
    three: EtcdCluster, new_node: NewNode, prefix: str
) -> None:
    writer, store = await new_node(), etcd_store(three, prefix)
    try:
        await writer.put("m/1", {})
        cursor = (await store.entries(Area.MODELS)).cursor
        await writer.put("m/2", {})
        await writer.put("m/3", {})
        three.compact()
        with pytest.raises(CursorLost):
            async for batch in store.watch(Area.MODELS, cursor):
                assert not batch.put
    finally:
        await store.close()


async def test_watch_that_is_silent_is_begun_anew_without_a_gap(
    three: EtcdCluster, new_node: NewNode, prefix: str
) -> None:
    writer = await new_node()
    store = FaultyStore(etcd_store(three, prefix, watch_idle_s=0.3))
    reader = Coordinator(store)
    try:
        watch = reader.models()
        await watch.fresh()
        await asyncio.sleep(1.5)
        assert watch.latest.is_fresh
        assert store.calls["watch"] >= 3
        for number in range(30):
            await writer.put(f"m{number}/1", {})
            await asyncio.sleep(0.03)
        async with asyncio.timeout(5):
            await wait_for(watch, lambda snapshot: len(snapshot.items) == 30)
        assert store.calls["entries"] == 1
    finally:
        await reader.close()


async def test_member_that_is_down_from_the_start_is_passed_over(three: EtcdCluster, prefix: str) -> None:
    three.kill(0)
    node = await open_coordinator(f"etcd://{three.hosts}/{prefix}?ttl_s={TTL_S:g}")
    try:
        async with asyncio.timeout(OPERATION_S):
            await node.join(ALICE)
            await wait_for(node.members(), lambda snapshot: snapshot.items)
    finally:
        await node.close()


async def test_watch_at_a_member_that_is_cut_off_from_the_others_is_ended_by_it(
    three: EtcdCluster, new_node: NewNode, prefix: str
) -> None:
    """Without a word from the client, such a member would let a watch stand for ever: alive, and blind."""
    store = etcd_store(three, prefix, watch_idle_s=60.0, members=(1,))
    reader = Coordinator(store)
    try:
        watch = reader.models()
        await watch.fresh()
        three.kill(0, 2)
        async with asyncio.timeout(10):
            assert "no leader" in (await watch.next()).stale_reason
        three.start()
        async with asyncio.timeout(10):
            await watch.fresh()
    finally:
        await reader.close()
