"""Load models by their format into one shape: a callable from a batch of tensors to a batch of tensors.

What is loaded is run as the `[execution]` table of model.toml says (precision.py). The batch maps input names to
tensors [batch, ...] on the device (BYTES: numpy object arrays [batch, ...]); the result maps output names to tensors.
Callers run it under `torch.inference_mode`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from symphony.config import ModelConfig
from symphony.execution.formats.exported import load_exported, load_scripted
from symphony.execution.formats.onnx import load_onnx
from symphony.execution.formats.precision import prepared
from symphony.execution.formats.python import load_python
from symphony.execution.trouble import ModelLoadError

__all__ = ["ModelLoadError", "Predict", "Sample", "load_callable"]

Sample = Callable[[np.random.Generator], Mapping[str, Any]]


class Predict(Protocol):
    """A loaded model: call it with a batch.

    `sample(rng)` makes one request's inputs, where the model offers that; `modules` are the torch modules it holds.
    """

    @property
    def sample(self) -> Sample | None: ...

    @property
    def modules(self) -> Sequence[torch.nn.Module]: ...

    def __call__(self, batch: dict[str, Any]) -> Mapping[str, Any]: ...


_LOADERS: dict[str, Callable[[ModelConfig, Path, str], Predict]] = {
    "python": load_python,
    "torch_export": load_exported,
    "torchscript": load_scripted,
}
"""Formats that torch runs, with as many threads as the calling thread has set for itself."""


def load_callable(config: ModelConfig, folder: Path, torch_device: str, thread_count: int = 1) -> Predict:
    """Return the model in `folder` on `torch_device`; raise ModelLoadError saying which file and what to do.

    `thread_count` is for runtimes that bring their own threads: how many of the host's cores are this device's.
    """
    if config.format == "onnx":
        return prepared(load_onnx(config, folder, torch_device, thread_count), config)
    loader = _LOADERS.get(config.format)
    if loader is None:
        raise ModelLoadError(
            f'model "{config.name}": format "{config.format}" runs on emulated devices only, not on {torch_device}'
        )
    return prepared(loader(config, folder, torch_device), config)
