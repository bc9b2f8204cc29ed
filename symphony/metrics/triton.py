"""Say a model's counters the way Triton's statistics extension does, which its clients and perf_analyzer read."""

from __future__ import annotations

from typing import Any

from symphony.metrics.model import ModelStats


def triton_statistics(name: str, version: str, stats: ModelStats) -> dict[str, Any]:
    """Return one entry of `model_stats` (Triton's statistics extension), durations in nanoseconds.

    As there, `inference_count` is rows that ran (a call of n rows is n of them), `execution_count` batches, and what is
    under `inference_stats` counts calls. `last_inference` is in Unix milliseconds. There is no cache. No number falls.
    """
    unanswered = stats.unanswered.copy()

    def per_call(ns: int) -> dict[str, int]:
        return {"count": stats.call_count, "ns": ns}

    nothing = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": version,
        "last_inference": stats.last_inference_unix_ms,
        "inference_count": stats.inference_count,
        "execution_count": stats.execution_count,
        "inference_stats": {
            "success": per_call(stats.call_ns),
            "fail": {"count": sum(unanswered.values()) - stats.joined_count, "ns": stats.unanswered_ns},
            "queue": per_call(stats.call_queueing_ns),
            "compute_input": per_call(stats.call_input_ns),
            "compute_infer": per_call(stats.call_infer_ns),
            "compute_output": per_call(stats.call_output_ns),
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
