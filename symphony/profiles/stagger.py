"""Compute what staggered execution (paper, section 3) can carry at most."""

from __future__ import annotations

from collections.abc import Sequence


def staggered_bound(table_ns: Sequence[int], slo_ns: int, gpu_count: float) -> tuple[int, float]:
    """Return (batch size, requests per second) of the staggered bound for one model.

    `table_ns` is l(1), l(2), ... The batch size is the largest b with (1 + 1/N) l(b) <= SLO, carried at N b / l(b)
    requests per second on N = `gpu_count` GPUs; (0, 0.0) if not even b = 1 holds.
    """
    best = 0
    for size, duration_ns in enumerate(table_ns, 1):
        if duration_ns * (gpu_count + 1) <= slo_ns * gpu_count:  # without division: exact for whole numbers
            best = size
    if best == 0:
        return 0, 0.0
    return best, gpu_count * best * 1e9 / table_ns[best - 1]
