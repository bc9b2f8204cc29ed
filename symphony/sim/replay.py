"""Replay a recorded workload in virtual time, at its own pace or faster, with all of its models or with some."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil

import numpy as np

from symphony.config.workload import Workload
from symphony.errors import ConfigError
from symphony.sim.scenario import Requests, draw_requests
from symphony.sim.sweep import scaled
from symphony.units import NS_PER_S
from symphony.workload import Trace

LoadSource = Callable[[Workload, float, int], tuple[Workload, Requests]]
"""Return (workload, requests) of a workload at so many times its load, by a seed."""


def drawn(workload: Workload, load: float, seed: int) -> tuple[Workload, Requests]:
    """Draw the requests from the seed, at `load` times the rates."""
    more = scaled(workload, load)
    return more, draw_requests(more, seed)


class Replay:
    """Requests of a trace, for workloads whose models are among those it was made with.

    At another load the trace is played so many times as fast, and ends so much earlier. A model whose rate is below the
    one that the trace gives it gets that share of its requests, chosen by the seed. A model whose SLO was changed takes
    the SLOs of its requests along.
    """

    def __init__(self, workload: Workload, trace: Trace) -> None:
        """Take the whole workload and its trace; raise ConfigError if a model of the trace is not in it."""
        specs = {spec.name: spec for spec in workload.models}
        unknown = [name for name in trace.names if name not in specs]
        if unknown:
            raise ConfigError(
                f"the trace {workload.trace} asks for {len(unknown)} models that the workload lacks, {unknown[0]!r} "
                "first; add them to [[models]] with their profiles, or take them out of the trace"
            )
        end_ns = int(trace.at_ns[-1]) + 1
        duration_ns = min(workload.duration_ns or end_ns, end_ns)
        if duration_ns <= workload.warmup_ns:
            raise ConfigError(
                f"the trace {workload.trace} is used for {duration_ns / NS_PER_S:g} s of its {end_ns / NS_PER_S:g} s: "
                f"that must be above warmup_s = {workload.warmup_ns / NS_PER_S:g}; shorten the warm-up"
            )
        self._trace = trace
        own = np.array([specs[name].slo_ns for name in trace.names], np.int64)
        self._slo_ns = np.where(trace.slo_ns > 0, trace.slo_ns, own[trace.models])
        inside = trace.at_ns < duration_ns
        counts = np.bincount(trace.models[inside], minlength=len(trace.names))
        rates = dict(zip(trace.names, (counts * NS_PER_S / duration_ns).tolist(), strict=True))
        models = tuple(replace(spec, rate=rates.get(spec.name, 0.0)) for spec in workload.models)
        self.workload = replace(workload, models=models, duration_ns=duration_ns)
        """The workload with the rates and the duration that the trace gives it."""
        self._specs = {spec.name: spec for spec in models}

    def __call__(self, workload: Workload, load: float, seed: int) -> tuple[Workload, Requests]:
        """Return the requests of the workload's models; see the class."""
        trace = self._trace
        number = {spec.name: index for index, spec in enumerate(workload.models)}
        to_model = np.array([number.get(name, -1) for name in trace.names], np.int32)
        share, slo_factor, priority = (np.ones(len(trace.names)) for _ in range(3))
        for index, name in enumerate(trace.names):
            spec = workload.models[number[name]] if name in number else self._specs[name]
            base = self._specs[name]
            share[index] = spec.rate / base.rate if base.rate > 0 else 1.0
            slo_factor[index] = spec.slo_ns / base.slo_ns
            priority[index] = spec.priority
        end = int(np.searchsorted(trace.at_ns, workload.duration_ns))
        models = trace.models[:end]
        taken = to_model[models] >= 0
        if (share < 1.0).any():
            taken &= np.random.default_rng(seed).random(end) < share[models]
        models = models[taken]
        at_ns = (trace.at_ns[:end][taken] / load).astype(np.int64) if load != 1.0 else trace.at_ns[:end][taken]
        slo_ns = (self._slo_ns[:end][taken] * slo_factor[models]).astype(np.int64)
        shorter = replace(
            scaled(workload, load),
            duration_ns=ceil(workload.duration_ns / load),
            warmup_ns=round(workload.warmup_ns / load),
        )
        return shorter, Requests(at_ns, to_model[models], at_ns + slo_ns, priority[models].astype(np.uint8))
