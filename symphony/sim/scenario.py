"""Draw one run of a workload from a seed, and run it: the road from a description to arrays and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from symphony.config.workload import Workload
from symphony.core import (
    FootprintDeclared,
    GpuJoined,
    MemoryDeclared,
    ModelAdded,
    ModelPlaced,
    ProfileChanged,
    Scheduler,
)
from symphony.sim.policy import CorePolicy, SimPolicy
from symphony.sim.run import Simulation
from symphony.units import BYTES_PER_MB, NS_PER_S
from symphony.workload import Arrivals

JITTER_RING = 1 << 16
JITTER_MIN = 0.1
PROGRESS_STEPS = 100
REQUEST_COUNT_MAX = 100_000_000
KIND_COUNT = 8

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Requests:
    """The requests of one run in the order of their arrival: instants, models, deadlines, priorities."""

    at_ns: Array
    models: Array
    deadlines_ns: Array
    priorities: Array

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.at_ns)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run left behind: per request its outcome (see `OUTCOMES`) and end, per batch where and when it ran."""

    workload: Workload
    requests: Requests
    outcome: Array
    ended_ns: Array
    batches: dict[str, Array]
    members: Array
    step_count: int
    load_count: int = 0

    def digest(self) -> str:
        """Return 16 hexadecimal digits of everything that was decided."""
        digest = hashlib.sha256(self.outcome.tobytes())
        digest.update(self.ended_ns.astype("<i8").tobytes())
        for name in sorted(self.batches):
            digest.update(self.batches[name].astype("<i8").tobytes())
        digest.update(self.members.astype("<u4").tobytes())
        return digest.hexdigest()[:16]


PolicyFactory = Callable[[Workload, int], SimPolicy]
"""Make a policy that knows the workload's models and GPUs, and has room for so many requests."""


def draw_requests(workload: Workload, seed: int) -> Requests:
    """Return the requests that the workload's models get in a run with this seed.

    Each copy of a model has a random stream of its own, so another model's load does not change it.
    """
    streams = iter(np.random.SeedSequence(seed).spawn(workload.model_count))
    duration_s = workload.duration_ns / NS_PER_S
    instants, models, slos, priorities = [], [], [], []
    number = 0
    for spec in workload.models:
        arrivals = Arrivals.parse(spec.arrivals)
        for _ in range(spec.copies):
            rng = np.random.default_rng(next(streams))
            found = arrivals.instants(spec.rate / spec.copies, duration_s, rng)
            instants.append(found)
            models.append(np.full(len(found), number, np.int32))
            slos.append(np.full(len(found), spec.slo_ns, np.int64))
            priorities.append(np.full(len(found), spec.priority, np.uint8))
            number += 1
    at_ns = np.concatenate(instants)
    order = np.argsort(at_ns, kind="stable")
    at_ns = at_ns[order]
    return Requests(
        at_ns, np.concatenate(models)[order], at_ns + np.concatenate(slos)[order], np.concatenate(priorities)[order]
    )


