"""Describe what to simulate: models and their load, GPUs, delays, faults. Frozen, checked values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """`copies` models alike: `rate` requests per second over all of them, arriving as `arrivals` says.

    `latency_ns` maps a kind of GPU to l(1), l(2), ... up to `batch_size_max`; the model is resident on every GPU of
    these kinds. `arrivals` is in the words of `symphony.workload.Arrivals`. `memory_mb`: what it takes of each of these
    GPUs, 0: not known. `load_ns`: how long bringing it into a GPU's memory takes.
    """

    name: str
    slo_ns: int
    rate: float
    latency_ns: Mapping[str, tuple[int, ...]]
    copies: int = 1
    arrivals: str = "poisson"
    priority: int = 4
    memory_mb: float = 0.0
    load_ns: int = 0

    @property
    def batch_size_max(self) -> int:
        """Return the largest batch that its tables know."""
        return min(len(table) for table in self.latency_ns.values())


@dataclass(frozen=True, slots=True)
class SimulatedGpus:
    """`count` GPUs of one kind, with the next free ids.

    `price`: of one GPU, in any currency and per any time, 0: not known. `memory_mb`: of one GPU for models,
    0: it holds them all. Both are the kind's: all its groups say the same.
    """

    kind: str
    count: int
    price: float = 0.0
    memory_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Fault:
    """From `at_ns` on the GPU is dead (`slowness` 0), or takes `slowness` times as long."""

    at_ns: int
    gpu: int
    slowness: float


@dataclass(frozen=True, slots=True)
class Workload:
    """A whole workload.toml; docs/simulate.md explains each key with its unit and limits.

    `trace`: the file whose requests are replayed instead of drawn ones, as written; "": none. `duration_ns` 0: as long
    as the trace.
    """

    models: tuple[SimulatedModel, ...]
    gpus: tuple[SimulatedGpus, ...]
    duration_ns: int = 10_000_000_000
    warmup_ns: int = 1_000_000_000
    seed: int = 1
    policy: str = "deferred"
    control_ns: int = 50_000
    data_ns: int = 0
    reply_ns: int = 0
    margin_ns: int = 0
    jitter: float = 0.0
    faults: tuple[Fault, ...] = field(default=())
    trace: str = ""

    @property
    def gpu_kinds(self) -> tuple[str, ...]:
        """Return the kind of each GPU, by id."""
        return tuple(group.kind for group in self.gpus for _ in range(group.count))

    @property
    def model_count(self) -> int:
        """Return how many models there are, copies counted."""
        return sum(model.copies for model in self.models)

    @property
    def gpu_memories_mb(self) -> tuple[float, ...]:
        """Return each GPU's memory for models, by id; 0: all of them fit."""
        return tuple(group.memory_mb for group in self.gpus for _ in range(group.count))
