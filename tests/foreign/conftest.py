"""A node as users run it, for clients that others wrote: `symphony serve` as a process, with models on the CPU."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from symphony.wire.tensors import BY_NAME

SYMPHONY = [sys.executable, "-c", "from symphony.cli.main import main; main()"]
DATATYPES = tuple(BY_NAME)
MIRROR = """
class Mirror:
    def load(self, folder, device, parameters):
        self.factor = parameters.get("factor", 1)

    def predict(self, batch):
        return {name.upper(): value if self.factor == 1 else value * self.factor for name, value in batch.items()}
"""
HEAD = """
name = "{name}"
version = "{version}"
slo_ms = 1000
max_batch_size = 8
format = "python"
entry = "model.py:Mirror"
devices = ["cpu"]
warmup_count = 1
[parameters]
factor = {factor}
"""
SETTINGS = "profile_budget_s = 0.1\n"


def write_mirror(
    root: Path, name: str, tensors: dict[str, tuple[str, list[int]]], version: str = "1", factor: int = 1
) -> None:
    """Write a model whose outputs are its inputs times `factor`, under names in capitals: name -> (datatype, shape)."""
    folder = root / f"{name}-{version}"
    folder.mkdir(parents=True)
    text = HEAD.format(name=name, version=version, factor=factor)
    for role in ("inputs", "outputs"):
        for tensor, (datatype, shape) in tensors.items():
            shown = tensor if role == "inputs" else tensor.upper()
            text += f'[[{role}]]\nname = "{shown}"\ndatatype = "{datatype}"\nshape = {shape}\n'
    (folder / "model.toml").write_text(text)
    (folder / "model.py").write_text(MIRROR)


@dataclass
class Served:
    """A running node: where it listens for HTTP and gRPC ("host:port"; gRPC "" when it does not)."""

    http: str
    grpc: str


@contextlib.contextmanager
def serve(root: Path, *flags: str) -> Iterator[Served]:
    """Run a node on a repository until the block ends; it must end well."""
    settings = root.parent / "symphony.toml"
    settings.write_text(SETTINGS)
    command = [*SYMPHONY, "serve", "--config", str(settings), "--repository", str(root), "--port", "0", *flags]
    node = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert node.stderr is not None
    found = Served("", "")
    said = []
    try:
        for line in node.stderr:
            said.append(line)
            if "listening on http://" in line:
                found.http = line.split("http://")[1].strip()
            if "listening on grpc://" in line:
                found.grpc = line.split("grpc://")[1].strip()
            if "ready: " in line:
                break
        assert found.http and "ready: " in said[-1], "".join(said)
        threading.Thread(target=node.stderr.read, daemon=True).start()  # a full pipe would stop the node
        yield found
        node.terminate()
        assert node.wait(20) == 0
    finally:
        if node.poll() is None:
            node.kill()
            node.wait(10)


def write_models(root: Path) -> Path:
    """Write the models of the tests: every datatype, all but BF16 (which KServe lacks), scores, two versions."""
    write_mirror(root, "mirror", {datatype.lower(): (datatype, [3]) for datatype in DATATYPES})
    most = [datatype for datatype in DATATYPES if datatype != "BF16"]
    write_mirror(root, "most", {datatype.lower(): (datatype, [3]) for datatype in most})
    write_mirror(root, "scores", {"x": ("FP32", [5])})
    write_mirror(root, "twice", {"x": ("INT32", [2])}, version="1")
    write_mirror(root, "twice", {"x": ("INT32", [2])}, version="2", factor=2)
    return root


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a node that all tests of a session share."""
    root = write_models(tmp_path_factory.mktemp("foreign") / "models")
    # A lone request waits for company until its SLO allows no more; here nobody comes, and clients are what is tested.
    with serve(root, "--policy", "eager", *_GRPC_FLAGS) as node:
        yield node


HAS_GRPC = all(importlib.util.find_spec(name) is not None for name in ("grpc", "tritonclient"))
_GRPC_FLAGS = ("--grpc-port", "0") if HAS_GRPC else ()
