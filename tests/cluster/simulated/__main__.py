"""Run many seeds: `python -m tests.cluster.simulated --first 0 --count 1000`. Prints each violation with its seed."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter

from tests.cluster.simulated.run import RECOVERED_SHARE, run


def main() -> int:
    """Run, print what was violated and the sums; return 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--faults", nargs="*", help="these classes instead of the seed's own; none: a quiet run")
    parser.add_argument("--trace", action="store_true", help="print where a violation was seen")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    alone: Counter[bool] = Counter()
    bad, worst, event_count = [], 1.0, 0
    for seed in range(options.first, options.first + options.count):
        try:
            report = run(seed, options.faults)
        except Exception as error:
            bad.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            if options.trace:
                traceback.print_exc()
            continue
        counts += report.counts
        alone += report.alone
        event_count += report.event_count
        worst = min(worst, report.recovered_share)
        if report.recovered_share < RECOVERED_SHARE:
            bad.append(seed)
            print(f"seed {seed}: only {report.recovered_share:.3f} good after {', '.join(report.faults)}", flush=True)
    print(f"{options.count} runs, {event_count} events, violated in {len(bad)}: {bad}")
    print(f"least share good after recovery {worst:.3f}; alone {alone[True]} good, {alone[False]} not")
    print(", ".join(f"{name} {number}" for name, number in sorted(counts.items())))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
