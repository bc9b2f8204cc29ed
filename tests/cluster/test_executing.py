"""What the executing part makes of plans: one test a rule."""

from __future__ import annotations

import pytest

from symphony.cluster.actions import Run
from symphony.cluster.executing import PLAN_COUNT_MAX, Executor
from symphony.cluster.protocol import (
    BatchBegan,
    BatchEnded,
    Failed,
    Fetch,
    Members,
    Outputs,
    Plan,
    Returned,
)
from symphony.units import NEVER_NS

MS = 1_000_000
TERM = 5
FETCH_WAIT_NS = 4 * MS


class Bench:
    def __init__(self) -> None:
        self.sent: list[tuple[str, object]] = []
        self.actions: list = []
        self.reachable = {"a", "b"}
        self.executor = Executor(
            2, lambda node, message: self.sent.append((node, message)), self.reaches, self.actions, FETCH_WAIT_NS
        )

    def reaches(self, node: str) -> bool:
        return node in self.reachable

    def plan(self, plan_id: int, *members: Members, gpu: int = 0, term: int = TERM, start_ns: int = 0, now_ns: int = 0):
        plan = Plan(plan_id, gpu, 0, members, start_ns, start_ns + MS, 50 * MS)
        self.executor.accept(now_ns, term, plan, start_ns, 50 * MS)

    def take(self) -> list:
        taken = [*self.sent, *self.actions, *self.executor.reports]
        self.sent.clear()
        self.actions.clear()
        self.executor.reports.clear()
        return taken


@pytest.fixture
def bench() -> Bench:
    return Bench()


A, B = Members("a", (1, 2)), Members("b", (1,))


def test_plan_is_fetched_at_once_and_begun_when_all_inputs_are_there(bench: Bench) -> None:
    bench.plan(1, A, B)
    assert bench.take() == [("a", Fetch(TERM, 1, (1, 2))), ("b", Fetch(TERM, 1, (1,)))]
    bench.executor.inputs(MS, "a", TERM, 1, (1, 2), ())
    assert bench.take() == []
    bench.executor.inputs(2 * MS, "b", TERM, 1, (1,), ())
    assert bench.take() == [Run(0, 0, TERM, 1, (A, B)), BatchBegan(TERM, 1, 0, 2 * MS)]
    bench.executor.ran(6 * MS, TERM, 1, 5 * MS)
    assert bench.take() == [
        ("a", Outputs(TERM, 1, (1, 2))),
        ("b", Outputs(TERM, 1, (1,))),
        BatchEnded(TERM, 1, 0, 5 * MS),
    ]
    assert bench.executor.plan_count == 0


def test_plan_is_not_begun_before_its_start(bench: Bench) -> None:
    bench.plan(1, B, start_ns=9 * MS)
    bench.executor.inputs(MS, "b", TERM, 1, (1,), ())
    assert bench.executor.wakeup_ns == 9 * MS
    bench.take()
    bench.executor.wake(9 * MS - 1)
    assert bench.take() == []
    bench.executor.wake(9 * MS)
    assert bench.take()[0] == Run(0, 0, TERM, 1, (B,))
    assert bench.executor.wakeup_ns == NEVER_NS


def test_gpu_runs_one_plan_at_a_time_in_the_order_given(bench: Bench) -> None:
    for plan_id in (1, 2):
        bench.plan(plan_id, Members("a", (plan_id,)))
    bench.executor.inputs(0, "a", TERM, 2, (2,), ())
    bench.executor.inputs(0, "a", TERM, 1, (1,), ())
    assert [action.plan_id for action in bench.take() if isinstance(action, Run)] == [1]
    bench.executor.ran(MS, TERM, 1, MS)
    assert [action.plan_id for action in bench.take() if isinstance(action, Run)] == [2]


def test_plan_that_was_taken_before_is_ignored(bench: Bench) -> None:
    bench.plan(1, A)
    bench.plan(2, B)
    bench.take()
    bench.plan(1, A)
    bench.plan(2, B)
    assert bench.take() == []
    bench.executor.inputs(0, "a", TERM, 1, (1, 2), ())
    bench.executor.ran(0, TERM, 1, 0)
    bench.take()
    bench.plan(1, A)
    assert bench.take() == [], "also when it is over"
    bench.plan(1, B, term=TERM + 1)
    assert bench.take() == [("b", Fetch(TERM + 1, 1, (1,)))], "ids of another term are others"


def test_plan_runs_with_what_it_is_given(bench: Bench) -> None:
    bench.plan(1, A, B)
    bench.executor.inputs(0, "a", TERM, 1, (2,), (1,))
    bench.executor.inputs(0, "b", TERM, 1, (), (1,))
    assert Run(0, 0, TERM, 1, (Members("a", (2,)),)) in bench.take()


def test_plan_of_which_nothing_is_left_ends_without_running(bench: Bench) -> None:
    bench.plan(1, B)
    bench.take()
    bench.executor.inputs(MS, "b", TERM, 1, (), (1,))
    assert bench.take() == [BatchEnded(TERM, 1, 0, MS)]


