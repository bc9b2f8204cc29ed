"""Measure what executing costs beside the models: gaps between batches, the cpu worker against a bare loop, drift.

    python bench/execution.py [--part gap --part cpu --part drift] [--seed 1] [--smoke]

Each part starts `symphony serve` on loopback as a process of its own; this process sends the load (framed msgpack over
HTTP, 4 KiB in, 64 B out, Poisson). Node and load share the machine's cores.

gap: one emulated GPU that carries 2,883 requests per second gets 3,000; the histogram of its idle time between batches.
cpu: torch models with batches of 8 on one thread, more load than it carries; requests answered per second, against
a bare loop over the same model, batch size and thread in a process of its own, in turns.
drift: one emulated GPU with 10 % jitter whose batches grow longer by 30 % within the first minute, for 90 s: the share
of bad requests in each ten seconds, and that of a node whose model declares the longer times from the start ("told").
Writes bench/results/execution.json (figures of parts that do not run are kept) and execution.md.
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
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from goodput import SYMPHONY, wait_until_ready
from prometheus_client.parser import text_string_to_metric_families

from symphony.client.calls import Calls
from symphony.client.http import Address
from symphony.client.load import ANSWERED, LoadResult, run_load
from symphony.client.report import LAG_P99_MS_MAX
from symphony.workload import Arrivals, make_schedule

RESULTS = Path(__file__).parent / "results"
MODEL = """
name = "m"
slo_ms = {slo_ms}
max_batch_size = {batch_size_max}
queue_count_max = 65536
{more}
[[inputs]]
name = "x"
datatype = "FP32"
shape = [1024]
[[outputs]]
name = "y"
datatype = "FP32"
shape = [16]
{emulated}
"""
NODE = "cpu_thread_count = {threads}\n"
CONNECTIONS_MAX = 1024
GRACE_S = 2.0

GAP_RATE = 3000.0
GAP_ALPHA_MS, GAP_BETA_MS, GAP_BATCH_MAX, GAP_SLO_MS = 0.3, 3.0, 64, 100.0
GAP_MEDIAN_US_MAX, GAP_P99_US_MAX = 100.0, 1000.0

CPU_BATCH = 8
CPU_SLO_MS = 1000.0
CPU_OVERLOAD = 1.3
CPU_WARM_UP_S = 1.5
CPU_SHAPES = {"24 large": (24, 2048), "128 small": (128, 1024)}
"""Operations of a batch, and the width of their square matrices: about as much computing in both."""
CPU_RATIO_MIN = 0.95
CPU_SPREAD_MAX = 0.05
"""Where the loop itself differs by more between the beginning and the end of a round, others used the cores."""
CPU_CODE = """
import torch

class Layers:
    def load(self, folder, device, parameters):
        generator = torch.Generator().manual_seed(1)
        width, self.count = parameters["width"], parameters["count"]
        self.first = torch.randn(1024, width, generator=generator) / 32
        self.weight = torch.randn(width, width, generator=generator) / width**0.5
        self.last = torch.randn(width, 16, generator=generator)

    def predict(self, batch):
        x = batch["x"] @ self.first
        for _ in range(self.count):
            x = torch.relu(x @ self.weight)
        return {"y": x @ self.last}
"""

DRIFT_ALPHA_MS, DRIFT_BETA_MS, DRIFT_BATCH_MAX, DRIFT_SLO_MS = 1.0, 5.0, 64, 100.0
DRIFT, JITTER = 0.3, 0.1
DRIFT_SHARE = 0.8
DRIFT_BAD_MAX = 0.01
REPEATS_MAX = 2
WINDOW_S = 10.0


@dataclass(frozen=True)
class Run:
    """One load run: instants meant, what became of the requests, and the SLO to judge by."""

    at_ns: np.ndarray[Any, np.dtype[np.int64]]
    result: LoadResult
    slo_ms: float

    def bad_share(self, from_s: float, until_s: float) -> float:
        """Return the share of the requests meant to be sent in the interval that were not answered within the SLO."""
        asked = (self.at_ns >= from_s * 1e9) & (self.at_ns < until_s * 1e9)
        good = (self.result.state == ANSWERED) & (self.result.latency_ns <= self.slo_ms * 1e6)
        return 1.0 - float(good[asked].mean()) if asked.any() else 0.0

    def answered_rate(self, from_s: float, until_s: float) -> float:
        """Return how many answers per second came within the interval."""
        ended_ns = (self.at_ns + self.result.latency_ns)[self.result.state == ANSWERED]
        return int(((ended_ns >= from_s * 1e9) & (ended_ns < until_s * 1e9)).sum()) / (until_s - from_s)

    def lag_p99_ms(self) -> float:
        """Return how late requests were sent, 99th percentile: above 5 ms the figures are the sender's."""
        return float(np.quantile(self.result.lag_ns, 0.99)) / 1e6


