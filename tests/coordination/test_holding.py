"""When a holder stands down: to the nanosecond, on a clock set by hand, over a connection with faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from symphony.cluster import (
    CoordinationError,
    CoordinatorRefused,
    CoordinatorUnavailable,
    LeaseLost,
    NodeRecord,
    Timing,
)
from symphony.cluster.store import Area
from symphony.coordination import Coordinator, Leadership, MemorySpace, MemoryStore
from symphony.units import NS_PER_S
from tests.coordination.faulty_store import FaultyStore
from tests.coordination.manual_clock import ManualClock

TIMING = Timing()
TTL_NS, MARGIN_NS, RENEWAL_NS = TIMING.ttl_ns, TIMING.margin_ns, TIMING.renewal_ns
ALICE, BOB = NodeRecord("alice", "a:1"), NodeRecord("bob", "b:1")

NewNode = Callable[[], tuple[Coordinator, FaultyStore]]


async def test_lease_is_renewed_every_third_and_held_throughout(clock: ManualClock, faulty_node: NewNode) -> None:
    node, store = faulty_node()
    began_ns = clock.now_ns()
    leadership = await node.campaign(ALICE)
    assert leadership.held_until_ns == began_ns + TTL_NS - MARGIN_NS
    for _ in range(10):
        await clock.advance(RENEWAL_NS)
        assert leadership.held_until_ns == clock.now_ns() + TTL_NS - MARGIN_NS
    assert store.calls["renew"] == 10


async def test_leader_that_is_cut_off_stands_down_a_margin_before_another_can_lead(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    (one, one_store), (other, _) = faulty_node(), faulty_node()
    first = await one.campaign(ALICE)
    campaign = asyncio.ensure_future(other.campaign(BOB))
    await clock.advance(RENEWAL_NS)  # renewed at this instant
    renewed_ns = clock.now_ns()
    one_store.cut()
    await clock.advance(TTL_NS - MARGIN_NS - 1)
    assert first.is_held()
    await clock.advance(1)
    assert not first.is_held()
    assert first.held_until_ns == 0
    assert "was not renewed in time: the connection is cut" in await first.lost()
    with pytest.raises(LeaseLost, match=f"term {first.term}"):
        first.require()
    await clock.advance(MARGIN_NS - 1)
    assert not campaign.done()
    await clock.advance(1)
    second = await campaign
    assert clock.now_ns() == renewed_ns + TTL_NS
    assert second.term > first.term


async def test_lease_counts_from_before_the_request_and_not_from_its_answer(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    node, store = faulty_node()
    leadership = await node.campaign(ALICE)
    await clock.advance(RENEWAL_NS - 1)
    store.freeze()
    await clock.advance(1)
    sent_ns = clock.now_ns()
    await clock.advance(NS_PER_S)
    store.thaw()
    await clock.settle()
    assert leadership.held_until_ns == sent_ns + TTL_NS - MARGIN_NS


async def test_win_whose_answer_comes_too_late_is_none(clock: ManualClock, faulty_node: NewNode) -> None:
    (one, one_store), (other, _) = faulty_node(), faulty_node()
    one_store.freeze()
    campaign = asyncio.ensure_future(one.campaign(ALICE))
    await clock.settle()
    await clock.advance(TTL_NS)
    second = await other.campaign(BOB)
    one_store.thaw()
    await clock.settle()
    assert not campaign.done()
    assert second.is_held()
    campaign.cancel()
    await asyncio.gather(campaign, return_exceptions=True)
    await clock.settle()
    assert second.is_held()
    await clock.advance(2 * TTL_NS)
    assert second.is_held()


async def test_process_that_stood_still_knows_it_before_anything_else_has_run(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    node, _ = faulty_node()
    leadership, membership = await node.campaign(ALICE), await node.join(ALICE)
    await clock.jump(TTL_NS - MARGIN_NS)  # no task has run yet
    assert not leadership.is_held()
    assert not membership.is_held()
    with pytest.raises(LeaseLost, match="campaign again"):
        leadership.require()
    await clock.advance(0)
    assert "not renewed in time" in await leadership.lost()


async def test_renewals_that_fail_are_tried_again_at_once_and_cost_nothing(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    node, store = faulty_node()
    leadership = await node.campaign(ALICE)
    for _ in range(5):
        store.answers_to_lose = 3
        await clock.advance(RENEWAL_NS)
        assert leadership.is_held()
    assert clock.now_ns() < leadership.held_until_ns
    await clock.advance(RENEWAL_NS)
    assert leadership.held_until_ns == pytest.approx(clock.now_ns() + TTL_NS - MARGIN_NS, abs=RENEWAL_NS)


async def test_store_that_is_away_is_not_hammered(clock: ManualClock, faulty_node: NewNode) -> None:
    node, store = faulty_node()
    await node.join(ALICE)
    store.cut()
    await clock.advance(60 * NS_PER_S)
    assert store.calls["renew"] <= 15
    assert sum(store.calls.values()) <= 60


async def test_win_whose_answer_is_lost_is_recognised_and_has_one_term(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    node, store = faulty_node()
    store.answers_to_lose = 2  # of the acquisition and of its first repetition, or of listings
    campaign = asyncio.ensure_future(node.campaign(ALICE))
    await clock.advance(NS_PER_S)
    leadership = await campaign
    assert store.calls["acquire"] >= 2
    assert leadership.term == 1
    assert leadership.is_held()


async def test_joining_an_unreachable_store_ends_in_bounded_time_and_attempts(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    node, store = faulty_node()
    store.cut()
    joining = asyncio.ensure_future(node.join(ALICE))
    await clock.advance(TIMING.operation_ns - 1)
    assert not joining.done()
    await clock.advance(1)
    with pytest.raises(
        CoordinatorUnavailable, match=r"joining as alice: faulty memory gave no usable answer within 10 s"
    ):
        await joining
    assert 5 <= store.calls["acquire"] <= 25


async def test_store_that_never_answers_ends_in_bounded_time(clock: ManualClock, faulty_node: NewNode) -> None:
    node, store = faulty_node()
    store.freeze()
    joining = asyncio.ensure_future(node.join(ALICE))
    await clock.advance(TIMING.operation_ns)
    with pytest.raises(CoordinatorUnavailable):
        await joining
    store.thaw()


async def test_node_joins_again_although_its_old_lease_still_stands(
    clock: ManualClock, space: MemorySpace, faulty_node: NewNode
) -> None:
    node, store = faulty_node()
    membership = await node.join(ALICE)
    store.cut()
    await clock.advance(TTL_NS - MARGIN_NS)
    assert not membership.is_held()
    assert ALICE.id in space.entries[Area.MEMBERS]
    store.mend()
    again = await node.join(ALICE)
    assert again.is_held()
    await clock.advance(3 * TTL_NS)
    assert again.is_held()


async def test_lost_leadership_is_given_up_in_the_store_once_it_can_be_told(
    clock: ManualClock, space: MemorySpace, faulty_node: NewNode
) -> None:
    node, store = faulty_node()
    leadership = await node.campaign(ALICE)
    store.cut()
    await clock.advance(TTL_NS - MARGIN_NS)
    assert not leadership.is_held()
    assert space.entries[Area.ELECTION]
    store.mend()
    await clock.advance(MARGIN_NS - 1)  # before the lease itself ends
    assert not space.entries[Area.ELECTION]


async def test_resigning_while_the_store_is_away_stands_down_first_and_then_says_so(
    clock: ManualClock, faulty_node: NewNode
) -> None:
    (one, one_store), (other, _) = faulty_node(), faulty_node()
    leadership = await one.campaign(ALICE)
    one_store.cut()
    resigning = asyncio.ensure_future(leadership.resign())
    await clock.settle()
    assert not leadership.is_held()
    await clock.advance(TIMING.operation_ns)
    with pytest.raises(CoordinatorUnavailable):
        await resigning
    assert (await other.campaign(BOB)).is_held()


async def test_refused_renewals_are_tried_until_the_lease_is_over(
    clock: ManualClock, faulty_node: NewNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, store = faulty_node()
    leadership = await node.campaign(ALICE)

    async def refuse(*arguments: Any) -> bool:
        raise CoordinatorRefused("the login is being changed")

    with monkeypatch.context() as refusing:
        refusing.setattr(store, "renew", refuse)
        await clock.advance(RENEWAL_NS + NS_PER_S)
    await clock.advance(TTL_NS)
    assert leadership.is_held(), "it was refused for a second only"
    monkeypatch.setattr(store, "renew", refuse)
    await clock.advance(TTL_NS)
    assert "the login is being changed" in await leadership.lost()


async def test_fault_of_ours_while_renewing_is_reported_to_whoever_waits(
    clock: ManualClock, faulty_node: NewNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, store = faulty_node()
    leadership = await node.campaign(ALICE)

    async def break_(*arguments: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "renew", break_)
    await clock.advance(RENEWAL_NS)
    assert "ZeroDivisionError" in await leadership.lost()
    assert not leadership.is_held()


async def test_nothing_can_be_asked_of_a_closed_coordinator(clock: ManualClock, faulty_node: NewNode) -> None:
    (holder, _), (node, _) = faulty_node(), faulty_node()
    leadership = await holder.campaign(ALICE)
    campaign = asyncio.ensure_future(node.campaign(BOB))
    await clock.settle()
    await node.close()
    await clock.advance(TTL_NS)
    with pytest.raises(CoordinationError, match="closed"):
        await campaign
    for call in (node.join(BOB), node.campaign(BOB), node.put("m/1", {}), node.get("m/1"), node.remove("m/1", "1")):
        with pytest.raises(CoordinationError, match="was closed; open another"):
            await call
    with pytest.raises(CoordinationError, match="was closed"):
        node.members()
    await node.close()
    assert leadership.is_held()


class PausableClock:
    """A node's clock: while the node is paused its sleeps do not end, but time passes."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.runs = asyncio.Event()
        self.runs.set()

    def now_ns(self) -> int:
        return self._clock.now_ns()

    async def sleep_until(self, at_ns: int) -> None:
        await self._clock.sleep_until(at_ns)
        await self.runs.wait()


