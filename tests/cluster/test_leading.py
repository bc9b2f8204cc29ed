"""What the leader makes of messages: one test a rule."""

from __future__ import annotations

import pytest

from symphony.cluster.distance import HERE, Distance
from symphony.cluster.leading import Leader
from symphony.cluster.protocol import (
    BatchBegan,
    BatchEnded,
    Cancel,
    Deregister,
    Dismissed,
    Dropped,
    Freed,
    GpuChanged,
    OfferedGpu,
    OfferedModel,
    OfferedProfile,
    Outdated,
    Peer,
    PeerLost,
    PeersMeasured,
    Plans,
    Register,
    Registered,
    StoodDown,
    Submit,
)
from symphony.cluster.scheduling import SteppedCore
from symphony.core import RequestArrived, Scheduler

MS = 1_000_000
TERM = 7
CONTROL_NS = 2 * MS
TABLE = tuple((2 + b) * MS for b in range(1, 5))
MODELS = (OfferedModel("a/1", 50 * MS, 4), OfferedModel("b/1", 80 * MS, 4))


class RecordingCore(SteppedCore):
    """The real core; remembers the events."""

    def __init__(self, request_count_max: int = 64) -> None:
        scheduler = Scheduler(
            policy="eager",
            control_ns=CONTROL_NS,
            lead_ns=CONTROL_NS,
            request_count_max=request_count_max,
            gpu_count_max=16,
            model_count_max=8,
        )
        super().__init__(scheduler, request_count_max)
        self.events: list = []

    def apply(self, now_ns, events):
        self.events += events
        return super().apply(now_ns, events)


class Bench:
    """A leader with distances that the test sets; `take()` gives what it sent."""

    def __init__(self, request_count_max: int = 64) -> None:
        self.core = RecordingCore(request_count_max)
        self.sent: list[tuple[str, object]] = []
        self.distances: dict[str, Distance] = {"L": HERE}
        self.leader = Leader(
            TERM,
            self.core,
            10_000 * MS,
            lambda node, message: self.sent.append((node, message)),
            self.distances.get,
            control_ns=CONTROL_NS,
            gpu_count_max=16,
            model_count_max=8,
        )

    def take(self) -> list[tuple[str, object]]:
        sent, self.sent = self.sent, []
        return sent

    def join(self, node: str, gpu_count: int = 1, *, kind: str = "k", peers: dict[str, int] | None = None, **changes):
        """Register a node with links to all that are registered, and free its GPUs."""
        self.distances.setdefault(node, Distance())
        peers = dict.fromkeys(self.leader.node_ids, 0) if peers is None else peers
        models = changes.get("models", MODELS)
        tables = changes.get("tables", [TABLE] * len(models))
        register = Register(
            TERM,
            1,
            models,
            tuple(OfferedProfile(m, kind, table) for m, table in enumerate(tables)) if gpu_count else (),
            tuple(OfferedGpu(kind, tuple(range(len(models)))) for _ in range(gpu_count)),
            tuple(Peer(peer, data_ns) for peer, data_ns in peers.items()),
        )
        self.leader.receive(0, node, register)
        for gpu in range(gpu_count):
            self.leader.receive(0, node, Freed(TERM, gpu))

    def submit(self, node: str, *keys: int, model: int = 0, deadline_ns: int = 50 * MS, now_ns: int = 0) -> None:
        n = len(keys)
        self.leader.receive(now_ns, node, Submit(TERM, keys, [model] * n, [deadline_ns] * n, [4] * n))

    def plans(self) -> list[tuple[str, object]]:
        return [(node, plan) for node, message in self.take() if isinstance(message, Plans) for plan in message.plans]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_requests_of_two_nodes_share_a_batch_on_a_third(bench: Bench) -> None:
    bench.join("gpu")
    bench.join("in1", 0)
    bench.join("in2", 0, models=MODELS[::-1])
    bench.take()
    bench.submit("in1", 1 << 40)  # starts at once; the next two wait and then go together
    bench.submit("in1", 5)
    bench.submit("in2", 5, model=1)
    (_, first) = bench.plans()[0]
    assert [(part.ingress, tuple(part.requests)) for part in first.members] == [("in1", (1 << 40,))]
    bench.leader.receive(3 * MS, "gpu", BatchBegan(TERM, first.plan_id, 0, 3 * MS))
    bench.leader.wake(bench.leader.wakeup_ns)
    ((node, second),) = bench.plans()
    assert (node, second.gpu, second.model) == ("gpu", 0, 0)
    assert [(part.ingress, tuple(part.requests)) for part in second.members] == [("in1", (5,)), ("in2", (5,))]


