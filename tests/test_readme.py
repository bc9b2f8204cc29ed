"""The README's examples, run as they stand against a node as `make serve` starts it, print what the README says."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
READY_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
RUN_TIMEOUT_S = 120.0
pytestmark = [pytest.mark.sockets, pytest.mark.slow]


def example(language: str) -> tuple[str, str]:
    """Return the README's code in `language` and the output shown right after it."""
    ((code, output),) = re.findall(rf"```{language}\n((?:(?!```).)*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    return code, output


def serve_command() -> list[str]:
    """Return the arguments with which the Makefile starts the node, its variables at their defaults."""
    listed = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", "serve"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = (line for line in listed.splitlines() if "symphony serve" in line)
    return line.split("symphony ", 1)[1].split()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a node as `make serve` does, on a free port; check that SIGTERM ends it with 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    arguments = [port if part == "8000" else part for part in serve_command()]
    log = tmp_path_factory.mktemp("node") / "log"
    with log.open("wb") as out:
        node = subprocess.Popen(
            [str(Path(sys.executable).with_name("symphony")), *arguments], cwd=ROOT, stdout=out, stderr=out
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", node, log)
        yield f"http://127.0.0.1:{port}"
        node.send_signal(signal.SIGTERM)
        assert node.wait(STOP_TIMEOUT_S) == 0, log.read_text()[-4000:]
    finally:
        node.kill()
        node.wait()


def wait_until_ready(url: str, node: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the node says it is ready; fail with its log when it ends or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while node.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.2)
    pytest.fail(f"the node did not become ready (exit code {node.poll()}):\n{log.read_text()[-4000:]}")


def run(url: str, *command: str) -> str:
    """Run a README example with the node's address in place of the README's; return what it prints."""
    done = subprocess.run(
        [part.replace("http://127.0.0.1:8000", url) for part in command],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_example_prints_what_the_readme_shows(url: str) -> None:
    code, shown = example("sh")
    answer, expected = json.loads(run(url, "bash", "-euo", "pipefail", "-c", code)), json.loads(shown)
    logits, expected_logits = answer["outputs"][0].pop("data"), expected["outputs"][0].pop("data")
    assert logits == pytest.approx(expected_logits, abs=1e-3)
    assert max(range(10), key=logits.__getitem__) == 3
    assert answer.keys() == expected.keys()
    assert answer["outputs"] == expected["outputs"]
    assert answer["model_name"] == expected["model_name"] == "digits"


def test_python_example_prints_what_the_readme_shows(url: str) -> None:
    code, shown = example("python")
    assert run(url, sys.executable, "-c", code) == shown


def test_demo_finds_every_answer_right(url: str) -> None:
    assert "WRONG" not in run(url, sys.executable, str(ROOT / "examples" / "demo.py"), "--url", url)
