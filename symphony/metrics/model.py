"""Count the requests and batches of one model.

Bumped by the asyncio thread alone; a request that ends good costs under 1 us, its batch as much again (measured by
tests/metrics/test_model.py). A request ends in exactly one of the `request_*` calls below, and `in_flight` is
back at zero when all have ended.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum
from typing import Final

from symphony.errors import Reason
from symphony.metrics.histogram import Histogram, HistogramSnapshot
from symphony.units import NS_PER_MS

_MS: Final = NS_PER_MS
LATENCY_BOUNDS_NS: Final = tuple(
    _MS * ms for ms in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 1_000, 5_000)
)
"""Upper limits of the latency and queueing buckets: steps of about 1.5 around the usual SLOs of 10 to 500 ms."""
SLACK_BOUNDS_NS: Final = tuple(_MS * ms for ms in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000))
"""Upper limits of the slack buckets: 0 holds the batches that were dispatched with none left."""
RATIO_BOUNDS_PERMILLE: Final = (500, 800, 900, 950, 1_000, 1_050, 1_100, 1_200, 1_500, 2_000, 5_000)
"""Upper limits of measured over predicted batch time, in thousandths."""
BATCH_SIZE_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper limits of the exported batch sizes (exact sizes are kept for the statistics route)."""


class Outcome(StrEnum):
    """Say how a request ended; each request has exactly one."""

    GOOD = "good"
    LATE = "late"
    DROPPED = "dropped"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ModelStats:
    """Counters of one model. Durations are integer nanoseconds.

    `queued` is what the owner last wrote (requests not yet dispatched, known to the scheduling loop); all else is
    kept here.
    """

    __slots__ = (
        "answered_ns",
        "batch_counts",
        "batch_failed_count",
        "batch_infer_ns",
        "batch_input_ns",
        "batch_ns",
        "batch_output_ns",
        "call_count",
        "call_infer_ns",
        "call_input_ns",
        "call_ns",
        "call_output_ns",
        "call_queueing_ns",
        "good",
        "in_flight",
        "inference_count",
        "joined_count",
        "last_inference_unix_ms",
        "late",
        "latency",
        "queued",
        "queueing",
        "ratio_permille",
        "slack",
        "unanswered",
        "unanswered_ns",
    )

    def __init__(self, batch_size_max: int) -> None:
        if batch_size_max < 1:
            raise ValueError(f"batch_size_max must be at least 1, got {batch_size_max}")
        self.good = 0
        self.late = 0
        self.unanswered: dict[tuple[Outcome, Reason], int] = {}
        """Requests that got no outputs, by outcome and reason: as many keys as pairs met, at most 4 x 12."""
        self.in_flight = 0
        self.queued = 0
        self.latency = Histogram(LATENCY_BOUNDS_NS)
        self.queueing = Histogram(LATENCY_BOUNDS_NS)
        self.slack = Histogram(SLACK_BOUNDS_NS)
        self.ratio_permille = Histogram(RATIO_BOUNDS_PERMILLE)
        self.batch_counts = [0] * (batch_size_max + 1)
        """Batches by exact size; index 0 is not used."""
        self.batch_ns = [0] * (batch_size_max + 1)
        """Measured time of all batches of each size."""
        self.batch_input_ns = [0] * (batch_size_max + 1)
        self.batch_infer_ns = [0] * (batch_size_max + 1)
        self.batch_output_ns = [0] * (batch_size_max + 1)
        """Of each size, time spent in copying inputs to the device, in the model, and in copying outputs back."""
        self.batch_failed_count = 0
        self.inference_count = 0
        self.call_count = 0
        self.call_ns = 0
        self.call_queueing_ns = 0
        self.call_input_ns = 0
        self.call_infer_ns = 0
        self.call_output_ns = 0
        """Calls that were answered: a call of several requests (rows) is one, and takes as long as its last one."""
        self.joined_count = 0
        """Unanswered requests that came with another in one call, all but one of each call that failed."""
        self.answered_ns = 0
        self.unanswered_ns = 0
        self.last_inference_unix_ms = 0

    def request_accepted(self) -> None:
        """Count a request that the scheduler took: it is in flight until it ends."""
        self.in_flight += 1

    def request_answered(self, latency_ns: int, queueing_ns: int, is_late: bool) -> None:
        """Count a request that got outputs, `latency_ns` after arrival, `queueing_ns` of it before its batch began."""
        self.in_flight -= 1
        if is_late:
            self.late += 1
        else:
            self.good += 1
        self.answered_ns += latency_ns
        latency = self.latency
        latency.counts[bisect_left(latency.bounds, latency_ns)] += 1
        latency.total += latency_ns
        queueing = self.queueing
        queueing.counts[bisect_left(queueing.bounds, queueing_ns)] += 1
        queueing.total += queueing_ns

    def request_dropped(self, reason: Reason, latency_ns: int) -> None:
        """Count an accepted request that the scheduler gave up."""
        self.in_flight -= 1
        self._end_unanswered(Outcome.DROPPED, reason, latency_ns)

    def request_failed(self, reason: Reason, latency_ns: int) -> None:
        """Count an accepted request whose batch failed."""
        self.in_flight -= 1
        self._end_unanswered(Outcome.FAILED, reason, latency_ns)

    def request_cancelled(self) -> None:
        """Count an accepted request whose client went away."""
        self.in_flight -= 1
        self._end_unanswered(Outcome.CANCELLED, Reason.CANCELLED, 0)

    def request_rejected(self, reason: Reason, count: int = 1) -> None:
        """Count `count` requests refused at admission; they were never in flight."""
        key = (Outcome.REJECTED, reason)
        self.unanswered[key] = self.unanswered.get(key, 0) + count

    def call_answered(self, latency_ns: int, queueing_ns: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """Count a call whose requests were all answered: how long it took, and what its last request's batch did."""
        self.call_count += 1
        self.call_ns += latency_ns
        self.call_queueing_ns += queueing_ns
        self.call_input_ns += input_ns
        self.call_infer_ns += infer_ns
        self.call_output_ns += output_ns

    def rows_joined(self, count: int) -> None:
        """Count how many unanswered requests were rows of one call, beside the one that stands for it.

        -1: the requests were answered and the call was not, as its outputs could not be said in the form asked for.
        """
        self.joined_count += count

    def batch_finished(
        self,
        batch_size: int,
        slack_ns: int,
        predicted_ns: int,
        measured_ns: int,
        finished_unix_ms: int,
        input_ns: int = 0,
        output_ns: int = 0,
        infer_ns: int | None = None,
    ) -> None:
        """Count a batch that ran: its size, its slack at dispatch, and l(b) as predicted and as measured.

        `slack_ns` is the earliest deadline in the batch minus the instant of dispatch; below zero counts as zero.
        `input_ns`, `output_ns`: the copies of inputs to the device and of outputs back; `infer_ns`: what lies between
        them, `measured_ns` when None.
        """
        self.batch_counts[batch_size] += 1
        self.batch_ns[batch_size] += measured_ns
        self.inference_count += batch_size
        self.batch_input_ns[batch_size] += input_ns
        self.batch_infer_ns[batch_size] += measured_ns if infer_ns is None else infer_ns
        self.batch_output_ns[batch_size] += output_ns
        self.last_inference_unix_ms = finished_unix_ms
        self.slack.observe(slack_ns if slack_ns > 0 else 0)
        if predicted_ns > 0:
            self.ratio_permille.observe(measured_ns * 1_000 // predicted_ns)

    def batch_failed(self) -> None:
        """Count a batch that raised, hung or gave the wrong shape; its requests are counted by `request_failed`."""
        self.batch_failed_count += 1

    @property
    def execution_count(self) -> int:
        """Return how many batches ran to their end."""
        return sum(self.batch_counts)

    def count(self, outcome: Outcome) -> int:
        """Return how many requests ended with `outcome`, over all reasons."""
        if outcome is Outcome.GOOD:
            return self.good
        if outcome is Outcome.LATE:
            return self.late
        return sum(count for (key, _), count in self.unanswered.copy().items() if key is outcome)

    def batch_size_snapshot(self) -> HistogramSnapshot:
        """Return the batch sizes in the exported buckets."""
        counts = [0] * (len(BATCH_SIZE_BOUNDS) + 1)
        total = 0
        for size, count in enumerate(self.batch_counts):
            counts[bisect_left(BATCH_SIZE_BOUNDS, size)] += count
            total += size * count
        return HistogramSnapshot(tuple(map(float, BATCH_SIZE_BOUNDS)), tuple(counts), float(total))

    def _end_unanswered(self, outcome: Outcome, reason: Reason, latency_ns: int) -> None:
        key = (outcome, reason)
        self.unanswered[key] = self.unanswered.get(key, 0) + 1
        self.unanswered_ns += latency_ns