def emulated(alpha_ms: float, beta_ms: float, **more: float) -> str:
    """Return the [emulated] table."""
    values = {"alpha_ms": alpha_ms, "beta_ms": beta_ms, **more}
    return "[emulated]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


@contextmanager
def running_node(
    text: str, devices: str, files: dict[str, str] | None = None, threads: int = 1
) -> Iterator[tuple[str, Path]]:
    """Yield the address of a node that serves the one model of this model.toml, and the model's folder."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "models" / "m"
        folder.mkdir(parents=True)
        for name, content in {"model.toml": text, **(files or {})}.items():
            (folder / name).write_text(content)
        config = Path(root) / "symphony.toml"
        config.write_text(NODE.format(threads=threads))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(SYMPHONY), "serve", "--config", str(config), "--repository", str(folder.parent)]
        node = subprocess.Popen([*command, "--devices", devices, "--port", str(port), "--log-level", "warning"])
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(url, node)
            yield url, folder
        finally:
            node.send_signal(signal.SIGTERM)
            code = node.wait(60)
            if code != 0:
                raise RuntimeError(f"the node ended with code {code}")


def send(url: str, rate: float, seconds: float, seed: int, slo_ms: float) -> Run:
    """Send Poisson arrivals and wait for the answers."""
    schedule = make_schedule(Arrivals("poisson"), [rate], seconds, seed)
    calls = Calls(Address.parse(url), "framed")
    x = np.random.default_rng(seed).standard_normal(1024).astype(np.float32)
    body = calls.infer("m", {"x": x}, None, None, None, None, None, None, None, ())
    warm = min(CONNECTIONS_MAX, round(rate * slo_ms / 1e3) + 16)
    result = run_load(
        Address.parse(url),
        schedule.at_ns,
        [[body]],
        schedule.models,
        connection_count_max=CONNECTIONS_MAX,
        warm_connection_count=warm,
        grace_s=GRACE_S,
    )
    return Run(schedule.at_ns, result, slo_ms)


def metrics(url: str) -> dict[str, float]:
    """Return the node's samples by name, `le` appended where there is one."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name + (f"/{sample.labels['le']}" if "le" in sample.labels else "")] = sample.value
    return found


def difference(after: dict[str, float], before: dict[str, float], name: str) -> dict[str, float]:
    """Return by how much each bucket of a histogram grew, by its upper bound: not cumulative."""
    keys = [key for key in after if key.startswith(f"{name}_bucket/")]
    grown = [after[key] - before.get(key, 0.0) for key in keys]
    bounds = [key.rpartition("/")[2] for key in keys]
    return dict(zip(bounds, [b - a for a, b in pairwise([0.0, *grown])], strict=True))


def quantile_us(counts: dict[str, float], share: float) -> float:
    """Return the upper bound, in microseconds, of the bucket that holds the quantile."""
    wanted, seen = share * sum(counts.values()), 0.0
    for bound, count in counts.items():
        seen += count
        if seen >= wanted:
            return float(bound) * 1e6
    return 0.0


# ---- gap ----------------------------------------------------------------------------------------------------------


