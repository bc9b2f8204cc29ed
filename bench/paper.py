"""Redo the paper's main figures by simulation: plots, and a table of its claims beside what we get.

    python bench/paper.py [--out bench/results/paper] [--only goodput ...] [--seeds 3] [--duration-s 6] [--smoke]

Source: "Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling", arXiv 2308.07470. Goodput is the
largest rate with 99 % of all requests good and 97 % of each model's. All runs are in virtual time, from seeds: the same
everywhere. The throughput of the scheduler, which is real time, is read from what `bench/scheduler.py --sweep` wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from policy import CASES, POLICIES, RESNET, case, model

from symphony.config.workload import Workload
from symphony.sim import simulate
from symphony.sim.report import GOOD, gpus_busy_over_time
from symphony.sim.sweep import find_goodput, sweep
from symphony.units import NS_PER_S

RESULTS = Path(__file__).parent / "results"
OURS = "deferred"
RULE = "paper"
SHOWN = (OURS, RULE, "eager, no shedding", "Triton", "Clockwork", "Nexus", "Shepherd")
OTHER_SYSTEMS = ("Triton", "Clockwork", "Nexus", "Shepherd")
LABELS = {OURS: "Symphony (default)", RULE: "the paper's rule", "eager, no shedding": "eager"}


@dataclass
class Bench:
    """What all figures share: how long and how often to run, what was found, and the claims it speaks to."""

    seeds: tuple[int, ...]
    duration_s: float
    out: Path
    figures: dict[str, Any] = field(default_factory=dict)
    claims: list[tuple[str, str, str]] = field(default_factory=list)

    def sized(self, workload: Workload) -> Workload:
        """Return the workload at this bench's duration."""
        return replace(workload, duration_ns=round(self.duration_s * NS_PER_S))

    def goodput(self, workload: Workload, policy: str) -> float:
        """Return requests per second."""
        workload = self.sized(workload)
        rate = sum(one.rate for one in workload.models)
        return find_goodput(workload, self.seeds, POLICIES[policy], resolution=0.01) * rate

    def claim(self, paper: str, ours: str, command: str) -> None:
        """Note what the paper says and what we get."""
        self.claims.append((paper, ours, command))

    def save(self, figure: Figure, name: str) -> None:
        """Write one plot."""
        figure.savefig(self.out / f"{name}.png", dpi=110)


