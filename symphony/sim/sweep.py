"""Ask the simulator how much load a policy carries, over several seeds: the goodput, and GPUs in use below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from symphony.config.workload import Workload
from symphony.sim.report import SimReport, report_on
from symphony.sim.scenario import PolicyFactory, make_core_policy, simulate

GOOD_SHARE_MIN = 0.99
WORST_SHARE_MIN = 0.97
RESOLUTION = 0.004
PROBE_COUNT_MAX = 60
SEEDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A workload at one load over several seeds: shares over all of them together, GPUs in use of each."""

    load: float
    offered_rate: float
    good_rate: float
    good_share: float
    worst_good_share: float
    gpus_in_use: tuple[int, ...]
    batch_size_mean: float
    digests: tuple[str, ...]

    @property
    def is_held(self) -> bool:
        """Return whether 99 % were good, and 97 % of each model's."""
        return self.good_share >= GOOD_SHARE_MIN and self.worst_good_share >= WORST_SHARE_MIN


def scaled(workload: Workload, load: float) -> Workload:
    """Return the workload with `load` times its rates."""
    return replace(workload, models=tuple(replace(model, rate=model.rate * load) for model in workload.models))


def sweep(
    workload: Workload, load: float, seeds: Sequence[int] = SEEDS, make_policy: PolicyFactory = make_core_policy
) -> Sweep:
    """Run the workload at `load` times its rates with each seed."""
    reports = [report_on(simulate(scaled(workload, load), seed=seed, make_policy=make_policy)) for seed in seeds]
    counts = np.array([[model.request_count for model in report.models] for report in reports]).sum(axis=0)
    goods = np.array([[_good(report, number) for number in range(len(counts))] for report in reports]).sum(axis=0)
    shares = np.divide(goods, counts, out=np.ones(len(counts)), where=counts > 0)
    return Sweep(
        load=load,
        offered_rate=float(np.mean([report.offered_rate for report in reports])),
        good_rate=float(np.mean([report.good_rate for report in reports])),
        good_share=float(goods.sum() / max(1, counts.sum())),
        worst_good_share=float(shares.min()),
        gpus_in_use=tuple(report.gpus_in_use for report in reports),
        batch_size_mean=float(np.mean([report.batch_size_mean for report in reports])),
        digests=tuple(report.digest for report in reports),
    )


def _good(report: SimReport, number: int) -> int:
    model = report.models[number]
    return round(model.good_share * model.request_count)


def find_goodput(
    workload: Workload,
    seeds: Sequence[int] = SEEDS,
    make_policy: PolicyFactory = make_core_policy,
    *,
    resolution: float = RESOLUTION,
    on_probe: Callable[[Sweep], None] | None = None,
) -> float:
    """Return the largest load, as a multiple of the workload's rates, that is held by all seeds together; 0 if none.

    Starts at 1, doubles or halves until the border is between two loads, then bisects to `resolution`.
    """
    count = 0

    def holds(load: float) -> bool:
        nonlocal count
        count += 1
        found = sweep(workload, load, seeds, make_policy)
        if on_probe is not None:
            on_probe(found)
        return found.is_held

    low, high = 1.0, 1.0
    if holds(1.0):
        step = 1.1
        while count < PROBE_COUNT_MAX and holds(low * step):
            low *= step
            step = min(2.0, step * 1.2)
        high = low * step
    else:
        step = 0.9
        while count < PROBE_COUNT_MAX and low > 1e-4:
            low = high * step
            if holds(low):
                break
            high, step = low, max(0.5, step * 0.9)
        else:
            return 0.0
    while count < PROBE_COUNT_MAX and high > low * (1 + resolution):
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
