"""Emulate a GPU in real time: a batch of b takes l(b), with seeded jitter and faults, and no computing.

The scheduler cannot tell it from a real one. Batches follow each other without a gap on the device's own timeline,
as on a CUDA stream whose next batch was enqueued while the last one ran. An output holds the first bytes of the
request's first input (repeated if it is shorter; zeros for BYTES), so that a client can check that each answer is its
own.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from symphony.config import EmulatedSpec, ModelConfig, TensorSpec
from symphony.execution.devices.base import DeviceError, DeviceLostError, DeviceMemoryError, Fault, Tensors, Timing
from symphony.execution.devices.tensors import checked_outputs
from symphony.units import BYTES_PER_MB, ms_to_ns
from symphony.wire.tensors import NUMPY_DTYPES


class EmulatedDevice:
    """One emulated GPU with its own timeline."""

    kind = "emulated"
    model = "emulated"
    is_synchronous = False

    def __init__(self, index: int) -> None:
        self.name = f"emulated:{index}"
        self.index = index
        self.busy_until_ns = 0
        self.is_lost = False

    def enter_thread(self) -> None:
        """Do nothing: no library needs preparing."""

    def load(self, config: ModelConfig, folder: Path) -> EmulatedModel:
        """Return the model; only `format = "emulated"` can be emulated (configuration checks that)."""
        if config.emulated is None:
            raise DeviceError(
                f'model "{config.name}" has format "{config.format}": an emulated device runs only format "emulated" '
                'with an [emulated] table; add one or take "emulated" out of its devices'
            )
        return EmulatedModel(self, config, config.emulated)

    def examine(self, error: Exception) -> Fault:
        """Return what the injected fault stands for."""
        if isinstance(error, DeviceLostError):
            return Fault.DEVICE
        return Fault.MEMORY if isinstance(error, DeviceMemoryError) else Fault.BATCH

    def renew(self) -> EmulatedDevice:
        """Return a fresh device with an empty timeline."""
        return EmulatedDevice(self.index)


class EmulatedModel:
    """A declared latency profile that answers with the first bytes of its input."""

    sample = None
    buckets: tuple[int, ...] = ()

    def __init__(self, device: EmulatedDevice, config: ModelConfig, spec: EmulatedSpec) -> None:
        self.config = config
        self._device = device
        self._spec = spec
        self._latency_ns = latency_table_ns(config)
        self.memory_bytes = self.swap_bytes = round(spec.memory_mb * BYTES_PER_MB)
        self.swap_ns = ms_to_ns(spec.load_ms)
        self._is_there = True
        self._random = random.Random(f"{spec.seed}/{device.index}/{config.name}")
        self._batch_count = self._load_count = 0
        self._first_ns = 0

    def prepare(self, buckets: Sequence[int] | None) -> None:
        """Do nothing: no code needs warming up."""

    def variant(self, config: ModelConfig) -> EmulatedModel:
        """Return the same model for tensors of other sizes."""
        return EmulatedModel(self._device, config, self._spec)

    def evict(self) -> None:
        """Refuse batches until it was restored."""
        self._is_there = False

    def restore(self) -> None:
        """Take as long as the load is declared to."""
        self._load_count += 1
        if self._spec.load_fail_every and self._load_count % self._spec.load_fail_every == 0:
            raise DeviceError(
                f'model "{self.config.name}": injected failure of load {self._load_count} (emulated.load_fail_every)'
            )
        time.sleep(self._spec.load_ms / 1e3)
        self._is_there = True

    def _slowdown(self, now_ns: int) -> float:
        spec = self._spec
        self._first_ns = self._first_ns or now_ns
        passed = min(1.0, (now_ns - self._first_ns) / (spec.drift_s * 1e9))
        return (1.0 + spec.drift * passed) * (spec.slow_factor if self._device.index == spec.slow_device else 1.0)

    def launch(self, inputs: Sequence[Tensors]) -> EmulatedFlight:
        """Put the batch at the end of the device's timeline; raise DeviceError for an injected failure."""
        spec = self._spec
        if not self._is_there:
            raise DeviceError(f'model "{self.config.name}" is not in the memory of {self._device.name}')
        self._batch_count += 1
        count = self._batch_count
        if spec.fail_every and count % spec.fail_every == 0:
            raise DeviceError(f'model "{self.config.name}": injected failure of batch {count} (emulated.fail_every)')
        self._device.is_lost |= bool(spec.lost_after) and count > spec.lost_after
        if self._device.is_lost:
            raise DeviceLostError(f"{self._device.name} is lost: injected fault (emulated.lost_after)")
        if spec.memory_size_max and len(inputs) > spec.memory_size_max:
            raise DeviceMemoryError(
                f'model "{self.config.name}": a batch of {len(inputs)} does not fit: injected fault '
                "(emulated.memory_size_max)"
            )
        duration_ns = self._latency_ns[len(inputs) - 1]
        if spec.jitter:
            duration_ns = max(1, round(duration_ns * (1.0 + spec.jitter * self._random.gauss(0.0, 1.0))))
        now_ns = time.monotonic_ns()
        duration_ns = max(1, round(duration_ns * self._slowdown(now_ns)))
        started_ns = max(now_ns, self._device.busy_until_ns)
        ends_at_ns = started_ns + duration_ns
        self._device.busy_until_ns = ends_at_ns
        source = self.config.inputs[0]
        outputs = {out.name: _echo(source, out, inputs) for out in self.config.outputs}
        if spec.nan_every and count % spec.nan_every == 0:
            outputs = {name: _spoilt(output) for name, output in outputs.items()}
        if spec.wrong_shape_every and count % spec.wrong_shape_every == 0:
            outputs = {name: np.repeat(output, 2, axis=0)[:, :1] for name, output in outputs.items()}
        hangs = bool(spec.hang_every) and count % spec.hang_every == 0
        checked = checked_outputs(self.config, outputs, len(inputs))
        return EmulatedFlight(started_ns, ends_at_ns, checked, hangs)


