"""What one node does about leaders, links and its own requests: message by message."""

from __future__ import annotations

import pytest

from symphony.cluster.accepting import ATTEMPT_COUNT_MAX
from symphony.cluster.actions import Answer, Refuse, Run, Send
from symphony.cluster.distance import Distance
from symphony.cluster.keys import GENERATION_COUNT, SLOT_COUNT_MAX, make_key, next_key, slot_of
from symphony.cluster.protocol import (
    Cancel,
    Deregister,
    Dismissed,
    Dropped,
    Failed,
    Fetch,
    Freed,
    GpuChanged,
    Inputs,
    Members,
    OfferedGpu,
    OfferedModel,
    OfferedProfile,
    Outdated,
    Outputs,
    Peer,
    PeerLost,
    PeersMeasured,
    Plan,
    Plans,
    Register,
    Registered,
    Returned,
    StoodDown,
    Submit,
    Withdraw,
)
from symphony.cluster.scheduling import SteppedCore
from symphony.cluster.serving import ClusterNode, Offer, Patience, Standing
from symphony.core import Scheduler

MS = 1_000_000
TABLE = tuple((2 + b) * MS for b in range(1, 5))
PATIENCE = Patience(fetch_wait_ns=4 * MS, overdue_ns=20 * MS, register_every_ns=100 * MS)


def make_core() -> SteppedCore:
    return SteppedCore(Scheduler(policy="eager", request_count_max=64, gpu_count_max=8, model_count_max=4), 64)


def make_node(gpu_count: int = 1, request_count_max: int = 64) -> ClusterNode:
    offer = Offer(
        (OfferedModel("a/1", 50 * MS, 4),),
        (OfferedProfile(0, "k", TABLE),) if gpu_count else (),
        tuple(OfferedGpu("k", (0,)) for _ in range(gpu_count)),
    )
    node = ClusterNode("me", offer, make_core(), request_count_max=request_count_max, patience=PATIENCE)
    node.wake(0)
    return node


def following(gpu_count: int = 1) -> ClusterNode:
    """Return a node that follows L in term 5."""
    node = make_node(gpu_count)
    node.link_up(0, "L", Distance())
    node.leader_seen(0, "L", 5)
    node.receive(0, "L", Registered(5, 1))
    node.take()
    return node


def sent(node: ClusterNode, kind: type | tuple = object) -> list:
    return [action.message for action in node.take() if isinstance(action, Send) and isinstance(action.message, kind)]


def test_key_of_a_reused_slot_is_another() -> None:
    key = make_key(3, 0)
    assert next_key(key) != key
    assert slot_of(next_key(key)) == 3
    assert next_key(make_key(SLOT_COUNT_MAX - 1, GENERATION_COUNT - 1)) == SLOT_COUNT_MAX - 1
    assert 0 <= make_key(SLOT_COUNT_MAX - 1, GENERATION_COUNT - 1) < 1 << 64


def test_node_alone_serves_on_its_own_gpu_and_sends_nothing() -> None:
    node = make_node()
    key = node.accept(0, 0, 50 * MS, 4)
    (run,) = node.take()
    assert run == Run(0, 0, 0, 1, (Members("me", (key,)),))
    node.ran(4 * MS, 0, 1, 4 * MS)
    assert node.take() == [Answer((key,), "me")]
    assert node.request_count == node.plan_count == 0


def test_leader_serves_its_own_requests_on_its_own_gpus_without_sending() -> None:
    node = make_node()
    node.link_up(0, "other", Distance())
    node.lead(0, 3, make_core(), 1000 * MS, control_ns=0)
    assert node.following == ("me", 3)
    key = node.accept(MS, 0, 50 * MS, 4)
    assert node.take() == [Run(0, 0, 3, 1, (Members("me", (key,)),))]
    node.ran(4 * MS, 3, 1, 4 * MS)
    assert node.take() == [Answer((key,), "me")]


def test_node_without_gpus_says_so_at_once_while_alone() -> None:
    node = make_node(0)
    key = node.accept(0, 0, 50 * MS, 4)
    assert node.take() == [Refuse(key, "no_gpu")]


def test_too_many_requests_are_not_accepted() -> None:
    node = make_node(request_count_max=2)
    assert None not in node.accept_many(0, [(0, 50 * MS, 4)] * 2)
    assert node.accept(0, 0, 50 * MS, 4) is None


