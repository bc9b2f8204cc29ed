"""Run many seeds: `python -m tests.cluster.simulated --first 0 --count 1000`. Prints each violation with its seed.

`SYMPHONY_EXAMPLES` is the default of `--count`.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.cluster.simulated.run import Report, run


def attempt(seed: int, faults: list[str] | None, shows_trace: bool) -> tuple[int, Report | None, str]:
    """Return the seed, its report, and what was violated ("" if nothing)."""
    try:
        report = run(seed, faults)
    except Exception as error:
        return seed, None, traceback.format_exc() if shows_trace else f"{type(error).__name__}: {error}"
    if not report.has_recovered:
        return seed, report, f"only {report.recovered_share:.3f} good after {', '.join(report.faults)}"
    return seed, report, ""


def main() -> int:
    """Run, print what was violated and the sums; return 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=int(os.environ.get("SYMPHONY_EXAMPLES", "300")))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--faults", nargs="*", help="these classes instead of the seed's own; none: a quiet run")
    parser.add_argument("--trace", action="store_true", help="print where a violation was seen")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    alone: Counter[bool] = Counter()
    bad, worst, event_count = [], 1.0, 0
    one = partial(attempt, faults=options.faults, shows_trace=options.trace)
    with ProcessPoolExecutor(options.processes) as pool:
        seeds = range(options.first, options.first + options.count)
        for seed, report, what in pool.map(one, seeds, chunksize=20) if options.processes > 1 else map(one, seeds):
            if what:
                bad.append(seed)
                print(f"seed {seed}: {what}", flush=True)
            if report is not None:
                counts += report.counts
                alone += report.alone
                event_count += report.event_count
                worst = min(worst, report.recovered_share)
    print(f"{options.count} runs, {event_count} events, violated in {len(bad)}: {bad}")
    print(f"least share good after recovery {worst:.3f}; alone {alone[True]} good, {alone[False]} not")
    print(", ".join(f"{name} {number}" for name, number in sorted(counts.items())))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
