"""Run models on the host's cores: the embedded default, where everything works without a GPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from symphony.config import ModelConfig
from symphony.execution.devices.base import Fault, Tensors, Timing
from symphony.execution.devices.tensors import checked_outputs, stack, to_numpy, to_torch
from symphony.execution.devices.warm_up import warm_up
from symphony.execution.formats import Predict, load_callable


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
        return CpuModel(config, self.name, load_callable(config, folder, "cpu", self.thread_count))

    def examine(self, error: Exception) -> Fault:
        """Return MEMORY where numpy or torch found no memory, else BATCH."""
        is_memory = isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)
        return Fault.MEMORY if is_memory else Fault.BATCH

    def renew(self) -> CpuDevice:
        """Return a fresh device of the same share."""
        return CpuDevice(self.index, self.thread_count)


class CpuModel:
    """A model loaded on the host."""

    buckets: tuple[int, ...] = ()
    memory_bytes = swap_bytes = swap_ns = 0

    def __init__(self, config: ModelConfig, device: str, predict: Predict) -> None:
        self.config = config
        self.sample = predict.sample
        self._device = device
        self._predict = predict

    def prepare(self, buckets: Sequence[int] | None) -> None:
        """Run the first batches."""
        warm_up(self, self._device)

    def variant(self, config: ModelConfig) -> CpuModel:
        """Return the same model for tensors of other sizes."""
        return CpuModel(config, self._device, self._predict)

    def evict(self) -> None:
        """Do nothing: the host's memory is where models are kept."""

    def restore(self) -> None:
        """Do nothing."""

    def launch(self, inputs: Sequence[Tensors]) -> CpuFlight:
        """Run the batch here and now; raise DeviceError for outputs that break the declaration."""
        started_ns = time.monotonic_ns()
        batch = {spec.name: to_torch(spec, stack(spec, inputs)) for spec in self.config.inputs}
        gathered_ns = time.monotonic_ns()
        with torch.inference_mode():
            outputs = checked_outputs(self.config, self._predict(batch), len(inputs))
            computed_ns = time.monotonic_ns()
            arrays = {spec.name: to_numpy(spec, outputs[spec.name]) for spec in self.config.outputs}
        ended_ns = time.monotonic_ns()
        timing = Timing(ended_ns - started_ns, gathered_ns - started_ns, ended_ns - computed_ns)
        return CpuFlight(started_ns, arrays, timing)


class CpuFlight:
    """A batch that ended inside `launch`."""

    ends_at_ns: int | None = None

    def __init__(self, started_ns: int, outputs: Tensors, timing: Timing) -> None:
        self.started_ns = started_ns
        self.timing = timing
        self._outputs = outputs

    def wait(self) -> Tensors:
        """Return the outputs."""
        return self._outputs

    def abandon(self) -> None:
        """Do nothing: there is nothing left to wait for."""
