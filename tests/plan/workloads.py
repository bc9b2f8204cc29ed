"""Draw workloads for tests of plans: models unlike in profile, SLO, load and arrivals, from a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.units import ms_to_ns

ARRIVALS = ("poisson", "poisson", "constant", "gamma:0.3", "gamma:2", "onoff:0.3:0.3")
BATCH_SIZE_MAX = 256


def line(alpha_ms: float, beta_ms: float) -> tuple[int, ...]:
    """Return l(b) = alpha b + beta."""
    return tuple(ms_to_ns(alpha_ms * size + beta_ms) for size in range(1, BATCH_SIZE_MAX + 1))


def model(name: str, slo_ms: float, rate: float, alpha_ms: float, beta_ms: float, **changes) -> SimulatedModel:
    """Return a model for the one kind of GPU."""
    return SimulatedModel(name, ms_to_ns(slo_ms), rate, {"gpu": line(alpha_ms, beta_ms)}, **changes)


def on_gpus(*models: SimulatedModel, count: int = 1, **changes) -> Workload:
    """Return a workload on GPUs of one kind."""
    return Workload(models, (SimulatedGpus("gpu", count),), **changes)


def random_workload(seed: int, model_count_max: int, rate: tuple[float, float]) -> Workload:
    """Return up to `model_count_max` models whose rates fall with their rank and add up to one between `rate`'s two."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, model_count_max + 1))
    total = float(np.exp(rng.uniform(*np.log(rate))))
    weights = np.arange(1, count + 1) ** -0.9
    models = []
    for number, weight in enumerate(weights / weights.sum()):
        beta = float(np.exp(rng.uniform(np.log(0.5), np.log(15))))
        alpha = beta * float(np.exp(rng.uniform(np.log(0.05), np.log(0.5))))
        slo = float(np.clip((alpha + beta) * rng.uniform(4, 12), 10, 500))
        one = model(f"m{number}", slo, total * float(weight), alpha, beta)
        models.append(replace(one, arrivals=ARRIVALS[rng.integers(len(ARRIVALS))]))
    return on_gpus(*models)
