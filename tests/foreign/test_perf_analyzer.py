"""Triton's perf_analyzer completes a sweep of concurrencies and a run of Poisson arrivals, once it has been fetched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "build" / "perf_analyzer" / "perf_analyzer" / "bin" / "perf_analyzer"

pytestmark = [pytest.mark.sockets, pytest.mark.slow]


@pytest.mark.skipif(not PROGRAM.exists(), reason="perf_analyzer is not here; make perf-analyzer fetches it")
def test_perf_analyzer_completes_both_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "perf_analyzer.py"), "--smoke"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Poisson /s" in done.stdout
