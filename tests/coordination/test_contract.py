"""What every backend promises, in memory, on a real etcd and on a fake of Kubernetes' API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from symphony.cluster import (
    Document,
    NodeIdTaken,
    NodeRecord,
    RecordError,
    RevisionConflict,
    model_document_name,
)
from symphony.cluster.limits import DOCUMENT_BYTES_MAX, FACTS_BYTES_MAX
from symphony.cluster.store import LEADER, Area, Store
from symphony.coordination import Coordinator
from tests.coordination.conftest import TTL, die, wait_for

NewNode = Callable[..., Coordinator]
TTL_S = TTL.ttl_ns / 1e9

ALICE = NodeRecord("alice-1", "10.0.0.1:8000", {"devices": ["cuda:0", "cuda:1"], "speed": 1.5})
BOB = NodeRecord("Bob.2:x_y", "10.0.0.2:8000")


def filled(size: int) -> dict[str, str]:
    """Return content that takes `size` bytes as JSON."""
    return {"x": "a" * (size - len('{"x":""}'))}


# Members


async def test_member_is_seen_by_all_with_its_facts(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    before = await one.members().fresh()
    assert before.items == {}
    await one.join(ALICE)
    await other.join(BOB)
    for node in (one, other):
        seen = await wait_for(node.members(), lambda snapshot: len(snapshot.items) == 2)
        assert seen.items == {ALICE.id: ALICE, BOB.id: BOB}


async def test_member_that_leaves_is_gone_at_once(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    membership = await one.join(ALICE)
    watch = other.members()
    await wait_for(watch, lambda snapshot: snapshot.items)
    began = time.monotonic()
    await membership.leave()
    await wait_for(watch, lambda snapshot: not snapshot.items)
    assert time.monotonic() - began < TTL_S / 2
    assert not membership.is_held()
    assert await membership.lost() == "it was given up"
    await membership.leave()  # a second time is nothing


@pytest.mark.slow
async def test_member_stays_while_it_lives_and_goes_with_its_lease_when_it_dies(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    membership = await one.join(ALICE)
    watch = other.members()
    await wait_for(watch, lambda snapshot: snapshot.items)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5 * TTL_S):
            await wait_for(watch, lambda snapshot: not snapshot.items)
    assert membership.is_held()
    await die(one)
    held_until_ns = membership.held_until_ns
    async with asyncio.timeout(5 * TTL_S):
        await wait_for(watch, lambda snapshot: not snapshot.items)
    assert time.monotonic_ns() >= held_until_ns, "others saw it go while it still held its lease"


async def test_lease_that_is_revoked_is_reported_and_the_node_can_join_again(
    new_node: NewNode, new_store: Callable[[], Store]
) -> None:
    one = new_node()
    membership = await one.join(ALICE)
    store = new_store()
    await store.release(Area.MEMBERS, ALICE.id, membership.token)
    await store.close()
    async with asyncio.timeout(TTL_S):
        assert "no longer holds it" in await membership.lost()
    assert not membership.is_held()
    again = await one.join(ALICE)
    assert again.is_held()
    await wait_for(one.members(), lambda snapshot: snapshot.items == {ALICE.id: ALICE})


async def test_node_id_in_use_is_refused_until_it_is_free(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    membership = await one.join(ALICE)
    with pytest.raises(NodeIdTaken, match="alice-1"):
        await other.join(ALICE)
    assert membership.is_held()
    await membership.leave()
    assert (await other.join(ALICE)).is_held()


async def test_facts_at_the_limit_are_kept(new_node: NewNode) -> None:
    one = new_node()
    record = NodeRecord("n", "a:1", filled(FACTS_BYTES_MAX))
    await one.join(record)
    await wait_for(one.members(), lambda snapshot: snapshot.items == {"n": record})


# Election


async def test_one_of_many_leads_and_terms_grow_with_each_win(new_node: NewNode) -> None:
    nodes = [new_node() for _ in range(4)]
    leading: list[int] = []
    terms: list[int] = []

    async def run(index: int) -> None:
        for _ in range(2):
            leadership = await nodes[index].campaign(NodeRecord(f"n{index}", "a:1"))
            assert leading == []
            leading.append(index)
            assert leadership.require() == leadership.term
            terms.append(leadership.term)
            await asyncio.sleep(0.02)
            leading.remove(index)
            await leadership.resign()

    async with asyncio.timeout(30):
        await asyncio.gather(*(run(index) for index in range(4)))
    assert len(terms) == 8
    assert terms == sorted(set(terms)), "a term did not grow"


async def test_leader_is_seen_with_its_term_until_it_resigns(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    watch = other.leader()
    assert (await watch.fresh()).items == {}
    leadership = await one.campaign(ALICE)
    seen = await wait_for(watch, lambda snapshot: snapshot.items)
    assert (seen.items[LEADER].id, seen.items[LEADER].address) == (ALICE.id, ALICE.address)
    assert seen.items[LEADER].term == leadership.term
    await leadership.resign()
    await wait_for(watch, lambda snapshot: not snapshot.items)
    again = await one.campaign(ALICE)
    assert again.term > leadership.term


@pytest.mark.slow
async def test_leader_stays_while_it_lives_and_stands_down_before_another_leads(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    first = await one.campaign(ALICE)
    campaign = asyncio.create_task(other.campaign(BOB))
    await asyncio.sleep(1.5 * TTL_S)
    assert first.is_held()
    assert not campaign.done()
    await die(one)
    held_until_ns = first.held_until_ns
    async with asyncio.timeout(5 * TTL_S):
        second = await campaign
    assert time.monotonic_ns() > held_until_ns
    assert not first.is_held()
    assert second.term > first.term


async def test_campaign_that_is_cancelled_leaves_nothing(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    first = await one.campaign(ALICE)
    campaign = asyncio.create_task(other.campaign(BOB))
    await asyncio.sleep(0.1)
    campaign.cancel()
    await asyncio.gather(campaign, return_exceptions=True)
    await first.resign()
    await asyncio.sleep(0.3 * TTL_S)
    assert (await one.leader().fresh()).items == {}
    assert (await one.campaign(ALICE)).is_held()


# Documents


async def test_document_is_kept_and_changes_only_from_its_revision(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    name = model_document_name("resnet50", "1")
    first = await one.put(name, {"slo_ms": 100})
    assert await other.get(name) == Document(name, {"slo_ms": 100}, first)
    with pytest.raises(RevisionConflict) as caught:
        await other.put(name, {"slo_ms": 1})
    assert caught.value.found == first
    second = await other.put(name, {"slo_ms": 200}, first)
    with pytest.raises(RevisionConflict, match="read it again"):
        await one.put(name, {"slo_ms": 300}, first)
    with pytest.raises(RevisionConflict):
        await one.remove(name, first)
    assert await one.get(name) == Document(name, {"slo_ms": 200}, second)
    await one.remove(name, second)
    assert await other.get(name) is None
    for conflicting in (other.put(name, {}, second), other.remove(name, second)):
        with pytest.raises(RevisionConflict) as caught:
            await conflicting
        assert caught.value.found is None
    third = await one.put(name, {"slo_ms": 400})
    assert third not in (first, second)


async def test_no_increment_of_many_racing_writers_is_lost(new_node: NewNode) -> None:
    nodes = [new_node() for _ in range(4)]
    await nodes[0].put("counter/1", {"n": 0})

    async def increment(node: Coordinator) -> None:
        while True:
            found = await node.get("counter/1")
            assert found is not None
            try:
                await node.put("counter/1", {"n": found.content["n"] + 1}, found.revision)
                return
            except RevisionConflict:
                continue

    async with asyncio.timeout(60):
        await asyncio.gather(*(increment(node) for node in nodes * 4))
    found = await nodes[0].get("counter/1")
    assert found is not None
    assert found.content == {"n": 16}


async def test_watch_sees_every_document_in_its_last_state_and_never_goes_back(new_node: NewNode) -> None:
    writer, reader = new_node(), new_node()
    watch = reader.models()
    seen: dict[str, int] = {}

    async def follow() -> None:
        while seen.get("last/1") != 1:
            snapshot = await watch.next()
            for name, document in snapshot.items.items():
                assert document.content["n"] >= seen.get(name, 0), "a snapshot went back"
                seen[name] = document.content["n"]
            assert seen.keys() <= snapshot.items.keys()

    following = asyncio.create_task(follow())
    for round_ in range(3):
        for model in range(20):
            found = await writer.get(f"m{model}/1")
            await writer.put(f"m{model}/1", {"n": round_}, found.revision if found else "")
    await writer.put("last/1", {"n": 1})
    async with asyncio.timeout(10):
        await following
    assert seen == {**{f"m{model}/1": 2 for model in range(20)}, "last/1": 1}


async def test_removed_document_goes_from_every_watch(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    revision = await one.put("m/1", {})
    watch = other.models()
    before = await wait_for(watch, lambda snapshot: snapshot.items)
    await one.remove("m/1", revision)
    after = await wait_for(watch, lambda snapshot: not snapshot.items)
    assert after.since(before).gone == ("m/1",)


async def test_more_documents_than_one_page_are_all_listed(new_node: NewNode) -> None:
    one = new_node()
    names = {f"m{number}/1" for number in range(75)}
    await asyncio.gather(*(one.put(name, {}) for name in names))
    assert (await new_node().models().fresh()).items.keys() == names


async def test_document_at_the_limit_is_kept_and_one_above_it_is_refused(new_node: NewNode) -> None:
    one = new_node()
    await one.put("m/1", filled(DOCUMENT_BYTES_MAX))
    found = await one.get("m/1")
    assert found is not None
    assert found.content == filled(DOCUMENT_BYTES_MAX)
    with pytest.raises(RecordError, match=str(DOCUMENT_BYTES_MAX)):
        await one.put("m/1", filled(DOCUMENT_BYTES_MAX + 1), found.revision)


@pytest.mark.parametrize("garbage", [b"garbage", b"{}", b'{"document":1,"write":""}', b"[" * 10_000])
async def test_garbage_that_others_wrote_is_a_fault_by_name_and_not_an_error(
    new_node: NewNode, new_store: Callable[[], Store], garbage: bytes
) -> None:
    one, store = new_node(), new_store()
    revision = await store.write(Area.MODELS, "bad/1", garbage, "")
    await one.put("good/1", {})
    watch = one.models()
    seen = await wait_for(watch, lambda snapshot: snapshot.items)
    assert seen.items.keys() == {"good/1"}
    assert seen.faults.keys() == {"bad/1"}
    with pytest.raises(RecordError):
        await one.get("bad/1")
    assert revision is not None
    await one.put("bad/1", {"n": 1}, revision)
    await wait_for(watch, lambda snapshot: not snapshot.faults and len(snapshot.items) == 2)
    await store.close()


async def test_what_is_held_and_what_is_written_do_not_meet(new_node: NewNode) -> None:
    one = new_node()
    await one.join(ALICE)
    await one.campaign(ALICE)
    await one.put("m/1", {})
    watches: list[Any] = [one.members(), one.leader(), one.models()]
    views = [await wait_for(watch, lambda snapshot: snapshot.items) for watch in watches]
    assert [set(view.items) for view in views] == [{ALICE.id}, {LEADER}, {"m/1"}]
    assert not any(view.faults for view in views)


async def test_close_gives_up_what_is_held(new_node: NewNode) -> None:
    one, other = new_node(), new_node()
    membership, leadership = await one.join(ALICE), await one.campaign(ALICE)
    await wait_for(other.members(), lambda snapshot: snapshot.items)
    began = time.monotonic()
    await one.close()
    assert not membership.is_held()
    assert not leadership.is_held()
    await wait_for(other.members(), lambda snapshot: not snapshot.items)
    assert (await other.campaign(BOB)).is_held()
    assert time.monotonic() - began < TTL_S