class EmulatedFlight:
    """A batch on an emulated timeline. One that hangs ends only when abandoned."""

    def __init__(self, started_ns: int, ends_at_ns: int, outputs: Tensors, hangs: bool) -> None:
        self.started_ns = started_ns
        self.ends_at_ns: int | None = None if hangs else ends_at_ns
        self.timing = Timing(ends_at_ns - started_ns)
        self._outputs = outputs
        self._abandoned = threading.Event()

    def wait(self) -> Tensors:
        """Return the outputs once the timeline has passed the batch."""
        if self.ends_at_ns is None:
            self._abandoned.wait()
            raise DeviceError("the batch hung until it was abandoned")
        left_ns = self.ends_at_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
        return self._outputs

    def abandon(self) -> None:
        """Let a hanging `wait` go."""
        self._abandoned.set()


def _spoilt(output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the output with NaN in the first request's row, where its datatype has one."""
    if output.dtype.kind == "f":
        output = output.copy()
        output[:1] = np.nan
    return output


def latency_table_ns(config: ModelConfig) -> tuple[int, ...]:
    """Return l(1..batch_size_max) in nanoseconds as the model's [emulated] table declares it.

    Where lengths vary it is declared for the longest; what grows with the batch is in proportion to the length.
    """
    spec = config.emulated
    if spec is None:
        raise DeviceError(f'model "{config.name}" declares no [emulated] table')
    share = config.length / config.length_buckets[-1] if config.length else 1.0
    if spec.latency_ms is not None:
        return tuple(max(1, ms_to_ns(share * value)) for value in spec.latency_ms)
    alpha, beta = spec.alpha_ms or 0.0, spec.beta_ms or 0.0
    return tuple(max(1, ms_to_ns(share * alpha * b + beta)) for b in range(1, config.batch_size_max + 1))


def _echo(source: TensorSpec, target: TensorSpec, inputs: Sequence[Tensors]) -> np.ndarray[Any, Any]:
    batch_size = len(inputs)
    shape = (batch_size, *target.shape)
    if target.datatype == "BYTES":
        empty = np.empty(shape, dtype=object)
        empty.fill(b"")
        return empty
    dtype = np.dtype(NUMPY_DTYPES[target.datatype])
    wanted = math.prod(target.shape) * dtype.itemsize
    if source.datatype == "BYTES":
        return np.zeros(shape, dtype=dtype)
    raw = np.empty((batch_size, wanted), dtype=np.uint8)
    for row, tensors in zip(raw, inputs, strict=True):
        data = np.ascontiguousarray(tensors[source.name]).reshape(-1).view(np.uint8)
        if data.size >= wanted:
            row[:] = data[:wanted]
        else:
            row[:] = np.resize(data, wanted)
    if target.datatype == "BOOL":
        raw = (raw != 0).astype(np.uint8)
    return raw.view(dtype).reshape(shape)
