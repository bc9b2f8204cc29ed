"""Compile each model test of csrc/ with sanitizers and run it: rings under ThreadSanitizer, the others under
AddressSanitizer and UndefinedBehaviorSanitizer."""

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SOURCES = sorted(HERE.glob("*.cpp"))


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_container_behaves_like_its_model(source: Path, tmp_path: Path) -> None:
    """The program compares the container with a plain one on random operations and exits 0."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None, "the extension cannot be built without a C++ compiler either"
    sanitizer = "thread" if source.stem == "rings" else "address,undefined"
    program = tmp_path / source.stem
    command = [compiler, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-fsanitize={sanitizer}"]
    if sanitizer == "thread":
        # ThreadSanitizer does not model fences and says so; the doorbell's fence is what the run itself checks.
        command.append("-Wno-tsan")
    command += ["-fno-sanitize-recover=all", f"-I{ROOT / 'csrc'}", str(source), "-o", str(program), "-pthread"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    run = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
