"""Say a model's counters the way Triton's statistics extension does, which its clients and perf_analyzer read."""

from __future__ import annotations

from typing import Any

from symphony.metrics.model import ModelStats


def triton_statistics(name: str, version: str, stats: ModelStats) -> dict[str, Any]:
    """Return one entry of `model_stats` (Triton's statistics extension), durations in nanoseconds.

    Counts under `inference_stats` are requests, as there; `compute_input` and `compute_output` are part of the batch
    time here and stay zero. `last_inference` is in Unix milliseconds.
    """
    answered_count = stats.good + stats.late
    failed_count = sum(stats.unanswered.copy().values())
    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": version,
        "last_inference": stats.last_inference_unix_ms,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {
            "success": {"count": answered_count, "ns": stats.answered_ns},
            "fail": {"count": failed_count, "ns": stats.unanswered_ns},
            "queue": {"count": answered_count, "ns": stats.queueing.total},
            "compute_input": dict(nothing),
            "compute_infer": {"count": stats.inference_count, "ns": stats.compute_ns},
            "compute_output": dict(nothing),
            "cache_hit": dict(nothing),
            "cache_miss": dict(nothing),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": dict(nothing),
                "compute_infer": {"count": count, "ns": stats.batch_ns[size]},
                "compute_output": dict(nothing),
            }
            for size, count in enumerate(stats.batch_counts)
            if count
        ],
    }
