"""Try pools of GPUs on a workload by simulation: a quick look, or a verdict over several seeds."""

from __future__ import annotations

from dataclasses import replace

from symphony.config.workload import SimulatedGpus, Workload
from symphony.plan.budget import Budget
from symphony.plan.tally import Tally, Verdict
from symphony.sim import Outcome, simulate
from symphony.sim.replay import LoadSource
from symphony.units import NS_PER_S
from symphony.workload import Arrivals

QUICK_REQUEST_COUNT = 60_000
QUICK_SLO_COUNT = 40
"""A run must last so many SLOs beyond its warm-up, or a backlog would pass for goodput."""
RUN_REQUEST_COUNT_MAX = 2_000_000
"""A run longer than that is cut: so many requests leave little to chance."""
RUN_COUNT_MIN = 5
RUN_COUNT_MAX = 20
"""Runs of a verdict that something is held; that it is missed may be sure after one."""
VERDICT_REQUEST_COUNT_MAX = 12_000_000
STEADY_ARRIVALS = frozenset({"constant", "poisson", "gamma"})
"""Processes of which a short piece looks like a long one."""

Pool = tuple[tuple[str, int], ...]
"""(kind, count) for each kind of GPU, in the order of their ids."""


def size_of(pool: Pool) -> int:
    """Return how many GPUs the pool has."""
    return sum(count for _, count in pool)


def with_pool(workload: Workload, pool: Pool) -> Workload:
    """Return the workload on these GPUs; models keep their profiles for these kinds, faults those of GPUs that exist.

    Every model must have a profile for at least one of the kinds.
    """
    facts = {group.kind: group for group in workload.gpus}
    kinds = {kind for kind, count in pool if count}
    models = tuple(
        replace(spec, latency_ns={kind: table for kind, table in spec.latency_ns.items() if kind in kinds})
        for spec in workload.models
    )
    gpus = tuple(SimulatedGpus(kind, count, facts[kind].price, facts[kind].memory_mb) for kind, count in pool if count)
    faults = tuple(fault for fault in workload.faults if fault.gpu < size_of(pool))
    return replace(workload, models=models, gpus=gpus, faults=faults)


class Trials:
    """Ask the simulator whether pools hold a workload at one load, and remember what it said.

    Run k of every pool has the seed `seed` + k, so pools are compared on the same requests.
    """

    def __init__(self, workload: Workload, source: LoadSource, seed: int, budget: Budget, load: float = 1.0) -> None:
        self.workload = workload
        self.budget = budget
        self.run_count = 0
        self.request_count = 0
        self._source = source
        self._seed = seed
        self.load = load
        rate = sum(spec.rate for spec in workload.models) * load
        self.judged_ns = _cut_ns(workload, RUN_REQUEST_COUNT_MAX, rate)
        """How long the runs of a verdict last: the workload's duration, or what `RUN_REQUEST_COUNT_MAX` allows."""
        is_steady = not workload.trace and all(
            Arrivals.parse(spec.arrivals).kind in STEADY_ARRIVALS for spec in workload.models
        )
        self._quick_ns = (
            min(self.judged_ns, _cut_ns(workload, QUICK_REQUEST_COUNT, rate)) if is_steady else self.judged_ns
        )
        self._quick: dict[Pool, bool] = {}
        self._settled: dict[Pool, tuple[bool, Tally]] = {}

    def looks_held(self, pool: Pool) -> bool:
        """Return whether one short run reaches the bar; raise OutOfBudget when no time is left to find out."""
        if pool not in self._quick:
            self.budget.check()
            tally = Tally(self.workload.model_count)
            tally.add(self._run(pool, self._quick_ns, self._seed))
            self._quick[pool] = tally.is_held
        return self._quick[pool]

    def holds(self, pool: Pool) -> bool:
        """Return whether the pool reaches the bar: seeds are added until it is sure, or enough have been run.

        Raise OutOfBudget when no time is left to find out.
        """
        if pool not in self._settled:
            tally = Tally(self.workload.model_count)
            while tally.run_count < RUN_COUNT_MAX:
                self.budget.check()
                tally.add(self._run(pool, self.judged_ns, self._seed + tally.run_count))
                verdict = tally.verdict
                if verdict is Verdict.MISSED or (verdict is Verdict.HELD and tally.run_count >= RUN_COUNT_MIN):
                    break
                if tally.run_count >= RUN_COUNT_MIN and tally.request_count > VERDICT_REQUEST_COUNT_MAX:
                    break
            self._settled[pool] = (tally.is_held_with_care, tally)
        return self._settled[pool][0]

    def tally(self, pool: Pool) -> Tally | None:
        """Return what a verdict on the pool rests on, None if there was none."""
        return self._settled[pool][1] if pool in self._settled else None

    def smallest_held(self) -> Pool | None:
        """Return the smallest pool that held by verdict, or else by a quick look; None if none did."""
        held = [pool for pool, (is_held, _) in self._settled.items() if is_held] or [
            pool for pool, is_held in self._quick.items() if is_held and not self._settled.get(pool)
        ]
        return min(held, key=size_of, default=None)

    def largest_missed(self) -> int:
        """Return the size of the largest pool that missed, by verdict or by a quick look; 0 if none did."""
        missed = [pool for pool, (is_held, _) in self._settled.items() if not is_held]
        missed += [pool for pool, is_held in self._quick.items() if not is_held and pool not in self._settled]
        return max(map(size_of, missed), default=0)

    def _run(self, pool: Pool, duration_ns: int, seed: int) -> Outcome:
        workload, requests = self._source(
            replace(with_pool(self.workload, pool), duration_ns=duration_ns), self.load, seed
        )
        self.run_count += 1
        self.request_count += len(requests)
        return simulate(workload, seed=seed, requests=requests)


def _cut_ns(workload: Workload, request_count: int, rate: float) -> int:
    """Return how long to run for so many requests: at least `QUICK_SLO_COUNT` SLOs, at most the workload's duration."""
    if rate <= 0.0:
        return workload.duration_ns
    slo_ns = max(spec.slo_ns for spec in workload.models)
    needed = max(round(request_count / rate * NS_PER_S), QUICK_SLO_COUNT * slo_ns)
    return min(workload.duration_ns, workload.warmup_ns + needed)
