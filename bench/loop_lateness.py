"""Measure how late the scheduling loop decides while the main thread is busy in Python all the time.

    python bench/loop_lateness.py [--duration-s 8] [--rate 2000] [--smoke]

One process as in a node: the compiled scheduling thread, one worker thread per emulated GPU, and a main thread that
never sleeps: it submits a seeded Poisson stream and otherwise spins in Python, so that it holds the GIL as much as any
asyncio thread ever could. Lateness is the instant a decision was performed minus the instant it was due (`wakeup_ns`);
a thread that needed the GIL would be 5 ms late by default. Prints a table and one JSON line; exits 1 when the median is
above 100 us or the 99th percentile above 500 us (not in smoke mode, which only shows that it runs).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import threading
import time

from symphony.loop import SchedulingLoop

ALPHA_NS, BETA_NS, SLO_NS = 1_053_000, 5_072_000, 50_000_000
BATCH_SIZE_MAX = 64
GPU_COUNT = 4
MEDIAN_NS_MAX, P99_NS_MAX = 100_000, 500_000


def work(loop: SchedulingLoop, gpu: int, free: list[int], hand_over_ns: list[int]) -> None:
    """Emulate one GPU: take plans, sleep l(b), report the end."""
    busy_until_ns = 0
    while (plan := loop.take(gpu)) is not None:
        now_ns = time.monotonic_ns()
        hand_over_ns.append(now_ns - plan.decided_at_ns)
        busy_until_ns = max(now_ns, busy_until_ns) + ALPHA_NS * len(plan.ids) + BETA_NS
        loop.wait_and_finish(plan.plan_id, gpu, busy_until_ns)
        free.extend(plan.ids)


def quantile(counts: list[tuple[int, int]], share: float) -> int:
    """Return the upper bound in ns of the histogram bucket in which the quantile falls."""
    total = sum(count for _, count in counts)
    seen = 0
    for upper_ns, count in counts:
        seen += count
        if seen >= share * total:
            return upper_ns
    raise ValueError("the loop made no timed decision: run longer or raise --rate")


def main() -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration-s", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=2000.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="run for 1 s and judge nothing")
    options = parser.parse_args()
    if options.smoke:
        options.duration_s = 1.0
    sys.setswitchinterval(0.0005)
    loop = SchedulingLoop(request_count_max=65536, gpu_count_max=GPU_COUNT, control_ns=200_000, lead_ns=500_000)
    threads = [threading.Thread(target=loop.run)]
    loop.model_added(0, SLO_NS, BATCH_SIZE_MAX, 2_000_000)
    loop.profile_changed(0, 0, [ALPHA_NS * b + BETA_NS for b in range(1, BATCH_SIZE_MAX + 1)])
    free = list(range(65536))
    hand_over_ns: list[int] = []
    for gpu in range(GPU_COUNT):
        loop.gpu_joined(gpu, 0)
        loop.model_placed(0, gpu)
        threads.append(threading.Thread(target=work, args=(loop, gpu, free, hand_over_ns)))
    for thread in threads:
        thread.start()
    rng = random.Random(options.seed)
    next_s = time.monotonic()
    end_s = next_s + options.duration_s
    sent = spins = 0
    while (now_s := time.monotonic()) < end_s:
        spins += 1
        if now_s >= next_s:
            next_s += rng.expovariate(options.rate)
            loop.request_arrived(free.pop(), 0, time.monotonic_ns() + SLO_NS, 4)
            sent += 1
        if spins % 64 == 0:
            free.extend(slot for slot, _ in loop.drain_outcomes())
    loop.stop()
    for thread in threads:
        thread.join()
    counts, _ = loop.lateness_counts()
    hand_over_ns.sort()
    result = {
        "benchmark": "loop_lateness",
        "decisions": sum(count for _, count in counts),
        "requests": sent,
        "lateness_us": {name: quantile(counts, share) / 1e3 for name, share in SHARES.items()},
        "hand_over_us_p50": hand_over_ns[len(hand_over_ns) // 2] / 1e3,
        "seed": options.seed,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]},
    }
    print("decision lateness, main thread busy in Python (us):")
    for name, value in result["lateness_us"].items():
        print(f"  {name:6} {value:9.1f}")
    print(
        f"  over {result['decisions']} timed decisions; a worker had its plan {result['hand_over_us_p50']:.0f} us later"
    )
    print(json.dumps(result))
    if options.smoke:
        return 0
    is_met = quantile(counts, 0.5) <= MEDIAN_NS_MAX and quantile(counts, 0.99) <= P99_NS_MAX
    return 0 if is_met else 1


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}

if __name__ == "__main__":
    sys.exit(main())
