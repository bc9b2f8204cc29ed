"""Every benchmark in bench/ has a smoke mode that runs to its end: a benchmark that has rotted measures nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted({*(ROOT / "bench").glob("*.py")} - {ROOT / "bench" / "perf_analyzer.py"})
"""All but the one that fetches what it runs: see tests/foreign/test_perf_analyzer.py."""
SMOKE_TIMEOUT_S = 120.0


@pytest.mark.slow
@pytest.mark.sockets
@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.stem)
def test_benchmark_runs_in_smoke_mode(benchmark: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(benchmark), "--smoke"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SMOKE_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.strip(), "a benchmark prints what it measured"
