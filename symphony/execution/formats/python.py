"""Load `format = "python"`: a class, or a factory, in the model's folder or in an installed package.

`entry = "model.py:Name"` or `"package.module:Name"`. `Name()` is called without arguments. What it returns has
`predict(batch)` (or is itself callable) and may have `load(folder, device, parameters)`, called once before, and
`sample(rng)`, which returns one request's inputs for warm-up and profiling.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from symphony.config import ModelConfig
from symphony.execution.formats.trouble import ModelLoadError, file_in


def load_python(config: ModelConfig, folder: Path, torch_device: str) -> PythonModel:
    """Return the loaded model; whatever its code raises becomes a ModelLoadError that names the entry."""
    try:
        made = made_by_entry(config, config.entry, folder)
        load = getattr(made, "load", None)
        if load is not None:
            load(folder, torch.device(torch_device), dict(config.parameters))
    except ModelLoadError:
        raise
    except (Exception, SystemExit, KeyboardInterrupt, GeneratorExit) as error:  # none of it may end the node
        raise ModelLoadError(
            f'model "{config.name}": {config.entry} in {folder} failed to load on {torch_device}: '
            f"{type(error).__name__}: {error}; mend the model's code or what it reads"
        ) from error
    predict = getattr(made, "predict", made)
    if not callable(predict) or inspect.iscoroutinefunction(predict):
        raise ModelLoadError(
            f'model "{config.name}": {config.entry} in {folder} gave {type(made).__name__} without a plain '
            "predict(batch) method; add one"
        )
    modules = _modules_of(made)
    for network in modules:
        network.eval()
    return PythonModel(predict, getattr(made, "sample", None), modules)


def made_by_entry(config: ModelConfig, entry: str, folder: Path) -> Any:
    """Return what the class or function that `entry` names makes; raise ModelLoadError if there is none."""
    where, name = entry.rsplit(":", 1)
    module = _module_of_file(config, folder, where) if where.endswith(".py") else importlib.import_module(where)
    if not hasattr(module, name):
        raise ModelLoadError(f'model "{config.name}": {where} has no {name!r}; change entry in model.toml')
    return getattr(module, name)()


def _modules_of(made: object) -> list[torch.nn.Module]:
    """Return the modules that the model is made of: itself, or those among its attributes."""
    if isinstance(made, torch.nn.Module):
        return [made]
    return [value for value in getattr(made, "__dict__", {}).values() if isinstance(value, torch.nn.Module)]


class PythonModel:
    """A loaded Python model: call it with a batch.

    `sample` is its own maker of inputs, if it has one; `modules` are the torch modules that it holds.
    """

    def __init__(
        self,
        predict: Callable[[dict[str, Any]], Mapping[str, Any]],
        sample: Callable[[Any], Mapping[str, Any]] | None,
        modules: Sequence[torch.nn.Module],
    ) -> None:
        self._predict = predict
        self.sample = sample
        self.modules = modules

    def __call__(self, batch: dict[str, Any]) -> Mapping[str, Any]:
        """Return the batch's outputs; raise what the model's code raises, as an Exception whatever it was."""
        try:
            return self._predict(batch)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            # These would end the device's thread, and every model on it with it.
            raise RuntimeError(
                f"its code raised {type(error).__name__}({error}); a model must raise Exceptions only"
            ) from error


def _module_of_file(config: ModelConfig, folder: Path, name: str) -> ModuleType:
    """Import the file as a package of its own, anew at each call.

    So two models' `model.py` do not collide, and a file beside it is `from .other import ...`, which collides no more.
    """
    file = file_in(folder, name, config.name)
    module_name = _module_name(config, file)
    spec = importlib.util.spec_from_file_location(module_name, file, submodule_search_locations=[str(file.parent)])
    if spec is None or spec.loader is None:
        raise ModelLoadError(f'model "{config.name}": {file} cannot be imported; it must be a Python file')
    module = importlib.util.module_from_spec(spec)
    before = _take_modules(module_name)
    importlib.invalidate_caches()
    # Dataclasses, pickling and relative imports inside the module look it up there.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # The version that still serves keeps its modules.
        _take_modules(module_name)
        sys.modules.update(before)
        raise
    return module


def _module_name(config: ModelConfig, file: Path) -> str:
    """Return a name that no other file has; the readable part is for tracebacks only."""
    key = hashlib.sha256(f"{config.name}\n{config.version}\n{file.resolve()}".encode()).hexdigest()[:16]
    return f"symphony_model_{re.sub('[^A-Za-z0-9]', '_', config.name)}_{config.version}_{key}"


def _take_modules(name: str) -> dict[str, ModuleType]:
    """Remove the module and those inside it from the imported ones, and return them."""
    found = [known for known in sys.modules if known == name or known.startswith(f"{name}.")]
    return {known: sys.modules.pop(known) for known in found}