def test_plan_names_model_and_gpu_as_its_node_does(bench: Bench) -> None:
    bench.join("one", models=MODELS)
    bench.leader.receive(0, "one", GpuChanged(TERM, 0, (), True))
    bench.join("two", 2, models=MODELS[::-1])
    bench.leader.receive(0, "two", GpuChanged(TERM, 0, (0, 1), False))
    bench.take()
    bench.submit("one", 9, model=0)
    ((node, plan),) = bench.plans()
    assert (node, plan.gpu, plan.model) == ("two", 1, 1)


def test_gpu_gets_nothing_before_it_is_freed(bench: Bench) -> None:
    bench.distances["n"] = Distance()
    gpus = (OfferedGpu("k", (0,)),)
    bench.leader.receive(0, "n", Register(TERM, 1, MODELS[:1], (OfferedProfile(0, "k", TABLE),), gpus, ()))
    assert bench.take() == [("n", Registered(TERM, 1))]
    bench.submit("n", 1)
    assert bench.take() == []
    bench.leader.receive(MS, "n", Freed(TERM, 0))
    assert len(bench.plans()) == 1


def test_deadline_is_read_on_the_leaders_clock_with_bound_and_way_back_subtracted(bench: Bench) -> None:
    bench.join("gpu")
    bench.distances["in"] = Distance(offset_ns=1000 * MS, bound_ns=MS)
    bench.join("in", 0, peers={"gpu": 3 * MS})
    bench.submit("in", 1, deadline_ns=1060 * MS)
    arrived = [event for event in bench.core.events if isinstance(event, RequestArrived)]
    # plan 0, fetch and inputs 3 ms each: 4 ms more than control; outputs 3 ms
    assert arrived[0].deadline_ns == (60 - 1 - 3 - 4) * MS
    bench.leader.receive(0, "in", PeersMeasured(TERM, (Peer("gpu", MS),)))
    bench.submit("in", 2, deadline_ns=1060 * MS)
    arrived = [event for event in bench.core.events if isinstance(event, RequestArrived)]
    assert arrived[1].deadline_ns == (60 - 1 - 1) * MS


def test_way_counts_what_the_leaders_own_link_takes_now(bench: Bench) -> None:
    bench.join("gpu")
    bench.join("in", 0)
    bench.submit("in", 1)
    bench.distances["gpu"] = Distance(data_ns=7 * MS)
    bench.leader.link_measured()
    bench.submit("in", 2)
    deadlines = [event.deadline_ns for event in bench.core.events if isinstance(event, RequestArrived)]
    assert deadlines == [50 * MS, 45 * MS]


def test_own_requests_on_own_gpus_have_no_way(bench: Bench) -> None:
    bench.distances["n"] = Distance(data_ns=9 * MS)
    bench.join("n", 1, peers={"other": 9 * MS})
    bench.submit("n", 1)
    assert [e.deadline_ns for e in bench.core.events if isinstance(e, RequestArrived)] == [50 * MS]


def test_plans_of_a_lost_node_that_have_not_begun_are_planned_again(bench: Bench) -> None:
    bench.join("g1")
    bench.join("g2")
    bench.join("in", 0)
    bench.take()
    bench.submit("in", 1)
    ((node, _),) = bench.plans()
    bench.leader.link_lost(MS, node)
    ((other, plan),) = bench.plans()
    assert {node, other} == {"g1", "g2"}
    assert plan.members[0].requests == (1,)


