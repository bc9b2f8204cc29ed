"""Make what an `entry` of model.toml names: `"file.py:Name"` in the model's folder, or `"package.module:Name"`.

Without torch, so that processes which only preprocess start quickly.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from symphony.config import ModelConfig
from symphony.execution.trouble import ModelLoadError, file_in


def made_by_entry(config: ModelConfig, entry: str, folder: Path) -> Any:
    """Return what the class or function that `entry` names makes; raise ModelLoadError if there is none.

    Where that has `configure(config)`, it is called with what model.toml says.
    """
    where, name = entry.rsplit(":", 1)
    module = _module_of_file(config, folder, where) if where.endswith(".py") else importlib.import_module(where)
    if not hasattr(module, name):
        raise ModelLoadError(f'model "{config.name}": {where} has no {name!r}; change entry in model.toml')
    made = getattr(module, name)()
    configure = getattr(made, "configure", None)
    if configure is not None:
        configure(config)
    return made


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