def curves(bench: Bench, name: str, xlabel: str, ylabel: str, points: dict[str, list[tuple[float, float]]]) -> None:
    """Draw one line per policy, and keep its points."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for policy, found in points.items():
        axes.plot(
            *zip(*found, strict=True),
            marker=".",
            label=LABELS.get(policy, policy),
            linewidth=2 if policy == OURS else 1,
        )
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.legend(fontsize="small")
    bench.save(figure, name)
    bench.figures[name] = points


def swept(
    bench: Bench, xs: Iterable[float], make: Callable[[float], Workload], policies: Iterable[str] = SHOWN
) -> dict[str, list[tuple[float, float]]]:
    """Return the goodput of each policy at each x."""
    return {policy: [(x, bench.goodput(make(x), policy)) for x in xs] for policy in policies}


def figure_goodput(bench: Bench) -> None:
    """Goodput of every policy on one model, 20 models, and mixed models."""
    names = {"a": "1 model", "b": "20 models", "c": "10 mixed models"}
    found = {label: {policy: bench.goodput(CASES[name], policy) for policy in SHOWN} for name, label in names.items()}
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(SHOWN)
    for at, policy in enumerate(SHOWN):
        values = [found[label][policy] / found[label][OURS] for label in found]
        axes.bar(np.arange(len(found)) + at * width, values, width, label=LABELS.get(policy, policy))
    axes.set_xticks(np.arange(len(found)) + 0.4 - width / 2, list(found))
    axes.set(ylabel="goodput, ours = 1")
    axes.legend(fontsize="small", ncols=2)
    bench.save(figure, "goodput")
    bench.figures["goodput"] = found
    gains = {(label, p): rates[OURS] / max(1e-9, rates[p]) for label, rates in found.items() for p in OTHER_SYSTEMS}
    (label, policy), most = max(gains.items(), key=lambda item: item[1])
    least = min(gains.values())
    bench.claim(
        "up to 5x the goodput of other systems on the same GPUs",
        f"{least:.2f}x to {most:.2f}x (most: {label}, {policy}) with every baseline tuned and told what it asks for; "
        f"the paper's rule alone: {min(rates[RULE] / rates[OURS] for rates in found.values()):.2f} to "
        f"{max(rates[RULE] / rates[OURS] for rates in found.values()):.2f} of ours",
        "goodput",
    )


def figure_slo(bench: Bench) -> None:
    """Goodput against the SLO."""
    points = swept(bench, (15, 20, 25, 35, 50, 75, 100, 200), lambda slo: case([model("m", RESNET, slo, 4000)], 8))
    curves(bench, "slo", "SLO in ms", "goodput in requests/s", points)
    shown = "; ".join(f"at {x:.0f} ms {gain(points, x)}" for x in (15, 25, 50, 200))
    bench.claim("the tighter the SLO, the larger the gain", shown, "slo")


def gain(points: dict[str, list[tuple[float, float]]], x: float) -> str:
    """Say how our goodput at x compares with that of the other systems that have any."""
    rates = {policy: dict(found)[x] for policy, found in points.items()}
    able = {policy: rates[OURS] / rates[policy] for policy in OTHER_SYSTEMS if rates[policy] >= 0.01 * rates[OURS]}
    unable = [policy for policy in OTHER_SYSTEMS if policy not in able]
    parts = [f"{min(able.values()):.2f}x to {max(able.values()):.2f}x the others"] if able else []
    parts += [f"{' and '.join(unable)} {'carries' if len(unable) == 1 else 'carry'} next to nothing"] if unable else []
    return ", ".join(parts)


def figure_gpus(bench: Bench) -> None:
    """Goodput per GPU against the number of GPUs: larger pools stagger better."""
    points = swept(bench, (1, 2, 4, 8, 16, 32, 64), lambda gpus: case([model("m", RESNET, 25, 600 * gpus)], int(gpus)))
    each = {policy: [(x, rate / x) for x, rate in found] for policy, found in points.items()}
    curves(bench, "gpus", "GPUs", "goodput per GPU in requests/s", each)
    shown = ", ".join(f"{rate:.0f}/s on {gpus:.0f}" for gpus, rate in each[OURS][::3])
    bench.claim("goodput per GPU grows with the pool, as staggered batches grow", f"per GPU: {shown}", "gpus")


def figure_burstiness(bench: Bench) -> None:
    """Goodput against the shape of gamma gaps: 1 is Poisson, less is burstier."""
    points = swept(
        bench,
        (0.05, 0.1, 0.2, 0.5, 1.0),
        lambda shape: case([model("m", RESNET, 25, 3500, arrivals=f"gamma:{shape}")], 8),
    )
    curves(bench, "burstiness", "shape of the gamma gaps (1: Poisson)", "goodput in requests/s", points)
    shown = "; ".join(f"at shape {x} {gain(points, x)}" for x in (0.05, 0.1, 1.0))
    bench.claim("bursty arrivals cost it less than others", shown, "burstiness")


def figure_gpus_needed(bench: Bench) -> None:
    """The fewest GPUs with which a load is held."""
    points: dict[str, list[tuple[float, float]]] = {}
    for policy in SHOWN:
        points[policy] = []
        for rate in (1000, 2000, 4000, 8000, 16000):
            low, high = 0, 4
            while not needs(bench, rate, high, policy):
                low, high = high, high * 2
                if high > 4096:
                    break
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if needs(bench, rate, middle, policy) else (middle, high)
            points[policy].append((rate, high))
    curves(bench, "gpus-needed", "load in requests/s", "GPUs needed", points)
    saved = [1 - points[OURS][-1][1] / points[policy][-1][1] for policy in OTHER_SYSTEMS]
    bench.claim("up to 60 % fewer GPUs for the same load",
                f"{min(saved):.0%} to {max(saved):.0%} fewer at 16,000/s, SLO 25 ms", "gpus-needed")  # fmt: skip


def needs(bench: Bench, rate: float, gpus: int, policy: str) -> bool:
    """Return whether so many GPUs hold the load."""
    workload = bench.sized(case([model("m", RESNET, 25, rate)], gpus))
    return sweep(workload, 1.0, bench.seeds[:2], POLICIES[policy]).is_held


def figure_use(bench: Bench) -> None:
    """GPUs in use against load, on workloads d and b."""
    for name, label, step in (("d", "1 model, 64 GPUs", 7.5e3), ("b", "20 models, 8 GPUs", 1e3)):
        workload = bench.sized(CASES[name])
        rate = sum(one.rate for one in workload.models)
        loads = np.arange(step, rate + 1, step)
        points = {}
        for policy in SHOWN:
            found = [sweep(workload, load / rate, bench.seeds[:2], POLICIES[policy]) for load in loads]
            points[policy] = [
                (float(x), float(np.mean(one.gpus_in_use))) for x, one in zip(loads, found, strict=True) if one.is_held
            ]
        points = {policy: held for policy, held in points.items() if held}
        curves(
            bench,
            f"use-{name}",
            f"load in requests/s ({label}; where it is held)",
            "GPUs busy for more than 1 %",
            points,
        )
        shares = ", ".join(f"{x / rate:.0%}: {y / len(workload.gpu_kinds):.0%}" for x, y in points[OURS][::2])
        bench.claim(f"GPU use proportional to load ({label})", f"load: GPUs in use, in shares: {shares}", f"use-{name}")


def figure_changes(bench: Bench) -> None:
    """GPUs busy over time under a load that swings."""
    workload = case([model("m", RESNET, 25, 20000, arrivals="diurnal:20:0.1")], 64, duration_s=40)
    figure = Figure(figsize=(9, 5), layout="constrained")
    load_axes, use_axes = figure.subplots(2, 1, sharex=True)
    correlation = {}
    for policy in (OURS, RULE, "eager, no shedding"):
        outcome = simulate(workload, seed=1, make_policy=POLICIES[policy])
        seconds, busy = gpus_busy_over_time(outcome, NS_PER_S // 2)
        counts, _ = np.histogram(outcome.requests.at_ns / NS_PER_S, np.append(seconds, seconds[-1] + 0.5))
        if policy == OURS:
            load_axes.plot(seconds, counts * 2, color="black", linewidth=1)
        use_axes.plot(seconds, busy, label=LABELS.get(policy, policy), linewidth=1)
        correlation[policy] = float(np.corrcoef(counts[2:-2], np.asarray(busy)[2:-2])[0, 1])
        bench.figures[f"changes {policy}"] = {"good_share": float((outcome.outcome == GOOD).mean())}
    load_axes.set(ylabel="requests/s", ylim=(0, None))
    use_axes.set(xlabel="s", ylabel="GPUs busy", ylim=(0, None))
    use_axes.legend(fontsize="small")
    bench.save(figure, "changes")
    good = bench.figures[f"changes {OURS}"]["good_share"]
    bench.claim(
        "GPU use follows a changing load",
        f"correlation of busy GPUs with load {correlation[OURS]:.3f}, {good:.2%} good",
        "changes",
    )


def figure_scheduler(bench: Bench) -> None:
    """Requests scheduled per second, from the results of bench/scheduler.py."""
    source = RESULTS / "scheduler-sweep.json"
    if not source.exists():
        bench.claim(
            "15 million requests scheduled per second", "not measured here: run bench/scheduler.py --sweep first", ""
        )
        return
    rows = json.loads(source.read_text())["rows"]
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, fixed, varied, at in zip(
        figure.subplots(1, 2, sharey=True), ("gpus", "models"), ("models", "gpus"), (1024, 64), strict=True
    ):
        found = sorted((row[varied], row["offered_rate"] / 1e6) for row in rows if row[fixed] == at)
        axes.semilogx(*zip(*found, strict=True), marker=".", base=2)
        axes.set(xlabel=f"{varied} ({at} {fixed})", ylabel="million requests/s, one core", ylim=(0, None))
    bench.save(figure, "scheduler")
    best = max(row["offered_rate"] for row in rows)
    bench.claim(
        "15 million requests scheduled per second, on a large server",
        f"up to {best / 1e6:.1f} million on one core",
        "scheduler",
    )


FIGURES = {
    "goodput": figure_goodput,
    "slo": figure_slo,
    "gpus": figure_gpus,
    "burstiness": figure_burstiness,
    "gpus-needed": figure_gpus_needed,
    "use": figure_use,
    "changes": figure_changes,
    "scheduler": figure_scheduler,
}


def as_markdown(bench: Bench) -> str:
    """Return the claims as a table."""
    lines = ["| the paper says | we get | figure |", "|---|---|---|"]
    lines += [
        f"| {paper} | {ours} | {f'![{name}]({name}.png)' if name else ''} |" for paper, ours, name in bench.claims
    ]
    return "\n".join(lines) + "\n"


def draw(options: argparse.Namespace, out: Path) -> None:
    """Draw the figures into the folder, and write the table and the points."""
    bench = Bench(tuple(range(1, options.seeds + 1)), options.duration_s, out)
    for name in options.only or list(FIGURES):
        began_s = time.monotonic()
        FIGURES[name](bench)
        print(f"{name}: {time.monotonic() - began_s:.0f} s", flush=True)
    table = as_markdown(bench)
    print(table)
    (out / "README.md").write_text(f"# The paper's claims, redone\n\n{table}")
    (out / "points.json").write_text(json.dumps(bench.figures, indent=1) + "\n")


def main() -> int:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "paper")
    parser.add_argument("--only", action="append", choices=list(FIGURES), help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration-s", type=float, default=6.0)
    parser.add_argument("--smoke", action="store_true", help="one short figure, nothing kept")
    options = parser.parse_args()
    if options.smoke:
        options.only, options.seeds, options.duration_s = ["changes"], 1, 2.0
        with tempfile.TemporaryDirectory() as scratch:
            draw(options, Path(scratch))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    draw(options, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
