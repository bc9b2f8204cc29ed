"""Judge what became of a schedule: good, late, dropped, rejected, failed; latencies; whether the run counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from symphony.client.load import ANSWERED, NO_ANSWER, REFUSED, LoadResult

LAG_P99_MS_MAX = 5.0
"""A run whose sender was later than this says more about the sender than about the server."""
GOOD_SHARE_MIN = 0.99
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_REJECTED = frozenset(
    ("bad_input", "unknown_model", "too_large", "rate_limited", "queue_full", "not_ready", "draining")
)


@dataclass(slots=True)
class Report:
    """Counts and quantiles over the judged requests of one run (the warm-up is left out).

    `latency_ms` is of the answered ones, `refused_ms` how long the refused ones waited for their refusal.
    """

    request_count: int
    offered_rate: float
    outcomes: dict[str, int]
    reasons: dict[str, int]
    latency_ms: dict[str, float]
    refused_ms: dict[str, float]
    lag_ms: dict[str, float]
    cpu_share: float
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_fault: str = ""

    @property
    def good_share(self) -> float:
        """Return the share of good requests."""
        return self.outcomes["good"] / self.request_count if self.request_count else 0.0

    @property
    def is_valid(self) -> bool:
        """Return whether the sender kept up: its 99th percentile of lag is at most `LAG_P99_MS_MAX`."""
        return self.lag_ms["p99"] <= LAG_P99_MS_MAX

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "request_count": self.request_count,
            "offered_rate": self.offered_rate,
            "good_rate": self.offered_rate * self.good_share,
            "good_share": self.good_share,
            "is_valid": self.is_valid,
            "outcomes": self.outcomes,
            "reasons": self.reasons,
            "latency_ms": self.latency_ms,
            "refused_ms": self.refused_ms,
            "lag_ms": self.lag_ms,
            "client_cpu_share": self.cpu_share,
            "models": self.models,
            "first_fault": self.first_fault,
        }


def judge(
    result: LoadResult,
    at_ns: np.ndarray[Any, Any],
    models: np.ndarray[Any, Any],
    model_names: list[str],
    slo_ns: list[int],
    warmup_ns: int,
) -> Report:
    """Return the report on all requests meant to be sent at `warmup_ns` or later.

    good: answered within its model's SLO, counted from the intended instant; late: answered after it; dropped: refused
    by the scheduler; rejected: refused at admission; failed: an error, a broken connection or no answer.
    """
    judged = at_ns >= warmup_ns
    limit_ns = np.array(slo_ns, np.int64)[models] if len(models) else np.empty(0, np.int64)
    outcome = np.full(len(at_ns), "failed", dtype="U8")
    is_answered = result.state == ANSWERED
    outcome[is_answered & (result.latency_ns <= limit_ns)] = "good"
    outcome[is_answered & (result.latency_ns > limit_ns)] = "late"
    reasons: Counter[str] = Counter()
    for position in np.flatnonzero(judged & ~is_answered).tolist():
        reason = result.reasons.get(position, "no_answer")
        reasons[reason] += 1
        if result.state[position] == REFUSED and reason != "worker_failed":
            outcome[position] = "rejected" if reason in _REJECTED else "dropped"
    names = ("good", "late", "dropped", "rejected", "failed")
    duration_s = (int(at_ns[-1]) - warmup_ns) / 1e9 if judged.any() else 0.0
    count = int(judged.sum())

    def counts(mask: np.ndarray[Any, Any]) -> dict[str, int]:
        return {name: int((outcome[mask] == name).sum()) for name in names}

    by_model = {}
    for number, name in enumerate(model_names):
        mask = judged & (models == number)
        total = int(mask.sum())
        outcomes = counts(mask)
        by_model[name] = {
            "request_count": total,
            "good_share": outcomes["good"] / total if total else 0.0,
            "outcomes": outcomes,
            "latency_ms": quantiles(result.latency_ns[mask & is_answered]),
        }
    return Report(
        request_count=count,
        offered_rate=count / duration_s if duration_s > 0 else 0.0,
        outcomes=counts(judged),
        reasons=dict(reasons),
        latency_ms=quantiles(result.latency_ns[judged & is_answered]),
        refused_ms=quantiles(result.latency_ns[judged & (result.state == REFUSED)]),
        lag_ms=quantiles(result.lag_ns[judged & (result.state != NO_ANSWER)]),
        cpu_share=result.cpu_share,
        models=by_model,
        first_fault=result.first_fault,
    )


def quantiles(values_ns: np.ndarray[Any, Any]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the maximum in milliseconds; zeros when there are no values."""
    if len(values_ns) == 0:
        return dict.fromkeys((*QUANTILES, "max"), 0.0)
    found = {name: float(np.quantile(values_ns, share)) / 1e6 for name, share in QUANTILES.items()}
    return {**found, "max": float(values_ns.max()) / 1e6}
