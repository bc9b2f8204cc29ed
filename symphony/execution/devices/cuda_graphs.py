"""Capture a model's batches as CUDA graphs, one per bucket of batch sizes, by hand and in private memory.

A graph reads and writes fixed memory, so all graphs of a model share one set of inputs, a batch's inputs are copied
there on the device (microseconds beside milliseconds), and what it wrote is copied away before the next replay.
torch's own graph trees are not used: they keep state per thread and assert when another thread replays them.

Capture happens in the loader's thread on a stream of its own, in `thread_local` mode: the worker goes on launching
other models meanwhile. Runs that warm up wait for the compute stream and are waited for by it, because libraries'
workspaces belong to a stream and a captured graph keeps using the one it was captured with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from symphony.config import ModelConfig
from symphony.execution.buckets import bucket_of, choose_buckets
from symphony.execution.devices.tensors import checked_outputs
from symphony.execution.dtypes import TORCH_DTYPES
from symphony.execution.formats import Predict

if TYPE_CHECKING:
    from symphony.execution.devices.cuda import CudaDevice

WARM_UP_COUNT = 3
MEASURE_COUNT = 9


class CaptureError(Exception):
    """Report a model that cannot be captured; the message says why."""


class GraphSet:
    """The graphs of one model on one GPU."""

    def __init__(self, config: ModelConfig, predict: Predict, device: CudaDevice, buckets: Sequence[int]) -> None:
        """Capture a graph for each bucket, the largest first; raise CaptureError if one cannot be."""
        if any(spec.datatype == "BYTES" for spec in (*config.inputs, *config.outputs)):
            raise CaptureError("it has BYTES inputs or outputs, which live on the host")
        self._config = config
        self._predict = predict
        self._device = device
        self._stream = torch.cuda.Stream(device.torch_device)
        self._pool = torch.cuda.graph_pool_handle()
        self._inputs = {
            spec.name: torch.zeros(
                (config.batch_size_max, *spec.shape), dtype=TORCH_DTYPES[spec.datatype], device=device.torch_device
            )
            for spec in config.inputs
        }
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]] = {}
        self.buckets: tuple[int, ...] = tuple(sorted(buckets))
        torch.cuda.current_stream(device.torch_device).synchronize()
        try:
            for bucket in reversed(self.buckets):
                self._graphs[bucket] = self._capture(bucket)
        except Exception as error:
            self._graphs.clear()
            raise CaptureError(f"a batch of {bucket} could not be captured: {_first_line(error)}") from error

    def replay(self, batch: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        """Enqueue the batch, padded to its bucket, on the current stream; return its outputs [count, ...]."""
        graph, outputs = self._graphs[bucket_of(self.buckets, count)]
        for name, tensor in batch.items():
            self._inputs[name][:count].copy_(tensor, non_blocking=True)
        graph.replay()
        return {name: value[:count].clone() for name, value in outputs.items()}

    def keep_worthy(self) -> None:
        """Measure the graphs and give up those that are hardly quicker than the next larger one."""
        batch = {name: tensor[: self.buckets[-1]].clone() for name, tensor in self._inputs.items()}
        measured: dict[int, list[float]] = {bucket: [] for bucket in self.buckets}
        for _ in range(MEASURE_COUNT):
            for bucket, durations in measured.items():
                durations.append(self._measure(batch, bucket))
        kept = choose_buckets({bucket: round(min(values) * 1e6) for bucket, values in measured.items()})
        self._graphs = {bucket: self._graphs[bucket] for bucket in kept}
        self.buckets = kept

    def _capture(self, bucket: int) -> tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor]]:
        device = self._device
        batch = {name: tensor[:bucket] for name, tensor in self._inputs.items()}
        with torch.cuda.stream(self._stream), torch.inference_mode():
            with device.launching:
                self._stream.wait_stream(device.compute_stream)
                for _ in range(WARM_UP_COUNT):
                    checked_outputs(self._config, self._predict(batch), bucket)
                device.compute_stream.wait_stream(self._stream)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                outputs = checked_outputs(self._config, self._predict(batch), bucket)
            except BaseException:
                _abort(graph)
                raise
            graph.capture_end()
        for name, value in outputs.items():
            if not isinstance(value, torch.Tensor) or not value.is_cuda:
                raise CaptureError(f'output "{name}" is not on the GPU')
        return graph, outputs

    def _measure(self, batch: Mapping[str, torch.Tensor], bucket: int) -> float:
        """Return how long one replay takes, in milliseconds."""
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        device = self._device
        with device.launching, torch.cuda.stream(device.compute_stream), torch.inference_mode():
            began.record()
            self.replay({name: tensor[:bucket] for name, tensor in batch.items()}, bucket)
            ended.record()
        ended.synchronize()
        return float(began.elapsed_time(ended))


def _abort(graph: torch.cuda.CUDAGraph) -> None:
    """End a capture that failed, so that its stream can be used again; what it says has been said."""
    with suppress(RuntimeError):
        graph.capture_end()


def _first_line(error: BaseException) -> str:
    """Return the error's kind and the first line of its text: CUDA's own are followed by a page of advice."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
