"""Say what a pool does below and above its load, and how many GPUs more or less of it would need."""

from __future__ import annotations

from dataclasses import dataclass, replace

from symphony.config.workload import Workload
from symphony.config.workload_document import GPU_COUNT_MAX
from symphony.plan.bracket import find_least
from symphony.plan.budget import Budget, OutOfBudget
from symphony.plan.demand import guess, is_possible, work
from symphony.plan.trials import Pool, Trials, judged_ns, with_pool
from symphony.sim import report_on, simulate
from symphony.sim.replay import LoadSource
from symphony.sim.sweep import scaled

CURVE_LOADS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
GROWTH_LOADS = (0.5, 0.75, 1.5, 2.0, 4.0)
SLO_FACTORS = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What the pool did at one load: requests per second, share good, GPUs busy for more than 1 % of the time."""

    load: float
    offered_rate: float
    good_rate: float
    good_share: float
    worst_good_share: float
    gpus_in_use: int


@dataclass(frozen=True, slots=True)
class GrowthPoint:
    """How many GPUs hold so many times the load, by quick looks: one more or less is possible."""

    load: float
    gpus: int


@dataclass(frozen=True, slots=True)
class SloCost:
    """How many GPUs the workload needs when one model's SLO is `slo_ms` instead.

    `gpus` 0: no number of GPUs serves that SLO. `is_simulated`: otherwise it is arithmetic alone.
    """

    model: str
    slo_ms: float
    gpus: int
    change: int
    is_simulated: bool


def goodput_curve(workload: Workload, source: LoadSource, pool: Pool, seed: int, budget: Budget) -> list[CurvePoint]:
    """Return a point for each of `CURVE_LOADS` that the budget leaves time for, each from one run."""
    points = []
    for load in CURVE_LOADS:
        if budget.left_s <= 0.0:
            break
        duration_ns = judged_ns(workload, load)
        drawn, requests = source(replace(with_pool(workload, pool), duration_ns=duration_ns), load, seed)
        report = report_on(simulate(drawn, seed=seed, requests=requests))
        points.append(
            CurvePoint(
                load,
                report.offered_rate,
                report.good_rate,
                report.good_share,
                report.worst_good_share,
                report.gpus_in_use,
            )
        )
    return points


def growth(
    workload: Workload, source: LoadSource, kind: str, gpus: int, seed: int, budget: Budget
) -> list[GrowthPoint]:
    """Return how many GPUs of this kind each of `GROWTH_LOADS` needs by quick looks, as far as the budget goes."""
    points = []
    base = sum(work(workload, spec, kind) for spec in workload.models)
    for load in GROWTH_LOADS:
        more = sum(work(workload, spec, kind) for spec in scaled(workload, load).models)
        start = max(1, round(gpus * more / base)) if base > 0 else 1
        found = _looked(Trials(workload, source, seed, budget, load), kind, start)
        if found:
            points.append(GrowthPoint(load, found))
    return points


def slo_costs(workload: Workload, source: LoadSource, kind: str, gpus: int, seed: int, budget: Budget) -> list[SloCost]:
    """Return what each model's SLO costs: the GPUs needed with it halved and doubled, the busiest models first.

    Quick looks on the same requests decide, for the workload as it is as well, and the difference counts. When the
    budget ends the rest is by arithmetic.
    """
    base = _looked(Trials(workload, source, seed, budget), kind, gpus)
    works = [work(workload, spec, kind) for spec in workload.models]
    total = sum(works)
    costs = []
    for index in sorted(range(len(works)), key=lambda index: -works[index]):
        spec = workload.models[index]
        for factor in SLO_FACTORS:
            other = replace(spec, slo_ns=round(spec.slo_ns * factor))
            slo_ms = other.slo_ns / 1e6
            if not is_possible(workload, other, kind):
                costs.append(SloCost(spec.name, slo_ms, 0, 0, False))
                continue
            by_guess = guess([total - works[index] + work(workload, other, kind)]) - guess([total])
            found = None
            if base and budget.left_s > 0.0:
                models = (*workload.models[:index], other, *workload.models[index + 1 :])
                trials = Trials(replace(workload, models=models), source, seed, budget)
                found = _looked(trials, kind, max(1, gpus + by_guess))
            change = found - base if found and base else by_guess
            costs.append(SloCost(spec.name, slo_ms, max(1, gpus + change), change, bool(found and base)))
    return costs


def _looked(trials: Trials, kind: str, start: int) -> int | None:
    """Return the least number of GPUs that quick looks find held; None when the budget ends before."""
    try:
        return find_least(lambda n: trials.looks_held(((kind, n),)), start, GPU_COUNT_MAX)
    except OutOfBudget:
        return None
