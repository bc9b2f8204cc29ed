"""Load `format = "python"`: a class, or a factory, in the model's folder or in an installed package.

`entry = "model.py:Name"` or `"package.module:Name"`. `Name()` is called without arguments. What it returns has
`predict(batch)` (or is itself callable) and may have `load(folder, device, parameters)`, called once before, and
`sample(rng)`, which returns one request's inputs for warm-up and profiling.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from symphony.config import ModelConfig
from symphony.execution.formats.trouble import ModelLoadError, file_in


def load_python(config: ModelConfig, folder: Path, torch_device: str) -> PythonModel:
    """Return the loaded model; whatever its code raises becomes a ModelLoadError that names the entry."""
    where, name = config.entry.rsplit(":", 1)
    try:
        module = _module_of_file(config, folder, where) if where.endswith(".py") else importlib.import_module(where)
        if not hasattr(module, name):
            raise ModelLoadError(f'model "{config.name}": {where} has no {name!r}; change entry in model.toml')
        made = getattr(module, name)()
        load = getattr(made, "load", None)
        if load is not None:
            load(folder, torch.device(torch_device), dict(config.parameters))
    except ModelLoadError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f'model "{config.name}": {config.entry} failed to load on {torch_device}: {type(error).__name__}: {error}'
        ) from error
    predict = getattr(made, "predict", made)
    if not callable(predict) or inspect.iscoroutinefunction(predict):
        raise ModelLoadError(
            f'model "{config.name}": {config.entry} gave {type(made).__name__} without a plain predict(batch) method; add one'
        )
    if isinstance(made, torch.nn.Module):
        made.eval()
    return PythonModel(predict, getattr(made, "sample", None))


class PythonModel:
    """A loaded Python model: call it with a batch; `sample` is its own maker of inputs, if it has one."""

    def __init__(
        self, predict: Callable[[dict[str, Any]], Mapping[str, Any]], sample: Callable[[Any], Mapping[str, Any]] | None
    ) -> None:
        self._predict = predict
        self.sample = sample

    def __call__(self, batch: dict[str, Any]) -> Mapping[str, Any]:
        """Return the batch's outputs."""
        return self._predict(batch)


def _module_of_file(config: ModelConfig, folder: Path, name: str) -> ModuleType:
    """Import the file under a name of its own, so that two models' `model.py` do not collide; a reload reads it anew."""
    file = file_in(folder, name, config.name)
    module_name = f"symphony_model_{config.name}_{config.version}_{file.stem}".replace("-", "_").replace(".", "_")
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ModelLoadError(f'model "{config.name}": {file} cannot be imported; it must be a Python file')
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling inside the module look it up there.
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
