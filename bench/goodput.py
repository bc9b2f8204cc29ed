"""Regenerate the goodput table: emulated GPUs in real time, 4 KiB in, 64 B out, Poisson, HTTP msgpack.

    python bench/goodput.py [--case R1 --case H4 ...] [--duration-s 10] [--seed 1] [--smoke]

Each case starts `symphony serve` on loopback with emulated GPUs, searches the goodput (largest rate with at least 99 %
good, latency counted from the intended send instant) with `symphony bench` in a process of its own, then runs 0.7 of it
(nothing may be late) and twice it (how much of the goodput stays good, and how soon the rest is refused). Prints the
table beside the staggered bound, and writes JSON into bench/results/. Node and load generator share the machine's
cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symphony.profiles import LatencyProfile, staggered_bound
from symphony.units import ms_to_ns

RESULTS = Path(__file__).parent / "results"
SYMPHONY = Path(sys.executable).with_name("symphony")
BATCH_SIZE_MAX = 256
READY_TIMEOUT_S = 60.0
MODEL = """
name = "{name}"
slo_ms = {slo_ms}
max_batch_size = {batch_size_max}
queue_count_max = 65536
format = "emulated"
[[inputs]]
name = "x"
datatype = "FP32"
shape = [1024]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [16]
[emulated]
alpha_ms = {alpha_ms}
beta_ms = {beta_ms}
"""


@dataclass(frozen=True)
class Case:
    """One row: a profile in ms, an SLO in ms, GPUs, models that share them, and the goodput to reach."""

    alpha_ms: float
    beta_ms: float
    slo_ms: float
    gpu_count: int
    model_count: int
    target: float
    best_other: str

    def bound(self) -> float:
        """Return the staggered bound in requests per second; models that share GPUs alternate on them."""
        profile = LatencyProfile.from_table(
            [ms_to_ns(self.alpha_ms * b + self.beta_ms) for b in range(1, BATCH_SIZE_MAX + 1)]
        )
        share = self.gpu_count / self.model_count
        _, rate = staggered_bound(profile.table_ns(BATCH_SIZE_MAX), ms_to_ns(self.slo_ms), share)
        return rate * self.model_count


CASES = {
    "R1": Case(1.053, 5.072, 50, 1, 1, 610, "mosec 492"),
    "R4": Case(1.053, 5.072, 50, 4, 1, 3000, "mosec 2,677"),
    "R4m4": Case(1.053, 5.072, 50, 4, 4, 2096, "mosec 2,096"),
    "H1": Case(0.5, 20.0, 100, 1, 1, 1020, "mosec 938"),
    "H4": Case(0.5, 20.0, 100, 4, 1, 5400, "mosec 4,420"),
}


@contextmanager
def running_node(case: Case) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Yield the address and process of a node that serves the case."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(case.model_count):
            model = Path(folder) / f"m{number}"
            model.mkdir()
            values = {"slo_ms": case.slo_ms, "alpha_ms": case.alpha_ms, "beta_ms": case.beta_ms}
            text = MODEL.format(name=f"m{number}", batch_size_max=BATCH_SIZE_MAX, **values)
            (model / "model.toml").write_text(text)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(SYMPHONY), "serve", "--repository", folder, "--devices", f"{case.gpu_count}xemulated"]
        node = subprocess.Popen([*command, "--port", str(port), "--log-level", "warning"])
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(url, node)
            yield url, node
        finally:
            node.send_signal(signal.SIGTERM)
            code = node.wait(60)
            if code != 0:
                raise RuntimeError(f"the node ended with code {code}")


def wait_until_ready(url: str, node: subprocess.Popen[bytes]) -> None:
    """Wait for the node; raise when it ended or is not ready in time."""
    end = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < end:
        if node.poll() is not None:
            raise RuntimeError(f"the node ended with code {node.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=1) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the node at {url} was not ready within {READY_TIMEOUT_S:g} s")


def bench(url: str, case: Case, rate: float, duration_s: float, seed: int, *flags: str) -> dict[str, Any]:
    """Run `symphony bench` and return its JSON."""
    models = [f"--model=m{number}" for number in range(case.model_count)]
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [str(SYMPHONY), "bench", url, *models, f"--rate={rate}", f"--duration-s={duration_s}", "--quiet"]
        command += ["--warmup-s=2", f"--seed={seed}", f"--json={file.name}", *flags]
        done = subprocess.run(command, check=False, stdout=sys.stderr)
        if done.returncode not in (0, 3):
            raise RuntimeError(f"symphony bench ended with code {done.returncode}")
        found: dict[str, Any] = json.loads(Path(file.name).read_text())
        return found


def resident_mib(node: subprocess.Popen[bytes]) -> float:
    """Return the node's resident memory in MiB."""
    pages = int(Path(f"/proc/{node.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(name: str, case: Case, duration_s: float, seed: int) -> dict[str, Any]:
    """Return the row of one case."""
    with running_node(case) as (url, node):
        start = case.target * 0.9
        search = bench(url, case, start, duration_s, seed, "--search")
        goodput = search["goodput"]
        calm = bench(url, case, goodput * 0.7, duration_s, seed + 2)
        before = resident_mib(node)
        heavy = bench(url, case, goodput * 2, duration_s, seed + 3)
        again = bench(url, case, goodput * 2, duration_s, seed + 4)
        after = resident_mib(node)
    return {
        "case": name,
        **case.__dict__,
        "bound": case.bound(),
        "goodput": goodput,
        "late_at_0.7": calm["outcomes"]["late"],
        "good_share_at_0.7": calm["good_share"],
        "p99_ms_at_0.7": calm["latency_ms"]["p99"],
        "good_rate_at_2x": (heavy["good_rate"] + again["good_rate"]) / 2,
        "reasons_at_2x": again["reasons"],
        "refused_ms_at_2x": again["refused_ms"],
        "memory_mib_at_2x": [round(before, 1), round(after, 1)],
        "search": [{key: probe[key] for key in ("rate", "good_share", "is_valid")} for probe in search["probes"]],
        "machine": search["machine"],
    }


def main() -> int:
    """Run the cases; return 1 if a goodput is below its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=sorted(CASES), help="default: all")
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="one case, one second, nothing judged or written")
    options = parser.parse_args()
    if options.smoke:
        case = CASES["R1"]
        with running_node(case) as (url, _):
            found = bench(url, case, 200, 1.0, options.seed)
        print(f"smoke: {found['request_count']} requests, {found['good_share']:.1%} good")
        return 0 if found["request_count"] > 0 else 1
    rows = []
    for name in options.case or list(CASES):
        rows.append(measure(name, CASES[name], options.duration_s, options.seed))
        row = rows[-1]
        print(
            f"{name}: goodput {row['goodput']:.0f}/s (target {row['target']}, bound {row['bound']:.0f}, "
            f"{row['best_other']}); "
            f"late at 0.7: {row['late_at_0.7']}; good at 2x: {row['good_rate_at_2x'] / row['goodput']:.2f} of it, "
            f"the rest refused after {row['refused_ms_at_2x']['p99']:.0f} ms (p99); "
            f"memory {row['memory_mib_at_2x'][0]} -> {row['memory_mib_at_2x'][1]} MiB",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "goodput.json").write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=1) + "\n")
    return 0 if all(row["goodput"] >= row["target"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
