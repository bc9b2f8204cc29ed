"""Load `format = "python"`: a class, or a factory, in the model's folder or in an installed package.

`entry = "model.py:Name"` or `"package.module:Name"`. `Name()` is called without arguments. What it returns has
`predict(batch)` (or is itself callable) and may have `load(folder, device, parameters)`, called once before,
`configure(config)`, called before that, and `sample(rng)`, which returns one request's inputs for warm-up and
profiling.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from symphony.config import ModelConfig
from symphony.execution.entry import made_by_entry
from symphony.execution.trouble import ModelLoadError


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
