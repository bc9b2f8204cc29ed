"""Run models on one NVIDIA GPU: copies in, compute and copies out on streams of their own, nothing waits device-wide.

A batch's inputs are gathered into pinned memory, copied on the copy stream while the batch before it still computes,
run on the compute stream, and copied back once. The end is an event; the worker that waits for it sleeps in the
driver without the GIL (blocking synchronisation). Staging memory is a ring of `SLOT_COUNT` slots, one more than
the batches that can be in flight, allocated at load and reused.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from symphony.config import ModelConfig
from symphony.errors import ConfigError
from symphony.execution.devices.base import Tensors
from symphony.execution.devices.tensors import TORCH_DTYPES, checked_outputs
from symphony.execution.formats import load_callable

SLOT_COUNT = 3


class CudaDevice:
    """One GPU, by its CUDA index."""

    kind = "cuda"
    is_synchronous = False

    def __init__(self, index: int) -> None:
        if not torch.cuda.is_available():
            raise ConfigError(f'device "cuda:{index}": this torch {torch.__version__} sees no CUDA GPU; use "cpu"')
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f'device "cuda:{index}" does not exist: this machine has {torch.cuda.device_count()} (cuda:0 to '
                f"cuda:{torch.cuda.device_count() - 1})"
            )
        self.index = index
        self.name = f"cuda:{index}"
        self.model = torch.cuda.get_device_name(index)
        self.torch_device = torch.device("cuda", index)
        self.copy_stream = torch.cuda.Stream(self.torch_device)
        self.compute_stream = torch.cuda.Stream(self.torch_device)

    def enter_thread(self) -> None:
        """Make this GPU the calling thread's current one."""
        torch.cuda.set_device(self.index)

    def load(self, config: ModelConfig, folder: Path) -> CudaModel:
        """Load the model onto the GPU and reserve its staging memory."""
        with torch.cuda.device(self.index), torch.cuda.stream(self.compute_stream):
            predict = load_callable(config, folder, self.name)
        return CudaModel(self, config, predict)

    def renew(self) -> CudaDevice:
        """Return the same GPU with fresh streams."""
        return CudaDevice(self.index)


class _Slot:
    """Pinned host memory and device memory for the inputs of one batch in flight."""

    def __init__(self, device: torch.device, config: ModelConfig) -> None:
        self.host: dict[str, torch.Tensor] = {}
        self.device: dict[str, torch.Tensor] = {}
        self.views: dict[str, np.ndarray[Any, Any]] = {}
        self.is_free = torch.cuda.Event(blocking=True)
        for spec in config.inputs:
            if spec.datatype == "BYTES":
                continue
            shape = (config.batch_size_max, *spec.shape)
            dtype = TORCH_DTYPES[spec.datatype]
            host = torch.empty(shape, dtype=dtype, pin_memory=True)
            self.host[spec.name] = host
            self.device[spec.name] = torch.empty(shape, dtype=dtype, device=device)
            raw = host.view(torch.uint16) if dtype is torch.bfloat16 else host
            self.views[spec.name] = raw.numpy()


class CudaModel:
    """A model resident on a GPU."""

    def __init__(
        self, device: CudaDevice, config: ModelConfig, predict: Callable[[dict[str, Any]], Mapping[str, Any]]
    ) -> None:
        self.config = config
        self._device = device
        self._predict = predict
        self._slots = [_Slot(device.torch_device, config) for _ in range(SLOT_COUNT)]
        self._next_slot = 0

    def launch(self, inputs: Sequence[Tensors]) -> CudaFlight:
        """Enqueue copy in, compute and copy out; return at once. Raise DeviceError for wrong outputs."""
        device = self._device
        slot = self._slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % SLOT_COUNT
        slot.is_free.synchronize()
        count = len(inputs)
        batch: dict[str, Any] = {}
        for spec in self.config.inputs:
            if spec.datatype == "BYTES":
                batch[spec.name] = np.stack([tensors[spec.name] for tensors in inputs])
            else:
                np.stack([tensors[spec.name] for tensors in inputs], out=slot.views[spec.name][:count])
        with torch.cuda.stream(device.copy_stream):
            for name, host in slot.host.items():
                slot.device[name][:count].copy_(host[:count], non_blocking=True)
                batch[name] = slot.device[name][:count]
            copied = torch.cuda.Event()
            copied.record(device.copy_stream)
        began = torch.cuda.Event(enable_timing=True)
        ended = torch.cuda.Event(enable_timing=True, blocking=True)
        with torch.cuda.stream(device.compute_stream), torch.inference_mode():
            device.compute_stream.wait_event(copied)
            began.record(device.compute_stream)
            outputs = checked_outputs(self.config, self._predict(batch), count)
            hosts: dict[str, Any] = {}
            for name, value in outputs.items():
                if isinstance(value, torch.Tensor):
                    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                    host.copy_(value, non_blocking=True)
                    hosts[name] = host
                else:
                    hosts[name] = value
            slot.is_free.record(device.compute_stream)
            ended.record(device.compute_stream)
        return CudaFlight(hosts, began, ended)


class CudaFlight:
    """A batch enqueued on a GPU."""

    ends_at_ns: int | None = None

    def __init__(self, hosts: dict[str, Any], began: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        self.started_ns = time.monotonic_ns()
        self._hosts = hosts
        self._began = began
        self._ended = ended

    def wait(self) -> Tensors:
        """Sleep until the batch's event, then return the outputs; `started_ns` becomes the measured start."""
        self._ended.synchronize()
        duration_ms = self._began.elapsed_time(self._ended)
        if math.isfinite(duration_ms):
            self.started_ns = time.monotonic_ns() - round(duration_ms * 1e6)
        arrays: dict[str, Any] = {}
        for name, value in self._hosts.items():
            if isinstance(value, torch.Tensor):
                raw = value.view(torch.uint16) if value.dtype is torch.bfloat16 else value
                arrays[name] = raw.numpy()
            else:
                arrays[name] = np.asarray(value)
        return arrays

    def abandon(self) -> None:
        """Do nothing: a CUDA event cannot be given up; the waiting thread ends with it."""
