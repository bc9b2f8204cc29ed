"""Check the answers of `symphony plan` on 20 random workloads, on seeds that it has not seen, and time them.

    python bench/plan.py [--count 20] [--budget-s 8] [--smoke]

For each workload the whole plan is made (GPUs, goodput curve, growth, what each SLO costs). Then the GPUs answered, one
less and two less are simulated with twenty other seeds, by the project's bar: 99 % of all requests good, 97 % of each
model's. Writes bench/results/plan.json and plan.md. Times are of one core; all else is the same on every machine unless
the budget cut a plan short.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from workloads import pool, random_models

from symphony.config.workload import Workload
from symphony.plan import Budget, make_plan
from symphony.plan.trials import with_pool
from symphony.sim.replay import drawn
from symphony.sim.sweep import Sweep, scaled, sweep

RESULTS = Path(__file__).parent / "results"
ARRIVALS = ("poisson", "poisson", "poisson", "constant", "gamma:0.3", "gamma:2", "onoff:0.3:0.3", "burst:4:1:2")
MODEL_COUNT_MAX = 100
RATES = (1_000.0, 200_000.0)
OTHER_SEEDS = tuple(range(1001, 1021))
SECONDS_MAX = 10.0
SMOKE_SEED = 9


def random_workload(seed: int) -> Workload:
    """Return 1 to 100 unlike models (half of the time under 10), 1,000 to 200,000 requests per second in all."""
    rng = np.random.default_rng((seed, 2026))
    count = int(np.exp(rng.uniform(0, np.log(MODEL_COUNT_MAX + 1))))
    models = [
        replace(one, arrivals=ARRIVALS[rng.integers(len(ARRIVALS))])
        for one in random_models(1000 + seed, count, (10, 500))
    ]
    rate = float(np.exp(rng.uniform(*np.log(RATES))))
    workload = pool(*models, gpus=1)
    return scaled(workload, rate / sum(one.rate for one in models))


def measure(seed: int, budget_s: float) -> dict[str, Any]:
    """Return the row of one workload."""
    workload = random_workload(seed)
    began_s = time.monotonic()
    plan = make_plan(workload, drawn, seed=1, budget=Budget(budget_s, time.monotonic))
    seconds = time.monotonic() - began_s
    count = plan.answers[0].count
    checks = [check(workload, count.gpus - less) for less in (0, 1, 2)]
    return {
        "seed": seed,
        "models": len(workload.models),
        "rate": sum(one.rate for one in workload.models),
        "seconds": seconds,
        "gpus": count.gpus,
        "guess": count.guess,
        "bound": count.bound,
        "is_settled": count.is_settled,
        "runs": count.run_count,
        "checks": [shares(one) for one in checks],
        "plan_digest": plan.digest(),
    }


def shares(found: Sweep | None) -> dict[str, Any] | None:
    """Return what is kept of a check; the digest is of all its runs."""
    if found is None:
        return None
    digest = hashlib.sha256("".join(found.digests).encode()).hexdigest()[:16]
    return {"good": found.good_share, "worst": found.worst_good_share, "is_held": found.is_held, "digest": digest}


def check(workload: Workload, gpus: int) -> Sweep | None:
    """Return what so many GPUs do on other seeds; None for no GPU."""
    return sweep(with_pool(workload, (("gpu", gpus),)), 1.0, OTHER_SEEDS) if gpus > 0 else None


def as_row(row: dict[str, Any]) -> str:
    """Return the row as a line of the table; ~ where the budget ended before the answer was settled."""
    good = [f"{one['good']:.2%}, {one['worst']:.2%}" if one else "" for one in row["checks"][:2]]
    gpus = f"{row['gpus']}{'' if row['is_settled'] else ' ~'}"
    return (
        f"| {row['seed']} | {row['models']} | {row['rate']:.0f} | {row['bound']:.1f} | {row['guess']} | "
        f"{gpus} | {good[0]} | {good[1]} | {verdict(row)} | {row['seconds']:.1f} |"
    )


def verdict(row: dict[str, Any]) -> str:
    """Say whether the answer is right: held, and with one less (or two) not."""
    held, below, two_below = (one is not None and one["is_held"] for one in row["checks"])
    if not held:
        return "NOT HELD"
    return ("TOO MANY" if two_below else "one to spare") if below else "exact"


def main() -> int:
    """Plan the workloads and print the table; return 1 if an answer is wrong or late."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--budget-s", type=float, default=8.0)
    parser.add_argument("--smoke", action="store_true", help="one small workload, nothing written")
    options = parser.parse_args()
    rows = []
    lines = [
        "| seed | models | requests/s | bound | guess | GPUs | good with them, worst model | with one less | | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for seed in (SMOKE_SEED,) if options.smoke else range(1, options.count + 1):
        rows.append(measure(seed, options.budget_s))
        lines.append(as_row(rows[-1]))
        print(lines[-1], flush=True)
    if not options.smoke:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "plan.json").write_text(json.dumps({"checked_with": OTHER_SEEDS, "rows": rows}, indent=1) + "\n")
        (RESULTS / "plan.md").write_text("\n".join(lines) + "\n")
    is_right = all(verdict(row) in ("exact", "one to spare") and row["seconds"] < SECONDS_MAX for row in rows)
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