def measure_gap(seed: int, is_smoke: bool) -> dict[str, Any]:
    """Return the histogram of idle times between batches of a saturated emulated GPU."""
    text = MODEL.format(
        slo_ms=GAP_SLO_MS,
        batch_size_max=GAP_BATCH_MAX,
        more='format = "emulated"',
        emulated=emulated(GAP_ALPHA_MS, GAP_BETA_MS),
    )
    rows = []
    rounds, seconds = (1, 1.5) if is_smoke else (5, 20.0)
    with running_node(text, "1xemulated") as (url, _):
        send(url, GAP_RATE, 1.0 if is_smoke else 5.0, seed, GAP_SLO_MS)
        for number in range(rounds):
            before = metrics(url)
            run = send(url, GAP_RATE, seconds, seed + 1 + number, GAP_SLO_MS)
            after = metrics(url)
            counts = difference(after, before, "symphony_gpu_gap_seconds")
            batches = after["symphony_batch_size_count"] - before["symphony_batch_size_count"]
            requests = after["symphony_batch_size_sum"] - before["symphony_batch_size_sum"]
            refused = 1 - (run.result.state == ANSWERED).mean()
            rows.append(
                {
                    "seed": seed + 1 + number,
                    "batch_count": batches,
                    "batch_size_mean": requests / max(1.0, batches),
                    "not_answered_share": float(refused),
                    "lag_p99_ms": run.lag_p99_ms(),
                    "counts": counts,
                    "median_us": quantile_us(counts, 0.5),
                    "p99_us": quantile_us(counts, 0.99),
                    "load_average": os.getloadavg()[0],
                }
            )
            print(f"gap: {rows[-1]}", flush=True)
    counts = {bound: sum(row["counts"][bound] for row in rows) for bound in rows[0]["counts"]}
    return {
        "rate": GAP_RATE,
        "rows": rows,
        "counts": counts,
        "median_us": quantile_us(counts, 0.5),
        "p99_us": quantile_us(counts, 0.99),
        "is_met": quantile_us(counts, 0.5) <= GAP_MEDIAN_US_MAX and quantile_us(counts, 0.99) <= GAP_P99_US_MAX,
    }


def gap_lines(found: dict[str, Any]) -> list[str]:
    """Return the part of the page on gaps."""
    lines = [
        "## Gaps between batches",
        "",
        f"One emulated GPU, l(b) = {GAP_ALPHA_MS} b + {GAP_BETA_MS} ms, batches of at most {GAP_BATCH_MAX}, SLO "
        f"{GAP_SLO_MS:g} ms: it carries 2,883 requests per second and gets {GAP_RATE:,.0f}. A gap is the device's own "
        "idle time between two batches.",
        f"Wanted: median at most {GAP_MEDIAN_US_MAX:g} us, p99 at most {GAP_P99_US_MAX:g} us.",
        "",
        "| seed | batches | mean size | refused | median | p99 | sent late (p99) | load average |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['seed']} | {row['batch_count']:.0f} | {row['batch_size_mean']:.1f} | "
        f"{row['not_answered_share']:.1%} | <= {row['median_us']:g} us | <= {row['p99_us']:g} us | "
        f"{row['lag_p99_ms']:.1f} ms | {row['load_average']:.1f} |"
        for row in found["rows"]
    ]
    total = sum(found["counts"].values())
    lines += [
        "",
        f"All runs: median <= {found['median_us']:g} us, p99 <= {found['p99_us']:g} us: "
        f"{'met' if found['is_met'] else 'missed'}.",
        "",
        "| gap at most | gaps | share so far |",
        "|---|---|---|",
    ]
    seen = 0.0
    for bound, count in found["counts"].items():
        seen += count
        name = "any" if bound == "+Inf" else f"{float(bound) * 1e6:g} us"
        lines.append(f"| {name} | {count:.0f} | {seen / max(1.0, total):.2%} |")
    return lines


# ---- cpu ----------------------------------------------------------------------------------------------------------


def bare_loop(folder: Path, threads: int) -> None:
    """Answer each line of standard input (seconds) with the batches per second of a loop over the model."""
    import torch

    from symphony.execution.formats import load_callable
    from symphony.execution.repository import read_model_config

    torch.set_num_threads(threads)
    config = read_model_config(folder, folder)
    predict = load_callable(config, folder, "cpu", threads)
    batch = {"x": torch.randn(CPU_BATCH, 1024)}
    with torch.inference_mode():
        for _ in range(5):
            predict(batch)
        for line in sys.stdin:
            began_s = time.monotonic()
            end_s = began_s + float(line)
            count = 0
            while time.monotonic() < end_s:
                predict(batch)
                count += 1
            print(count / (time.monotonic() - began_s), flush=True)


