"""Run a scheduler in virtual time against GPUs that take exactly l(b), from a seed.

It knows only the Python door of the core (`step` and `wakeup_ns`), so the core and its oracle both fit. A run has no
clock and no randomness beyond its seed: the same arguments give the same `Result`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from symphony.core.events import (
    BatchFinished,
    Dispatch,
    Drop,
    GpuJoined,
    ModelAdded,
    ModelPlaced,
    ProfileChanged,
    RequestArrived,
)
from tests.oracle import NEVER

MS = 1_000_000
S = 1_000_000_000
GOOD_SHARE = 0.99
"""Goodput is the largest offered load of which this share is good."""


@dataclass(frozen=True)
class ModelSpec:
    """A model with the same profile on every GPU."""

    slo_ns: int
    latency_ns: tuple[int, ...]
    delay_ns: int = 0
    batch_size_preferred: int = 0


@dataclass(frozen=True)
class Arrival:
    at_ns: int
    model: int
    priority: int = 4


@dataclass(frozen=True)
class Batch:
    gpu: int
    model: int
    size: int
    started_ns: int
    finished_ns: int


@dataclass
class Result:
    """Say what became of every request, and which batches ran."""

    offered_count: int
    good_count: int = 0
    late_count: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """By reason."""
    bad_by_priority: Counter[int] = field(default_factory=Counter)
    batches: list[Batch] = field(default_factory=list)

    @property
    def dropped_count(self) -> int:
        return self.dropped.total()

    @property
    def good_share(self) -> float:
        return self.good_count / self.offered_count

    @property
    def batch_sizes(self) -> list[int]:
        return [batch.size for batch in self.batches]

    @property
    def gpus_used(self) -> set[int]:
        return {batch.gpu for batch in self.batches}

    def busy_ns(self, gpu: int) -> int:
        """Return how long the GPU computed."""
        return sum(batch.finished_ns - batch.started_ns for batch in self.batches if batch.gpu == gpu)


def linear(alpha_ms: float, beta_ms: float, batch_size_max: int) -> tuple[int, ...]:
    """Return l(b) = alpha b + beta as a table in nanoseconds."""
    return tuple(round((alpha_ms * b + beta_ms) * MS) for b in range(1, batch_size_max + 1))


def make_arrivals(
    rate: float, duration_ns: int, seed: int, *, model_count: int = 1, shape: float = 1.0
) -> list[Arrival]:
    """Return `rate` arrivals a second, each for a random model.

    Gaps are gamma distributed: shape 1 is a Poisson process, a smaller one comes in bursts.
    """
    random = np.random.default_rng(seed)
    count = int(rate * duration_ns / S * 1.1) + 100
    at_ns = np.cumsum(random.gamma(shape, S / rate / shape, count)).astype(np.int64)
    models = random.integers(0, model_count, count)
    return [Arrival(int(at), int(m)) for at, m in zip(at_ns, models, strict=True) if at < duration_ns]


def set_up(scheduler, models: Sequence[ModelSpec], gpu_count: int) -> None:
    """Add models 0, 1, ... and let GPUs 0, 1, ... join at time 0, every model resident on every GPU."""
    for m, spec in enumerate(models):
        sizes = len(spec.latency_ns), 0, spec.delay_ns, spec.batch_size_preferred
        scheduler.step(0, ModelAdded(m, spec.slo_ns, *sizes))
        scheduler.step(0, ProfileChanged(m, 0, spec.latency_ns))
    for g in range(gpu_count):
        scheduler.step(0, GpuJoined(g))
        for m in range(len(models)):
            scheduler.step(0, ModelPlaced(m, g))


def simulate(
    scheduler,
    models: Sequence[ModelSpec],
    gpu_count: int,
    arrivals: Sequence[Arrival],
    *,
    control_ns: int = 0,
    request_count_max: int = 65536,
) -> Result:
    """Feed the arrivals to a fresh scheduler, run what it dispatches and return what came of it.

    A decision reaches its GPU `control_ns` after it was made. A GPU runs its batches in the order in which they came,
    begins none before its `start_at_ns`, and takes l(b). Runs until every request has left and every batch has ended.
    """
    set_up(scheduler, models, gpu_count)
    result = Result(len(arrivals))
    deadlines = [arrival.at_ns + models[arrival.model].slo_ns for arrival in arrivals]
    index_of_id: dict[int, int] = {}
    finishes: list[tuple[int, BatchFinished]] = []
    free_at_ns = [0] * gpu_count

    def carry_out(now_ns: int, decisions: list) -> None:
        for decision in decisions:
            if isinstance(decision, Drop):
                index = index_of_id.pop(decision.id)
                result.dropped[decision.reason] += 1
                result.bad_by_priority[arrivals[index].priority] += 1
            elif isinstance(decision, Dispatch):
                g, m, size = decision.gpu, decision.model, len(decision.ids)
                started_ns = max(decision.start_at_ns, now_ns + control_ns, free_at_ns[g])
                finished_ns = started_ns + models[m].latency_ns[size - 1]
                free_at_ns[g] = finished_ns
                finished = BatchFinished(decision.plan_id, g, finished_ns)
                heapq.heappush(finishes, (finished_ns, decision.plan_id, finished))
                result.batches.append(Batch(g, m, size, started_ns, finished_ns))
                for id_ in decision.ids:
                    index = index_of_id.pop(id_)
                    if finished_ns <= deadlines[index]:
                        result.good_count += 1
                    else:
                        result.late_count += 1
                        result.bad_by_priority[arrivals[index].priority] += 1

    next_index = 0
    while True:
        arrival_ns = arrivals[next_index].at_ns if next_index < len(arrivals) else NEVER
        finish_ns = finishes[0][0] if finishes else NEVER
        wakeup_ns = scheduler.wakeup_ns
        now_ns = min(arrival_ns, finish_ns, wakeup_ns)
        if now_ns == NEVER:
            return result
        if now_ns == finish_ns:
            event = heapq.heappop(finishes)[2]
        elif now_ns == arrival_ns:
            arrival = arrivals[next_index]
            id_ = next_index % request_count_max
            index_of_id[id_] = next_index
            event = RequestArrived(id_, arrival.model, deadlines[next_index], arrival.priority)
            next_index += 1
        else:
            event = None
        carry_out(now_ns, scheduler.step(now_ns, event))


def goodput_search(run: Callable[[float], Result], low: float, high: float, *, accuracy: float = 0.02) -> float:
    """Return the largest rate, to `accuracy` of itself, at which `run(rate)` is good enough; 0 if `low` is not.

    Doubles `low` up to `high`, then halves the interval: about 10 runs.
    """
    best, bad = 0.0, high
    rate = low
    while rate <= high:
        if run(rate).good_share < GOOD_SHARE:
            bad = rate
            break
        best, rate = rate, rate * 2
    if best == 0.0:
        return 0.0
    while bad - best > accuracy * best:
        rate = (best + bad) / 2
        if run(rate).good_share >= GOOD_SHARE:
            best = rate
        else:
            bad = rate
    return best
