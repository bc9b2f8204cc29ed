"""Load `format = "torch_export"` (`.pt2`, from torch.export.save) and `"torchscript"` (load only: deprecated upstream).

Inputs go in by position, in model.toml's order; outputs come back as a tensor, a tuple in that order, or a mapping
by name. The exported graph must have a dynamic batch dimension up to max_batch_size.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from symphony.config import ModelConfig, TensorSpec
from symphony.execution.trouble import ModelLoadError, file_in

_log = logging.getLogger(__name__)

FREE_BATCH_SIZE_MIN = 2
"""torch.export notes this as the least size of every dynamic dimension, and runs 1 all the same."""


def load_exported(config: ModelConfig, folder: Path, torch_device: str) -> PositionalModel:
    """Return the exported program as a callable on the device; raise ModelLoadError if it cannot be one."""
    file = file_in(folder, config.entry, config.name)
    try:
        program = torch.export.load(file)
        _check_inputs(config, program, file)
        # Beside the weights, a graph may name the device it was exported on.
        module = move_to_device_pass(program, torch_device).module()
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f'model "{config.name}": {file} cannot be loaded on {torch_device} by torch {torch.__version__}: '
            f"{type(error).__name__}: {error}; export it again with torch.export.save"
        ) from error
    return PositionalModel(config, module)


def load_scripted(config: ModelConfig, folder: Path, torch_device: str) -> PositionalModel:
    """Return the scripted module as a callable on the device; raise ModelLoadError if it cannot be one."""
    file = file_in(folder, config.entry, config.name)
    _log.warning(
        'model "%s": TorchScript is deprecated upstream; move it to torch.export (.pt2) when you can', config.name
    )
    try:
        module = torch.jit.load(str(file), map_location=torch_device).eval()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ModelLoadError(
            f'model "{config.name}": {file} cannot be loaded on {torch_device} as TorchScript by torch '
            f"{torch.__version__}: {type(error).__name__}: {error}; export it with torch.export instead"
        ) from error
    return PositionalModel(config, module)


class PositionalModel:
    """A module called with tensors by position."""

    sample = None

    def __init__(self, config: ModelConfig, module: torch.nn.Module) -> None:
        self._config = config
        self._module = module
        self.modules = [module]

    def __call__(self, batch: dict[str, Any]) -> Mapping[str, Any]:
        """Return the batch's outputs by the names model.toml gives them; raise ValueError when their number differs."""
        result = self._module(*(batch[spec.name] for spec in self._config.inputs))
        if isinstance(result, Mapping):
            return result
        values = result if isinstance(result, (tuple, list)) else (result,)
        names = [spec.name for spec in self._config.outputs]
        if len(values) != len(names):
            raise ValueError(f"the module returned {len(values)} outputs, model.toml declares {len(names)}: {names}")
        return dict(zip(names, values, strict=True))


def _check_inputs(config: ModelConfig, program: torch.export.ExportedProgram, file: Path) -> None:
    """Raise ModelLoadError unless the program takes the declared inputs at every batch size up to the largest."""
    expected = set(program.graph_signature.user_inputs)
    tensors = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in expected]
    if len(tensors) != len(config.inputs):
        raise ModelLoadError(
            f'model "{config.name}": {file} takes {len(tensors)} inputs, model.toml declares {len(config.inputs)}; '
            "declare those that the module was exported with, in their order"
        )
    for spec, tensor in zip(config.inputs, tensors, strict=True):
        fault = _shape_fault(spec, config.batch_size_max, tensor, program)
        if fault:
            raise ModelLoadError(f'model "{config.name}": {file}: input "{spec.name}" {fault}')


def _shape_fault(spec: TensorSpec, batch_size_max: int, tensor: Any, program: torch.export.ExportedProgram) -> str:
    """Return what is wrong with an exported input, "" when nothing is; dimensions that vary are not compared."""
    shape = tuple(getattr(tensor, "shape", ()))
    differs = any(isinstance(size, int) and size != wanted for size, wanted in zip(shape[1:], spec.shape, strict=False))
    if len(shape) != len(spec.shape) + 1 or differs:
        return (
            f"was exported with shape {[*map(str, shape)]}, model.toml declares {list(spec.shape)} behind the batch "
            "dimension; change one of them"
        )
    size = shape[0]
    if isinstance(size, int):
        if size == batch_size_max == 1:
            return ""
        return (
            f"was exported with a fixed batch of {size}; export it with a dynamic first dimension "
            f"(dynamic_shapes, torch.export.Dim) from 1 to max_batch_size = {batch_size_max}"
        )
    limits = program.range_constraints.get(size.node.expr)
    if limits is not None and (limits.upper < batch_size_max or limits.lower > FREE_BATCH_SIZE_MIN):
        return (
            f"was exported for batches of {limits.lower} to {limits.upper}; export it for 1 to max_batch_size = "
            f"{batch_size_max}, or change max_batch_size"
        )
    return ""
