"""Say without simulation how many GPUs a workload asks for: the first guess of a search, and what none can go below.

The same arithmetic that sizes the active set in the scheduler (docs/core.md, "Target batch size"; docs/plan.md has it
with numbers). Work is counted in GPUs: 1.0 keeps one GPU busy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from math import ceil

from symphony.config.workload import SimulatedModel, Workload
from symphony.units import NS_PER_S

TARGET_SHARE = 0.9
"""The scheduler aims at this share of the staggered batch, for what fluctuates."""
ROUNDS = 8
SPARE_GPUS = 0.5


def budget_ns(workload: Workload, model: SimulatedModel) -> int:
    """Return what delays and margins leave of the model's SLO."""
    return model.slo_ns - workload.control_ns - workload.data_ns - workload.reply_ns - workload.margin_ns


def is_possible(workload: Workload, model: SimulatedModel, kind: str) -> bool:
    """Return whether a request that meets an idle GPU of this kind can be good."""
    table = model.latency_ns.get(kind)
    return table is not None and table[0] <= budget_ns(workload, model)


def least_work(workload: Workload, model: SimulatedModel, kind: str) -> float:
    """Return the work that no scheduler can go below: every batch the most efficient one that the SLO allows."""
    limit = budget_ns(workload, model)
    if model.rate <= 0.0:
        return 0.0
    costs = [duration / size for size, duration in enumerate(model.latency_ns[kind], 1) if duration <= limit]
    return model.rate / NS_PER_S * min(costs) if costs else float("inf")


def work(workload: Workload, model: SimulatedModel, kind: str) -> float:
    """Return the work of the model's arrivals, all copies, at the batch sizes that the scheduler will reach.

    Its N GPUs run staggered batches b with (1 + 1/N) l(b) <= SLO, so N = rate l(b) / b depends on itself: start with
    plenty, and go round a few times. With under one GPU's load a model gathers what arrives while it may wait.
    Cost: some 20 us, logarithmic in the largest batch.
    """
    if model.rate <= 0.0:
        return 0.0
    if not is_possible(workload, model, kind):
        return float("inf")
    table, limit = model.latency_ns[kind], budget_ns(workload, model)
    rate = model.rate / model.copies / NS_PER_S
    gpus = max(1.0, rate * table[0])
    for _ in range(ROUNDS):
        size = target_batch_size(table, limit, gpus)
        if gpus < 1.0:
            most = target_batch_size(table, limit, 1.0)
            size = max(size, gathered_batch_size(table[:most], rate, limit))
        gpus = rate * table[size - 1] / size
    return gpus * model.copies


def target_batch_size(table_ns: Sequence[int], limit_ns: int, gpus: float) -> int:
    """Return nine tenths of the staggered batch on `gpus` GPUs (symphony/profiles/stagger.py), at least 1."""
    return max(1, int(bisect_right(table_ns, limit_ns * gpus / (gpus + 1.0)) * TARGET_SHARE))


def gathered_batch_size(table_ns: Sequence[int], rate: float, limit_ns: int) -> int:
    """Return the largest b of the table that `rate` (per nanosecond) brings together within what l(b) leaves."""
    # What is missing grows with b, as l(b) does.
    missing = partial(_missing, table_ns, rate, limit_ns)
    return max(1, bisect_right(range(1, len(table_ns) + 1), 0.0, key=missing))


def _missing(table_ns: Sequence[int], rate: float, limit_ns: int, size: int) -> float:
    return size - 1 - rate * (limit_ns - table_ns[size - 1])


def guess(works: Sequence[float]) -> int:
    """Return the number of GPUs to begin with for these works: their sum, and half a GPU for what fluctuates."""
    return max(1, ceil(sum(works) + SPARE_GPUS))
