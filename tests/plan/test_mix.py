"""The cheapest mix uses each kind for what it is worth its price, and is found by simulation to hold."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import pytest

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.plan import Budget, make_plan
from symphony.plan.mix import covers, exchanges, find_mix, first_mix, price_of, prices_of
from symphony.plan.trials import Trials, with_pool
from symphony.sim.replay import drawn
from symphony.sim.sweep import sweep
from symphony.units import NS_PER_S, ms_to_ns
from tests.plan.workloads import line

BIG = SimulatedModel("big", ms_to_ns(60), 900.0, {"large": line(0.8, 4.0), "small": line(8.0, 30.0)})
LITTLE = SimulatedModel("little", ms_to_ns(60), 4000.0, {"large": line(0.3, 2.0), "small": line(0.6, 3.0)})
GPUS = (SimulatedGpus("large", 1, 4.0), SimulatedGpus("small", 1, 1.0))
WORKLOAD = Workload((BIG, LITTLE), GPUS, duration_ns=4 * NS_PER_S)


def trials_of(workload: Workload) -> Trials:
    return Trials(workload, drawn, 1, Budget(30.0, time.monotonic))


def test_mix_is_cheaper_than_either_kind_alone_and_holds_on_other_seeds() -> None:
    prices = prices_of(WORKLOAD)
    held = [(("large", 3),), (("small", 30),)]
    assert all(trials_of(WORKLOAD).holds(pool) for pool in held)
    found = find_mix(trials_of(WORKLOAD), prices, held)
    assert found.is_settled
    assert {kind for kind, _ in found.pool} == {"large", "small"}
    assert found.price == price_of(found.pool, prices) < 12.0
    assert sweep(with_pool(WORKLOAD, found.pool), 1.0, (1001, 1002, 1003)).is_held
    for pool in exchanges(found.pool, prices, 1):
        assert not covers(pool, WORKLOAD) or not trials_of(WORKLOAD).holds(pool)


def test_models_of_different_kinds_get_both() -> None:
    parts = (
        SimulatedModel("a", ms_to_ns(50), 500.0, {"large": line(1.0, 5.0)}),
        SimulatedModel("b", ms_to_ns(50), 500.0, {"small": line(1.0, 5.0)}),
    )
    workload = Workload(parts, GPUS, duration_ns=3 * NS_PER_S)
    assert find_mix(trials_of(workload), prices_of(workload), []).pool == (("large", 1), ("small", 1))


@pytest.mark.parametrize("has_scipy", [True, False])
def test_first_mix_has_room_for_the_work(has_scipy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_scipy:
        monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    found = dict(first_mix(WORKLOAD, prices_of(WORKLOAD)))
    assert found == {"large": 2, "small": 4} or sum(found.values()) >= 4
    assert found["small"] > 0 and found["large"] > 0


def test_model_that_runs_nowhere_has_no_mix() -> None:
    hopeless = SimulatedModel("h", ms_to_ns(5), 10.0, {"large": line(1.0, 5.0)})
    workload = Workload((hopeless,), GPUS)
    assert first_mix(workload, prices_of(workload)) == ()
    found = find_mix(trials_of(workload), prices_of(workload), [])
    assert (found.pool, found.is_settled) == ((), False)


def test_every_exchange_is_cheaper() -> None:
    prices = {"a": 4.0, "b": 1.0, "c": 1.5}
    pool = (("a", 2), ("b", 3))
    found = exchanges(pool, prices, 1)
    assert (("a", 1), ("b", 6)) in found and (("a", 2), ("b", 2)) in found and (("a", 1), ("b", 3), ("c", 2)) in found
    assert all(price_of(one, prices) < price_of(pool, prices) for one in found)


def test_without_prices_every_gpu_costs_one() -> None:
    workload = Workload((BIG,), (SimulatedGpus("large", 1), SimulatedGpus("small", 2)))
    assert prices_of(workload) == {"large": 1.0, "small": 1.0}


@pytest.mark.parametrize(("gpu_mb", "has_mix"), [(2000.0, True), (1500.0, False)])
def test_mix_is_searched_only_where_all_models_fit_every_gpu(gpu_mb: float, has_mix: bool) -> None:
    models = tuple(replace(one, memory_mb=1000.0, rate=one.rate / 10) for one in WORKLOAD.models)
    gpus = tuple(replace(one, memory_mb=gpu_mb) for one in GPUS)
    workload = replace(WORKLOAD, models=models, gpus=gpus)
    plan = make_plan(workload, drawn, seed=1, budget=Budget(30.0, time.monotonic))
    assert (plan.mix is not None) == has_mix == (plan.is_present_held is not None)
    assert all((answer.division is None) == has_mix for answer in plan.answers if answer.gpus)
