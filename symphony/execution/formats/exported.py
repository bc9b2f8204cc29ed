"""Load `format = "torch_export"` (`.pt2`, from torch.export.save) and `"torchscript"` (load only: deprecated upstream).

Inputs go in by position, in model.toml's order; outputs come back as a tensor, a tuple in that order, or a mapping by name.
The exported graph must have a dynamic batch dimension up to max_batch_size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from symphony.config import ModelConfig
from symphony.execution.formats.trouble import ModelLoadError, file_in

_log = logging.getLogger(__name__)


def load_exported(config: ModelConfig, folder: Path, torch_device: str) -> PositionalModel:
    """Return the exported program as a callable on the device."""
    file = file_in(folder, config.entry, config.name)
    try:
        program = torch.export.load(file)
        module = program.module().to(torch_device)
    except Exception as error:
        raise ModelLoadError(
            f'model "{config.name}": {file} cannot be loaded by torch {torch.__version__}: {type(error).__name__}: {error}; '
            "export it again with torch.export.save"
        ) from error
    return PositionalModel(config, module)


def load_scripted(config: ModelConfig, folder: Path, torch_device: str) -> PositionalModel:
    """Return the scripted module as a callable on the device."""
    file = file_in(folder, config.entry, config.name)
    _log.warning(
        'model "%s": TorchScript is deprecated upstream; move it to torch.export (.pt2) when you can', config.name
    )
    try:
        module = torch.jit.load(str(file), map_location=torch_device).eval()
    except Exception as error:
        raise ModelLoadError(
            f'model "{config.name}": {file} cannot be loaded as TorchScript: {type(error).__name__}: {error}'
        ) from error
    return PositionalModel(config, module)


class PositionalModel:
    """A module called with tensors by position."""

    sample = None

    def __init__(self, config: ModelConfig, module: torch.nn.Module) -> None:
        self._config = config
        self._module = module

    def __call__(self, batch: dict[str, Any]) -> Mapping[str, Any]:
        """Return the batch's outputs by the names model.toml gives them."""
        result = self._module(*(batch[spec.name] for spec in self._config.inputs))
        if isinstance(result, Mapping):
            return result
        values = result if isinstance(result, (tuple, list)) else (result,)
        names = [spec.name for spec in self._config.outputs]
        if len(values) != len(names):
            raise ValueError(f"the module returned {len(values)} outputs, model.toml declares {len(names)}: {names}")
        return dict(zip(names, values, strict=True))
