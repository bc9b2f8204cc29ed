"""Run models on one NVIDIA GPU: copies in, compute and copies out on streams of their own, nothing waits device-wide.

A batch's inputs are in pinned memory already (staging.py) or gathered there, and are copied on one stream while the
batch before it still computes;
it runs on the compute stream; its outputs go back on a third. The end is an event, and the worker that waits for it
sleeps in the driver without the GIL. Staging memory is a ring of `SLOT_COUNT` slots, one more than the batches that
can be in flight, allocated at load; pinned memory for outputs comes from torch's pool and returns to it when the
last view of them is gone, so an answer needs no further copy.

Where a model can be captured its batches are replayed as CUDA graphs (cuda_graphs.py): a launch is one call then.

Two threads launch: the device's worker, and the loader that warms up and measures a model beside it. `launching`
keeps what one of them enqueues for a batch in one piece, so that the events around a batch measure it alone.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from symphony.config import ModelConfig
from symphony.errors import ConfigError
from symphony.execution.buckets import bucket_candidates
from symphony.execution.devices.base import Fault, Tensors, Timing
from symphony.execution.devices.cuda_graphs import CaptureError, GraphFlight, GraphSet
from symphony.execution.devices.cuda_slots import Slot
from symphony.execution.devices.launcher import Events
from symphony.execution.devices.tensors import checked_outputs
from symphony.execution.devices.warm_up import warm_up
from symphony.execution.devices.weights import Weights
from symphony.execution.formats import Predict, load_callable

_log = logging.getLogger(__name__)

SLOT_COUNT = 3


class CudaDevice:
    """One GPU, by its CUDA index."""

    kind = "cuda"
    is_synchronous = False

    def __init__(self, index: int, is_swapping: bool = False) -> None:
        """Take the GPU; `is_swapping`: its memory does not hold all models, so they come and go."""
        if not torch.cuda.is_available():
            raise ConfigError(f'device "cuda:{index}": this torch {torch.__version__} sees no CUDA GPU; use "cpu"')
        if index >= torch.cuda.device_count():
            raise ConfigError(
                f'device "cuda:{index}" does not exist: this machine has {torch.cuda.device_count()} (cuda:0 to '
                f"cuda:{torch.cuda.device_count() - 1})"
            )
        self.index = index
        self.is_swapping = is_swapping
        self.name = f"cuda:{index}"
        self.model = torch.cuda.get_device_name(index)
        self.torch_device = torch.device("cuda", index)
        self.input_stream = torch.cuda.Stream(self.torch_device)
        self.compute_stream = torch.cuda.Stream(self.torch_device)
        self.output_stream = torch.cuda.Stream(self.torch_device)
        self.load_stream = torch.cuda.Stream(self.torch_device)
        self.stream_handles = tuple(
            stream.cuda_stream for stream in (self.input_stream, self.compute_stream, self.output_stream)
        )
        self.launching = threading.Lock()
        self.slot_count = SLOT_COUNT
        self._last: Events | None = None

    def enter_thread(self) -> None:
        """Make this GPU the calling thread's current one, for torch and for the driver."""
        torch.cuda.set_device(self.index)
        torch.empty(1, device=self.torch_device)

    def load(self, config: ModelConfig, folder: Path) -> CudaModel:
        """Load the model onto the GPU and reserve its staging memory."""
        before = torch.cuda.memory_allocated(self.index)
        with torch.cuda.device(self.index), torch.cuda.stream(self.compute_stream):
            predict = load_callable(config, folder, self.name)
        return CudaModel(self, config, predict, before)

    def follow(self, events: Events) -> Events | None:
        """Note a batch's events; return those of the batch launched before it, for the gap between the two."""
        before, self._last = self._last, events
        return before

    def examine(self, error: Exception) -> Fault:
        """Return MEMORY for want of memory, DEVICE where the context is lost, as it is after an illegal access."""
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            return Fault.MEMORY
        try:
            torch.cuda.synchronize(self.torch_device)
        except RuntimeError:
            return Fault.DEVICE
        return Fault.BATCH

    def renew(self) -> CudaDevice:
        """Return the same GPU with fresh streams."""
        return CudaDevice(self.index, self.is_swapping)


