"""The number of GPUs answered holds the workload on other seeds, too, and one less does not."""

from __future__ import annotations

import itertools
import time

import pytest

from symphony.config.workload import Workload
from symphony.plan.budget import Budget
from symphony.plan.count import Count, find_count
from symphony.plan.trials import Trials, with_pool
from symphony.sim.replay import drawn
from symphony.sim.sweep import sweep
from symphony.units import NS_PER_S
from tests.plan.workloads import model, on_gpus, random_workload

OTHER_SEEDS = (1001, 1002, 1003, 1004, 1005)


def count_of(workload: Workload, budget_s: float = 60.0, seed: int = 1) -> Count:
    return find_count(Trials(workload, drawn, seed, Budget(budget_s, time.monotonic)), "gpu")


def is_held(workload: Workload, gpus: int) -> bool:
    return gpus > 0 and sweep(with_pool(workload, (("gpu", gpus),)), 1.0, OTHER_SEEDS).is_held


@pytest.mark.slow
def test_twenty_random_workloads_are_held_by_the_answer_and_not_by_two_less() -> None:
    tight = 0
    for seed in range(1, 21):
        workload = random_workload(seed, 12, (200, 5000))
        began_s = time.monotonic()
        found = count_of(workload)
        assert time.monotonic() - began_s < 10.0
        assert found.is_settled
        assert found.bound <= found.gpus
        assert is_held(workload, found.gpus), f"seed {seed}: {found.gpus} GPUs do not hold it"
        tight += not is_held(workload, found.gpus - 1)
        assert not is_held(workload, found.gpus - 2), f"seed {seed}: two GPUs less than {found.gpus} would do"
    assert tight >= 16  # the others are one GPU on the safe side


def test_answer_is_the_same_whatever_the_machine_does_meanwhile() -> None:
    workload = random_workload(5, 8, (500, 2000))
    assert count_of(workload) == count_of(workload)


def test_shares_of_the_answer_are_above_the_bar_and_those_below_it_are_not() -> None:
    found = count_of(on_gpus(model("m", 25, 5300, 1.053, 5.072), duration_ns=5 * NS_PER_S))
    assert found.gpus == 8
    assert found.good_share >= 0.99 and found.worst_good_share >= 0.97
    assert found.good_share_below is not None and found.good_share_below < 0.99
    assert found.run_count >= 6


def test_idle_workload_takes_one_gpu() -> None:
    found = count_of(on_gpus(model("m", 25, 0, 1.0, 5.0), duration_ns=2 * NS_PER_S))
    assert (found.gpus, found.is_settled) == (1, True)


def test_slo_that_no_gpu_serves_is_said_at_once() -> None:
    found = count_of(on_gpus(model("m", 6, 10, 1.0, 5.0)))
    assert (found.gpus, found.run_count) == (0, 0)
    assert "model 'm': l(1) = 6 ms on 'gpu' and the delays exceed its SLO of 6 ms" in found.why


def test_budget_that_ends_at_once_leaves_no_answer_and_says_so() -> None:
    found = count_of(random_workload(5, 8, (500, 2000)), budget_s=0.0)
    assert (found.gpus, found.is_settled, found.run_count) == (0, False, 0)
    assert "give more with --budget-s" in found.why


@pytest.mark.parametrize("checks", [3, 6, 8])
def test_budget_that_ends_midway_leaves_bounds(checks: int) -> None:
    """A clock that jumps by a second each time it is asked: so many runs are made, and no more."""
    clock = itertools.count()
    workload = on_gpus(model("m", 25, 5300, 1.053, 5.072), duration_ns=3 * NS_PER_S)
    found = find_count(Trials(workload, drawn, 1, Budget(checks, lambda: float(next(clock)))), "gpu")
    assert not found.is_settled
    assert found.run_count < checks
    assert found.missed < 8
    assert found.gpus == 0 or found.gpus >= 8


def test_pool_leaves_out_kinds_and_faults_that_are_gone() -> None:
    from symphony.config.workload import Fault, SimulatedGpus

    both = model("m", 25, 10, 1.0, 5.0)
    table = both.latency_ns["gpu"]
    workload = Workload(
        (type(both)("m", both.slo_ns, 10.0, {"a": table, "b": table}),),
        (SimulatedGpus("a", 4, 2.0), SimulatedGpus("b", 4, 1.0, 500.0)),
        faults=(Fault(0, 1, 0.0), Fault(0, 5, 0.0)),
    )
    found = with_pool(workload, (("a", 0), ("b", 3)))
    assert found.gpus == (SimulatedGpus("b", 3, 1.0),), "a cell's GPUs hold all its models"
    assert set(found.models[0].latency_ns) == {"b"}
    assert [fault.gpu for fault in found.faults] == [1]
