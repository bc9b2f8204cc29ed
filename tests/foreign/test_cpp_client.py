"""The client in C++ of examples/cpp: it is compiled, held to the test vectors, spoilt, and run against a node."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.foreign.conftest import Served

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "examples" / "cpp" / "infer.cpp"
PAGE = (ROOT / "docs" / "wire.md").read_text()
FLAGS = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover"]

pytestmark = [pytest.mark.sockets, pytest.mark.slow]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    built = tmp_path_factory.mktemp("cpp") / "infer"
    subprocess.run([compiler, *FLAGS, "-o", str(built), str(SOURCE)], check=True, timeout=120)
    return built


def run(program: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr, done.stderr
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def vector(title: str) -> str:
    """Return the body of a test vector of docs/wire.md, in hex."""
    block = re.search(rf"### {re.escape(title)}\n\n```vector\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None, title
    return "".join(block[1].partition("body:\n")[2].split())


def test_its_requests_are_the_test_vector_byte_for_byte(program: Path) -> None:
    assert run(program, "encode", "x", "25000,0", "1.5", "-2").strip() == vector("Framed, many requests")


def test_it_reads_the_replies_of_the_test_vectors(program: Path) -> None:
    assert run(program, "decode", vector("Framed reply, one tensor")) == "y 0.5 0.25\n"
    said = run(program, "decode", vector("Framed, many answers"))
    assert said == "y 0.5\nwould_miss: too late\n"


def test_spoilt_replies_are_refused_in_words_or_read(program: Path) -> None:
    numbers = random.Random(11)
    body = bytes.fromhex(vector("Framed, many answers"))
    refused = 0
    for _ in range(60):
        spoilt = bytearray(body)
        for _ in range(numbers.randint(1, 3)):
            spoilt[numbers.randrange(len(spoilt))] = numbers.randrange(256)
        if numbers.random() < 0.4:
            del spoilt[numbers.randrange(len(spoilt)) :]
        done = subprocess.run([program, "decode", spoilt.hex()], capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, 1) and b"Sanitizer" not in done.stderr and b"runtime error" not in done.stderr
        refused += done.returncode
    assert refused > 10


def test_it_asks_a_node_one_request_and_many(program: Path, served: Served) -> None:
    host, port = served.http.split(":")
    ask = (program, host, port, "scores", "x")
    assert run(*ask, "0", "1", "2.5", "-3", "4", "5") == "X 1 2.5 -3 4 5\n"
    said = run(*ask, "0,1,500000", "1", "2", "3", "4", "5").splitlines()
    assert said[0] == "request-0: X 1 2 3 4 5" and said[2] == "request-2: X 1 2 3 4 5"
    assert said[1].startswith('request-1: would_miss: model "scores"')


def test_it_says_what_the_node_refuses(program: Path, served: Served) -> None:
    host, port = served.http.split(":")
    assert run(program, host, port, "absent", "x", "0", "1").startswith('unknown_model: model "absent"')
    assert 'no input "z"' in run(program, host, port, "scores", "z", "0", "1")
    assert "cannot connect" in run(program, host, "1", "scores", "x", "0", "1", code=1)
