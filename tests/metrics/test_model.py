import time

import pytest

from symphony.errors import Reason
from symphony.metrics import ModelStats, Outcome, triton_statistics

MS = 1_000_000


def stats_after_a_bit_of_everything() -> ModelStats:
    stats = ModelStats(batch_size_max=8)
    for _ in range(8):
        stats.request_accepted()
    stats.batch_finished(3, 20 * MS, 10 * MS, 11 * MS, finished_unix_ms=1_700_000_000_000)
    stats.request_answered(30 * MS, 19 * MS, is_late=False)
    stats.request_answered(31 * MS, 20 * MS, is_late=False)
    stats.request_answered(60 * MS, 49 * MS, is_late=True)
    for latency_ms, queueing_ms in ((30, 19), (31, 20), (60, 49)):
        stats.call_answered(latency_ms * MS, queueing_ms * MS, 0, 11 * MS, 0)
    stats.request_dropped(Reason.WOULD_MISS, 5 * MS)
    stats.request_dropped(Reason.EXPIRED, 50 * MS)
    stats.batch_failed()
    stats.request_failed(Reason.WORKER_FAILED, 40 * MS)
    stats.request_cancelled()
    stats.request_rejected(Reason.BAD_INPUT)
    stats.request_rejected(Reason.QUEUE_FULL, 2)
    return stats


def test_each_outcome_counts_its_own_requests():
    stats = stats_after_a_bit_of_everything()
    assert {outcome.value: stats.count(outcome) for outcome in Outcome} == {
        "good": 2,
        "late": 1,
        "dropped": 2,
        "failed": 1,
        "cancelled": 1,
        "rejected": 3,
    }
    assert stats.unanswered[Outcome.REJECTED, Reason.QUEUE_FULL] == 2


def test_in_flight_is_zero_once_every_accepted_request_ended():
    stats = stats_after_a_bit_of_everything()
    assert stats.in_flight == 1
    stats.request_answered(1, 1, is_late=False)
    assert stats.in_flight == 0


def test_slack_below_zero_counts_as_none_left():
    stats = ModelStats(4)
    stats.batch_finished(1, -5 * MS, 10 * MS, 10 * MS, 0)
    assert stats.slack.counts[0] == 1
    assert stats.slack.total == 0


def test_ratio_is_measured_over_predicted():
    stats = ModelStats(4)
    stats.batch_finished(1, MS, 10 * MS, 15 * MS, 0)
    assert stats.ratio_permille.total == 1_500


def test_batch_without_a_prediction_has_no_ratio():
    stats = ModelStats(4)
    stats.batch_finished(1, MS, 0, 15 * MS, 0)
    assert stats.ratio_permille.snapshot(1).count == 0
    assert stats.execution_count == 1


def test_batch_size_max_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ModelStats(0)


def test_triton_statistics_are_sums_over_requests_and_batches():
    entry = triton_statistics("digits", "1", stats_after_a_bit_of_everything())
    assert (entry["name"], entry["version"], entry["last_inference"]) == ("digits", "1", 1_700_000_000_000)
    assert (entry["inference_count"], entry["execution_count"]) == (3, 1)
    sums = entry["inference_stats"]
    assert sums["success"] == {"count": 3, "ns": 121 * MS}
    assert sums["queue"] == {"count": 3, "ns": 88 * MS}
    assert sums["compute_infer"] == {"count": 3, "ns": 33 * MS}
    assert sums["compute_input"] == sums["compute_output"] == {"count": 3, "ns": 0}
    assert sums["fail"] == {"count": 7, "ns": 95 * MS}
    assert set(sums) == {
        "success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"
    }  # fmt: skip
    assert [(batch["batch_size"], batch["compute_infer"]) for batch in entry["batch_stats"]] == [
        (3, {"count": 1, "ns": 11 * MS})
    ]


def test_rows_of_one_call_are_one_request_of_triton_and_as_many_inferences():
    stats = ModelStats(8)
    for _ in range(4):
        stats.request_accepted()
    stats.batch_finished(4, 20 * MS, 10 * MS, 12 * MS, 0, input_ns=MS, output_ns=2 * MS, infer_ns=9 * MS)
    for _ in range(4):
        stats.request_answered(30 * MS, 18 * MS, is_late=False)
    stats.call_answered(30 * MS, 18 * MS, MS, 9 * MS, 2 * MS)
    stats.request_rejected(Reason.QUEUE_FULL, 5)
    stats.rows_joined(4)
    entry = triton_statistics("digits", "1", stats)
    assert (entry["inference_count"], entry["execution_count"]) == (4, 1)
    sums = entry["inference_stats"]
    assert sums["success"] == {"count": 1, "ns": 30 * MS}
    assert sums["queue"] == {"count": 1, "ns": 18 * MS}
    assert sums["compute_input"] == {"count": 1, "ns": MS}
    assert sums["compute_infer"] == {"count": 1, "ns": 9 * MS}
    assert sums["compute_output"] == {"count": 1, "ns": 2 * MS}
    assert sums["fail"] == {"count": 1, "ns": 0}
    assert entry["batch_stats"] == [
        {
            "batch_size": 4,
            "compute_input": {"count": 1, "ns": MS},
            "compute_infer": {"count": 1, "ns": 9 * MS},
            "compute_output": {"count": 1, "ns": 2 * MS},
        }
    ]


def test_counting_a_finished_request_takes_at_most_two_microseconds():
    stats = ModelStats(8)
    best_ns = float("inf")
    for _ in range(500):  # as many tries as a busy machine needs to have a quiet moment
        begun_ns = time.perf_counter_ns()
        for _ in range(1_000):
            stats.request_accepted()
            stats.batch_finished(1, 20 * MS, 10 * MS, 11 * MS, 0)
            stats.request_answered(30 * MS, 19 * MS, False)
        took_ns = (time.perf_counter_ns() - begun_ns) / 1_000
        best_ns = min(best_ns, took_ns)
        if best_ns <= 2_000:
            break
    print(f"request in a batch of its own: {best_ns:.0f} ns")
    assert best_ns <= 2_000
