"""Each baseline keeps the simulator's promises, and does what its paper is known for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest

from symphony.config.workload import Fault, SimulatedGpus, SimulatedModel, Workload
from symphony.sim import Outcome, Requests, make_core_policy, simulate
from symphony.sim.baselines import ClockworkPolicy, NexusPolicy, ShepherdPolicy, TritonPolicy
from symphony.sim.baselines.nexus_plan import Session, pack, plan
from symphony.sim.run import FATES, OUTCOMES
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns
from tests.sim import checkers
from tests.sim.test_simulate import line, model, workload

MS = NS_PER_MS
CONTROL = 50_000
POLICIES = {"triton": TritonPolicy, "clockwork": ClockworkPolicy, "nexus": NexusPolicy, "shepherd": ShepherdPolicy}
RAN, PREEMPTED = FATES.index("ran"), FATES.index("preempted")
GOOD, WOULD_MISS = OUTCOMES.index("good"), OUTCOMES.index("would_miss")


def arriving(*arrivals: tuple[float, int], models: Sequence[SimulatedModel]) -> Requests:
    """Return requests from (ms, model) pairs."""
    at_ns = np.array([ms_to_ns(at_ms) for at_ms, _ in arrivals], np.int64)
    numbers = np.array([number for _, number in arrivals], np.int32)
    deadlines = at_ns + np.array([models[number].slo_ns for number in numbers], np.int64)
    return Requests(at_ns, numbers, deadlines, np.full(len(arrivals), 4, np.uint8))


def play(
    make: Callable[..., object], *arrivals: tuple[float, int], models: Sequence[SimulatedModel], gpus: int = 1
) -> Outcome:
    """Run these arrivals under a policy."""
    return simulate(workload(*models, gpus=gpus), requests=arriving(*arrivals, models=models), make_policy=make, seed=1)


def batches(outcome: Outcome) -> list[tuple[int, int, int, float]]:
    """Return (gpu, model, size, start in ms) of each batch, in the order of decisions."""
    log = outcome.batches
    starts = (log["start_ns"] - CONTROL) / MS
    return list(zip(log["gpu"].tolist(), log["model"].tolist(), log["size"].tolist(), starts.tolist(), strict=True))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rate", [200.0, 2000.0, pytest.param(6000.0, marks=pytest.mark.slow)])
def test_run_keeps_every_promise_at_any_load(policy: str, rate: float) -> None:
    specs = (model("a", rate / 2), model("b", rate / 2, slo_ns=80 * MS, latency_ns={"gpu": line(0.3, 9.0)}))
    outcome = simulate(workload(*specs), make_policy=POLICIES[policy])
    checkers.ends_once(outcome)
    checkers.one_batch_at_a_time(outcome)
    checkers.batches_hold_one_model(outcome)
    if policy != "triton":  # which knows no latency profile
        checkers.nothing_is_late(outcome)
    assert (outcome.outcome == GOOD).mean() > (0.95 if rate < 1000 else 0.05)


@pytest.mark.parametrize("policy", POLICIES)
def test_run_survives_dead_and_slow_gpus_of_two_kinds(policy: str) -> None:
    two = {"fast": line(0.5, 2.5), "slow": line(1.0, 5.0)}
    specs = (model("both", 1500.0, latency_ns=two), model("old", 300.0, latency_ns={"slow": line(1.0, 5.0)}))
    faults = (Fault(NS_PER_S // 2, 0, 0.0), Fault(NS_PER_S, 2, 2.0), Fault(NS_PER_S, 3, 0.0))
    outcome = simulate(
        Workload(specs, (SimulatedGpus("fast", 2), SimulatedGpus("slow", 2)), duration_ns=2 * NS_PER_S,
                 warmup_ns=NS_PER_S // 4, faults=faults, jitter=0.05),
        make_policy=POLICIES[policy],
    )  # fmt: skip
    checkers.check(outcome)


@pytest.mark.parametrize("policy", POLICIES)
def test_same_seed_gives_the_same_digest(policy: str) -> None:
    first, second = (simulate(workload(), make_policy=POLICIES[policy], seed=3).digest() for _ in range(2))
    assert first == second


# ---- Triton ----------------------------------------------------------------------------------------------------

SLOW = model("m", slo_ns=50 * MS, latency_ns={"gpu": line(1.0, 16.0)})
"""Two batches of 8 fit 50 ms: the preferred size is 8, l(8) = 24 ms, and the delay (50 - 2 * 24 + 24) / 2 ms or so."""


def test_triton_starts_a_batch_as_soon_as_the_preferred_size_has_come_together() -> None:
    outcome = play(TritonPolicy, *[(0.1 * i, 0) for i in range(10)], models=[SLOW])
    gpu, _, size, start = batches(outcome)[0]
    assert (gpu, size) == (0, 8)
    assert start == pytest.approx(0.7)


def test_triton_starts_a_smaller_batch_when_its_oldest_request_has_waited_for_the_delay() -> None:
    outcome = play(TritonPolicy, (0, 0), (2, 0), models=[SLOW])
    assert [(size, round(start)) for _, _, size, start in batches(outcome)] == [(2, 13)]


def test_triton_binds_a_request_to_an_instance_on_arrival() -> None:
    arrivals = [(0.0, 0)] * 16 + [(1.0, 0), (1.0, 0)] * 8
    outcome = play(TritonPolicy, *arrivals, models=[SLOW], gpus=2)
    first, second, *later = batches(outcome)
    assert {first[0], second[0]} == {0, 1}
    # Each GPU runs what was bound to it, when it is free again.
    assert sorted(gpu for gpu, *_ in later) == [0, 1]
    assert all(start >= 23 for *_, start in later)


def test_triton_leaves_a_gpu_idle_while_another_ones_queue_waits() -> None:
    # One model of long batches occupies GPU 0; the other model's request is bound to it though GPU 1 is idle.
    long = model("long", slo_ns=200 * MS, latency_ns={"gpu": line(0.1, 90.0)})
    short = model("short", slo_ns=150 * MS, latency_ns={"gpu": line(1.0, 1.0)})
    outcome = play(TritonPolicy, (0, 0), (99, 1), models=[long, short], gpus=2)
    (gpu_a, _, _, start_a), (gpu_b, _, _, start_b) = batches(outcome)
    assert gpu_a == gpu_b == 0
    assert start_b >= start_a + 90


# ---- Clockwork -------------------------------------------------------------------------------------------------


def test_clockwork_starts_at_once_and_in_powers_of_two() -> None:
    outcome = play(ClockworkPolicy, (0, 0), *[(0.5, 0)] * 7, models=[SLOW])
    assert batches(outcome)[0][2:] == (1, 0.0)
    assert [size for _, _, size, _ in batches(outcome)][1] == 4


def test_clockwork_fixes_the_next_batch_five_ms_before_the_gpu_is_free() -> None:
    outcome = play(ClockworkPolicy, (0, 0), (1, 0), (14, 0), models=[SLOW])
    log = outcome.batches
    free_ns = int(log["finish_ns"][0])
    assert log["decided_ns"][1] == free_ns - 5 * MS
    assert log["start_ns"][1] >= free_ns
    # What arrives after the decision is not in it, though it comes before the start.
    assert log["decided_ns"][1] < 14 * MS
    assert log["size"][1] == 1


def test_clockwork_prefers_the_earliest_latest_start() -> None:
    tight = model("tight", slo_ns=60 * MS, latency_ns={"gpu": line(1.0, 4.0)})
    loose = model("loose", slo_ns=200 * MS, latency_ns={"gpu": line(1.0, 19.0)})
    outcome = play(ClockworkPolicy, (0, 1), (1, 1), (2, 0), models=[tight, loose])
    assert [number for _, number, *_ in batches(outcome)] == [1, 0, 1]


def test_clockwork_rejects_what_cannot_be_met_at_once() -> None:
    hard = model("hard", slo_ns=20 * MS, latency_ns={"gpu": line(1.0, 25.0)})
    outcome = play(ClockworkPolicy, (3, 0), models=[hard])
    assert outcome.outcome.tolist() == [WOULD_MISS]
    assert outcome.ended_ns[0] <= 3 * MS + CONTROL


# ---- Nexus -----------------------------------------------------------------------------------------------------


def session(number: int, rate: float, slo_ms: float = 100, alpha_ms: float = 1.0, beta_ms: float = 10.0) -> Session:
    return Session(number, ms_to_ns(slo_ms), rate / NS_PER_S, line(alpha_ms, beta_ms))


def test_nexus_gives_a_busy_session_gpus_whose_two_batches_in_a_row_fit_the_slo() -> None:
    # 2 (b + 10) <= 100: b = 40, 800/s per GPU.
    nodes = pack([session(0, 1600.0)], 1.0)
    assert [(node.turns[0].size, node.duty_ns / MS) for node in nodes] == [(40, 50.0), (40, 50.0)]


def test_nexus_packs_light_sessions_into_one_duty_cycle_and_squishes_their_batches() -> None:
    alone = [pack([session(number, 150.0)], 1.0)[0] for number in (0, 1)]
    (node,) = pack([session(0, 150.0), session(1, 150.0)], 1.0)
    assert node.duty_ns == min(one.duty_ns for one in alone)
    assert node.busy_share() <= 1.0
    for turn in node.turns:
        assert turn.size <= alone[0].turns[0].size
        assert turn.session.table_ns[turn.size - 1] + node.duty_ns <= turn.session.slo_ns
        assert turn.size / node.duty_ns >= turn.rate * (1 - 1e-6)


def test_nexus_keeps_sessions_apart_that_do_not_fit_one_gpu() -> None:
    assert len(pack([session(0, 600.0), session(1, 600.0)], 1.0)) == 2


def test_nexus_plan_has_headroom_only_if_the_pool_has_gpus_for_it() -> None:
    sessions = [session(0, 1500.0)]
    assert len(plan(sessions, 2)) == 2
    planned = sum(turn.rate for node in plan(sessions, 8) for turn in node.turns) * NS_PER_S
    assert planned == pytest.approx(1875, rel=0.2)
    assert len(plan([session(0, 9000.0)], 3)) == 3


def test_nexus_uses_the_planned_gpus_only() -> None:
    outcome = simulate(workload(model(rate=200.0), gpus=8), make_policy=NexusPolicy)
    assert set(outcome.batches["gpu"].tolist()) == {0}


def test_nexus_drops_the_front_early_so_that_the_planned_batch_can_be_met() -> None:
    spec = model("m", rate=1000.0, slo_ns=50 * MS, latency_ns={"gpu": line(1.0, 5.0)})
    outcome = play(NexusPolicy, *[(0.0, 0)] * 60, *[(30.0, 0)] * 60, models=[spec])
    dropped = np.flatnonzero(outcome.outcome == WOULD_MISS)
    assert len(dropped) > 0
    first_batch = int(outcome.batches["size"][0])
    # Older requests give way to whole batches of younger ones.
    assert dropped.min() < 60
    assert (outcome.batches["size"][:2] == first_batch).all()


# ---- Shepherd --------------------------------------------------------------------------------------------------


def test_shepherd_starts_the_largest_feasible_batch_first() -> None:
    blocker = model("blocker", slo_ns=200 * MS, latency_ns={"gpu": line(0.1, 10.0)})
    few = model("few", slo_ns=60 * MS, latency_ns={"gpu": line(1.0, 5.0)})
    many = model("many", slo_ns=90 * MS, latency_ns={"gpu": line(1.0, 5.0)})
    arrivals = [(0, 0)] * 4 + [(1, 1)] * 3 + [(1.5, 2)] * 6
    outcome = play(ShepherdPolicy, *arrivals, models=[blocker, few, many])
    assert [number for _, number, *_ in batches(outcome)] == [0, 2, 1]


def test_shepherd_preempts_a_batch_for_one_that_is_threefold_and_runs_it_again() -> None:
    small = model("small", slo_ns=200 * MS, latency_ns={"gpu": line(1.0, 40.0)})
    large = model("large", slo_ns=60 * MS, latency_ns={"gpu": line(1.0, 5.0)})
    outcome = play(ShepherdPolicy, (0, 0), (0, 0), *[(10, 1)] * 7, models=[small, large])
    fates = list(zip(outcome.batches["model"].tolist(), outcome.batches["size"].tolist(),
                     outcome.batches["fate"].tolist(), strict=True))  # fmt: skip
    assert fates == [(0, 2, PREEMPTED), (1, 7, RAN), (0, 2, RAN)]
    assert (outcome.outcome == GOOD).all()
    assert outcome.batches["finish_ns"][0] == outcome.batches["decided_ns"][1]


def test_shepherd_does_not_preempt_for_less() -> None:
    small = model("small", slo_ns=200 * MS, latency_ns={"gpu": line(1.0, 40.0)})
    large = model("large", slo_ns=60 * MS, latency_ns={"gpu": line(1.0, 5.0)})
    outcome = play(ShepherdPolicy, (0, 0), (0, 0), *[(10, 1)] * 6, models=[small, large])
    assert (outcome.batches["fate"] == RAN).all()


def test_the_papers_rule_waits_for_frontrun_where_eager_starts_at_once() -> None:
    starts = {}
    for name, settings in (("paper", {"early": False, "shed": False}), ("eager", {"policy": "eager", "shed": False})):
        outcome = play(partial(make_core_policy, **settings), (0, 0), models=[SLOW])
        starts[name] = batches(outcome)[0][3]
    assert starts["eager"] == 0
    assert starts["paper"] > 25
