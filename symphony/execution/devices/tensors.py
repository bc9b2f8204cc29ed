"""Move tensors between requests, batches and torch: stack inputs, check and convert outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from symphony.config import ModelConfig, TensorSpec
from symphony.execution.copying import copy_arrays
from symphony.execution.devices.base import DeviceError, Tensors
from symphony.execution.dtypes import TORCH_DTYPES
from symphony.wire.tensors import NUMPY_DTYPES


def stack(spec: TensorSpec, inputs: Sequence[Tensors]) -> np.ndarray[Any, Any]:
    """Return the requests' tensors of one name as one array [batch, *spec.shape], a copy.

    BF16 is carried as its raw uint16 bits, BYTES as an object array.
    """
    rows = [tensors[spec.name] for tensors in inputs]
    if spec.datatype == "BYTES":
        return np.stack(rows)
    batch = np.empty((len(rows), *spec.shape), dtype=NUMPY_DTYPES[spec.datatype])
    copy_arrays([batch[place, ...] for place in range(len(rows))], [np.ascontiguousarray(row) for row in rows])
    return batch


def to_torch(spec: TensorSpec, batch: np.ndarray[Any, Any]) -> torch.Tensor | np.ndarray[Any, Any]:
    """Return the batch as a tensor sharing its memory; BYTES stays an object array."""
    if spec.datatype == "BYTES":
        return batch
    tensor = torch.from_numpy(batch)
    return tensor.view(torch.bfloat16) if spec.datatype == "BF16" else tensor


def checked_outputs(config: ModelConfig, outputs: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Return the declared outputs in order, each of shape [batch_size, *spec.shape] and the declared dtype.

    Raise DeviceError naming the output, what it is and what model.toml declares.
    """
    if not isinstance(outputs, Mapping):
        raise DeviceError(
            f'model "{config.name}" returned {type(outputs).__name__}: predict must return a mapping of output '
            "names to tensors"
        )
    checked: dict[str, Any] = {}
    for spec in config.outputs:
        if spec.name not in outputs:
            raise DeviceError(
                f'model "{config.name}" returned no output "{spec.name}" (it returned {sorted(map(str, outputs))}): '
                "return every output that model.toml declares"
            )
        value = outputs[spec.name]
        shape = (batch_size, *spec.shape)
        if tuple(getattr(value, "shape", ())) != shape:
            raise DeviceError(
                f'model "{config.name}" returned output "{spec.name}" of shape {list(getattr(value, "shape", ()))}: '
                f"model.toml declares {list(spec.shape)} for one request, so {list(shape)} for this batch"
            )
        if spec.datatype != "BYTES":
            wanted = TORCH_DTYPES[spec.datatype] if isinstance(value, torch.Tensor) else NUMPY_DTYPES[spec.datatype]
            if getattr(value, "dtype", None) != wanted:
                raise DeviceError(
                    f'model "{config.name}" returned output "{spec.name}" as {getattr(value, "dtype", type(value))}: '
                    f"model.toml declares {spec.datatype} ({wanted}); convert it in predict or change the declaration"
                )
        checked[spec.name] = value
    return checked


def to_numpy(spec: TensorSpec, value: Any) -> np.ndarray[Any, Any]:
    """Return an output as a numpy array on the host that nothing else will write to; BF16 as raw uint16 bits."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.contiguous().view(torch.uint16)
        return tensor.cpu().numpy().copy()
    return np.array(value, dtype=object) if spec.datatype == "BYTES" else np.array(value)
