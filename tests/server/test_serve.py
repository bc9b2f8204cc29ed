"""`symphony serve` as a process: readiness, exit codes, and SIGTERM under load."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from symphony.client import AsyncClient, Client, TransportError
from symphony.errors import SymphonyError
from tests.server.conftest import write_echo

pytestmark = pytest.mark.sockets
SYMPHONY = Path(sys.executable).with_name("symphony")


def serve(*flags: str) -> subprocess.Popen[str]:
    """Start `symphony serve` with the flags."""
    return subprocess.Popen([str(SYMPHONY), "serve", *flags], stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running(root: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Yield a ready node on a free port and its address."""
    node = serve("--repository", str(root), "--devices", "2xemulated", "--port", "0", *flags)
    assert node.stderr is not None
    url = ""
    try:
        for line in node.stderr:
            if "listening on " in line:
                url = line.split("listening on ")[1].strip()
            if "ready: " in line:
                break
        assert url, "the node said nowhere that it listens"
        yield node, url
    finally:
        if node.poll() is None:
            node.kill()
        node.wait(10)
        node.stderr.close()


async def test_sigterm_under_load_loses_no_accepted_request(tmp_path: Path) -> None:
    """Whatever was sent before the signal is answered; later ones are refused in words; the exit code is 0."""
    write_echo(tmp_path, slo_ms=200, beta_ms=30.0)
    outcomes: Counter[str] = Counter()
    signalled_at = float("inf")
    with running(tmp_path) as (node, url):
        async with AsyncClient(url, connection_count_max=400) as client:

            async def one() -> None:
                sent_at = time.monotonic()
                phase = "before"
                try:
                    await client.infer("echo", {"x": np.zeros(8, np.float32)})
                    kind = "answered"
                except SymphonyError as error:
                    kind = error.reason.token
                except TransportError:
                    kind = "broken"
                if sent_at > signalled_at - 0.005:
                    phase = "after"
                outcomes[f"{phase} {kind}"] += 1

            tasks = []
            for number in range(600):
                tasks.append(asyncio.create_task(one()))
                await asyncio.sleep(0.002)
                if number == 300:
                    signalled_at = time.monotonic()
                    node.send_signal(signal.SIGTERM)
            await asyncio.gather(*tasks)
        assert await asyncio.to_thread(node.wait, 10) == 0
    assert outcomes["before answered"] >= 290, outcomes
    assert {key for key in outcomes if key.startswith("before")} == {"before answered"}, outcomes
    assert set(outcomes) <= {"before answered", "after answered", "after draining", "after broken"}, outcomes
    assert outcomes["after draining"] > 0, outcomes


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    """With its own exit code, although a request is still running."""
    write_echo(tmp_path, slo_ms=60_000, beta_ms=20_000.0)
    with running(tmp_path) as (node, url), Client(url, timeout_s=0.3) as client:
        with pytest.raises(TimeoutError):
            client.infer("echo", {"x": np.zeros(8, np.float32)}, timeout_ms=20_010)
        node.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        node.send_signal(signal.SIGTERM)
        assert node.wait(10) in (0, 75)


def test_lost_device_ends_the_process_with_its_own_code_once_all_is_answered(tmp_path: Path) -> None:
    """The request that met the loss is answered by the other device; then a supervisor must start a new process."""
    write_echo(tmp_path, slo_ms=500, emulated_extra="lost_after = 2")
    with running(tmp_path) as (node, url), Client(url) as client:
        for _ in range(3):
            client.infer("echo", {"x": np.zeros(8, np.float32)})
        assert node.wait(10) == 76


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--repository", "no-such-folder"], ["no-such-folder", "is not a folder", "--repository"]),
        (["--repository", ".", "--devices", "gpu"], ["'gpu' is no device", "cuda:0"]),
        (["--repository", ".", "--devices", "cuda:7"], ["cuda:7"]),
        (["--repository", ".", "--port", "99999"], ["99999", "65535"]),
        (["--config", "no-such.toml"], ["cannot read no-such.toml"]),
    ],
)
def test_unusable_configuration_ends_with_code_2_and_one_clear_message(
    flags: list[str], words: list[str], tmp_path: Path
) -> None:
    """No traceback; the thing, the value, the limit, the remedy."""
    node = subprocess.run(
        [str(SYMPHONY), "serve", *flags], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert node.returncode == 2, node.stderr
    assert "Traceback" not in node.stderr
    for word in words:
        assert word in node.stderr


def test_port_in_use_is_said(tmp_path: Path) -> None:
    """With the address and what to do."""
    write_echo(tmp_path)
    with running(tmp_path) as (_, url):
        port = url.rsplit(":", 1)[1]
        second = subprocess.run(
            [str(SYMPHONY), "serve", "--repository", str(tmp_path), "--devices", "emulated", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode == 2
    assert port in second.stderr and "choose another --port" in second.stderr
