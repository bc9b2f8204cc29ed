"""Measure what sharing a GPU's memory by demand costs, and what least-recently-used would cost, in virtual time.

    python bench/residency.py [--smoke]

Fifty models of 200 MB on GPUs whose memory holds ten, a load taking 8 ms (a bus of 25 GB/s), SLO 100 ms, and
l(b) = 0.5 b + 3 ms. Goodput is the largest rate at which 99 % of all requests are good and 97 % of each model's over
three seeds of 30 s; "all fit" is the same where memory holds all fifty. Popularity falls as rank^-z.
Writes bench/results/residency.md.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.sim import make_core_policy
from symphony.sim.scenario import PolicyFactory, simulate
from symphony.sim.sweep import find_goodput
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns

RESULTS = Path(__file__).parent / "results" / "residency.md"
MODEL_COUNT = 50
MODEL_MB = 200.0
LOAD_MS = 8.0
HELD = 10
ALPHA_MS, BETA_MS = 0.5, 3.0
SLO_MS = 100
BATCH_SIZE_MAX = 64
POLICIES: dict[str, PolicyFactory] = {
    "by popularity": make_core_policy,
    "least recently used": functools.partial(make_core_policy, eviction="recency"),
}


def workload(rate: float, skew: float, gpu_count: int, held: int, duration_s: float) -> Workload:
    """Return `rate` requests per second over the models, on GPUs that hold `held` of them."""
    weights = [rank**-skew for rank in range(1, MODEL_COUNT + 1)]
    table = tuple(ms_to_ns(ALPHA_MS * size + BETA_MS) for size in range(1, BATCH_SIZE_MAX + 1))
    # Ranks are spread over the indices, so that those there at the start are not the popular ones.
    ranks = [(7 * index) % MODEL_COUNT for index in range(MODEL_COUNT)]
    models = tuple(
        SimulatedModel(
            f"m{index}",
            SLO_MS * NS_PER_MS,
            rate * weights[rank] / sum(weights),
            {"gpu": table},
            memory_mb=MODEL_MB,
            load_ns=ms_to_ns(LOAD_MS),
        )
        for index, rank in enumerate(ranks)
    )
    gpus = (SimulatedGpus("gpu", gpu_count, memory_mb=held * MODEL_MB),)
    return Workload(models=models, gpus=gpus, duration_ns=round(duration_s * NS_PER_S), warmup_ns=NS_PER_S)


def main() -> None:
    """Print the table and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one row, a moment long, nothing written")
    is_smoke = parser.parse_args().smoke
    duration_s = 3.0 if is_smoke else 30.0
    seeds = (1,) if is_smoke else (1, 2, 3)
    rows = [
        "| GPUs | skew | all fit | by popularity | least recently used | good at 1.3x: popularity | recency |",
        "|---|---|---|---|---|---|---|",
    ]
    for gpu_count, skew in ((1, 1.0),) if is_smoke else ((1, 0.6), (1, 1.0), (1, 1.4), (4, 0.8), (4, 1.2), (16, 1.0)):
        ceiling = gpu_count * BATCH_SIZE_MAX * 1000 / (ALPHA_MS * BATCH_SIZE_MAX + BETA_MS)
        base = workload(ceiling / 4, skew, gpu_count, HELD, duration_s)
        roomy = workload(ceiling / 4, skew, gpu_count, MODEL_COUNT, duration_s)
        free = find_goodput(roomy, seeds) * ceiling / 4
        found = {name: find_goodput(base, seeds, make) * ceiling / 4 for name, make in POLICIES.items()}
        more = workload(1.3 * found["by popularity"], skew, gpu_count, HELD, duration_s)
        over = {name: good_share(more, make) for name, make in POLICIES.items()}
        cells = [
            f"{free:.0f}",
            *(f"{rate:.0f}" for rate in found.values()),
            *(f"{share:.1%}" for share in over.values()),
        ]
        rows.append(f"| {gpu_count} | {skew} | {' | '.join(cells)} |")
        print(rows[-1], flush=True)
    if not is_smoke:
        RESULTS.write_text(
            f"# More models than memory\n\n`python bench/residency.py`: {MODEL_COUNT} models on GPUs that hold {HELD}; "
            "goodput in requests per second.\n\n" + "\n".join(rows) + "\n"
        )


def good_share(load: Workload, make: PolicyFactory) -> float:
    """Return the share of requests that are good."""
    outcome = simulate(load, make_policy=make)
    return float((outcome.outcome[outcome.requests.at_ns >= load.warmup_ns] == 1).mean())


if __name__ == "__main__":
    main()
