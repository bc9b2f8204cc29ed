"""Say what every device offers, so that the worker, the scheduler and the tests cannot tell one kind from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from symphony.config import ModelConfig

Tensors = Mapping[str, np.ndarray[Any, Any]]


class DeviceError(Exception):
    """Report a batch that its device could not run; the message says why and names the model."""


class DeviceMemoryError(DeviceError):
    """Report a batch that did not fit the device's memory."""


class DeviceLostError(DeviceError):
    """Report a device that can run nothing any more in this process."""


class Fault(Enum):
    """What an error means for those who did not cause it."""

    BATCH = "batch"
    """The model's code or a request is at fault; a batch without it may run."""
    MEMORY = "memory"
    """The batch did not fit; a smaller one may."""
    DEVICE = "device"
    """Nothing runs on the device any more; the process must be started anew."""
    PLACE = "place"
    """The model is not on the device, which has just got a new worker; another device may hold it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a batch held its device, from its own start: never the time it queued behind another.

    `input_ns` and `output_ns` are the copies of inputs to the device and of outputs back. On a GPU they overlap other
    batches and are not in `duration_ns`; on the host they are part of it.
    """

    duration_ns: int
    input_ns: int = 0
    output_ns: int = 0


class Flight(Protocol):
    """One launched batch.

    `started_ns` is the instant it began on the device's own timeline (monotonic). `ends_at_ns` is the instant it will
    end if that is known in advance (an emulated device), else None. `timing` is known once `wait` has returned.
    """

    started_ns: int
    ends_at_ns: int | None

    @property
    def timing(self) -> Timing: ...

    def wait(self) -> Tensors:
        """Wait, without the GIL, until the batch ended; return outputs of shape [batch, ...]; raise what went wrong."""

    def abandon(self) -> None:
        """Stop waiting: `wait` in another thread returns or raises soon, if the device can do that."""


class LoadedModel(Protocol):
    """A model on a device, ready to run batches from one thread at a time.

    `sample(rng)` makes one request's inputs, where the model's code offers that. `buckets` are the batch sizes that
    others are padded to, ascending; empty where each batch runs at its own size. `memory_bytes` is what loading it
    took of the device's memory, 0 where that is not known. `swap_bytes` is what `evict` frees of it, 0 where the model
    cannot leave; `swap_ns` how long `restore` takes.
    """

    config: ModelConfig

    @property
    def sample(self) -> Callable[[np.random.Generator], Mapping[str, Any]] | None: ...

    @property
    def buckets(self) -> tuple[int, ...]: ...

    @property
    def memory_bytes(self) -> int: ...

    @property
    def swap_bytes(self) -> int: ...

    @property
    def swap_ns(self) -> int: ...

    def prepare(self, buckets: Sequence[int] | None) -> None:
        """Warm up, and make the device's own preparations for these buckets; None: let it measure which are worth it.

        Raise what the model's code raises. Called once, before the first `launch`.
        """

    def variant(self, config: ModelConfig) -> LoadedModel:
        """Return the same model, weights and all, for tensors of other sizes; it is prepared and launched by itself."""

    def evict(self) -> None:
        """Free the device's memory; what it held stays on the host. No batch may be in flight."""

    def restore(self) -> None:
        """Bring the model back into the device's memory, beside batches of others; raise where that fails."""

    def launch(self, inputs: Sequence[Tensors]) -> Flight:
        """Start a batch of the given requests' inputs (each of one request's shape) and return its flight."""


class Device(Protocol):
    """One place where batches run one after another.

    `name` is unique in the node ("cpu:0"), `kind` groups devices that share latency profiles ("cpu", "emulated",
    "cuda"), `model` is what a profile is measured on ("cpu x2 threads", "NVIDIA H200"). A synchronous device runs the
    batch inside `launch`.
    """

    name: str
    kind: str
    model: str
    is_synchronous: bool

    def enter_thread(self) -> None:
        """Prepare the calling thread for launching or waiting (threads per operation, current device)."""

    def load(self, config: ModelConfig, folder: Path) -> LoadedModel:
        """Load the model onto the device; raise an exception that says what is wrong with which file."""

    def examine(self, error: Exception) -> Fault:
        """Return what the error of a batch means, having freed what can be freed after one of memory."""

    def renew(self) -> Device:
        """Return a fresh device in place of this one, whose worker was abandoned with a batch that hangs."""
