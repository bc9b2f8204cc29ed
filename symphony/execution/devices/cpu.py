"""Run models on the host's cores with torch: the embedded default, where everything works without a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from symphony.config import ModelConfig
from symphony.execution.devices.base import Tensors
from symphony.execution.devices.tensors import checked_outputs, stack, to_numpy, to_torch
from symphony.execution.formats import load_callable


class CpuDevice:
    """One worker's share of the cores: `thread_count` threads per operation."""

    kind = "cpu"
    is_synchronous = True

    def __init__(self, index: int, thread_count: int) -> None:
        self.name = f"cpu:{index}"
        self.index = index
        self.thread_count = thread_count
        self.model = f"cpu x{thread_count} threads"

    def enter_thread(self) -> None:
        """Limit the calling thread's operations to this worker's share of the cores."""
        torch.set_num_threads(self.thread_count)

    def load(self, config: ModelConfig, folder: Path) -> CpuModel:
        """Load the model by its format; see symphony.execution.formats for what can go wrong."""
        return CpuModel(config, load_callable(config, folder, "cpu"))

    def renew(self) -> CpuDevice:
        """Return a fresh device of the same share."""
        return CpuDevice(self.index, self.thread_count)


class CpuModel:
    """A model loaded on the host."""

    def __init__(self, config: ModelConfig, predict: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        self.config = config
        self._predict = predict

    def launch(self, inputs: Sequence[Tensors]) -> CpuFlight:
        """Run the batch here and now; raise DeviceError for outputs that break the declaration."""
        started_ns = time.monotonic_ns()
        batch = {spec.name: to_torch(spec, stack(spec, inputs)) for spec in self.config.inputs}
        with torch.inference_mode():
            outputs = checked_outputs(self.config, self._predict(batch), len(inputs))
            arrays = {spec.name: to_numpy(spec, outputs[spec.name]) for spec in self.config.outputs}
        return CpuFlight(started_ns, arrays)


class CpuFlight:
    """A batch that ended inside `launch`."""

    ends_at_ns: int | None = None

    def __init__(self, started_ns: int, outputs: Tensors) -> None:
        self.started_ns = started_ns
        self._outputs = outputs

    def wait(self) -> Tensors:
        """Return the outputs."""
        return self._outputs

    def abandon(self) -> None:
        """Do nothing: there is nothing left to wait for."""
