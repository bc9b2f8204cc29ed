"""Say what every device offers, so that the worker, the scheduler and the tests cannot tell one kind from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from symphony.config import ModelConfig

Tensors = Mapping[str, np.ndarray[Any, Any]]


class DeviceError(Exception):
    """Report a batch that its device could not run; the message says why and names the model."""


class Flight(Protocol):
    """One launched batch.

    `started_ns` is the instant it began on the device's own timeline (monotonic). `ends_at_ns` is the instant it will
    end if that is known in advance (an emulated device), else None.
    """

    started_ns: int
    ends_at_ns: int | None

    def wait(self) -> Tensors:
        """Wait, without the GIL, until the batch ended; return outputs of shape [batch, ...]; raise what went wrong."""

    def abandon(self) -> None:
        """Stop waiting: `wait` in another thread returns or raises soon, if the device can do that."""


class LoadedModel(Protocol):
    """A model on a device, ready to run batches from one thread at a time."""

    config: ModelConfig

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

    def renew(self) -> Device:
        """Return a fresh device in place of this one, whose worker was abandoned with a batch that hangs."""