def test_inputs_are_waited_for_only_so_long_and_what_has_none_is_returned(bench: Bench) -> None:
    bench.plan(1, A, B, start_ns=2 * MS)
    bench.executor.inputs(0, "a", TERM, 1, (1, 2), ())
    bench.take()
    assert bench.executor.wakeup_ns == 2 * MS + FETCH_WAIT_NS
    bench.executor.wake(2 * MS + FETCH_WAIT_NS)
    assert bench.take()[:2] == [("b", Returned(TERM, 1, (1,))), Run(0, 0, TERM, 1, (A,))]
    bench.executor.inputs(7 * MS, "b", TERM, 1, (1,), ())
    assert bench.take() == [], "too late"


def test_withdrawn_request_does_not_run(bench: Bench) -> None:
    bench.plan(1, A, start_ns=9 * MS)
    bench.executor.inputs(0, "a", TERM, 1, (1, 2), ())
    bench.take()
    bench.executor.withdraw(MS, "a", TERM, 1, (1,))
    bench.executor.wake(9 * MS)
    assert bench.take()[0] == Run(0, 0, TERM, 1, (Members("a", (2,)),))
    bench.executor.withdraw(10 * MS, "a", TERM, 1, (2,))
    bench.executor.ran(11 * MS, TERM, 1, 11 * MS)
    assert ("a", Outputs(TERM, 1, (2,))) in bench.take(), "what runs, runs"


def test_plan_that_is_too_late_for_everybody_is_returned(bench: Bench) -> None:
    bench.plan(1, B, start_ns=9 * MS)
    bench.executor.inputs(0, "b", TERM, 1, (1,), ())
    bench.take()
    bench.executor.wake(50 * MS + 1)
    assert bench.take() == [("b", Returned(TERM, 1, (1,))), BatchEnded(TERM, 1, 0, 50 * MS + 1)]


def test_plans_of_older_terms_that_have_not_begun_are_returned(bench: Bench) -> None:
    bench.plan(1, A)
    bench.executor.inputs(0, "a", TERM, 1, (1, 2), ())
    bench.plan(2, B)
    bench.plan(1, Members("a", (3,)), term=0)
    bench.take()
    bench.executor.discard_older(MS, TERM + 1)
    assert bench.take() == [("b", Returned(TERM, 2, (1,))), BatchEnded(TERM, 2, 0, MS)]
    assert bench.executor.plan_count == 2, "what runs, and what the own core planned"


def test_lost_ingress_node_leaves_the_plan_to_the_others(bench: Bench) -> None:
    bench.plan(1, A, B, start_ns=9 * MS)
    bench.executor.inputs(0, "a", TERM, 1, (1, 2), ())
    bench.take()
    bench.reachable.discard("a")
    bench.executor.peer_lost(MS, "a")
    bench.executor.inputs(2 * MS, "b", TERM, 1, (1,), ())
    bench.executor.wake(9 * MS)
    assert bench.take() == [Run(0, 0, TERM, 1, (B,)), BatchBegan(TERM, 1, 0, 9 * MS)]


def test_requests_of_a_node_out_of_reach_are_left_out(bench: Bench) -> None:
    bench.plan(1, Members("c", (1,)), B)
    assert bench.take() == [("b", Fetch(TERM, 1, (1,)))]


def test_failed_batch_says_so_with_the_reason(bench: Bench) -> None:
    bench.plan(1, B)
    bench.executor.inputs(0, "b", TERM, 1, (1,), ())
    bench.take()
    bench.executor.ran(MS, TERM, 1, MS, "worker_failed")
    assert bench.take() == [("b", Failed(TERM, 1, (1,), "worker_failed")), BatchEnded(TERM, 1, 0, MS)]


def test_lost_gpu_returns_everything_on_it_and_takes_nothing(bench: Bench) -> None:
    bench.plan(1, A)
    bench.executor.inputs(0, "a", TERM, 1, (1, 2), ())
    bench.plan(2, B)
    bench.take()
    bench.executor.set_usable(MS, 0, False)
    returned = [message for _, message in [each for each in bench.take() if isinstance(each, tuple)]]
    assert returned == [Returned(TERM, 1, (1, 2)), Returned(TERM, 2, (1,))]
    bench.executor.ran(2 * MS, TERM, 1, 2 * MS)
    assert bench.take() == [], "nobody waits for what it might still say"
    bench.plan(3, B)
    assert bench.take() == [("b", Returned(TERM, 3, (1,))), BatchEnded(TERM, 3, 0, 0)]


@pytest.mark.parametrize("gpu", [-1, 2, 99])
def test_plan_for_a_gpu_that_is_not_there_is_returned(bench: Bench, gpu: int) -> None:
    bench.plan(1, B, gpu=gpu)
    assert bench.take() == [("b", Returned(TERM, 1, (1,))), BatchEnded(TERM, 1, gpu, 0)]


def test_plans_beyond_the_limit_are_returned(bench: Bench) -> None:
    for plan_id in range(1, PLAN_COUNT_MAX + 2):
        bench.plan(plan_id, Members("a", (plan_id,)))
    assert bench.executor.plan_count == PLAN_COUNT_MAX
    assert bench.take()[-2] == ("a", Returned(TERM, PLAN_COUNT_MAX + 1, (PLAN_COUNT_MAX + 1,)))
