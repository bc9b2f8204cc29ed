"""Hold the memory through which batches reach a GPU and their outputs come back: slots, runs and output blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from symphony.config import ModelConfig, TensorSpec
from symphony.execution.copying import copy_arrays
from symphony.execution.devices.base import Tensors
from symphony.execution.dtypes import TORCH_DTYPES
from symphony.execution.staging import StagedInputs, staged_specs
from symphony.wire.tensors import NUMPY_DTYPES

FREE_BLOCK_COUNT_MAX = 8


@dataclass(slots=True)
class Run:
    """`count` requests of a batch, from its `first`-th on, whose inputs are neighbours from `row` of `host` on."""

    first: int
    count: int
    host: dict[str, torch.Tensor]
    row: int


class Slot:
    """Pinned host memory and device memory for the inputs of one batch in flight."""

    def __init__(self, device: torch.device, config: ModelConfig) -> None:
        self.host: dict[str, torch.Tensor] = {}
        self.device: dict[str, torch.Tensor] = {}
        self._views: dict[str, np.ndarray[Any, Any]] = {}
        self.flight: Any = None
        """The batch that used the slot last."""
        for spec in staged_specs(config):
            shape = (config.batch_size_max, *spec.shape)
            dtype = TORCH_DTYPES[spec.datatype]
            host = torch.empty(shape, dtype=dtype, pin_memory=True)
            self.host[spec.name] = host
            self.device[spec.name] = torch.empty(shape, dtype=dtype, device=device)
            self._views[spec.name] = (host.view(torch.uint16) if dtype is torch.bfloat16 else host).numpy()

    def gather(self, inputs: Sequence[Tensors]) -> list[Run]:
        """Return where each request's inputs lie in pinned memory, having copied those that were not staged."""
        runs: list[Run] = []
        targets: list[Any] = []
        sources: list[Any] = []
        for place, tensors in enumerate(inputs):
            if isinstance(tensors, StagedInputs):
                host, row = tensors.ring.host, tensors.row
            else:
                host, row = self.host, place
                for name, view in self._views.items():
                    targets.append(view[place, ...])
                    sources.append(np.ascontiguousarray(tensors[name]))
            last = runs[-1] if runs else None
            if last is not None and last.host is host and last.row + last.count == row:
                last.count += 1
            else:
                runs.append(Run(place, 1, host, row))
        copy_arrays(targets, sources)
        return runs


class OutputBlocks:
    """Pinned blocks for the outputs of one batch each. A block is used again once no array points into it."""

    def __init__(self, config: ModelConfig) -> None:
        self._specs = config.outputs
        self._batch_size_max = config.batch_size_max
        self._free: list[dict[str, torch.Tensor]] = []

    def lease(self) -> OutputLease:
        """Return a block that nobody else uses."""
        block = self._free.pop() if self._free else self._allocate()
        return OutputLease(self, block)

    def give_back(self, block: dict[str, torch.Tensor]) -> None:
        """Take a block back; a few are kept."""
        if len(self._free) < FREE_BLOCK_COUNT_MAX:
            self._free.append(block)

    def _allocate(self) -> dict[str, torch.Tensor]:
        return {
            spec.name: torch.empty(
                (self._batch_size_max, *spec.shape), dtype=TORCH_DTYPES[spec.datatype], pin_memory=True
            )
            for spec in self._specs
        }

    def arrays(self, lease: OutputLease, count: int) -> Tensors:
        """Return the outputs [count, ...] as arrays that keep the lease."""
        return {spec.name: np.asarray(_Window(lease, spec, count)) for spec in self._specs}


class OutputLease:
    """One block, given back when the last reference to it is gone."""

    __slots__ = ("_blocks", "tensors")

    def __init__(self, blocks: OutputBlocks, tensors: dict[str, torch.Tensor]) -> None:
        self._blocks = blocks
        self.tensors = tensors

    def __del__(self) -> None:
        self._blocks.give_back(self.tensors)


class _Window:
    """What numpy needs to know to show a block's memory without a copy; the array holds this, and this the lease."""

    __slots__ = ("__array_interface__", "_lease")

    def __init__(self, lease: OutputLease, spec: TensorSpec, count: int) -> None:
        self._lease = lease
        self.__array_interface__: Mapping[str, Any] = {
            "version": 3,
            "data": (lease.tensors[spec.name].data_ptr(), False),
            "shape": (count, *spec.shape),
            "typestr": np.dtype(NUMPY_DTYPES[spec.datatype]).str,
        }
