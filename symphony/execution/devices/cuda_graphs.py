"""Capture a model's batches as CUDA graphs, one per bucket of batch sizes, by hand and in private memory.

A graph reads and writes fixed memory, so all graphs of a model share one set of inputs, a batch's inputs are copied
there on the device (microseconds beside milliseconds), and what it wrote is copied away before the next replay.
A launch is one list of commands for the driver (launcher.pyx). torch's own graph trees are not used: they keep state
per thread and assert when another thread replays them.

Capture happens in the loader's thread on a stream of its own, in `thread_local` mode: the worker goes on launching
other models meanwhile. Runs that warm up wait for the compute stream and are waited for by it, because libraries'
workspaces belong to a stream and a captured graph keeps using the one it was captured with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from symphony.config import ModelConfig
from symphony.execution.buckets import bucket_of, choose_buckets
from symphony.execution.devices.base import Tensors, Timing
from symphony.execution.devices.cuda_slots import OutputBlocks, OutputLease, Run, Slot
from symphony.execution.devices.launcher import Commands, Driver, Events, Executable, LaunchError
from symphony.execution.devices.tensors import checked_outputs
from symphony.execution.dtypes import TORCH_DTYPES
from symphony.execution.formats import Predict

if TYPE_CHECKING:
    from symphony.execution.devices.cuda import CudaDevice

WARM_UP_COUNT = 3
MEASURE_COUNT = 9


class CaptureError(Exception):
    """Report a model that cannot be captured; the message says why."""


@dataclass(frozen=True, slots=True)
class _Graph:
    """One bucket's graph. `source` is torch's, which owns the memory that `executable` works on."""

    source: torch.cuda.CUDAGraph
    executable: Executable
    outputs: dict[str, torch.Tensor]


class GraphSet:
    """The graphs of one model on one GPU."""

    def __init__(self, config: ModelConfig, predict: Predict, device: CudaDevice, buckets: Sequence[int]) -> None:
        """Capture a graph for each bucket, the largest first; raise CaptureError if one cannot be."""
        if any(spec.datatype == "BYTES" for spec in (*config.inputs, *config.outputs)):
            raise CaptureError("it has BYTES inputs or outputs, which live on the host")
        if config.format == "onnx":
            raise CaptureError("ONNX Runtime, which runs it, waits for the GPU at the end of each run")
        try:
            self._driver = Driver()
            self._config = config
            self._predict = predict
            self._device = device
            self._stream = torch.cuda.Stream(device.torch_device)
            self._pool = torch.cuda.graph_pool_handle()
            size_max = config.batch_size_max
            self._inputs = {
                spec.name: torch.zeros(
                    (size_max, *spec.shape), dtype=TORCH_DTYPES[spec.datatype], device=device.torch_device
                )
                for spec in config.inputs
            }
            self._outputs = [
                {
                    spec.name: torch.empty(
                        (size_max, *spec.shape), dtype=TORCH_DTYPES[spec.datatype], device=device.torch_device
                    )
                    for spec in config.outputs
                }
                for _ in range(device.slot_count)
            ]
            """Outputs on their way back, one set for each batch in flight: the graph's own are written anew."""
            self._next_outputs = 0
            self._blocks = OutputBlocks(config)
            self._graphs: dict[int, _Graph] = {}
            self.buckets: tuple[int, ...] = tuple(sorted(buckets))
            torch.cuda.current_stream(device.torch_device).synchronize()
            for bucket in reversed(self.buckets):
                self._graphs[bucket] = self._capture(bucket)
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(f"it could not be captured: {_first_line(error)}") from error

    def launch(self, slot: Slot, runs: Sequence[Run], inputs: Sequence[Tensors]) -> GraphFlight:
        """Enqueue the batch whose inputs lie in `runs`, padded to its bucket; the caller holds `device.launching`."""
        device = self._device
        count = len(inputs)
        graph = self._graphs[bucket_of(self.buckets, count)]
        events = Events(self._driver)
        lease = self._blocks.lease()
        leaving = self._outputs[self._next_outputs]
        self._next_outputs = (self._next_outputs + 1) % len(self._outputs)
        copy_in, compute, copy_out = device.stream_handles
        commands = Commands(self._driver)
        commands.record(events.handle(Events.COPYING), copy_in)
        for name, target in slot.device.items():
            row_bytes = target.stride(0) * target.element_size()
            address = target.data_ptr()
            for run in runs:
                source = run.host[name].data_ptr() + run.row * row_bytes
                commands.copy_in(address + run.first * row_bytes, source, run.count * row_bytes, copy_in)
        commands.record(events.handle(Events.COPIED), copy_in)
        commands.wait(events.handle(Events.COPIED), compute)
        commands.record(events.handle(Events.BEGAN), compute)
        for name, target in self._inputs.items():
            commands.copy(target.data_ptr(), slot.device[name].data_ptr(), _bytes(target, count), compute)
        commands.replay(graph.executable, compute)
        for name, source_tensor in graph.outputs.items():
            commands.copy(leaving[name].data_ptr(), source_tensor.data_ptr(), _bytes(source_tensor, count), compute)
        commands.record(events.handle(Events.COMPUTED), compute)
        commands.wait(events.handle(Events.COMPUTED), copy_out)
        commands.record(events.handle(Events.RETURNING), copy_out)
        for name, host in lease.tensors.items():
            commands.copy_out(host.data_ptr(), leaving[name].data_ptr(), _bytes(host, count), copy_out)
        commands.record(events.handle(Events.ENDED), copy_out)
        commands.run()
        return GraphFlight(events, device.follow(events), self._blocks, lease, inputs)

    def keep_worthy(self) -> None:
        """Measure the graphs and give up those that are hardly quicker than the next larger one."""
        measured: dict[int, list[int]] = {bucket: [] for bucket in self.buckets}
        for _ in range(MEASURE_COUNT):
            for bucket, durations in measured.items():
                durations.append(self._measure(bucket))
        kept = choose_buckets({bucket: min(values) for bucket, values in measured.items()})
        self._graphs = {bucket: self._graphs[bucket] for bucket in kept}
        self.buckets = kept

    def _capture(self, bucket: int) -> _Graph:
        device = self._device
        batch = {name: tensor[:bucket] for name, tensor in self._inputs.items()}
        generator = torch.cuda.default_generators[device.index]
        with torch.cuda.stream(self._stream), torch.inference_mode():
            with device.launching:
                self._stream.wait_stream(device.compute_stream)
                drawn = generator.get_offset()
                for _ in range(WARM_UP_COUNT):
                    checked_outputs(self._config, self._predict(batch), bucket)
                if generator.get_offset() != drawn:
                    raise CaptureError("it draws random numbers, which would be the same in every batch")
                device.compute_stream.wait_stream(self._stream)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph(keep_graph=True)
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                found = checked_outputs(self._config, self._predict(batch), bucket)
                outputs = {name: _on_gpu(name, value).contiguous() for name, value in found.items()}
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()  # so that the stream can be used again; why it failed is known
                raise
            graph.capture_end()
        return _Graph(graph, self._driver.instantiate(graph.raw_cuda_graph()), outputs)

    def _measure(self, bucket: int) -> int:
        """Return how long one replay takes, in nanoseconds."""
        device = self._device
        copy_in, compute, copy_out = device.stream_handles
        events = Events(self._driver)
        commands = Commands(self._driver)
        for place, stream in ((Events.COPYING, copy_in), (Events.COPIED, copy_in), (Events.BEGAN, compute)):
            commands.record(events.handle(place), stream)
        commands.replay(self._graphs[bucket].executable, compute)
        commands.record(events.handle(Events.COMPUTED), compute)
        commands.wait(events.handle(Events.COMPUTED), copy_out)
        for place in (Events.RETURNING, Events.ENDED):
            commands.record(events.handle(place), copy_out)
        with device.launching:
            commands.run()
        duration_ns: int = events.wait()[1]
        return duration_ns


