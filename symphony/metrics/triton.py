"""Say a model's counters the way Triton's statistics extension does, which its clients and perf_analyzer read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from symphony.metrics.model import ModelStats


def triton_statistics(name: str, version: str, stats: ModelStats) -> dict[str, Any]:
    """Return one entry of `model_stats` (Triton's statistics extension), durations in nanoseconds.

    As there, `inference_count` is rows that ran (a call of n rows is n of them), `execution_count` batches, and counts
    under `inference_stats` are calls. Each of these is counted with the mean duration of its rows: the whole of
    `queue`, and of the batch that a row was in. `last_inference` is in Unix milliseconds. There is no cache.
    """
    row_count = stats.good + stats.late
    call_count = max(0, row_count - stats.joined_answered)
    failed_row_count = sum(stats.unanswered.copy().values())
    failed_count = max(0, failed_row_count - stats.joined_unanswered)

    def per_call(ns: int, count: int) -> dict[str, int]:
        """Return what `call_count` calls took, given what `count` rows did."""
        return {"count": call_count, "ns": ns * call_count // count if count else 0}

    def in_batches(batch_ns: Sequence[int]) -> dict[str, int]:
        return per_call(sum(size * ns for size, ns in enumerate(batch_ns)), stats.inference_count)

    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": version,
        "last_inference": stats.last_inference_unix_ms,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {
            "success": per_call(stats.answered_ns, row_count),
            "fail": {
                "count": failed_count,
                "ns": stats.unanswered_ns * failed_count // failed_row_count if failed_row_count else 0,
            },
            "queue": per_call(stats.queueing.total, row_count),
            "compute_input": in_batches(stats.batch_input_ns),
            "compute_infer": in_batches(stats.batch_infer_ns),
            "compute_output": in_batches(stats.batch_output_ns),
            "cache_hit": dict(nothing),
            "cache_miss": dict(nothing),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": {"count": count, "ns": stats.batch_input_ns[size]},
                "compute_infer": {"count": count, "ns": stats.batch_infer_ns[size]},
                "compute_output": {"count": count, "ns": stats.batch_output_ns[size]},
            }
            for size, count in enumerate(stats.batch_counts)
            if count
        ],
        "memory_usage": [],
    }
