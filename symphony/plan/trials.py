"""Try pools of GPUs on a workload by simulation: a quick look, a few runs, or a verdict over many seeds."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

from symphony.config.workload import SimulatedGpus, Workload
from symphony.plan.budget import Budget
from symphony.plan.tally import Tally, Verdict
from symphony.sim import Outcome, Requests, simulate
from symphony.sim.replay import LoadSource
from symphony.units import NS_PER_S
from symphony.workload import Arrivals

QUICK_REQUEST_COUNT = 60_000
QUICK_SLO_COUNT = 40
"""A run must last so many SLOs beyond its warm-up, or a backlog would pass for goodput."""
RUN_REQUEST_COUNT_MAX = 2_000_000
"""A run longer than that is cut: so many requests leave little to chance."""
RUN_COUNT_FEW = 4
RUN_COUNT_MIN = 5
RUN_COUNT_MAX = 16
"""Runs of a verdict that something is held: at least and at most. That it is missed may be sure after one."""
VERDICT_REQUEST_COUNT_MAX = 12_000_000
KEPT_REQUEST_COUNT_MAX = 8_000_000
"""About 170 MB."""
STEADY_ARRIVALS = frozenset({"constant", "poisson", "gamma"})
"""Processes of which a short piece looks like a long one."""


class Closeness(IntEnum):
    """How closely a pool was looked at: one short run, a few full ones, as many as make it sure."""

    LOOK = 0
    FEW = 1
    VERDICT = 2


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
    # Every GPU of a cell holds all its models: without memory said, none is loaded by demand.
    gpus = tuple(SimulatedGpus(kind, count, facts[kind].price) for kind, count in pool if count)
    faults = tuple(fault for fault in workload.faults if fault.gpu < size_of(pool))
    return replace(workload, models=models, gpus=gpus, faults=faults)


class Trials:
    """Ask the simulator whether pools hold a workload at one load, ever more closely, and remember what it said.

    Run k of every pool has the seed `seed` + k, so pools are compared on the same requests. Each of the three questions
    raises OutOfBudget when no time is left to find out; a closer one goes on where the last one stopped.
    """

    def __init__(self, workload: Workload, source: LoadSource, seed: int, budget: Budget, load: float = 1.0) -> None:
        self.workload = workload
        self.budget = budget
        self.load = load
        self.run_count = 0
        self.request_count = 0
        self._source = source
        self._seed = seed
        rate = sum(spec.rate for spec in workload.models) * load
        self.judged_ns = judged_ns(workload, load)
        """How long full runs last."""
        is_steady = not workload.trace and all(
            Arrivals.parse(spec.arrivals).kind in STEADY_ARRIVALS for spec in workload.models
        )
        self._quick_ns = (
            min(self.judged_ns, _cut_ns(workload, QUICK_REQUEST_COUNT, rate)) if is_steady else self.judged_ns
        )
        self._is_one_sample = is_one_sample(workload)
        self._requests: dict[tuple[int, int], tuple[Workload, Requests]] = {}
        self._kept_count = 0
        self._tallies: dict[Pool, Tally] = {}
        self._known: dict[Pool, tuple[Closeness, bool]] = {}

    def looks_held(self, pool: Pool) -> bool:
        """Return whether one short run reaches the bar; for arrivals of which a piece says little, a full run."""
        if not self._is_known(pool, Closeness.LOOK):
            if self._quick_ns < self.judged_ns:
                self.budget.check()
                tally = Tally(self.workload.model_count)
                tally.add(self._run(pool, self._quick_ns, self._seed))
            else:
                tally = self._extended(pool, 1)
            self._known[pool] = (Closeness.LOOK, tally.is_held)
        return self._known[pool][1]

    def seems_held(self, pool: Pool) -> bool:
        """Return whether a few full runs together reach the bar."""
        if not self._is_known(pool, Closeness.FEW):
            self._known[pool] = (Closeness.FEW, self._extended(pool, RUN_COUNT_FEW).is_held)
        return self._known[pool][1]

    def holds(self, pool: Pool) -> bool:
        """Return whether the pool reaches the bar for sure, or, after many runs, with care."""
        if not self._is_known(pool, Closeness.VERDICT):
            tally = self._extended(pool, RUN_COUNT_MAX)
            is_held = tally.is_held if self._is_one_sample else tally.is_held_with_care
            self._known[pool] = (Closeness.VERDICT, is_held)
        return self._known[pool][1]

    def tally(self, pool: Pool) -> Tally | None:
        """Return what the full runs on the pool counted, None if there were none."""
        return self._tallies.get(pool)

    def smallest_held(self) -> Pool | None:
        """Return the smallest pool known to hold by the closest question that any pool passed; None if none did.

        A pool that is not larger than one found too small by as close a question does not count.
        """
        for closeness in reversed(Closeness):
            found = [pool for pool, known in self._known.items() if known == (closeness, True)]
            missed = self.largest_missed(closeness)
            held = [pool for pool in found if size_of(pool) > missed]
            if held:
                return min(held, key=size_of)
        return None

    def largest_missed(self, closeness: Closeness) -> int:
        """Return the size of the largest pool known not to hold by a question at least so close; 0 if there is none."""
        missed = [pool for pool, (close, is_held) in self._known.items() if close >= closeness and not is_held]
        return max(map(size_of, missed), default=0)

    def _is_known(self, pool: Pool, closeness: Closeness) -> bool:
        return pool in self._known and self._known[pool][0] >= closeness

    def _extended(self, pool: Pool, run_count: int) -> Tally:
        """Return the pool's tally after so many full runs, fewer when they are sure or make enough requests."""
        tally = self._tallies.setdefault(pool, Tally(self.workload.model_count))
        if self._is_one_sample:
            run_count = 1
        while tally.run_count < run_count:
            verdict = tally.verdict if tally.run_count else Verdict.UNSURE
            if verdict is Verdict.MISSED or (verdict is Verdict.HELD and tally.run_count >= RUN_COUNT_MIN):
                break
            if tally.run_count >= RUN_COUNT_MIN and tally.request_count > VERDICT_REQUEST_COUNT_MAX:
                break
            self.budget.check()
            tally.add(self._run(pool, self.judged_ns, self._seed + tally.run_count))
        return tally

    def _run(self, pool: Pool, duration_ns: int, seed: int) -> Outcome:
        workload, requests = self._drawn(duration_ns, seed)
        self.run_count += 1
        self.request_count += len(requests)
        return simulate(with_pool(workload, pool), seed=seed, requests=requests)

    def _drawn(self, duration_ns: int, seed: int) -> tuple[Workload, Requests]:
        """Return the requests of a run, the same for every pool; some are kept, as drawing takes a third of a run."""
        key = (duration_ns, seed)
        if key not in self._requests:
            drawn = self._source(replace(self.workload, duration_ns=duration_ns), self.load, seed)
            if self._kept_count + len(drawn[1]) > KEPT_REQUEST_COUNT_MAX:
                return drawn
            self._requests[key] = drawn
            self._kept_count += len(drawn[1])
        return self._requests[key]


def judged_ns(workload: Workload, load: float = 1.0) -> int:
    """Return how long to run at so many times the load: as the workload says, or for as many requests as are allowed.

    A recording that runs only once may have as many as all runs of a verdict together.
    """
    most = VERDICT_REQUEST_COUNT_MAX if is_one_sample(workload) else RUN_REQUEST_COUNT_MAX
    return _cut_ns(workload, most, sum(spec.rate for spec in workload.models) * load)


def is_one_sample(workload: Workload) -> bool:
    """Return whether every seed gives the same run: recorded requests, and batches that take what they take."""
    return bool(workload.trace) and workload.jitter == 0.0


def _cut_ns(workload: Workload, request_count: int, rate: float) -> int:
    """Return how long to run for so many requests: at least `QUICK_SLO_COUNT` SLOs, at most the workload's duration."""
    if rate <= 0.0:
        return workload.duration_ns
    slo_ns = max(spec.slo_ns for spec in workload.models)
    needed = max(round(request_count / rate * NS_PER_S), QUICK_SLO_COUNT * slo_ns)
    return min(workload.duration_ns, workload.warmup_ns + needed)
