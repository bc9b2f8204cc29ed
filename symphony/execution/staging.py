"""Copy requests' inputs into pinned memory while they wait, so that a batch's inputs travel to a GPU in one piece.

A deferred request has time before its batch is formed. `Stager`, a thread, uses it: inputs go into the rows of a
`StagingRing` in the order of arrival, which is the order in which batches take requests, so a batch is a run of
neighbouring rows, or a few runs, and each run is one copy to the device. Without it the worker would gather the batch
after the decision, two milliseconds for 64 images, while the GPU waits. A request that is launched before it was
staged, or that found the ring full, is gathered as before: staging changes when bytes move, never what is computed.

A row is free again when the last reference to its `StagedInputs` is gone, however the request ended.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from symphony.config import ModelConfig, TensorSpec
from symphony.driver.requests import PendingRequest
from symphony.execution.copying import copy_arrays
from symphony.execution.dtypes import TORCH_DTYPES

if TYPE_CHECKING:
    from symphony.execution.devices.base import Tensors

_log = logging.getLogger(__name__)

ROW_BYTES_MIN = 16 << 10
"""Smaller inputs are gathered within microseconds."""
RING_BYTES_MAX = 256 << 20
BATCHES_PER_RING = 4
TOGETHER_MAX = 64
"""So many requests are staged at once at most."""


class StagedInputs(dict[str, np.ndarray[Any, Any]]):
    """One request's inputs as views of a ring's row."""

    __slots__ = ("ring", "row")

    def __init__(self, ring: StagingRing, row: int, inputs: dict[str, np.ndarray[Any, Any]]) -> None:
        super().__init__(inputs)
        self.ring = ring
        self.row = row

    def __del__(self) -> None:
        self.ring.free(self.row)


class StagingRing:
    """Pinned rows for the inputs of one model's requests: `host[name]` is a tensor [rows, *shape].

    BYTES inputs stay where they are. Only one thread stages; any may free.
    """

    def __init__(self, config: ModelConfig, *, pin_memory: bool = True) -> None:
        self._specs = staged_specs(config)
        rows = min(BATCHES_PER_RING * config.batch_size_max, RING_BYTES_MAX // max(1, row_bytes(config)))
        self.row_count = max(rows, config.batch_size_max)
        self.host: dict[str, torch.Tensor] = {}
        self._views: dict[str, np.ndarray[Any, Any]] = {}
        for spec in self._specs:
            dtype = TORCH_DTYPES[spec.datatype]
            host = torch.empty((self.row_count, *spec.shape), dtype=dtype, pin_memory=pin_memory)
            self.host[spec.name] = host
            self._views[spec.name] = (host.view(torch.uint16) if dtype is torch.bfloat16 else host).numpy()
        self._is_used = bytearray(self.row_count)
        self._next = 0

    def take(self, inputs: Tensors) -> StagedInputs | None:
        """Return the next row for these inputs, which are still to be copied; None when that row is in use."""
        row = self._next
        if self._is_used[row]:
            return None
        self._next = (row + 1) % self.row_count
        self._is_used[row] = 1
        staged = StagedInputs(self, row, dict(inputs))
        for name, view in self._views.items():
            staged[name] = view[row, ...]
        return staged

    def stage(self, inputs: Tensors) -> StagedInputs | None:
        """Return the inputs, copied to the next row; None when that row is still in use."""
        staged = self.take(inputs)
        if staged is not None:
            copy_arrays(*self.copies(staged, inputs))
        return staged

    def copies(self, staged: StagedInputs, inputs: Tensors) -> tuple[list[Any], list[Any]]:
        """Return what is to be copied to stage the inputs: targets and sources."""
        return [staged[name] for name in self._views], [np.ascontiguousarray(inputs[name]) for name in self._views]

    def free(self, row: int) -> None:
        """Let the row be used again."""
        self._is_used[row] = 0

    @property
    def used_count(self) -> int:
        """Return how many rows are in use."""
        return sum(self._is_used)


class Stager:
    """The thread that stages what it is given, in that order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[StagingRing, PendingRequest] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """End the thread; return whether it did within `timeout_s` seconds."""
        if not self._thread.is_alive():
            return True
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def submit(self, ring: StagingRing, request: PendingRequest) -> None:
        """Stage the request's inputs soon."""
        self._queue.put((ring, request))

    def _run(self) -> None:
        while True:
            waiting = [self._queue.get()]
            while len(waiting) < TOGETHER_MAX and not self._queue.empty():
                waiting.append(self._queue.get())
            is_last = waiting[-1] is None
            try:
                _stage_together([item for item in waiting if item is not None])
            except Exception as error:
                # Their batches gather them, or say what is wrong with them.
                _log.error("%d requests were not staged: %s", len(waiting), f"{type(error).__name__}: {error}")
            # Nothing may be held while this thread sleeps: a row is free with its last reference.
            del waiting
            if is_last:
                break


def _stage_together(waiting: list[tuple[StagingRing, PendingRequest]]) -> None:
    """Stage what has not ended, all in one stretch without the GIL: between two waits for it much may have come."""
    targets: list[Any] = []
    sources: list[Any] = []
    taken: list[tuple[PendingRequest, StagedInputs]] = []
    for ring, request in waiting:
        staged = ring.take(request.inputs) if request.id >= 0 else None
        if staged is not None:
            into, out_of = ring.copies(staged, request.inputs)
            targets += into
            sources += out_of
            taken.append((request, staged))
    try:
        copy_arrays(targets, sources)
    except ValueError as error:
        if len(waiting) == 1:
            _log.error("a request was not staged: %s", str(error))
            return
        # One of them is at fault, and the others shall not suffer from it.
        del taken[:], targets[:], sources[:], staged
        for one in waiting:
            _stage_together([one])
    for request, staged in taken:
        request.inputs = staged


def staged_specs(config: ModelConfig) -> list[TensorSpec]:
    """Return the inputs that can be staged."""
    return [spec for spec in config.inputs if spec.datatype != "BYTES"]


def row_bytes(config: ModelConfig) -> int:
    """Return the bytes of one request's inputs that can be staged."""
    return sum(math.prod(spec.shape) * TORCH_DTYPES[spec.datatype].itemsize for spec in staged_specs(config))


def make_ring(config: ModelConfig) -> StagingRing | None:
    """Return a ring for the model's requests, None where gathering them takes no time worth saving."""
    size = row_bytes(config)
    if size < ROW_BYTES_MIN or size * config.batch_size_max > RING_BYTES_MAX:
        return None
    return StagingRing(config)
