"""Measure policies in virtual time: goodput, what is left of it in overload, and GPUs in use below it.

    python bench/policy.py [--case a --case b ...] [--policy deferred ...] [--duration-s 10] [--smoke]

Goodput is the largest rate at which 99 % of all requests are good and 97 % of each model's, over five seeds together,
50 us from a decision to its start, the first second left out. A GPU is in use if it is busy for more than 1 % of the
time. Prints a table and writes JSON into bench/results/. Deterministic: the same seeds give the same digests.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.profiles import staggered_bound
from symphony.sim import make_core_policy
from symphony.sim.baselines import ClockworkPolicy, NexusPolicy, ShepherdPolicy, TritonPolicy
from symphony.sim.scenario import PolicyFactory
from symphony.sim.sweep import SEEDS, find_goodput, sweep
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns

RESULTS = Path(__file__).parent / "results"
RESNET = (1.053, 5.072)
MIXED = (
    RESNET,
    (0.312, 3.1),
    (2.05, 9.1),
    (0.25, 1.4),
    (0.7, 15),
    (4, 12),
    (0.15, 2.5),
    (0.9, 1.2),
    (1.7, 22),
    (0.08, 0.9),
)
BATCH_SIZE_MAX = 256

POLICIES: dict[str, PolicyFactory] = {
    "deferred": make_core_policy,
    "paper": functools.partial(make_core_policy, policy="deferred", early=False, shed=False, adapt=False),
    "deferred, no active set": functools.partial(make_core_policy, policy="deferred", early=False),
    "deferred, no shedding": functools.partial(make_core_policy, policy="deferred", shed=False),
    "deferred, no learnt margins": functools.partial(make_core_policy, policy="deferred", adapt=False),
    "eager": functools.partial(make_core_policy, policy="eager", adapt=False),
    "eager, no shedding": functools.partial(make_core_policy, policy="eager", shed=False, adapt=False),
    "Triton": TritonPolicy,
    "Clockwork": ClockworkPolicy,
    "Nexus": NexusPolicy,
    "Shepherd": ShepherdPolicy,
}
"""`paper` is the rule as the paper states it: a batch starts at its frontrun, only hopeless requests are dropped."""


def line(alpha_ms: float, beta_ms: float) -> dict[str, tuple[int, ...]]:
    """Return l(b) = alpha b + beta for the one kind of GPU."""
    return {"gpu": tuple(ms_to_ns(alpha_ms * size + beta_ms) for size in range(1, BATCH_SIZE_MAX + 1))}


def case(models: list[SimulatedModel], gpus: int, duration_s: float = 10.0) -> Workload:
    """Return a workload on `gpus` GPUs of one kind with light delays."""
    return Workload(tuple(models), (SimulatedGpus("gpu", gpus),), duration_ns=round(duration_s * NS_PER_S))


def model(name: str, profile: tuple[float, float], slo_ms: float, rate: float, **changes: Any) -> SimulatedModel:
    """Return a model with a linear profile."""
    return SimulatedModel(name, round(slo_ms * NS_PER_MS), rate, line(*profile), **changes)


def mixed(rate: float) -> list[SimulatedModel]:
    """Return ten unlike models, rates proportional to rank^-0.9."""
    weights = [rank**-0.9 for rank in range(1, len(MIXED) + 1)]
    return [
        model(f"m{rank}", profile, max(20, round(5 * sum(profile))), rate * weight / sum(weights))
        for rank, (profile, weight) in enumerate(zip(MIXED, weights, strict=True), 1)
    ]


CASES = {
    "a": case([model("m", RESNET, 25, 5500)], 8),
    "a'": case([model("m", RESNET, 25, 4170, arrivals="gamma:0.1")], 8),
    "b": case([model("m", RESNET, 100, 6160, copies=20)], 8),
    "c": case(mixed(17170), 24),
    "d": case([model("m", RESNET, 25, 47000)], 64),
    "1 GPU": case([model("m", RESNET, 50, 640)], 1),
    "4 models, 4 GPUs": case([model("m", RESNET, 50, 2800, copies=4)], 4),
}
TARGETS = {"a": (5500, 5), "a'": (4170, 6), "b": (6160, 5), "c": (17170, 14), "d": (47000, 29)}
"""Goodput in requests per second, and GPUs in use at 40 % of it."""


def measure(name: str, policy: str, duration_s: float, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Return the row of one case under one policy."""
    workload = replace(CASES[name], duration_ns=round(duration_s * NS_PER_S))
    rate = sum(one.rate for one in workload.models)
    began_s = time.monotonic()
    load = find_goodput(workload, seeds, POLICIES[policy])
    at_40 = sweep(workload, TARGETS[name][0] * 0.4 / rate if name in TARGETS else load * 0.4, seeds, POLICIES[policy])
    at_200 = sweep(workload, load * 2, seeds, POLICIES[policy])
    only = workload.models[0] if len(workload.models) == 1 and workload.models[0].copies == 1 else None
    bound = only and staggered_bound(only.latency_ns["gpu"], only.slo_ns, len(workload.gpu_kinds))[1]
    return {
        "case": name,
        "policy": policy,
        "bound": bound,
        "goodput": load * rate,
        "target": TARGETS.get(name),
        "good_rate_at_2x": at_200.good_rate,
        "gpus_in_use_at_40": at_40.gpus_in_use,
        "at_40": asdict(at_40),
        "seconds": time.monotonic() - began_s,
    }


def main() -> int:
    """Run the cases and print the table; return 1 if the default policy misses a target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="default: all")
    parser.add_argument("--duration-s", type=float, default=10.0)
    parser.add_argument("--smoke", action="store_true", help="one short case with one seed, nothing judged or written")
    options = parser.parse_args()
    if options.smoke:
        row = measure("1 GPU", "deferred", 3.0, (1,))
        print(f"smoke: goodput {row['goodput']:.0f} requests/s on one GPU")
        return 0 if row["goodput"] > 0 else 1
    rows = []
    print(f"{'case':17}{'policy':25}{'bound':>8}{'goodput':>9}{'at 2x':>7}  GPUs in use at 40 % (mean, most)")
    for name in options.case or list(CASES):
        for policy in options.policy or list(POLICIES):
            row = measure(name, policy, options.duration_s, SEEDS)
            rows.append(row)
            used = row["gpus_in_use_at_40"]
            print(
                f"{name:17}{policy:25}{row['bound'] or 0:8.0f}{row['goodput']:9.0f}"
                f"{row['good_rate_at_2x'] / max(1.0, row['goodput']):7.2f}  {sum(used) / len(used):.1f}, {max(used)}",
                flush=True,
            )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "policy.json").write_text(json.dumps({"seeds": SEEDS, "rows": rows}, indent=1) + "\n")
    return (
        0
        if all(row["goodput"] >= row["target"][0] for row in rows if row["policy"] == "deferred" and row["target"])
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
