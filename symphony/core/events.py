"""Describe what goes into and comes out of the scheduling core on its Python door.

Events are in the past tense, decisions in the imperative. All times are integer nanoseconds on the caller's clock.
docs/core.md is the contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PRIORITY_HIGHEST: Final = 1
PRIORITY_LOWEST: Final = 8
PRIORITY_DEFAULT: Final = 4
KIND_COUNT_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class ModelAdded:
    """A model exists: index `model`, objective `slo_ns`, largest batch `batch_size_max`.

    `delay_ns` and `batch_size_preferred` (0: `batch_size_max`) serve the timeout policy only.
    """

    model: int
    slo_ns: int
    batch_size_max: int
    margin_ns: int = 0
    delay_ns: int = 0
    batch_size_preferred: int = 0


@dataclass(frozen=True, slots=True)
class ModelRemoved:
    """The model is gone; its queue is dropped with `not_ready`."""

    model: int


@dataclass(frozen=True, slots=True)
class ProfileChanged:
    """The latency profile of `model` on GPUs of `kind` is `latency_ns` = (l(1), ..., l(batch_size_max))."""

    model: int
    kind: int
    latency_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MarginChanged:
    """Batches of `model` must now end `margin_ns` before their requests' deadlines."""

    model: int
    margin_ns: int


@dataclass(frozen=True, slots=True)
class GpuJoined:
    """A GPU of `kind` is usable and idle, with no model resident."""

    gpu: int
    kind: int = 0


@dataclass(frozen=True, slots=True)
class GpuLeft:
    """The GPU is gone with everything in flight on it."""

    gpu: int


@dataclass(frozen=True, slots=True)
class GpuDrained:
    """The GPU gets no further batches (drained or quarantined); what is in flight goes on."""

    gpu: int


@dataclass(frozen=True, slots=True)
class GpuRestored:
    """A drained GPU gets batches again."""

    gpu: int


@dataclass(frozen=True, slots=True)
class ModelPlaced:
    """`model` is resident on `gpu`."""

    model: int
    gpu: int


@dataclass(frozen=True, slots=True)
class ModelEvicted:
    """`model` is no longer resident on `gpu`."""

    model: int
    gpu: int


@dataclass(frozen=True, slots=True)
class MemoryDeclared:
    """The GPU, which holds no model yet, has so many bytes for models: which it holds is decided by `Load`."""

    gpu: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class FootprintDeclared:
    """`model` takes so many bytes of a GPU of `kind`, and is there `load_ns` after its load was decided."""

    model: int
    kind: int
    memory_bytes: int
    load_ns: int


@dataclass(frozen=True, slots=True)
class LoadFinished:
    """The load ended: its model is on the GPU, or, if not `is_there`, could not be brought there."""

    load_id: int
    gpu: int
    is_there: bool = True


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """Request `id` (below `request_count_max`, not in use) for `model` must be answered by `deadline_ns`."""

    id: int
    model: int
    deadline_ns: int
    priority: int = PRIORITY_DEFAULT


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """Nobody waits for request `id` any more; ignored when it already left."""

    id: int


@dataclass(frozen=True, slots=True)
class BatchStarted:
    """The device began the plan at the measured instant `started_ns`."""

    plan_id: int
    gpu: int
    started_ns: int


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """The device ended the plan at the measured instant `finished_ns`."""

    plan_id: int
    gpu: int
    finished_ns: int


Event = (
    ModelAdded
    | ModelRemoved
    | ProfileChanged
    | MarginChanged
    | GpuJoined
    | GpuLeft
    | GpuDrained
    | GpuRestored
    | ModelPlaced
    | ModelEvicted
    | MemoryDeclared
    | FootprintDeclared
    | LoadFinished
    | RequestArrived
    | RequestCancelled
    | BatchStarted
    | BatchFinished
)


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run requests `ids` of `model` as one batch on `gpu`, from `start_at_ns` on; it should end by `finish_at_ns`."""

    plan_id: int
    gpu: int
    model: int
    ids: tuple[int, ...]
    start_at_ns: int
    finish_at_ns: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Refuse request `id`: `reason` is `would_miss`, `expired`, `no_gpu` or `not_ready`."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Load:
    """Take the models `evicted` off `gpu` and bring `model` there, by `finish_at_ns` if all goes well.

    Load ids count from 1. Answer with `LoadFinished`; the evicted models are taken to be gone at once.
    """

    load_id: int
    gpu: int
    model: int
    evicted: tuple[int, ...]
    finish_at_ns: int


Decision = Dispatch | Drop | Load