def test_plan_that_has_begun_is_between_the_nodes(bench: Bench) -> None:
    bench.join("g1")
    bench.join("g2")
    bench.join("in", 0)
    bench.take()
    bench.submit("in", 1)
    ((node, plan),) = bench.plans()
    bench.leader.receive(MS, node, BatchBegan(TERM, plan.plan_id, 0, MS))
    bench.leader.link_lost(MS, node)
    assert bench.plans() == []


@pytest.mark.parametrize("at_ns", [-(1 << 62), 0, 3 * MS, 1 << 62])
def test_instant_of_a_batch_lies_between_its_decision_and_now(bench: Bench, at_ns: int) -> None:
    bench.join("n")
    bench.take()
    bench.submit("n", 1, now_ns=2 * MS)
    ((_, plan),) = bench.plans()
    bench.leader.receive(4 * MS, "n", BatchBegan(TERM, plan.plan_id, 0, at_ns))
    assert bench.core.events[-1].started_ns == min(max(2 * MS, at_ns), 4 * MS)


def test_requests_of_a_lost_node_are_forgotten(bench: Bench) -> None:
    bench.join("gpu", 0)
    bench.join("in", 0)
    bench.join("late", 1)
    bench.leader.receive(0, "late", GpuChanged(TERM, 0, (0, 1), False))
    bench.submit("in", 1, 2)
    assert bench.leader.request_count == 2
    bench.leader.receive(0, "in", Deregister(TERM))
    assert bench.leader.request_count == 0
    assert bench.core.queued_count == 0
    bench.take()
    bench.submit("in", 3)
    assert bench.take() == [], "it is not registered"


def test_cancelled_request_is_planned_no_more(bench: Bench) -> None:
    bench.join("n")
    bench.leader.receive(0, "n", GpuChanged(TERM, 0, (0, 1), False))
    bench.submit("n", 1, 2)
    bench.leader.receive(0, "n", Cancel(TERM, (1, 99)))
    bench.take()
    bench.leader.receive(0, "n", GpuChanged(TERM, 0, (0, 1), True))
    assert [part.requests for _, plan in bench.plans() for part in plan.members] == [(2,)]


def test_request_submitted_twice_is_planned_once(bench: Bench) -> None:
    bench.join("n")
    bench.leader.receive(0, "n", GpuChanged(TERM, 0, (0, 1), False))
    bench.submit("n", 1)
    bench.submit("n", 1)
    assert bench.leader.request_count == 1


def test_refusals_come_with_their_reasons() -> None:
    bench = Bench(request_count_max=1)
    bench.join("n")
    bench.leader.receive(0, "n", GpuChanged(TERM, 0, (0, 1), False))
    bench.take()
    bench.leader.receive(
        0, "n", Submit(TERM, (1, 2, 3, 4), (0, 0, 9, 0), (50 * MS, 50 * MS, 50 * MS, 1 << 62), (4,) * 4)
    )
    ((node, dropped),) = bench.take()
    assert node == "n"
    assert dict(zip(dropped.requests, dropped.reasons, strict=True)) == {
        2: "queue_full",
        3: "unknown_model",
        4: "bad_input",
    }
    bench.leader.wake(49 * MS)
    assert bench.take() == [("n", Dropped(TERM, (1,), ("would_miss",)))]


def test_what_is_for_another_term_is_ignored(bench: Bench) -> None:
    bench.join("n")
    bench.take()
    before = len(bench.core.events)
    for message in (
        Submit(TERM - 1, (1,), (0,), (50 * MS,), (4,)),
        Cancel(TERM - 1, (1,)),
        Freed(TERM + 1, 0),
        GpuChanged(TERM - 1, 0, (), False),
        Deregister(TERM - 1),
        PeerLost(TERM - 1, "x"),
        BatchEnded(TERM - 1, 1, 0, 0),
        Register(TERM - 1, 1, (), (), (), ()),
        Outdated(TERM),
    ):
        bench.leader.receive(0, "n", message)
    assert bench.take() == []
    assert len(bench.core.events) == before
    assert not bench.leader.is_over


