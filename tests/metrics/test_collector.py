import re
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from symphony.errors import Reason
from symphony.metrics import (
    BuildInfo,
    GpuStats,
    HistogramSnapshot,
    ModelRow,
    ModelStats,
    NodeStats,
    Outcome,
    make_registry,
    render,
)

MS = 1_000_000
DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


class Source:
    def __init__(self) -> None:
        self.stats = ModelStats(32)
        self.rows = [ModelRow("digits", "1", self.stats), ModelRow('odd"name', "2", ModelStats(1))]
        self.node = NodeStats(
            BuildInfo("0.1.0", policy="deferred", python="3.11", torch="2.13"),
            gpus=[
                GpuStats(
                    "emulated:0",
                    1_500 * MS,
                    is_in_use=True,
                    gaps=HistogramSnapshot((0.0001, 0.001), (9, 3, 1), 0.004),
                ),
                GpuStats("cpu:0"),
                GpuStats("cpu:1", 0, False, True),
            ],
            gpus_needed=1.5,
            loop_lateness=HistogramSnapshot((0.0001, 0.0005), (5, 2, 1), 0.002),
        )

    def model_rows(self):
        return self.rows

    def node_stats(self):
        return self.node


@pytest.fixture
def source() -> Source:
    source = Source()
    stats = source.stats
    for _ in range(4):
        stats.request_accepted()
    stats.queued = 1
    stats.batch_finished(2, 20 * MS, 10 * MS, 12 * MS, 0)
    stats.request_answered(30 * MS, 10 * MS, False)
    stats.request_answered(70 * MS, 50 * MS, True)
    stats.request_dropped(Reason.WOULD_MISS, MS)
    stats.request_rejected(Reason.BAD_INPUT)
    stats.batch_failed()
    source.node.request_refused(Reason.UNKNOWN_MODEL)
    source.node.connection_count = 7
    return source


def families(source):
    text, content_type = render(make_registry(source))
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def value(family, sample_name, **labels):
    found = [sample.value for sample in family.samples if sample.name == sample_name and sample.labels == labels]
    assert len(found) == 1, (sample_name, labels, family.samples)
    return found[0]


DIGITS = {"model": "digits", "version": "1"}


def test_requests_are_counted_by_outcome_and_reason(source):
    family = families(source)["symphony_requests"]
    assert family.type == "counter"
    for outcome, reason, count in [
        ("good", "", 1),
        ("late", "", 1),
        ("dropped", "would_miss", 1),
        ("rejected", "bad_input", 1),
    ]:
        assert value(family, "symphony_requests_total", **DIGITS, outcome=outcome, reason=reason) == count


def test_gauges_say_what_is_inside(source):
    found = families(source)
    assert value(found["symphony_requests_in_flight"], "symphony_requests_in_flight", **DIGITS) == 1
    assert value(found["symphony_requests_queued"], "symphony_requests_queued", **DIGITS) == 1
    assert value(found["symphony_connections"], "symphony_connections") == 7


def test_histograms_are_in_seconds_with_inclusive_bounds(source):
    found = families(source)
    latency = found["symphony_request_latency_seconds"]
    assert latency.type == "histogram"
    assert value(latency, "symphony_request_latency_seconds_bucket", **DIGITS, le="0.02") == 0
    assert value(latency, "symphony_request_latency_seconds_bucket", **DIGITS, le="0.03") == 1
    assert value(latency, "symphony_request_latency_seconds_bucket", **DIGITS, le="+Inf") == 2
    assert value(latency, "symphony_request_latency_seconds_sum", **DIGITS) == pytest.approx(0.1)
    assert value(latency, "symphony_request_latency_seconds_count", **DIGITS) == 2
    queueing = found["symphony_request_queueing_seconds"]
    assert value(queueing, "symphony_request_queueing_seconds_sum", **DIGITS) == pytest.approx(0.06)
    size = found["symphony_batch_size"]
    assert value(size, "symphony_batch_size_bucket", **DIGITS, le="1.0") == 0
    assert value(size, "symphony_batch_size_bucket", **DIGITS, le="2.0") == 1
    assert value(size, "symphony_batch_size_sum", **DIGITS) == 2
    slack = found["symphony_dispatch_slack_seconds"]
    assert value(slack, "symphony_dispatch_slack_seconds_sum", **DIGITS) == pytest.approx(0.02)
    ratio = found["symphony_batch_time_ratio"]
    assert value(ratio, "symphony_batch_time_ratio_sum", **DIGITS) == pytest.approx(1.2)
    assert value(ratio, "symphony_batch_time_ratio_bucket", **DIGITS, le="1.1") == 0
    assert value(ratio, "symphony_batch_time_ratio_bucket", **DIGITS, le="1.2") == 1