def make_core_policy(workload: Workload, request_count: int, *, adapt: bool = True, **settings: Any) -> CorePolicy:
    """Return the scheduling core set up for the workload, with further `settings` of docs/core.md.

    `adapt`: margins follow how much batches overrun their profile (symphony/core/margins.pyx).
    """
    scheduler = Scheduler(
        **{
            "policy": workload.policy,
            "request_count_max": max(1, request_count),
            "model_count_max": workload.model_count,
            "gpu_count_max": len(workload.gpu_kinds),
            "control_ns": workload.control_ns + workload.data_ns,
        }
        | settings
    )
    kinds = list(dict.fromkeys(workload.gpu_kinds))
    number = 0
    hosts: list[tuple[int, str, int]] = []
    footprints: list[FootprintDeclared] = []
    for spec in workload.models:
        size = spec.batch_size_max
        for _ in range(spec.copies):
            scheduler.step(0, ModelAdded(number, spec.slo_ns, size, workload.margin_ns + workload.reply_ns))
            for kind, table in spec.latency_ns.items():
                scheduler.step(0, ProfileChanged(number, kinds.index(kind), table[:size]))
                memory_bytes = round(spec.memory_mb * BYTES_PER_MB)
                hosts.append((number, kind, memory_bytes))
                footprints.append(FootprintDeclared(number, kinds.index(kind), memory_bytes, spec.load_ns))
            number += 1
    for gpu, kind in enumerate(workload.gpu_kinds):
        scheduler.step(0, GpuJoined(gpu, kinds.index(kind)))
    free = {gpu: round(memory_mb * BYTES_PER_MB) for gpu, memory_mb in enumerate(workload.gpu_memories_mb) if memory_mb}
    for gpu, memory_bytes in free.items():
        scheduler.step(0, MemoryDeclared(gpu, memory_bytes))
    placed = set()
    by_kind = {kind: [gpu for gpu, own in enumerate(workload.gpu_kinds) if own == kind] for kind in kinds}
    for model, kind, memory_bytes in hosts:
        for gpu in by_kind[kind]:
            # Where memory is short the first models are there at the start, and the others are loaded by demand.
            if gpu in free and memory_bytes > free[gpu]:
                continue
            scheduler.step(0, ModelPlaced(model, gpu))
            placed.add(model)
            if gpu in free:
                free[gpu] -= memory_bytes
    # Those that are there first: then memory is taken, and no load is decided that nobody would hear of.
    for footprint in sorted(footprints, key=lambda footprint: footprint.model not in placed):
        scheduler.step(0, footprint)
    return CorePolicy(scheduler.engine, scheduler.residency, adapt)


def latency_tables(workload: Workload) -> Array:
    """Return int64[model, kind, batch size] of how long batches take; 0 where a model is not resident."""
    kinds = list(dict.fromkeys(workload.gpu_kinds))
    size_max = max(spec.batch_size_max for spec in workload.models)
    tables = np.zeros((workload.model_count, KIND_COUNT, size_max + 1), np.int64)
    number = 0
    for spec in workload.models:
        for kind, table in spec.latency_ns.items():
            size = spec.batch_size_max
            tables[number : number + spec.copies, kinds.index(kind), 1 : size + 1] = table[:size]
        number += spec.copies
    return tables


def load_times(workload: Workload) -> Array:
    """Return int64[model] of how long bringing each model into a GPU's memory takes, from its decision on."""
    delay_ns = workload.control_ns + workload.data_ns
    own = [delay_ns + spec.load_ns for spec in workload.models for _ in range(spec.copies)]
    return np.array(own, np.int64)


def simulate(
    workload: Workload,
    *,
    seed: int | None = None,
    requests: Requests | None = None,
    make_policy: PolicyFactory = make_core_policy,
    on_progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Run the workload in virtual time and return what came of it.

    `seed` replaces the workload's, `requests` what would be drawn from it. `on_progress` hears the share of virtual
    time passed. The same arguments give the same outcome, bit for bit.
    """
    if seed is not None:
        workload = replace(workload, seed=seed)
    if requests is None:
        requests = draw_requests(workload, workload.seed)
    kinds = list(dict.fromkeys(workload.gpu_kinds))
    rng = np.random.default_rng(np.random.SeedSequence((workload.seed, 1)))
    factors = np.maximum(JITTER_MIN, 1.0 + workload.jitter * rng.standard_normal(JITTER_RING))
    run = Simulation(
        make_policy(workload, len(requests)),
        requests.at_ns,
        requests.models,
        requests.deadlines_ns,
        requests.priorities,
        np.array([kinds.index(kind) for kind in workload.gpu_kinds], np.int32),
        latency_tables(workload),
        factors if workload.jitter else np.ones(1),
        load_times(workload),
        workload.reply_ns,
        np.array([fault.at_ns for fault in workload.faults], np.int64),
        np.array([fault.gpu for fault in workload.faults], np.int32),
        np.array([fault.slowness for fault in workload.faults], np.float64),
    )
    for step in range(1, PROGRESS_STEPS + 1 if on_progress else 0):
        run.run(workload.duration_ns * step // PROGRESS_STEPS)
        if on_progress:
            on_progress(step / PROGRESS_STEPS)
    run.run()
    batches, members = run.batch_log()
    return Outcome(workload, requests, run.outcome, run.ended_ns, batches, members, run.step_count, run.load_count)