def test_what_has_not_started_is_submitted_once_the_leader_has_registered_the_node() -> None:
    node = make_node()
    keys = node.accept_many(0, [(0, 50 * MS, 4)] * 3)
    (run,) = node.take()
    began = run.members[0].requests
    node.link_up(0, "L", Distance())
    node.leader_seen(0, "L", 5)
    (register,) = sent(node)
    assert isinstance(register, Register)
    assert node.standing is Standing.REGISTERING
    node.receive(MS, "L", Registered(5, register.attempt))
    (submit,) = sent(node)
    assert isinstance(submit, Submit)
    assert set(submit.requests) == set(keys) - set(began)
    node.ran(4 * MS, 0, 1, 4 * MS)
    assert node.take() == [Answer(began, "me"), Send("L", Freed(5, 0))]


def test_submitted_requests_come_back_when_the_leader_is_lost() -> None:
    node = following()
    key = node.accept(0, 0, 50 * MS, 4)
    assert sent(node, Submit)
    node.link_lost(MS, "L")
    assert node.take() == [Run(0, 0, 0, 1, (Members("me", (key,)),))]


def test_submitted_requests_come_back_when_the_leader_stands_down_or_dismisses() -> None:
    for message in (StoodDown(5), Dismissed(5, 1, "because")):
        node = following()
        key = node.accept(0, 0, 50 * MS, 4)
        node.take()
        node.receive(MS, "L", message)
        assert Run(0, 0, 0, 1, (Members("me", (key,)),)) in node.take()
        node.wake(200 * MS)
        assert bool(sent(node, Register)) == isinstance(message, Dismissed), "it asks again only who still leads"


def test_nobody_leading_any_more_is_told_to_the_one_that_was_followed() -> None:
    node = following()
    node.leader_seen(MS, None)
    assert sent(node) == [Deregister(5)]
    assert node.standing is Standing.ALONE


def test_answers_to_an_earlier_registration_are_ignored() -> None:
    node = make_node()
    node.link_up(0, "L", Distance())
    node.leader_seen(0, "L", 5)
    node.leader_seen(0, None)
    node.leader_seen(0, "L", 5)
    assert [message.attempt for message in sent(node, Register)] == [1, 2]
    node.receive(MS, "L", Registered(5, 1))
    assert node.following is None
    node.receive(MS, "L", Registered(5, 2))
    assert node.following == ("L", 5)


def test_what_changed_while_the_node_asked_is_told_once_it_is_registered() -> None:
    node = make_node()
    node.link_up(0, "L", Distance())
    node.link_up(0, "x", Distance(data_ns=30 * MS))
    node.link_up(0, "y", Distance())
    node.leader_seen(0, "L", 5)
    node.link_measured(0, "x", Distance(data_ns=MS))
    node.link_lost(0, "y")
    node.link_up(0, "z", Distance(data_ns=2 * MS))
    node.change_gpu(0, 0, (), True)
    node.take()
    node.receive(0, "L", Registered(5, 1))
    assert sent(node)[:3] == [
        GpuChanged(5, 0, (), True),
        PeerLost(5, "y"),
        PeersMeasured(5, (Peer("x", MS), Peer("z", 2 * MS))),
    ]


def test_way_over_a_link_is_told_when_it_changed_by_an_eighth() -> None:
    node = following()
    node.link_up(0, "x", Distance(data_ns=8 * MS))
    node.take()
    for data_ns, told in ((9 * MS, False), (7 * MS, False), (9 * MS + 1, True), (10 * MS, False), (2 * MS, True)):
        node.link_measured(0, "x", Distance(data_ns=data_ns))
        assert bool(sent(node, PeersMeasured)) == told, data_ns


def test_registration_that_nobody_wants_any_more_is_undone() -> None:
    node = make_node()
    node.link_up(0, "L", Distance())
    node.leader_seen(0, "L", 5)
    node.leader_seen(0, None)
    node.take()
    node.receive(MS, "L", Registered(5, 1))
    assert sent(node) == [Deregister(5)]


def test_register_at_a_node_that_does_not_lead_is_answered() -> None:
    node = make_node()
    node.link_up(0, "n", Distance())
    node.receive(0, "n", Register(5, 3, (), (), (), ()))
    (answer,) = sent(node)
    assert (answer.term, answer.attempt) == (5, 3)
    assert isinstance(answer, Dismissed)


def plan_of(key: int, plan_id: int = 1) -> Plan:
    return Plan(plan_id, 0, 0, (Members("me", (key,)),), 0, 4 * MS, 50 * MS)


def test_plan_of_an_old_term_is_refused_and_its_leader_told() -> None:
    node = following()
    key = node.accept(0, 0, 50 * MS, 4)
    node.leader_seen(MS, "M", 6)
    node.take()
    node.receive(MS, "L", Plans(5, (plan_of(key, 9),)))
    assert node.take() == [Send("L", Outdated(6))]


