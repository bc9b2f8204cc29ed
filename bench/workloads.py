"""Compare the default policy with all baselines on workloads of many kinds, in virtual time.

    python bench/workloads.py [--only NAME ...] [--seeds 3] [--duration-s 6] [--smoke]

For each workload: the goodput of each policy (99 % of all requests good, 97 % of each model's), ours over the best
of the others', and GPUs in use at 40 % of our goodput, ours and the fewest of any other that is good there. Writes
bench/results/workloads.json and workloads.md row by row; rows of workloads that are not run stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from policy import POLICIES

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.sim.sweep import find_goodput, sweep
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns

RESULTS = Path(__file__).parent / "results"
OURS = "deferred"
OTHERS = ("paper", "eager", "eager, no shedding", "Triton", "Clockwork", "Nexus", "Shepherd")
GOODPUT_SHARE_MIN = 0.99
REQUEST_COUNT = 300_000
"""About as many requests in a run as are needed."""


def table(alpha_ms: float, beta_ms: float, slo_ms: float, step: int = 1) -> tuple[int, ...]:
    """Return l(b) up to where it exceeds the SLO; with `step`, b is padded to its multiple: a staircase."""
    size_max = int(max(4, min(512, (slo_ms - beta_ms) / alpha_ms)))
    return tuple(ms_to_ns(alpha_ms * (-(-size // step) * step) + beta_ms) for size in range(1, size_max + 1))


def one(name: str, slo_ms: float, rate: float, alpha_ms: float, beta_ms: float, **changes: Any) -> SimulatedModel:
    """Return a model for the one kind of GPU."""
    step = changes.pop("step", 1)
    return SimulatedModel(
        name, round(slo_ms * NS_PER_MS), rate, {"gpu": table(alpha_ms, beta_ms, slo_ms, step)}, **changes
    )


def pool(*models: SimulatedModel, gpus: int, **changes: Any) -> Workload:
    """Return a workload on GPUs of one kind."""
    return Workload(models, (SimulatedGpus("gpu", gpus),), **changes)


def random_models(
    seed: int, count: int, slo_ms: tuple[float, float], arrivals: str = "poisson"
) -> list[SimulatedModel]:
    """Return unlike models: betas from 0.5 to 15 ms, alphas a twentieth to a half of them, SLOs of 4 to 12 l(1)."""
    rng = np.random.default_rng(seed)
    models = []
    for number in range(count):
        beta = float(np.exp(rng.uniform(np.log(0.5), np.log(15))))
        alpha = beta * float(np.exp(rng.uniform(np.log(0.05), np.log(0.5))))
        slo = float(np.clip((alpha + beta) * rng.uniform(4, 12), *slo_ms))
        models.append(one(f"m{number}", slo, 100.0 * (number + 1) ** -0.9, alpha, beta, arrivals=arrivals))
    return models


def workloads() -> Iterator[tuple[str, Workload]]:
    """Yield names and workloads; their rates are where the search starts."""
    for slo in (10, 25, 50, 100, 500):
        yield f"1 model, SLO {slo}, 8 GPUs", pool(one("m", slo, 3000, 0.5, 2.0), gpus=8)
    for gpus in (1, 2, 16, 128, 512):
        yield f"1 model, {gpus} GPUs", pool(one("m", 30, 500.0 * gpus, 1.053, 5.072), gpus=gpus)
    for arrivals in ("constant", "gamma:0.3", "gamma:0.05", "onoff:0.2:0.2", "diurnal:4:0.2"):
        yield f"1 model, {arrivals}", pool(one("m", 40, 4000, 1.053, 5.072, arrivals=arrivals), gpus=8)
    for count, gpus in ((4, 4), (10, 8), (50, 16), (100, 32), (200, 64)):
        yield f"{count} like models, {gpus} GPUs", pool(one("m", 80, 500.0 * gpus, 1.0, 5.0, copies=count), gpus=gpus)
    for seed, count, gpus in ((1, 5, 4), (2, 10, 16), (3, 20, 12), (4, 40, 32), (5, 100, 48)):
        yield f"{count} unlike models, {gpus} GPUs", pool(*random_models(seed, count, (10, 500)), gpus=gpus)
    yield "20 unlike bursty models", pool(*random_models(6, 20, (10, 500), "gamma:0.2"), gpus=16)
    for step in (4, 8, 16):
        yield f"stairs of {step}", pool(one("m", 50, 3000, 0.6, 4.0, step=step), gpus=8)
    yield "8 models on stairs of 8", pool(one("m", 80, 3000, 0.6, 4.0, step=8, copies=8), gpus=8)
    for share in (0.05, 0.1):
        margin = round(25 * NS_PER_MS * share * 2.5)
        yield f"jitter {share:.0%}", pool(one("m", 60, 3500, 1.0, 5.0), gpus=8, jitter=share, margin_ns=margin)
    two_kinds = {"fast": table(0.5, 2.5, 50), "slow": table(1.0, 5.0, 50)}
    both = SimulatedModel("both", 50 * NS_PER_MS, 4000, two_kinds)
    yield "two kinds of GPU", Workload((both,), (SimulatedGpus("fast", 4), SimulatedGpus("slow", 4)))
    parts = (both, SimulatedModel("old", 80 * NS_PER_MS, 800, {"slow": table(1.0, 5.0, 80)}))
    yield "two kinds, one model on one", Workload(parts, (SimulatedGpus("fast", 4), SimulatedGpus("slow", 4)))
    yield "no gain from batches", pool(one("m", 30, 2000, 2.0, 0.2), gpus=8)
    yield "much gain from batches", pool(one("m", 100, 8000, 0.05, 20.0), gpus=8)
    yield "tight SLO", pool(one("m", 15, 600, 1.053, 5.072), gpus=8)
    yield "tight and loose SLOs", pool(one("t", 20, 800, 1.0, 5.0), one("l", 400, 1600, 1.0, 5.0), gpus=6)


def judged_s(workload: Workload, duration_s: float) -> float:
    """Return how long to run: as many requests as are needed, but 40 SLOs, or a backlog would pass for goodput."""
    rate = sum(model.rate for model in workload.models)
    slo_s = max(model.slo_ns for model in workload.models) / NS_PER_S
    return max(min(duration_s, REQUEST_COUNT / rate), workload.warmup_ns / NS_PER_S + 40 * slo_s)


def measure(name: str, workload: Workload, seeds: tuple[int, ...], duration_s: float) -> dict[str, Any]:
    """Return one row of the table."""
    began_s = time.monotonic()
    workload = replace(workload, duration_ns=round(judged_s(workload, duration_s) * NS_PER_S))
    rate = sum(model.rate for model in workload.models)
    goodput = {}
    for policy in (OURS, *OTHERS):
        goodput[policy] = find_goodput(workload, seeds, POLICIES[policy], resolution=0.005) * rate
    best = max(OTHERS, key=lambda policy: goodput[policy])
    at_40 = {policy: sweep(workload, goodput[OURS] * 0.4 / rate, seeds, POLICIES[policy]) for policy in (OURS, *OTHERS)}
    used = {policy: sum(found.gpus_in_use) / len(seeds) for policy, found in at_40.items() if found.is_held}
    fewest = min((policy for policy in used if policy != OURS), key=lambda policy: used[policy], default=None)
    return {
        "workload": name,
        "seconds": time.monotonic() - began_s,
        "goodput": goodput,
        "best_other": best,
        "ratio": goodput[OURS] / max(1e-9, goodput[best]),
        "gpus_at_40": used,
        "fewest_other": fewest,
        "good_at_2x": sweep(workload, goodput[OURS] * 2 / rate, seeds, POLICIES[OURS]).good_rate
        / max(1.0, goodput[OURS]),
    }


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table."""
    lines = [
        "| workload | ours | best other | | ours / best | GPUs at 40 %: ours | fewest other | | at 2x |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        used, fewest = row["gpus_at_40"], row["fewest_other"]
        lines.append(
            f"| {row['workload']} | {row['goodput'][OURS]:.0f} | {row['goodput'][row['best_other']]:.0f} | "
            f"{row['best_other']} | {row['ratio']:.3f} | {used.get(OURS, float('nan')):.1f} | "
            f"{used[fewest] if fewest else float('nan'):.1f} | {fewest} | {row['good_at_2x']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def record(rows: list[dict[str, Any]]) -> None:
    """Write the rows into the table of results; rows of workloads that were not run stay as they are."""
    file = RESULTS / "workloads.json"
    known = {row["workload"]: row for row in json.loads(file.read_text())} if file.exists() else {}
    known |= {row["workload"]: row for row in rows}
    ordered = [known[name] for name, _ in workloads() if name in known]
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(ordered, indent=1) + "\n")
    (RESULTS / "workloads.md").write_text(as_markdown(ordered))


def main() -> int:
    """Run the workloads; return 1 if one of them has a ratio below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="part of a workload's name")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--duration-s", type=float, default=6.0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--smoke", action="store_true", help="one short workload, nothing written")
    options = parser.parse_args()
    if options.smoke:
        row = measure("smoke", pool(one("m", 30, 500, 1.053, 5.072), gpus=1), (1,), 2.0)
        print(as_markdown([row]))
        return 0
    chosen = {
        name: workload
        for name, workload in workloads()
        if not options.only or any(part in name for part in options.only)
    }
    seeds = tuple(range(1, options.seeds + 1))
    rows = []
    with ProcessPoolExecutor(options.jobs) as pool_of_processes:
        asked = [pool_of_processes.submit(measure, *pair, seeds, options.duration_s) for pair in chosen.items()]
        for done in asked:
            rows.append(done.result())
            print(as_markdown(rows).splitlines()[-1], f"{rows[-1]['seconds']:.0f} s", flush=True)
            record(rows)
    return 0 if all(row["ratio"] >= GOODPUT_SHARE_MIN for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
