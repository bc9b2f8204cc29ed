"""A run is judged by what its requests were meant to do: outcome by state, reason and intended instant."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.client.load import ANSWERED, BROKEN, NO_ANSWER, REFUSED, LoadResult
from symphony.client.report import LAG_P99_MS_MAX, judge

MS = 1_000_000


def result_of(*rows: tuple[int, float, float, str]) -> LoadResult:
    """Return a result of (state, latency in ms, lag in ms, reason) per request."""
    return LoadResult(
        np.array([row[0] for row in rows], np.int8),
        np.array([row[1] * MS for row in rows], np.int64),
        np.array([row[2] * MS for row in rows], np.int64),
        {position: row[3] for position, row in enumerate(rows) if row[3]},
        cpu_share=0.5,
        duration_s=1.0,
    )


def judged(*rows: tuple[int, float, float, str], models: list[int] | None = None, warmup_ms: int = 0):
    at_ns = np.arange(len(rows), dtype=np.int64) * 100 * MS
    numbers = np.array(models or [0] * len(rows), np.int32)
    return judge(result_of(*rows), at_ns, numbers, ["a", "b"], [50 * MS, 20 * MS], warmup_ms * MS)


def test_answer_is_good_up_to_the_slo_and_late_beyond() -> None:
    report = judged((ANSWERED, 50.0, 0, ""), (ANSWERED, 50.000001, 0, ""))
    assert (report.outcomes["good"], report.outcomes["late"]) == (1, 1)


def test_slo_is_that_of_each_model() -> None:
    report = judged((ANSWERED, 30, 0, ""), (ANSWERED, 30, 0, ""), models=[0, 1])
    assert report.models["a"]["outcomes"]["good"] == 1
    assert report.models["b"]["outcomes"]["late"] == 1


@pytest.mark.parametrize(
    ("state", "reason", "outcome"),
    [
        (REFUSED, "would_miss", "dropped"),
        (REFUSED, "expired", "dropped"),
        (REFUSED, "queue_full", "rejected"),
        (REFUSED, "bad_input", "rejected"),
        (REFUSED, "worker_failed", "failed"),
        (BROKEN, "connection", "failed"),
        (NO_ANSWER, "", "failed"),
    ],
)
def test_what_was_not_answered_is_told_apart_by_reason(state: int, reason: str, outcome: str) -> None:
    report = judged((state, 1, 0, reason), (ANSWERED, 1, 0, ""))
    assert report.outcomes[outcome] == 1
    assert report.reasons == {reason or "no_answer": 1}
    assert report.good_share == 0.5


def test_warm_up_is_left_out_of_every_figure() -> None:
    report = judged((REFUSED, 1, 90, "would_miss"), (ANSWERED, 7, 0, ""), (ANSWERED, 9, 0, ""), warmup_ms=100)
    assert report.request_count == 2
    assert report.good_share == 1.0
    assert report.reasons == {}
    assert report.latency_ms["max"] == 9
    assert report.lag_ms["max"] == 0


def test_run_of_a_late_sender_is_invalid() -> None:
    assert judged(*[(ANSWERED, 7, LAG_P99_MS_MAX, "")] * 10).is_valid
    assert not judged(*[(ANSWERED, 7, LAG_P99_MS_MAX + 0.1, "")] * 10).is_valid


def test_run_without_requests_is_not_good() -> None:
    report = judged()
    assert report.good_share == 0.0
    assert report.offered_rate == 0.0
