"""Plan a workload: GPUs of each kind, cells, the cheapest mix, the goodput curve, growth, and what each SLO costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from symphony.config.workload import Workload
from symphony.plan.budget import Budget, OutOfBudget
from symphony.plan.cells import Division, divide, fits_together, needs_division
from symphony.plan.count import Count, find_count
from symphony.plan.load import CurvePoint, GrowthPoint, SloCost, goodput_curve, growth, slo_costs
from symphony.plan.mix import Mix, covers, find_mix, price_of, prices_of
from symphony.plan.trials import Pool, Trials
from symphony.sim.replay import LoadSource

COUNT_SHARE, DIVISION_SHARE, MIX_SHARE, CURVE_SHARE, GROWTH_SHARE = 0.75, 0.5, 0.4, 0.3, 0.4
"""Of what is left of the budget at that step; what the costs of the SLOs find is the rest."""

OnStep = Callable[[str, float], None]
"""Hear what is being done, and the share of the plan done before it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one kind of GPU alone needs. `division` is None where all models go together, on every GPU."""

    kind: str
    count: Count
    division: Division | None
    price: float | None

    @property
    def gpus(self) -> int:
        """Return how many GPUs to have; 0 if no number was found."""
        return self.count.gpus if self.division is None else self.division.gpus


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole answer. `best` is the kind that costs least, "" if none holds the workload alone.

    `is_present_held`: whether the file's GPUs hold it, None where memory forbids it or the budget ended. `pool` is the
    cheapest of all, a mix where that is cheaper, and the one that `curve` is of; all models in one cell.
    """

    seed: int
    answers: tuple[Answer, ...]
    best: str
    present: Pool
    is_present_held: bool | None
    mix: Mix | None
    pool: Pool
    curve: tuple[CurvePoint, ...]
    growth: tuple[GrowthPoint, ...]
    slo_costs: tuple[SloCost, ...]

    @property
    def answer(self) -> Answer | None:
        """Return the answer for the best kind."""
        return next((one for one in self.answers if one.kind == self.best), None)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        found = asdict(self)
        for one, answer in zip(found["answers"], self.answers, strict=True):
            one["gpus"] = answer.gpus
        return found

    def digest(self) -> str:
        """Return 16 hexadecimal digits of the whole answer."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


def make_plan(
    workload: Workload,
    source: LoadSource,
    *,
    seed: int,
    budget: Budget,
    cell_gpus_max: int = 0,
    on_step: OnStep = lambda _, __: None,
) -> Plan:
    """Return the plan of a workload whose requests come from `source`.

    The same arguments give the same plan as long as the budget does not cut it short; what was cut says so.
    `cell_gpus_max`: most GPUs of one cell, 0: no limit.
    """
    kinds = list(dict.fromkeys(workload.gpu_kinds))
    prices = prices_of(workload)
    has_prices = any(group.price for group in workload.gpus)
    present: Pool = tuple((kind, workload.gpu_kinds.count(kind)) for kind in kinds)
    answers = []
    counting = budget.part(COUNT_SHARE)
    for number, kind in enumerate(kinds):
        on_step(f"how many of {kind}", 0.4 * number / len(kinds))
        trials = Trials(workload, source, seed, counting.part(1.0 / (len(kinds) - number)))
        count = find_count(trials, kind)
        division = None
        if count.gpus and needs_division(workload, kind, count.gpus, cell_gpus_max):
            on_step(f"cells of {kind}", 0.4 * (number + 0.5) / len(kinds))
            division = divide(workload, source, kind, cell_gpus_max, seed, budget.part(DIVISION_SHARE / len(kinds)))
        gpus = count.gpus if division is None else division.gpus
        answers.append(Answer(kind, count, division, gpus * prices[kind] if has_prices else None))
    fit = [one for one in answers if one.gpus]
    best = min(fit, key=lambda one: one.gpus * prices[one.kind], default=None)
    mix = None
    is_one_cell = not cell_gpus_max and all(fits_together(workload, kind) for kind in kinds)
    if len(kinds) > 1 and (has_prices or best is None) and is_one_cell:
        on_step("the cheapest mix", 0.4)
        held = [((one.kind, one.gpus),) for one in fit]
        mix = find_mix(Trials(workload, source, seed, budget.part(MIX_SHARE)), prices, held)
    on_step("what the file's GPUs do", 0.55)
    is_judged = covers(present, workload) and all(fits_together(workload, kind) for kind in kinds)
    is_present_held = _holds(workload, source, seed, present, budget) if is_judged else None
    pool: Pool = ((best.kind, best.count.gpus),) if best is not None else ()
    if mix is not None and mix.pool and (not pool or mix.price < price_of(pool, prices)):
        pool = mix.pool
    on_step("goodput curve", 0.6)
    curve = goodput_curve(workload, source, pool, seed, budget.part(CURVE_SHARE)) if pool else []
    grown: list[GrowthPoint] = []
    costs: list[SloCost] = []
    if best is not None:
        on_step("growth", 0.7)
        grown = growth(workload, source, best.kind, best.count.gpus, seed, budget.part(GROWTH_SHARE))
        on_step("what each SLO costs", 0.8)
        costs = slo_costs(workload, source, best.kind, best.count.gpus, seed, budget)
    return Plan(
        seed=seed,
        answers=tuple(answers),
        best=best.kind if best else "",
        present=present,
        is_present_held=is_present_held,
        mix=mix,
        pool=pool,
        curve=tuple(curve),
        growth=tuple(grown),
        slo_costs=tuple(costs),
    )


def _holds(workload: Workload, source: LoadSource, seed: int, pool: Pool, budget: Budget) -> bool | None:
    try:
        return Trials(workload, source, seed, budget.part(MIX_SHARE)).holds(pool)
    except OutOfBudget:
        return None