def test_node_numbers_are_rendered(source):
    found = families(source)
    for name, expected in [
        ("gpus", 3),
        ("gpus_in_use", 1),
        ("gpus_idle", 1),
        ("gpus_quarantined", 1),
        ("gpus_needed", 1.5),
    ]:
        assert value(found[f"symphony_{name}"], f"symphony_{name}") == expected
    assert value(found["symphony_gpu_busy_seconds"], "symphony_gpu_busy_seconds_total", gpu="emulated:0") == 1.5
    assert value(found["symphony_batch_busy_seconds"], "symphony_batch_busy_seconds_total", **DIGITS) == 0.012
    assert value(found["symphony_batches_failed"], "symphony_batches_failed_total", **DIGITS) == 1
    assert value(found["symphony_requests_refused"], "symphony_requests_refused_total", reason="unknown_model") == 1
    lateness = found["symphony_loop_lateness_seconds"]
    assert value(lateness, "symphony_loop_lateness_seconds_bucket", le="0.0005") == 7
    assert value(lateness, "symphony_loop_lateness_seconds_count") == 8
    build = found["symphony_build_info"]
    assert build.samples[0].labels == {"version": "0.1.0", "policy": "deferred", "python": "3.11", "torch": "2.13"}


def test_gpus_needed_and_lateness_are_left_out_when_not_known(source):
    source.node.gpus_needed = None
    source.node.loop_lateness = None
    assert not {"symphony_gpus_needed", "symphony_loop_lateness_seconds"} & set(families(source))


def test_names_carry_the_prefix_base_units_and_known_labels(source):
    for family in families(source).values():
        if family.name.startswith("process_"):
            continue
        assert family.name.startswith("symphony_")
        assert family.documentation
        assert not re.search(r"_(ms|us|ns|millis\w*|micros\w*|kib|mib)(_|$)", family.name)
        for sample in family.samples:
            assert not set(sample.labels) - {"model", "version", "outcome", "reason", "gpu", "le"} or (
                family.name == "symphony_build_info"
            )
            if family.type == "counter":
                assert sample.name.endswith("_total")


def test_openmetrics_is_given_to_those_who_ask(source):
    text, content_type = render(make_registry(source), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert "symphony_requests" in {family.name for family in parse_openmetrics(text.decode())}


def test_series_of_a_model_are_bounded(source):
    stats = ModelStats(512)
    source.rows = [ModelRow("digits", "1", stats)]
    fresh = sum(line.count('model="digits"') for line in render(make_registry(source))[0].decode().splitlines())
    assert fresh == 88
    for outcome in (Outcome.DROPPED, Outcome.REJECTED, Outcome.FAILED, Outcome.CANCELLED):
        for reason in Reason:
            stats.unanswered[outcome, reason] = 1
    for size in range(1, 513):
        stats.batch_finished(size, size * MS, size * MS, size * MS, 0)
    full = sum(line.count('model="digits"') for line in render(make_registry(source))[0].decode().splitlines())
    assert full == fresh + 4 * len(Reason)


def test_every_metric_is_documented_and_every_documented_one_exists(source):
    rendered = {sample.name for family in families(source).values() for sample in family.samples}
    rendered = {re.sub(r"_(bucket|sum|count)$", "", name) for name in rendered if name.startswith("symphony_")}
    documented = set(re.findall(r"^\| `(symphony_\w+)`", DOCS.read_text(), flags=re.MULTILINE))
    assert documented == rendered


def test_rendering_a_hundred_models_is_measured(source):
    source.rows = [ModelRow(f"m{index}", "1", ModelStats(32)) for index in range(100)]
    registry = make_registry(source)
    begun_ns = time.perf_counter_ns()
    text, _ = render(registry)
    took_ms = (time.perf_counter_ns() - begun_ns) / MS
    print(f"100 models: {took_ms:.0f} ms, {len(text)} bytes")
    assert took_ms < 2_000