class GraphFlight:
    """A batch enqueued as a graph. `gap_ns`: between the end of the batch launched before it and its own start."""

    ends_at_ns: int | None = None

    def __init__(
        self,
        events: Events,
        after: Events | None,
        blocks: OutputBlocks,
        lease: OutputLease,
        inputs: Sequence[Tensors],
    ) -> None:
        self.started_ns = time.monotonic_ns()
        self.timing = Timing(0)
        self.gap_ns = 0
        self.events = events
        self._after = after
        self._blocks = blocks
        self._lease: OutputLease | None = lease
        self._count = len(inputs)
        self._inputs: Sequence[Tensors] | None = inputs
        """Kept until they were copied to the GPU."""

    def wait(self) -> Tensors:
        """Sleep until the batch has ended, then return the outputs; `started_ns` becomes the measured start."""
        input_ns, duration_ns, output_ns, self.gap_ns = self.events.wait(self._after)
        self.timing = Timing(duration_ns, input_ns, output_ns)
        self.started_ns = time.monotonic_ns() - output_ns - duration_ns
        self._after = self._inputs = None
        lease, self._lease = self._lease, None
        assert lease is not None, "a flight is waited for once"
        return self._blocks.arrays(lease, self._count)

    def wait_for_slot(self) -> None:
        """Return when the batch no longer needs its slot."""
        if self._inputs is not None:
            self.events.wait()

    def abandon(self) -> None:
        """Do nothing: a CUDA event cannot be given up; the waiting thread ends with it."""


def _on_gpu(name: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or not value.is_cuda:
        raise CaptureError(f'output "{name}" is not on the GPU')
    return value


def _bytes(tensor: torch.Tensor, count: int) -> int:
    """Return the bytes of the first `count` rows."""
    return count * tensor.stride(0) * tensor.element_size()


def _first_line(error: BaseException) -> str:
    """Return the error's kind and the first line of its text: CUDA's own are followed by a page of advice."""
    text = str(error).strip().splitlines()
    kind = "" if isinstance(error, LaunchError) else f"{type(error).__name__}: "
    return kind + (text[0] if text else "")
