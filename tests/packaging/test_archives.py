"""The source archive compiles, and the wheel made from it stands alone.

Builds use the tools already installed (no isolation, no dependencies fetched), so nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 480
pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run the command in `cwd`, return its output; fail the test with that output when it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "SYMPHONY_BUILD"}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Return the files of the working tree that a commit would hold."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to know which files belong to the project")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def archive(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive from a clean copy of the tree and return its path."""
    tree = tmp_path_factory.mktemp("tree")
    for name in tracked:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", out, ".", cwd=tree)
    (built,) = out.glob("*.tar.gz")
    return built


@pytest.fixture(scope="module")
def wheel(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the unpacked source archive and return its path."""
    tree = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    (project,) = tree.iterdir()
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ".", cwd=project)
    (built,) = out.glob("*.whl")
    return built


def test_source_archive_holds_every_source_and_nothing_else(archive: Path, tracked: list[str]) -> None:
    with tarfile.open(archive) as packed:
        names = {str(PurePosixPath(*PurePosixPath(member.name).parts[1:])) for member in packed if member.isfile()}
    sources = {name for name in tracked if name.startswith(("symphony/", "csrc/"))}
    documents = {"LICENSE", "README.md", "CHANGELOG.md", "MANIFEST.in", "pyproject.toml", "setup.py"}
    made = {"PKG-INFO", "setup.cfg"}
    assert sources and any(name.endswith(".h") for name in sources) and any(name.endswith(".pyx") for name in sources)
    assert {name for name in names if not name.startswith("symphony_serve.egg-info/")} == sources | documents | made


def test_wheel_holds_the_package_and_nothing_else(wheel: Path, tracked: list[str]) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = [name for name in packed.namelist() if ".dist-info/" not in name]
    sources = {name for name in tracked if name.startswith("symphony/")}
    assert {name for name in names if not name.endswith(".so")} == sources
    extensions = {name.removesuffix(".pyx") for name in sources if name.endswith(".pyx")}
    assert {name.split(".")[0] for name in names if name.endswith(".so")} == extensions


def test_wheel_serves_its_command_from_a_fresh_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=tmp_path)
    program = (
        "import pathlib, symphony, symphony.core as core\n"
        "assert pathlib.Path(symphony.__file__).is_relative_to(pathlib.Path('site').resolve()), symphony.__file__\n"
        "assert pathlib.Path(core.__file__).is_relative_to(pathlib.Path('site').resolve()), core.__file__\n"
        "core.Scheduler()\n"
    )
    run(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(target))
    assert "serve" in run(sys.executable, target / "bin" / "symphony", "--help", cwd=tmp_path, PYTHONPATH=str(target))
