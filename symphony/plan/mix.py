"""Find the cheapest pool of several kinds of GPU: a linear program's guess, then exchanges tried by simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from symphony.config.workload import SimulatedModel, Workload
from symphony.plan.budget import OutOfBudget
from symphony.plan.demand import SPARE_GPUS, work
from symphony.plan.trials import Pool, Trials, size_of
from symphony.sim.scenario import Array

GROW_COUNT_MAX = 60
STEP_SHARE = 8


@dataclass(frozen=True, slots=True)
class Mix:
    """The cheapest pool found, `pool` empty if none was; `is_settled`: no exchange tried makes it cheaper."""

    pool: Pool
    price: float
    is_settled: bool
    start: Pool
    good_share: float = 0.0
    worst_good_share: float = 0.0
    run_count: int = 0


def prices_of(workload: Workload) -> dict[str, float]:
    """Return the price of one GPU of each kind, in the order of the file; 1 for all where none is given."""
    prices = {group.kind: group.price for group in workload.gpus}
    return prices if any(prices.values()) else dict.fromkeys(prices, 1.0)


def price_of(pool: Pool, prices: Mapping[str, float]) -> float:
    """Return what the pool costs."""
    return sum(prices[kind] * count for kind, count in pool)


def first_mix(workload: Workload, prices: Mapping[str, float]) -> Pool:
    """Return the cheapest pool by arithmetic: each model's work on the kinds where it costs least, in whole GPUs.

    Variables: x[i, k] the share of model i on kind k; n[k] GPUs. Least sum of price_k n[k], where sum x[i, k] = 1 for
    each i and sum work_ik x[i, k] <= n[k] for each k. Without scipy each model goes where it alone costs least.
    Empty if some model can run nowhere.
    """
    kinds = list(prices)
    works = np.array([[_work(workload, spec, kind) for kind in kinds] for spec in workload.models])
    if not np.isfinite(works).any(axis=1).all():
        return ()
    try:
        counts = _by_program(works, [prices[kind] for kind in kinds])
    except ImportError:
        cost = works * np.array([prices[kind] for kind in kinds])
        choice = cost.argmin(axis=1)
        counts = np.array([works[choice == number, number].sum() for number in range(len(kinds))])
    return tuple((kind, ceil(count + SPARE_GPUS)) for kind, count in zip(kinds, counts, strict=True) if count > 1e-6)


def _work(workload: Workload, spec: SimulatedModel, kind: str) -> float:
    return work(workload, spec, kind) if kind in spec.latency_ns else float("inf")


def _by_program(works: Array, prices: Sequence[float]) -> Array:
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    models, kinds = works.shape
    usable = np.isfinite(works)
    x = np.arange(models * kinds).reshape(models, kinds)
    size = x.size + kinds
    ones = coo_array((np.ones(x.size), (np.repeat(np.arange(models), kinds), x.ravel())), shape=(models, size))
    loads = np.concatenate((np.where(usable, works, 0.0).ravel(), -np.ones(kinds)))
    rows = np.concatenate((np.tile(np.arange(kinds), models), np.arange(kinds)))
    load = coo_array((loads, (rows, np.arange(size))), shape=(kinds, size))
    upper = np.concatenate((usable.astype(float).ravel(), np.full(kinds, np.inf)))
    found = milp(
        np.concatenate((np.zeros(x.size), prices)),
        bounds=Bounds(0.0, upper),
        constraints=[LinearConstraint(ones.tocsr(), 1.0, 1.0), LinearConstraint(load.tocsr(), -np.inf, 0.0)],
    )
    return np.asarray(found.x[x.size :])


def find_mix(trials: Trials, prices: Mapping[str, float], held: Sequence[Pool]) -> Mix:
    """Return the cheapest pool found from the program's guess and from pools known to hold, within the budget.

    Exchanges are tried in ever smaller steps, the cheapest first, until none makes it cheaper. That is a local optimum:
    with few kinds, and from a start that the program gave, hardly ever more than a GPU from the best.
    """
    workload = trials.workload
    start = first_mix(workload, prices)
    best = min(held, key=lambda pool: price_of(pool, prices), default=())
    is_settled = True
    try:
        grown = _grow(trials, start)
        if grown and (not best or price_of(grown, prices) < price_of(best, prices)):
            best = grown
        step = max(1, size_of(best) // STEP_SHARE)
        while best:
            cheaper = [pool for pool in exchanges(best, prices, step) if covers(pool, workload)]
            found = next((pool for pool in cheaper if trials.looks_held(pool) and trials.holds(pool)), None)
            if found is None and step == 1:
                break
            best, step = (best, step // 2) if found is None else (found, step)
    except OutOfBudget:
        is_settled = False
    tally = trials.tally(best)
    return Mix(
        pool=best,
        price=price_of(best, prices),
        is_settled=is_settled and bool(best),
        start=start,
        good_share=tally.good_share if tally else 0.0,
        worst_good_share=tally.worst_good_share if tally else 0.0,
        run_count=trials.run_count,
    )


def _grow(trials: Trials, pool: Pool) -> Pool:
    """Return the pool with GPUs added, of each of its kinds in turn, until it holds; empty if it does not get there."""
    counts = dict(pool)
    for turn in range(GROW_COUNT_MAX if pool else 0):
        found = tuple(counts.items())
        if trials.looks_held(found) and trials.holds(found):
            return found
        kind = list(counts)[turn % len(counts)]
        counts[kind] += max(1, counts[kind] // (2 * STEP_SHARE))
    return ()


def exchanges(pool: Pool, prices: Mapping[str, float], step: int) -> list[Pool]:
    """Return cheaper pools, the cheapest first: `step` GPUs of a kind less, and as many of another as stay cheaper."""
    counts = dict.fromkeys(prices, 0) | dict(pool)
    found = []
    for kind, count in counts.items():
        if count < step:
            continue
        found.append(counts | {kind: count - step})
        for other in counts:
            more = ceil(step * prices[kind] / prices[other]) - 1 if other != kind and prices[other] > 0 else 0
            if more > 0:
                found.append(counts | {kind: count - step, other: counts[other] + more})
    pools = [tuple((kind, one[kind]) for kind in prices if one[kind]) for one in found]
    return sorted(filter(None, pools), key=lambda one: price_of(one, prices))


def covers(pool: Pool, workload: Workload) -> bool:
    """Return whether every model has a profile for some kind of the pool."""
    kinds = {kind for kind, count in pool if count}
    return all(kinds & spec.latency_ns.keys() for spec in workload.models)
