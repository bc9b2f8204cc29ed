"""Judge a run: goodput, bad rate, latency, batches, GPUs in use. Requests of the warm-up are left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from symphony.sim.run import FATES, OUTCOMES
from symphony.sim.scenario import Array, Outcome
from symphony.units import NS_PER_MS, NS_PER_S

BUSY_SHARE_MIN = 0.01
"""A GPU is in use if it is busy for more than this share of the time."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
GOOD = OUTCOMES.index("good")
_ANSWERED = (GOOD, OUTCOMES.index("late"))


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One model's share of a report; copies are told apart by a number."""

    name: str
    request_count: int
    good_share: float
    batch_size_mean: float
    latency_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class SimReport:
    """What a run says, in plain values.

    Rates are per second of the judged time, from the end of the warm-up to the last arrival's second. `queueing_ms` is
    from arrival to the start of the batch, of answered requests.
    """

    policy: str
    seed: int
    digest: str
    request_count: int
    offered_rate: float
    good_rate: float
    good_share: float
    worst_good_share: float
    outcomes: dict[str, int]
    latency_ms: dict[str, float]
    queueing_ms: dict[str, float]
    batch_count: int
    batch_size_mean: float
    batches_by_fate: dict[str, int]
    gpus_in_use: int
    gpu_count: int
    busy_share: float
    models: list[ModelReport]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return asdict(self)


def report_on(outcome: Outcome) -> SimReport:
    """Return the report on one run."""
    workload, requests = outcome.workload, outcome.requests
    judged = requests.at_ns >= workload.warmup_ns
    seconds = (workload.duration_ns - workload.warmup_ns) / NS_PER_S
    models = requests.models[judged]
    good = outcome.outcome[judged] == GOOD
    totals = np.bincount(models, minlength=workload.model_count)
    goods = np.bincount(models[good], minlength=workload.model_count)
    names = model_names(outcome)
    latency = (outcome.ended_ns - requests.at_ns + workload.reply_ns) / NS_PER_MS
    answered = judged & np.isin(outcome.outcome, _ANSWERED)
    queueing = (started_ns(outcome) - requests.at_ns) / NS_PER_MS
    batches = outcome.batches
    counted = batches["start_ns"] >= workload.warmup_ns
    sizes = batches["size"][counted]
    busy = busy_share(outcome)
    shares = np.divide(goods, totals, out=np.ones(len(totals)), where=totals > 0)
    by_batch_model = np.bincount(batches["model"][counted], minlength=workload.model_count)
    sizes_of = np.bincount(batches["model"][counted], weights=sizes, minlength=workload.model_count)
    return SimReport(
        policy=workload.policy,
        seed=workload.seed,
        digest=outcome.digest(),
        request_count=int(judged.sum()),
        offered_rate=float(judged.sum() / seconds),
        good_rate=float(good.sum() / seconds),
        good_share=float(good.mean()) if len(good) else 1.0,
        worst_good_share=float(shares.min()),
        outcomes={name: int((outcome.outcome[judged] == code).sum()) for code, name in enumerate(OUTCOMES)},
        latency_ms=quantiles(latency[answered]),
        queueing_ms=quantiles(queueing[answered]),
        batch_count=int(counted.sum()),
        batch_size_mean=float(sizes.mean()) if len(sizes) else 0.0,
        batches_by_fate={name: int((batches["fate"][counted] == code).sum()) for code, name in enumerate(FATES)},
        gpus_in_use=int((busy > BUSY_SHARE_MIN).sum()),
        gpu_count=len(busy),
        busy_share=float(busy.mean()),
        models=[
            ModelReport(
                name,
                int(totals[number]),
                float(shares[number]),
                float(sizes_of[number] / max(1, by_batch_model[number])),
                quantiles(latency[answered & (requests.models == number)]),
            )
            for number, name in enumerate(names)
        ],
    )


def model_names(outcome: Outcome) -> list[str]:
    """Return the name of each model by number; copies get theirs with a number from 1."""
    return [
        spec.name if spec.copies == 1 else f"{spec.name}.{copy}"
        for spec in outcome.workload.models
        for copy in range(1, spec.copies + 1)
    ]


def started_ns(outcome: Outcome) -> Array:
    """Return int64[request]: when the batch that answered it began; its end where it had none."""
    found = outcome.ended_ns.copy()
    batches = outcome.batches
    ran = np.repeat(batches["fate"] == FATES.index("ran"), batches["size"])
    starts = np.repeat(batches["start_ns"], batches["size"])
    found[outcome.members[ran]] = starts[ran]
    return found


def busy_share(outcome: Outcome) -> Array:
    """Return float64[gpu]: the share of the judged time in which it was busy."""
    workload, batches = outcome.workload, outcome.batches
    begin, end = workload.warmup_ns, workload.duration_ns
    inside = np.clip(batches["finish_ns"], begin, end) - np.clip(batches["start_ns"], begin, end)
    count = len(workload.gpu_kinds)
    return np.asarray(np.bincount(batches["gpu"], weights=inside, minlength=count) / (end - begin))


def gpus_busy_over_time(outcome: Outcome, step_ns: int) -> tuple[Array, Array]:
    """Return (seconds, GPUs busy on average) for each step of the whole run."""
    batches = outcome.batches
    count = max(1, -(-outcome.workload.duration_ns // step_ns))
    edges = np.arange(count + 1) * step_ns
    starts, ends = np.sort(batches["start_ns"]), np.sort(batches["finish_ns"])
    # Busy time up to an edge: every batch that began by then, less what is still to come of those not ended.
    begun = _time_since(starts, edges)
    ended = _time_since(ends, edges)
    return edges[:-1] / NS_PER_S, np.diff(begun - ended) / step_ns


def _time_since(instants: Array, edges: Array) -> Array:
    """Return for each edge the sum of (edge - instant) over the instants before it."""
    sums = np.concatenate(([0], np.cumsum(instants)))
    before = np.searchsorted(instants, edges)
    return edges * before - sums[before]


def quantiles(values_ms: Array) -> dict[str, float]:
    """Return the quantiles and the maximum; zeros when there are no values."""
    if len(values_ms) == 0:
        return dict.fromkeys((*QUANTILES, "max"), 0.0)
    found = np.quantile(values_ms, list(QUANTILES.values()))
    return {**{name: float(value) for name, value in zip(QUANTILES, found, strict=True)}, "max": float(values_ms.max())}
