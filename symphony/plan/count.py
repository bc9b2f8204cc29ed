"""Find how many GPUs of one kind hold a workload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from symphony.config.workload import Workload
from symphony.config.workload_document import GPU_COUNT_MAX
from symphony.plan.bracket import find_least
from symphony.plan.budget import OutOfBudget
from symphony.plan.demand import guess, is_possible, least_work, work
from symphony.plan.tally import Tally
from symphony.plan.trials import Closeness, Pool, Trials, size_of
from symphony.sim.sweep import scaled


@dataclass(frozen=True, slots=True)
class Count:
    """How many GPUs of one kind hold the workload.

    `gpus`: 0 if none could be found; `why` then says why. `is_settled`: `gpus` were seen to hold it and `gpus` - 1 not
    to, both over several seeds; otherwise the budget ended first, and `missed` GPUs are too few. `guess`: by
    arithmetic. `bound`: no scheduler needs less.
    """

    kind: str
    gpus: int
    is_settled: bool
    guess: int
    bound: float
    missed: int = 0
    good_share: float = 0.0
    worst_good_share: float = 0.0
    good_share_below: float | None = None
    run_count: int = 0
    request_count: int = 0
    judged_s: float = 0.0
    why: str = ""


def impossible(workload: Workload, kind: str) -> str:
    """Return why no number of GPUs of this kind holds the workload, "" if nothing is known against it."""
    for spec in workload.models:
        if kind not in spec.latency_ns:
            return f"model {spec.name!r} has no profile for {kind!r}"
        memory_mb = next((group.memory_mb for group in workload.gpus if group.kind == kind), 0.0)
        if 0.0 < memory_mb < spec.memory_mb:
            return f"model {spec.name!r} takes {spec.memory_mb:g} MB, a GPU of kind {kind!r} has {memory_mb:g} MB"
        if not is_possible(workload, spec, kind) and spec.rate > 0:
            return (
                f"model {spec.name!r}: l(1) = {spec.latency_ns[kind][0] / 1e6:g} ms on {kind!r} and the delays exceed "
                f"its SLO of {spec.slo_ns / 1e6:g} ms"
            )
    return ""


def find_count(trials: Trials, kind: str, start: int | None = None) -> Count:
    """Return how many GPUs of this kind hold the workload of the trials; `start` instead of the first guess.

    Quick looks bring the number near, a few runs nearer, then verdicts over many seeds settle it.
    """
    workload = trials.workload
    why = impossible(workload, kind)
    if why:
        return Count(kind, 0, True, 0, 0.0, why=why)
    models = scaled(workload, trials.load).models
    first = guess([work(workload, spec, kind) for spec in models]) if start is None else start
    bound = sum(least_work(workload, spec, kind) for spec in models)
    is_settled = True
    gpus: int | None
    try:
        gpus = first
        for question, step_share, resolution_share in (
            (trials.looks_held, 8, 32),
            (trials.seems_held, 32, 128),
            (trials.holds, 128, GPU_COUNT_MAX),
        ):
            step, resolution = max(1, gpus // step_share), max(1, gpus // resolution_share)
            gpus = find_least(partial(_asked, question, kind), gpus, GPU_COUNT_MAX, step, resolution)
            if gpus is None:
                break
        if gpus is None:
            why = f"not even {GPU_COUNT_MAX} GPUs hold it"
    except OutOfBudget:
        is_settled = False
        held = trials.smallest_held()
        gpus = None if held is None else size_of(held)
        if held is None:
            why = "the budget ended before a number of GPUs that holds it was found; give more with --budget-s"
    tally = trials.tally(((kind, gpus),)) if gpus else None
    below = trials.tally(((kind, gpus - 1),)) if gpus and gpus > 1 else None
    return Count(
        kind=kind,
        gpus=gpus or 0,
        is_settled=is_settled,
        guess=first,
        bound=bound,
        missed=trials.largest_missed(Closeness.LOOK)
        if gpus is None
        else min(gpus - 1, trials.largest_missed(Closeness.LOOK)),
        good_share=_share(tally),
        worst_good_share=tally.worst_good_share if tally else 0.0,
        good_share_below=below.good_share if below else None,
        run_count=trials.run_count,
        request_count=trials.request_count,
        judged_s=trials.judged_ns / 1e9,
        why=why,
    )


def _asked(question: Callable[[Pool], bool], kind: str, gpus: int) -> bool:
    return question(((kind, gpus),))


def _share(tally: Tally | None) -> float:
    return tally.good_share if tally else 0.0
