"""How watches live through cuts and forgotten history, and how writes know their own lost answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import pytest

from symphony.cluster import CoordinationError, CoordinatorUnavailable, RecordError, RevisionConflict, Timing
from symphony.cluster.limits import ENTRY_COUNT_MAX
from symphony.cluster.store import Area, Listing
from symphony.coordination import Coordinator, MemorySpace, MemoryStore
from symphony.coordination.memory import CHANGE_COUNT_MAX
from symphony.units import NS_PER_S
from tests.coordination.faulty_store import FaultyStore
from tests.coordination.manual_clock import ManualClock

TIMING = Timing()
NewNode = Callable[[], tuple[Coordinator, FaultyStore]]


async def test_watch_says_when_it_is_stale_keeps_what_it_knew_and_goes_on_by_itself(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    (writer, _), (reader, store) = faulty_node(), faulty_node()
    await writer.put("a/1", {})
    watch = reader.models()
    assert not watch.latest.is_fresh
    assert "not been read yet" in watch.latest.stale_reason
    before = await watch.fresh()
    store.cut()
    stale = await watch.next()
    assert stale.stale_reason == "the connection was cut"
    assert stale.items == before.items
    await writer.put("b/1", {})
    await clock.advance(10 * NS_PER_S)
    assert watch.latest.items.keys() == {"a/1"}
    store.mend()
    await clock.advance(TIMING.backoff_ns_max)
    after = await watch.fresh()
    assert after.items.keys() == {"a/1", "b/1"}


async def test_history_that_was_forgotten_meanwhile_is_made_up_for_by_a_new_listing(
    clock: ManualClock, space: MemorySpace, faulty_node: NewNode
) -> None:
    (writer, _), (reader, store) = faulty_node(), faulty_node()
    gone = await writer.put("gone/1", {})
    await writer.put("stays/1", {"n": 1})
    watch = reader.models()
    before = await watch.fresh()
    store.cut()
    await watch.next()
    await writer.remove("gone/1", gone)
    await writer.put("new/1", {})
    space.forget()
    store.mend()
    await clock.advance(3 * TIMING.backoff_ns_max)
    after = await watch.fresh()
    changes = after.since(before)
    assert (changes.put.keys(), changes.gone) == ({"new/1"}, ("gone/1",))
    assert store.calls["entries"] == 2


async def test_history_in_memory_is_bounded(space: MemorySpace) -> None:
    store = MemoryStore(space)
    revision = ""
    for _ in range(CHANGE_COUNT_MAX + 10):
        revision = await store.write(Area.MODELS, "m/1", b"{}", revision) or ""
    assert len(space.changes) == CHANGE_COUNT_MAX
    assert space.forgotten_revision == 10


async def test_slow_reader_gets_the_newest_and_no_backlog(clock: ManualClock, faulty_node: NewNode) -> None:
    node, _ = faulty_node()
    watch = node.models()
    await watch.fresh()
    revision = ""
    for number in range(50):
        revision = await node.put("m/1", {"n": number}, revision)
        await clock.settle()
    assert (await watch.next()).items["m/1"].content == {"n": 49}
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await watch.next()


async def test_area_with_too_many_entries_is_stale_and_says_so(
    clock: ManualClock, space: MemorySpace, faulty_node: NewNode
) -> None:
    node, _ = faulty_node()
    for number in range(ENTRY_COUNT_MAX):
        space.put(Area.MODELS, f"m{number}/1", b'{"document":{},"write":""}', is_held=False)
    watch = node.models()
    assert len((await watch.fresh()).items) == ENTRY_COUNT_MAX
    space.put(Area.MODELS, "one-more/1", b'{"document":{},"write":""}', is_held=False)
    await clock.advance(NS_PER_S)
    assert str(ENTRY_COUNT_MAX) in watch.latest.stale_reason


async def test_closing_ends_every_watch(clock: ManualClock, faulty_node: NewNode) -> None:
    node, _ = faulty_node()
    watch, other = node.models(), node.models()
    await watch.fresh()
    await other.fresh()
    seen = [snapshot async for snapshot in _until_closed(node, watch)]
    assert seen == []
    with pytest.raises(CoordinationError, match="closed"):
        await other.next()


async def _until_closed(node: Coordinator, watch: object) -> AsyncIterator[object]:
    closing = asyncio.ensure_future(node.close())
    async for snapshot in watch:  # type: ignore[attr-defined]
        yield snapshot
    await closing


async def test_write_whose_answer_is_lost_is_made_once_and_found(clock: ManualClock, faulty_node: NewNode) -> None:
    node, store = faulty_node()
    store.answers_to_lose = 2
    writing = asyncio.ensure_future(node.put("m/1", {"n": 1}))
    await clock.advance(NS_PER_S)
    revision = await writing
    found = await node.get("m/1")
    assert found is not None
    assert (found.revision, store.calls["write"]) == (revision, 3)
    store.answers_to_lose = 1
    removing = asyncio.ensure_future(node.remove("m/1", revision))
    await clock.advance(NS_PER_S)
    await removing
    assert await node.get("m/1") is None


async def test_write_that_was_made_and_replaced_before_it_was_repeated_is_said_to_be_unknown(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    (one, store), (other, _) = faulty_node(), faulty_node()
    store.answers_to_lose = 1
    writing = asyncio.ensure_future(one.put("m/1", {"n": 1}))
    await clock.settle()
    mine = await other.get("m/1")
    assert mine is not None
    await other.put("m/1", {"n": 2}, mine.revision)
    await clock.advance(NS_PER_S)
    with pytest.raises(CoordinatorUnavailable, match="not known, read it again"):
        await writing


async def test_equal_content_of_another_writer_is_a_conflict(clock: ManualClock, faulty_node: NewNode) -> None:
    (one, store), (other, _) = faulty_node(), faulty_node()
    store.cut()
    writing = asyncio.ensure_future(one.put("m/1", {"n": 1}))
    await clock.settle()
    await other.put("m/1", {"n": 1})
    store.mend()
    await clock.advance(NS_PER_S)
    with pytest.raises((RevisionConflict, CoordinatorUnavailable)):
        await writing


@pytest.mark.parametrize("seed", range(10))
async def test_increments_are_exact_over_connections_that_lose_answers(
    seed: int, clock: ManualClock, faulty_node: NewNode
) -> None:
    chance = random.Random(seed)
    nodes = [faulty_node() for _ in range(3)]
    await nodes[0][0].put("counter/1", {"n": 0})
    made = unknown = 0

    async def increment(node: Coordinator) -> None:
        nonlocal made, unknown
        for _ in range(10):
            found = await node.get("counter/1")
            assert found is not None
            try:
                await node.put("counter/1", {"n": found.content["n"] + 1}, found.revision)
                made += 1
            except RevisionConflict:
                pass
            except CoordinatorUnavailable:
                unknown += 1

    tasks = [asyncio.ensure_future(increment(node)) for node, _ in nodes]
    while not all(task.done() for task in tasks):
        for _, store in nodes:
            store.answers_to_lose = chance.randrange(2)
        await clock.advance(50_000_000)
    await asyncio.gather(*tasks)
    for _, store in nodes:
        store.answers_to_lose = 0
    found = await nodes[0][0].get("counter/1")
    assert found is not None
    assert made > 0
    assert made <= found.content["n"] <= made + unknown


async def test_removing_without_a_revision_is_refused(faulty_node: NewNode) -> None:
    node, _ = faulty_node()
    with pytest.raises(RecordError, match="read it first"):
        await node.remove("m/1", "")


async def test_quiet_watch_whose_cursor_is_forgotten_stays_fresh(
    clock: ManualClock, space: MemorySpace, faulty_node: NewNode
) -> None:
    (writer, _), (reader, store) = faulty_node(), faulty_node()
    await writer.put("m/1", {})
    watch = reader.models()
    before = await watch.fresh()
    for number in range(5):
        space.put(Area.MEMBERS, f"n{number}", b"{}", is_held=False)
    space.forget()  # the watch of models has heard of none of these
    await clock.advance(NS_PER_S)
    assert store.calls["entries"] == 2
    assert watch.latest is before


async def test_fault_of_ours_while_following_makes_the_snapshot_stale_and_is_survived(
    clock: ManualClock, faulty_node: NewNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, store = faulty_node()
    good = store.entries

    async def break_(area: Area) -> Listing:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "entries", break_)
    watch = node.models()
    assert "ZeroDivisionError" in (await watch.next()).stale_reason
    monkeypatch.setattr(store, "entries", good)
    await clock.advance(NS_PER_S)
    assert watch.latest.is_fresh
