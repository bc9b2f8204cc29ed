"""KServe's clients, REST and gRPC, against a node. They bring 70 packages, so they run in another process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.foreign.conftest import Served

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "build" / "kserve" / "bin" / "python"

pytestmark = [
    pytest.mark.sockets,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="kserve is not here; make kserve installs it apart"),
]
NUMBERS = {
    "FP64": "float64",
    "FP32": "float32",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


@pytest.fixture(scope="module")
def found(served: Served) -> dict:
    script = Path(__file__).with_name("kserve_calls.py")
    done = subprocess.run(
        [PYTHON, script, served.http, served.grpc], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_everything(outputs: dict) -> None:
    for name, dtype in NUMBERS.items():
        assert outputs[name] == [dtype, [0, 1, 1]], name
    assert outputs["BOOL"] == ["bool", [False, True, True]]
    assert outputs["FP16"] == ["float16", [0.5, 1, 2]]
    assert outputs["BYTES"] == ["object", ["one", "", "three"]]


def test_health_is_seen(found: dict) -> None:
    rest = found["rest"]
    assert rest["live"] and rest["ready"] and rest["model_ready"] and not rest["absent_ready"]


@pytest.mark.parametrize("form", ["json", "binary"])
def test_it_infers_with_every_datatype(found: dict, form: str) -> None:
    assert found["rest"][form]["id"] == "r-9"
    assert_everything(found["rest"][form]["outputs"])


def test_a_plain_dict_is_enough(found: dict) -> None:
    assert found["rest"]["dict"] == ["float32", [1, 2, 3, 4, 5]]


def test_it_shows_what_the_server_says_is_wrong(found: dict) -> None:
    assert 'input \\"x\\" is missing' in found["rest"]["error"] or 'input "x" is missing' in found["rest"]["error"]


def test_its_grpc_client_infers_too(found: dict) -> None:
    if "grpc" not in found:
        pytest.skip("tritonclient[grpc] is not installed")
    assert found["grpc"]["live"] and found["grpc"]["ready"] and found["grpc"]["model_ready"]
    assert_everything(found["grpc"]["outputs"])