class Contender:
    """A node that always wants to lead."""

    def __init__(self, index: int, space: MemorySpace, clock: ManualClock, seed: int) -> None:
        self.store = FaultyStore(MemoryStore(space))
        self.clock = PausableClock(clock)
        self.node = Coordinator(self.store, TIMING, clock=self.clock, chance=random.Random(seed * 100 + index))
        self.record = NodeRecord(f"n{index}", "a:1")
        self.leadership: Leadership | None = None
        self.terms: list[int] = []
        self.task = asyncio.ensure_future(self._run())

    @property
    def leads(self) -> bool:
        return self.leadership is not None and self.leadership.is_held()

    def pause(self) -> None:
        self.clock.runs.clear()
        self.store.freeze()

    def go_on(self) -> None:
        self.clock.runs.set()
        self.store.thaw()

    async def _run(self) -> None:
        while True:
            self.leadership = await self.node.campaign(self.record)
            self.terms.append(self.leadership.term)
            await self.leadership.lost()


@pytest.mark.parametrize("seed", range(40))
async def test_there_is_never_more_than_one_leader_whatever_fails(seed: int) -> None:
    chance = random.Random(seed)
    clock = ManualClock()
    space = MemorySpace(clock)
    nodes = [Contender(index, space, clock, seed) for index in range(4)]
    wins: list[int] = []
    faults: list[Callable[[Contender], None]] = [
        lambda node: node.store.cut(),
        lambda node: node.store.mend(),
        lambda node: node.store.mend(),
        lambda node: node.store.freeze(),
        Contender.pause,
        Contender.go_on,
        Contender.go_on,
        lambda node: setattr(node.store, "answers_to_lose", chance.randrange(4)),
        lambda node: space.forget(),
    ]
    for _ in range(120):
        await clock.advance(chance.randrange(TTL_NS // 4))
        leaders = [node for node in nodes if node.leads]
        assert len(leaders) <= 1, f"seed {seed}: {[node.record.id for node in leaders]} lead at once"
        for node in leaders:
            assert node.leadership is not None
            if not wins or wins[-1] != node.leadership.term:
                wins.append(node.leadership.term)
        node = chance.choice([*nodes, *leaders])
        if chance.random() < 0.1 and node.leads and node.leadership is not None:
            node.task.get_loop().create_task(_resign(node.leadership))
        else:
            chance.choice(faults)(node)
    for node in nodes:
        node.store.mend()
        node.go_on()
        node.store.answers_to_lose = 0
    await clock.advance(3 * TTL_NS)
    assert sum(node.leads for node in nodes) == 1, f"seed {seed}: nobody leads although all is well again"
    assert wins == sorted(set(wins)), f"seed {seed}: a term did not grow: {wins}"
    assert all(node.terms == sorted(set(node.terms)) for node in nodes)
    for node in nodes:
        node.task.cancel()
    for node in nodes:
        closing = asyncio.ensure_future(node.node.close())
        while not closing.done():
            await clock.advance(NS_PER_S)


async def _resign(leadership: Leadership) -> None:
    try:
        await leadership.resign()
    except CoordinatorUnavailable:
        return