def test_leader_stands_down_when_its_lease_ends_and_says_so(bench: Bench) -> None:
    bench.join("n")
    bench.take()
    bench.leader.renewed(20 * MS)
    assert bench.leader.wakeup_ns <= 20 * MS
    bench.submit("n", 1, now_ns=20 * MS)
    assert bench.take() == [("n", StoodDown(TERM))], "and no plan"
    bench.leader.renewed(90 * MS)
    bench.submit("n", 2, now_ns=21 * MS)
    assert bench.take() == [], "it does not come back"


def test_leader_stands_down_when_it_hears_of_a_newer_term(bench: Bench) -> None:
    bench.join("n")
    bench.leader.receive(0, "n", Outdated(TERM + 1))
    assert bench.leader.is_over


def test_node_without_a_link_to_a_registered_one_is_dismissed(bench: Bench) -> None:
    bench.join("a")
    bench.take()
    bench.join("b", peers={})
    ((node, answer),) = bench.take()
    assert node == "b"
    assert isinstance(answer, Dismissed)
    assert "no link to a" in answer.why
    assert bench.leader.node_ids == ["a"]


def test_node_that_lost_more_links_is_dismissed(bench: Bench) -> None:
    for node in "abcd":
        bench.join(node)
    bench.take()
    bench.leader.receive(0, "d", PeerLost(TERM, "a"))
    assert bench.leader.node_ids == ["b", "c", "d"], "one complaint: the one complained about"
    bench.join("a", peers=dict.fromkeys("bcd", 0))
    bench.leader.receive(0, "d", PeerLost(TERM, "a"))
    bench.leader.receive(0, "d", PeerLost(TERM, "b"))
    assert "c" in bench.leader.node_ids
    assert [message.why for _, message in bench.take() if isinstance(message, Dismissed)][-1].startswith("the link")


def test_profiles_of_one_kind_are_as_slow_as_the_slowest(bench: Bench) -> None:
    slow = tuple(2 * ns for ns in TABLE)
    bench.join("fast")
    bench.join("slow", tables=[slow, slow])
    tables = [event.latency_ns for event in bench.core.events if hasattr(event, "latency_ns")]
    assert tables[-1] == slow
    bench.leader.link_lost(0, "slow")
    assert [event.latency_ns for event in bench.core.events if hasattr(event, "latency_ns")][-1] == TABLE


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tables": [TABLE[::-1], TABLE]}, "not a rising table"),
        ({"tables": [(), TABLE]}, "not a rising table"),
        ({"tables": [TABLE, TABLE, TABLE]}, "model 2 of 2"),
        ({"models": (OfferedModel("a/1", 0, 4),), "tables": [TABLE]}, "out of range"),
        ({"models": (OfferedModel("a/1", 50 * MS, (1 << 16) + 1),), "tables": [TABLE]}, "out of range"),
    ],
)
def test_offer_that_makes_no_sense_is_dismissed_with_the_reason(bench: Bench, changes: dict, why: str) -> None:
    bench.join("n", **changes)
    ((_, answer),) = bench.take()
    assert why in answer.why
    assert bench.leader.node_ids == []


def test_nothing_is_left_of_nodes_that_went(bench: Bench) -> None:
    for _ in range(40):  # more GPUs and models than there is room for at once
        bench.join("a", 8)
        bench.join("b", 8)
        bench.submit("a", *range(10))
        bench.leader.link_lost(0, "a")
        bench.leader.receive(0, "b", Deregister(TERM))
    assert bench.leader.node_ids == []
    assert bench.leader.plan_count == bench.leader.request_count == 0
    assert len(bench.leader._gpu_ids) == 16
    assert len(bench.leader._model_ids) == 8
    assert len(bench.leader._ids) == 64
