"""Load the example models as plain Python, without a node."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread per operation: two that wait for each other crawl on a machine whose cores are busy."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def example_module() -> Callable[[str], ModuleType]:
    """Return a function that imports a file below examples/ by its path without the suffix."""

    def load(name: str) -> ModuleType:
        full_name = "examples_" + name.replace("/", "_")
        if full_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(full_name, EXAMPLES / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[full_name] = module
        return sys.modules[full_name]

    return load