@contextmanager
def running_bare(folder: Path, threads: int) -> Iterator[Callable[[float], float]]:
    """Yield what runs the bare loop for some seconds and returns requests per second."""
    command = [sys.executable, __file__, "--bare", str(folder), "--threads", str(threads)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None

    def run(seconds: float) -> float:
        print(seconds, file=child.stdin, flush=True)
        return float(child.stdout.readline()) * CPU_BATCH

    try:
        yield run
    finally:
        child.stdin.close()
        child.wait(60)


def measure_cpu(seed: int, is_smoke: bool) -> dict[str, Any]:
    """Return the throughput of the cpu worker over that of a bare loop, in turns, for each shape of model."""
    rounds, seconds = (1, 0.5) if is_smoke else (10, 4.0)
    found: dict[str, Any] = {}
    for shape, (count, width) in CPU_SHAPES.items():
        text = MODEL.format(
            slo_ms=CPU_SLO_MS,
            batch_size_max=CPU_BATCH,
            more='format = "python"\nentry = "model.py:Layers"\ndevices = ["cpu"]',
            emulated=f"[parameters]\ncount = {2 if is_smoke else count}\nwidth = {width}",
        )
        with running_node(text, "cpu", {"model.py": CPU_CODE}) as (url, folder), running_bare(folder, 1) as bare:
            rows = [compare_cpu(url, bare, seed + number, seconds, is_smoke) for number in range(rounds)]
        ratio = median(row["ratio"] for row in rows)
        found[shape] = {"rows": rows, "ratio": ratio}
        print(f"cpu, {shape} operations: {found[shape]}", flush=True)
    return {"shapes": found}


def compare_cpu(url: str, bare: Callable[[float], float], seed: int, seconds: float, is_smoke: bool) -> dict[str, Any]:
    """Return one round: the loop, the node under more load than it carries, the loop again."""
    before = bare(seconds)
    rate = 200.0 if is_smoke else CPU_OVERLOAD * before
    counted = metrics(url)
    run = send(url, rate, seconds + CPU_WARM_UP_S, seed, CPU_SLO_MS)
    after = metrics(url)
    again = bare(seconds)
    batches = after["symphony_batch_size_count"] - counted["symphony_batch_size_count"]
    served = run.answered_rate(CPU_WARM_UP_S, seconds + CPU_WARM_UP_S)
    return {
        "seed": seed,
        "bare_rates": [before, again],
        "served_rate": served,
        "ratio": served / ((before + again) / 2),
        "batch_size_mean": (after["symphony_batch_size_sum"] - counted["symphony_batch_size_sum"]) / max(1.0, batches),
        "batch_ms": 2 * CPU_BATCH / (before + again) * 1e3,
        "client_cpu_share": run.result.cpu_share,
        "load_average": os.getloadavg()[0],
    }


def cpu_verdict(part: dict[str, Any]) -> str:
    """Return the median ratio and whether it is what was wanted, or that the machine was too busy to tell."""
    spread = median(abs(a - b) / ((a + b) / 2) for a, b in (row["bare_rates"] for row in part["rows"]))
    text = f"median ratio {part['ratio']:.3f}"
    if spread > CPU_SPREAD_MAX:
        return f"{text}, undecided: the loop's own two rates of a round differ by {spread:.0%} (median)."
    return f"{text}, {'met' if part['ratio'] >= CPU_RATIO_MIN else 'missed'}."


def cpu_lines(found: dict[str, Any]) -> list[str]:
    """Return the part of the page on the cpu device."""
    shapes = " and ".join(
        f"{count} times relu(x W), W float32[{width}, {width}]" for count, width in CPU_SHAPES.values()
    )
    lines = [
        "## cpu device against a bare loop",
        "",
        f"Models: {shapes}, in batches of {CPU_BATCH} on one thread; SLO {CPU_SLO_MS:g} ms. The node gets "
        f"{CPU_OVERLOAD} times what the bare loop did just before, so that all its batches can be full. The loop calls "
        "the model on one tensor again and again, in a process of its own that rests while the node works; each round "
        "is compared with the mean of the loop just before and just after it.",
        f"Wanted: a ratio of at least {CPU_RATIO_MIN}.",
        "",
        "| operations | seed | loop, requests/s | node, requests/s | ratio | mean batch | l(8) | client's CPU | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape, part in found["shapes"].items():
        lines += [
            f"| {shape} | {row['seed']} | {row['bare_rates'][0]:.0f}, {row['bare_rates'][1]:.0f} | "
            f"{row['served_rate']:.0f} | {row['ratio']:.3f} | {row['batch_size_mean']:.2f} | "
            f"{row['batch_ms']:.1f} ms | {row['client_cpu_share']:.0%} | {row['load_average']:.1f} |"
            for row in part["rows"]
        ]
    lines.append("")
    lines += [f"- {shape} operations: {cpu_verdict(part)}" for shape, part in found["shapes"].items()]
    return lines


# ---- drift --------------------------------------------------------------------------------------------------------


def drift_model(factor: float = 1.0, **more: float) -> str:
    """Return the model whose declared times are `factor` times the usual."""
    return MODEL.format(
        slo_ms=DRIFT_SLO_MS,
        batch_size_max=DRIFT_BATCH_MAX,
        more='format = "emulated"',
        emulated=emulated(DRIFT_ALPHA_MS * factor, DRIFT_BETA_MS * factor, jitter=JITTER, **more),
    )


def search_goodput(text: str, start: float, seed: int) -> float:
    """Return the goodput of a node that serves this model, as `symphony bench --search` finds it."""
    with running_node(text, "1xemulated") as (url, _), tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [str(SYMPHONY), "bench", url, "--model=m", f"--rate={start}", "--duration-s=10", "--warmup-s=2"]
        command += ["--quiet", "--search", f"--seed={seed}", f"--json={file.name}"]
        done = subprocess.run(command, check=False, stdout=sys.stderr)
        if done.returncode not in (0, 3):
            raise RuntimeError(f"symphony bench ended with code {done.returncode}")
        return float(json.loads(Path(file.name).read_text())["goodput"])


def run_drift(text: str, rate: float, seconds: float, window_s: float, seed: int) -> dict[str, Any]:
    """Return the bad share of a run in all, in its last third, and window by window.

    A run whose sender was late says little of the node: it is repeated, and the one with the least lag counts.
    """
    runs = []
    while len(runs) < REPEATS_MAX and all(run.lag_p99_ms() > LAG_P99_MS_MAX for run in runs):
        with running_node(text, "1xemulated") as (url, _):
            runs.append(send(url, rate, seconds, seed, DRIFT_SLO_MS))
    run = min(runs, key=Run.lag_p99_ms)
    windows = [at * window_s for at in range(int(seconds / window_s))]
    return {
        "bad_share": run.bad_share(0, seconds),
        "bad_share_last_third": run.bad_share(seconds * 2 / 3, seconds),
        "bad_share_windows": [run.bad_share(at, at + window_s) for at in windows],
        "lag_p99_ms": run.lag_p99_ms(),
        "load_average": os.getloadavg()[0],
    }


def measure_drift(seed: int, is_smoke: bool) -> dict[str, Any]:
    """Return the bad rate while batches grow longer, at 0.8 of the goodput before and of that after."""
    seconds, drift_s, window_s = (3.0, 1.0, 1.0) if is_smoke else (90.0, 60.0, WINDOW_S)
    plain, told = drift_model(), drift_model(1 + DRIFT)
    drifting = drift_model(drift=DRIFT, drift_s=drift_s)
    if is_smoke:
        goodputs = {"before": 400.0, "after": 300.0}
    else:
        goodputs = {"before": search_goodput(plain, 700, seed), "after": search_goodput(told, 500, seed)}
        print(f"drift: goodput {goodputs}", flush=True)
    rows = []
    for name, goodput in goodputs.items():
        rate = DRIFT_SHARE * goodput
        texts = {"drifting": drifting} if is_smoke else {"drifting": drifting, "told": told, "without drift": plain}
        for node, text in texts.items():
            found = run_drift(text, rate, seconds, window_s, seed + 1)
            rows.append({"goodput_of": name, "rate": rate, "node": node, **found})
            print(f"drift: {rows[-1]}", flush=True)
    return {"goodputs": goodputs, "rows": rows}


def drift_lines(found: dict[str, Any]) -> list[str]:
    """Return the part of the page on drift."""
    before, after = found["goodputs"]["before"], found["goodputs"]["after"]
    windows = [f"{at * WINDOW_S:g} s" for at in range(1, 10)]
    lines = [
        "## Drift",
        "",
        f"One emulated GPU, l(b) = {DRIFT_ALPHA_MS:g} b + {DRIFT_BETA_MS:g} ms, SLO {DRIFT_SLO_MS:g} ms, jitter "
        f'{JITTER:.0%}, and batches that grow longer by {DRIFT:.0%} within 60 s; 90 s of load. "Told": a node whose '
        "model declares the longer times from the start; it is the best there is once the drift is over.",
        f"Goodput before the drift {before:.0f}, of a node told {after:.0f} requests per second: "
        f"{DRIFT_SHARE:g} of the goodput before is {DRIFT_SHARE * before / after:.2f} of what the drifted GPU carries, "
        'so both readings of "0.8 of goodput" are measured. Bad requests by the ten seconds in which they were due:',
        "",
        f"| load | node | {' | '.join(windows)} | all | last 30 s | sent late (p99) |",
        "|---|---|" + "---|" * (len(windows) + 3),
    ]
    for row in found["rows"]:
        shares = [f"{share:.2%}" for share in row["bad_share_windows"]]
        lines.append(
            f"| {row['rate']:.0f}/s (0.8 of {row['goodput_of']}) | {row['node']} | {' | '.join(shares)} | "
            f"{row['bad_share']:.2%} | {row['bad_share_last_third']:.2%} | {row['lag_p99_ms']:.0f} ms |"
        )
    by = {(row["goodput_of"], row["node"]): row for row in found["rows"]}
    lines.append("")
    for name in found["goodputs"]:
        one, best = by[(name, "drifting")], by[(name, "told")]
        more = one["bad_share_last_third"] - best["bad_share_last_third"]
        lines.append(
            f"- 0.8 of the goodput {name} the drift: {one['bad_share']:.2%} bad in all "
            f"({'met' if one['bad_share'] <= DRIFT_BAD_MAX else 'missed'}: at most {DRIFT_BAD_MAX:.0%}); in the last "
            f"30 s {more:+.2%} against the node told ({'met' if more <= 0.01 else 'missed'}: within 1 %)."
        )
    return lines


PARTS: dict[str, tuple[Callable[[int, bool], dict[str, Any]], Callable[[dict[str, Any]], list[str]]]] = {
    "gap": (measure_gap, gap_lines),
    "cpu": (measure_cpu, cpu_lines),
    "drift": (measure_drift, drift_lines),
}


def write_page(found: dict[str, Any]) -> None:
    """Write bench/results/execution.md."""
    text = ["# Execution", "", f"`python bench/execution.py` on {os.cpu_count()} cores, node and load together."]
    for part, (_, lines) in PARTS.items():
        if part in found:
            text += ["", *lines(found[part])]
    (RESULTS / "execution.md").write_text("\n".join(text) + "\n")


def main() -> int:
    """Measure the parts asked for; write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="seconds instead of minutes, nothing written")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare is not None:
        bare_loop(options.bare, options.threads)
        return 0
    file = RESULTS / "execution.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    for part in options.part or list(PARTS):
        measure, _ = PARTS[part]
        found[part] = {"seed": options.seed, "cores": os.cpu_count(), **measure(options.seed, options.smoke)}
        if not options.smoke:
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(found, indent=1) + "\n")
    if options.smoke:
        return 0
    write_page(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