def test_plan_of_the_leader_runs_and_its_end_is_reported() -> None:
    node = following()
    key = node.accept(0, 0, 50 * MS, 4)
    node.take()
    node.receive(MS, "L", Plans(5, (plan_of(key),)))
    actions = node.take()
    assert Run(0, 0, 5, 1, (Members("me", (key,)),)) in actions
    node.receive(MS, "L", Plans(5, (plan_of(key),)))
    assert node.take() == [], "idempotent"
    node.ran(5 * MS, 5, 1, 5 * MS)
    assert Answer((key,), "me") in node.take()


def test_inputs_are_given_to_one_plan_at_a_time_and_only_of_the_term_that_has_the_request() -> None:
    node = following()
    for peer in ("x", "y"):
        node.link_up(0, peer, Distance())
    key = node.accept(0, 0, 50 * MS, 4)
    node.take()
    node.receive(MS, "x", Fetch(4, 1, (key,)))
    node.receive(MS, "x", Fetch(5, 1, (key, 12345)))
    node.receive(MS, "y", Fetch(5, 2, (key,)))
    assert sent(node, Inputs) == [Inputs(4, 1, (), (key,)), Inputs(5, 1, (key,), (12345,)), Inputs(5, 2, (), (key,))]


def test_request_goes_to_another_plan_when_its_executor_is_lost_and_the_first_outcome_wins() -> None:
    node = following()
    for peer in ("x", "y"):
        node.link_up(0, peer, Distance())
    key = node.accept(0, 0, 50 * MS, 4)
    node.receive(MS, "x", Fetch(5, 1, (key,)))
    node.take()
    node.link_lost(2 * MS, "x")
    assert [message.requests for message in sent(node, Submit)] == [(key,)]
    node.receive(3 * MS, "y", Fetch(5, 2, (key,)))
    node.link_up(4 * MS, "x", Distance())
    node.take()
    node.receive(5 * MS, "x", Outputs(5, 1, (key,)))
    assert node.take() == [Send("y", Withdraw(5, 2, (key,))), Answer((key,), "x")]
    node.receive(6 * MS, "y", Outputs(5, 2, (key,)))
    node.receive(6 * MS, "y", Failed(5, 2, (key,), "worker_failed"))
    node.receive(6 * MS, "L", Dropped(5, (key,), ("would_miss",)))
    assert node.take() == []


def test_nobody_else_has_to_do_with_what_the_own_core_plans() -> None:
    node = make_node()
    node.link_up(0, "x", Distance())
    keys = node.accept_many(0, [(0, 50 * MS, 4)] * 2)
    node.take()
    node.receive(0, "x", Returned(0, 1, keys))
    node.receive(0, "x", Fetch(0, 1, keys))
    assert node.take() == []
    node.ran(4 * MS, 0, 1, 4 * MS)
    assert Answer((keys[0],), "me") in node.take()


def test_cancelled_request_has_no_outcome() -> None:
    node = following()
    key = node.accept(0, 0, 50 * MS, 4)
    node.take()
    assert node.cancel(MS, key)
    assert sent(node) == [Cancel(5, (key,))]
    node.receive(MS, "L", Dropped(5, (key,), ("would_miss",)))
    node.wake(500 * MS)
    assert [action for action in node.take() if isinstance(action, Answer | Refuse)] == []
    assert not node.cancel(MS, key)


def test_refusal_of_what_an_executor_has_is_ignored() -> None:
    node = following()
    node.link_up(0, "x", Distance())
    key = node.accept(0, 0, 50 * MS, 4)
    node.receive(MS, "x", Fetch(5, 1, (key,)))
    node.take()
    node.receive(2 * MS, "L", Dropped(5, (key,), ("would_miss",)))
    assert node.take() == []
    node.receive(3 * MS, "x", Failed(5, 1, (key,), "worker_failed"))
    assert node.take() == [Refuse(key, "worker_failed")]


def test_request_of_which_nothing_is_heard_fails_soon_after_its_deadline() -> None:
    node = following()
    key = node.accept(0, 0, 50 * MS, 4)
    node.take()
    assert node.wakeup_ns <= 75 * MS
    node.wake(69 * MS)
    assert node.request_count == 1
    node.wake(75 * MS)
    assert Refuse(key, "expired") in node.take()


def test_request_that_is_returned_again_and_again_fails() -> None:
    node = following()
    node.link_up(0, "x", Distance())
    key = node.accept(0, 0, 50 * MS, 4)
    for plan_id in range(1, ATTEMPT_COUNT_MAX + 1):
        assert node.request_count == 1
        node.receive(MS, "x", Returned(5, plan_id, (key,)))
    assert Refuse(key, "worker_failed") in node.take()


def test_own_core_must_have_room_for_all_requests() -> None:
    with pytest.raises(ValueError, match="room for 64 requests, the node for 65"):
        make_node(request_count_max=65)