class CudaModel:
    """A model resident on a GPU."""

    def __init__(self, device: CudaDevice, config: ModelConfig, predict: Predict, memory_before: int) -> None:
        self.config = config
        self.sample = predict.sample
        self._device = device
        self._predict = predict
        self._slots = [Slot(device.torch_device, config) for _ in range(SLOT_COUNT)]
        self._next_slot = 0
        self._graphs: GraphSet | None = None
        self._memory_before = memory_before
        self.memory_bytes = max(0, torch.cuda.memory_allocated(device.index) - memory_before)
        self._weights = Weights(predict.modules, device.torch_device)
        self.swap_bytes = self._weights.byte_count
        self.swap_ns = 0

    @property
    def buckets(self) -> tuple[int, ...]:
        """Return the batch sizes that were captured as CUDA graphs; none where the model runs without."""
        return self._graphs.buckets if self._graphs is not None else ()

    def prepare(self, buckets: Sequence[int] | None) -> None:
        """Warm up, then capture graphs of the buckets, or of those among the candidates that are worth it.

        `buckets` empty: the profile in use was measured without graphs, so none are made. Where capture fails the
        model runs without, and the log says why.
        """
        warm_up(self, self._device.name)
        if self._device.is_swapping and self.swap_bytes:
            # A graph knows the addresses of weights, which are others each time they come back.
            self.swap_ns = self._weights.measure_ns(self._device.load_stream, self._device.compute_stream)
            _log.info(
                'model "%s" runs without CUDA graphs on %s: its weights come and go',
                self.config.name,
                self._device.name,
            )
            return
        wanted = bucket_candidates(self.config.batch_size_max) if buckets is None else list(buckets)
        if not self.config.execution.cuda_graphs or not wanted:
            return
        try:
            graphs = GraphSet(self.config, self._predict, self._device, wanted)
            if buckets is None:
                graphs.keep_worthy()
        except CaptureError as error:
            _log.warning('model "%s" runs without CUDA graphs on %s: %s', self.config.name, self._device.name, error)
            return
        self._graphs = graphs
        self.memory_bytes = max(0, torch.cuda.memory_allocated(self._device.index) - self._memory_before)

    def variant(self, config: ModelConfig) -> CudaModel:
        """Return the same model for tensors of other sizes, with slots and graphs of its own."""
        return CudaModel(self._device, config, self._predict, torch.cuda.memory_allocated(self._device.index))

    def evict(self) -> None:
        """Free the GPU's memory of the weights."""
        self._weights.evict()

    def restore(self) -> None:
        """Copy the weights back on a stream of their own."""
        self._weights.restore(self._device.load_stream, self._device.compute_stream)

    def launch(self, inputs: Sequence[Tensors]) -> CudaFlight | GraphFlight:
        """Enqueue copy in, compute and copy out; return at once. Raise DeviceError for wrong outputs."""
        device = self._device
        count = len(inputs)
        with device.launching:
            slot = self._slots[self._next_slot]
            self._next_slot = (self._next_slot + 1) % SLOT_COUNT
        if slot.flight is not None:
            slot.flight.wait_for_slot()
        runs = slot.gather(inputs)
        if self._graphs is not None:
            with device.launching:
                replayed = slot.flight = self._graphs.launch(slot, runs, inputs)
            return replayed
        batch: dict[str, Any] = {
            spec.name: np.stack([tensors[spec.name] for tensors in inputs])
            for spec in self.config.inputs
            if spec.datatype == "BYTES"
        }
        slot.flight = flight = CudaFlight(inputs)
        with device.launching:
            with torch.cuda.stream(device.input_stream):
                flight.copying.record()
                for name, target in slot.device.items():
                    for run in runs:
                        source = run.host[name][run.row : run.row + run.count]
                        target[run.first : run.first + run.count].copy_(source, non_blocking=True)
                    batch[name] = target[:count]
                flight.copied.record()
            with torch.cuda.stream(device.compute_stream), torch.inference_mode():
                device.compute_stream.wait_event(flight.copied)
                flight.began.record()
                outputs = checked_outputs(self.config, self._predict(batch), count)
                flight.computed.record()
            with torch.cuda.stream(device.output_stream):
                device.output_stream.wait_event(flight.computed)
                flight.returning.record()
                flight.take(outputs, device.output_stream)
                flight.ended.record()
        return flight


class CudaFlight:
    """A batch enqueued on a GPU operation by operation."""

    ends_at_ns: int | None = None

    def __init__(self, inputs: Sequence[Tensors]) -> None:
        self.started_ns = time.monotonic_ns()
        self._inputs: Sequence[Tensors] | None = inputs
        """Kept until they were copied to the GPU."""
        self.timing = Timing(0)
        self.copying, self.copied, self.began, self.computed, self.returning = (
            torch.cuda.Event(enable_timing=True) for _ in range(5)
        )
        self.ended = torch.cuda.Event(enable_timing=True, blocking=True)
        self._hosts: dict[str, Any] = {}

    def take(self, outputs: dict[str, Any], stream: torch.cuda.Stream) -> None:
        """Enqueue the copies of the outputs to pinned memory on the current stream, `stream`."""
        for name, value in outputs.items():
            if isinstance(value, torch.Tensor) and value.is_cuda:
                host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                host.copy_(value, non_blocking=True)
                value.record_stream(stream)
                self._hosts[name] = host
            else:
                self._hosts[name] = value

    def wait(self) -> Tensors:
        """Sleep until the batch's event, then return the outputs; `started_ns` becomes the measured start."""
        self.ended.synchronize()
        now_ns = time.monotonic_ns()
        self._inputs = None
        self.timing = Timing(
            _between_ns(self.began, self.computed),
            _between_ns(self.copying, self.copied),
            _between_ns(self.returning, self.ended),
        )
        self.started_ns = now_ns - self.timing.output_ns - self.timing.duration_ns
        arrays: dict[str, Any] = {}
        for name, value in self._hosts.items():
            if isinstance(value, torch.Tensor):
                raw = value.view(torch.uint16) if value.dtype is torch.bfloat16 else value
                arrays[name] = raw.numpy()
            else:
                arrays[name] = np.asarray(value)
        return arrays

    def wait_for_slot(self) -> None:
        """Return when the batch no longer needs its slot."""
        self.computed.synchronize()

    def abandon(self) -> None:
        """Do nothing: a CUDA event cannot be given up; the waiting thread ends with it."""


def _between_ns(begin: torch.cuda.Event, end: torch.cuda.Event) -> int:
    duration_ms = begin.elapsed_time(end)
    return max(0, round(duration_ms * 1e6)) if math.isfinite(duration_ms) else 0
