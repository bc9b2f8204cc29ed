"""What the default policy promises beyond one model's goodput: nobody is sacrificed, and bursts pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.sim import simulate
from symphony.sim.report import GOOD, report_on
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns


def model(name: str, alpha_ms: float, beta_ms: float, slo_ms: float, rate: float, **changes) -> SimulatedModel:
    table = tuple(ms_to_ns(alpha_ms * size + beta_ms) for size in range(1, 257))
    return SimulatedModel(name, round(slo_ms * NS_PER_MS), rate, {"gpu": table}, **changes)


UNLIKE = (
    model("a", 1.27, 2.85, 21, 950),
    model("b", 1.29, 12.6, 102, 510),
    model("c", 1.07, 8.35, 79, 350),
    model("short", 0.155, 0.55, 10, 275),
    model("shorter than c", 0.47, 1.54, 13, 220),
)


def test_no_model_is_sacrificed_where_slos_are_unlike() -> None:
    """At the border of what four GPUs carry, the batches of long models must not cost the short ones their requests."""
    workload = Workload(UNLIKE, (SimulatedGpus("gpu", 4),), duration_ns=8 * NS_PER_S)
    reports = [report_on(simulate(workload, seed=seed)) for seed in (1, 2, 3)]
    assert np.mean([report.good_share for report in reports]) > 0.985
    for number, spec in enumerate(UNLIKE):
        share = float(np.mean([report.models[number].good_share for report in reports]))
        assert share > 0.97, (spec.name, share)


def test_many_unlike_models_neither_fill_the_pool_nor_cost_each_other_requests() -> None:
    """Sixty models with a fifth of a GPU each gather batches until their last call; the pool stays partly idle."""
    rng = np.random.default_rng(5)
    models = []
    for number in range(60):
        beta = float(np.exp(rng.uniform(np.log(0.5), np.log(15))))
        alpha = beta * float(np.exp(rng.uniform(np.log(0.05), np.log(0.5))))
        slo = float(np.clip((alpha + beta) * rng.uniform(4, 12), 10, 500))
        models.append(model(f"m{number}", alpha, beta, slo, 1800.0 * (number + 1) ** -0.9))
    workload = Workload(tuple(models), (SimulatedGpus("gpu", 24),), duration_ns=4 * NS_PER_S)
    reports = [report_on(simulate(workload, seed=seed)) for seed in (1, 2)]
    assert np.mean([report.good_share for report in reports]) > 0.999
    assert min(report.worst_good_share for report in reports) > 0.97
    assert np.mean([report.busy_share for report in reports]) < 0.87


def test_slower_gpus_stay_idle_while_the_faster_carry_the_load() -> None:
    """Four fast GPUs and four that take twice as long, at 40 % of what all of them carry."""
    tables = {
        kind: tuple(ms_to_ns(factor * (0.5 * size + 2.5)) for size in range(1, 129))
        for kind, factor in (("fast", 1.0), ("slow", 2.0))
    }
    both = SimulatedModel("m", 60 * NS_PER_MS, 4200.0, tables)
    workload = Workload((both,), (SimulatedGpus("fast", 4), SimulatedGpus("slow", 4)), duration_ns=4 * NS_PER_S)
    for seed in (1, 2):
        report = report_on(simulate(workload, seed=seed))
        assert report.good_share > 0.999
        assert report.gpus_in_use <= 3


BURSTS = {
    "one model": ((model("m", 1.053, 5.072, 25, 4000),), 8),
    "twenty like models": ((model("m", 1.053, 5.072, 100, 5000, copies=20),), 8),
    "unlike models": (tuple(replace(each, rate=each.rate * 0.8) for each in UNLIKE), 4),
}


@pytest.mark.parametrize("name", list(BURSTS))
def test_after_a_burst_of_ten_times_the_load_all_is_well_within_two_slos(name: str) -> None:
    """One second of it, at 0.7 to 0.8 of the goodput; judged from two SLOs after its end, over a second."""
    models, gpus = BURSTS[name]
    workload = Workload(
        tuple(replace(each, arrivals="burst:3:1:10") for each in models),
        (SimulatedGpus("gpu", gpus),),
        duration_ns=6 * NS_PER_S,
    )
    goods = counts = 0
    for seed in (1, 2, 3):
        outcome = simulate(workload, seed=seed)
        slo_ns = np.array([each.slo_ns for each in models for _ in range(each.copies)])[outcome.requests.models]
        since = outcome.requests.at_ns - 4 * NS_PER_S - 2 * slo_ns
        judged = (since >= 0) & (since < NS_PER_S)
        goods += int((outcome.outcome[judged] == GOOD).sum())
        counts += int(judged.sum())
    assert counts > 3000
    assert goods >= 0.99 * counts, (goods, counts)
