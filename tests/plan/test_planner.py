"""A whole plan: cells that fit, what SLOs cost, and a budget that is kept."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from symphony.config.workload import SimulatedGpus, Workload
from symphony.plan import Budget, Plan, make_plan
from symphony.plan.cells import divide
from symphony.plan.trials import with_pool
from symphony.sim.replay import drawn
from symphony.sim.sweep import sweep
from symphony.units import NS_PER_S
from tests.plan.workloads import model, on_gpus, random_workload

SECONDS = 3 * NS_PER_S


def plan_of(workload: Workload, budget_s: float = 60.0, **options) -> Plan:
    return make_plan(workload, drawn, seed=1, budget=Budget(budget_s, time.monotonic), **options)


def with_memory(workload: Workload, model_mb: float, gpu_mb: float) -> Workload:
    models = tuple(replace(one, memory_mb=model_mb) for one in workload.models)
    return replace(workload, models=models, gpus=(SimulatedGpus("gpu", 1, memory_mb=gpu_mb),))


def test_tighter_slo_costs_gpus_and_a_looser_one_saves_some() -> None:
    workload = on_gpus(model("busy", 25, 9000, 1.053, 5.072), model("idle", 60, 5, 0.5, 2.0), duration_ns=SECONDS)
    found = plan_of(workload)
    costs = {(cost.model, cost.slo_ms): cost for cost in found.slo_costs}
    assert found.answer is not None
    assert costs["busy", 12.5].change >= 2
    assert costs["busy", 50.0].change <= -1
    assert costs["idle", 120.0].change == 0
    assert all(cost.is_simulated and cost.gpus == found.answer.gpus + cost.change for cost in costs.values())
    assert [cost.model for cost in found.slo_costs] == ["busy", "busy", "idle", "idle"]


def test_halved_slo_that_nothing_serves_is_impossible() -> None:
    found = plan_of(on_gpus(model("m", 11, 100, 1.0, 5.0), duration_ns=SECONDS))
    assert [(cost.slo_ms, cost.gpus > 0) for cost in found.slo_costs] == [(5.5, False), (22.0, True)]


def test_curve_follows_the_load_and_bends_where_the_gpus_end() -> None:
    found = plan_of(on_gpus(model("m", 25, 4000, 1.053, 5.072), duration_ns=SECONDS))
    by_load = {point.load: point for point in found.curve}
    assert by_load[1.0].good_share >= 0.985
    assert by_load[2.0].good_share < 0.8
    assert by_load[0.25].gpus_in_use < by_load[1.0].gpus_in_use
    assert by_load[2.0].offered_rate == pytest.approx(8000, rel=0.05)
    needed = [point.gpus for point in found.growth]
    assert needed == sorted(needed) and needed[0] < needed[-1]


def test_file_that_has_too_few_gpus_is_told_so() -> None:
    workload = on_gpus(model("m", 25, 4000, 1.053, 5.072), count=2, duration_ns=SECONDS)
    assert plan_of(workload).is_present_held is False
    assert plan_of(replace(workload, gpus=(SimulatedGpus("gpu", 12),))).is_present_held is True


def test_models_whose_memory_fits_one_gpu_stay_together() -> None:
    workload = with_memory(random_workload(3, 6, (500, 1000)), 1000, 64_000)
    assert plan_of(workload).answer.division is None


def test_cells_hold_their_models_memory_and_their_load() -> None:
    workload = with_memory(replace(random_workload(2, 8, (2000, 2001)), duration_ns=SECONDS), 3000, 10_000)
    assert len(workload.models) > 3
    answer = plan_of(workload).answer
    assert answer is not None and answer.division is not None
    cells = answer.division.cells
    assert answer.gpus == sum(cell.gpus for cell in cells) >= answer.count.gpus
    assert all(cell.memory_mb <= 10_000 and cell.gpus > 0 for cell in cells)
    assert sorted(part.model for cell in cells for part in cell.parts) == sorted(one.name for one in workload.models)
    for cell in cells:
        names = {part.model for part in cell.parts}
        piece = replace(workload, models=tuple(one for one in workload.models if one.name in names))
        assert sweep(with_pool(piece, (("gpu", cell.gpus),)), 1.0, (1001, 1002, 1003)).is_held


def test_model_too_busy_for_one_cell_is_shared_out() -> None:
    workload = on_gpus(model("m", 25, 8000, 1.053, 5.072), duration_ns=SECONDS)
    answer = plan_of(workload, cell_gpus_max=5).answer
    assert answer is not None and answer.division is not None
    assert all(1 <= cell.gpus <= 5 for cell in answer.division.cells)
    assert sum(part.share for cell in answer.division.cells for part in cell.parts) == pytest.approx(1.0)
    assert answer.gpus >= answer.count.gpus


def test_copies_are_divided_one_by_one() -> None:
    workload = with_memory(on_gpus(model("m", 100, 600, 1.0, 5.0, copies=6), duration_ns=SECONDS), 4000, 10_000)
    found = divide(workload, drawn, "gpu", 0, 1, Budget(30.0, time.monotonic))
    assert [part.copies for cell in found.cells for part in cell.parts] == [2, 2, 2]
    assert sum(model.rate for model in workload.models) == pytest.approx(600)


def test_model_larger_than_a_gpu_has_no_answer() -> None:
    found = plan_of(with_memory(on_gpus(model("m", 100, 10, 1.0, 5.0)), 20_000, 16_000))
    assert found.answer is None
    assert "model 'm' takes 20000 MB, a GPU of kind 'gpu' has 16000 MB" in found.answers[0].count.why


@pytest.mark.slow
@pytest.mark.parametrize("budget_s", [0.5, 2.0])
def test_budget_is_kept_whatever_the_size(budget_s: float) -> None:
    workload = random_workload(1, 100, (200_000, 200_001))
    began_s = time.monotonic()
    plan_of(workload, budget_s=budget_s)
    assert time.monotonic() - began_s < budget_s + 3.0  # a run that has begun is ended


def test_same_seed_gives_the_same_digest_and_another_another() -> None:
    workload = replace(random_workload(4, 4, (300, 600)), duration_ns=SECONDS)
    found = plan_of(workload)
    assert found.digest() == plan_of(workload).digest()
    other = make_plan(workload, drawn, seed=2, budget=Budget(60.0, time.monotonic))
    assert found.digest() != other.digest()
