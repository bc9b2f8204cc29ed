"""Render the counters as Prometheus text (or OpenMetrics, when asked for).

A model has 88 series and one more for each (outcome, reason) met, at most 48; labels never hold request ids or clients.
Rendering takes about 10 us a series, so a caller with many models does it in a thread: everything here only reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from symphony.metrics.histogram import HistogramSnapshot
from symphony.metrics.model import ModelStats, Outcome
from symphony.metrics.node import NodeStats
from symphony.units import NS_PER_S, ns_to_s

_MODEL = ("model", "version")
_PERMILLE = 1_000


class ModelRow(NamedTuple):
    """One model's counters with the labels they go under."""

    name: str
    version: str
    stats: ModelStats


class MetricsSource(Protocol):
    """Say where the numbers come from. Called at each scrape, perhaps not on the asyncio thread."""

    def model_rows(self) -> Iterable[ModelRow]:
        """Return every model known, each (name, version) once."""
        ...

    def node_stats(self) -> NodeStats:
        """Return the node's numbers, brought up to date."""
        ...


class SymphonyCollector(Collector):
    """Turn the numbers of a `MetricsSource` into metric families; names are listed in docs/metrics.md."""

    def __init__(self, source: MetricsSource) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Return nothing: registering the collector must not read the source."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the families, read once, in a fixed order."""
        rows = list(self._source.model_rows())
        yield _requests(rows)
        yield _model_gauge(
            rows, "symphony_requests_in_flight", "Requests accepted and not ended.", lambda stats: stats.in_flight
        )
        yield _model_gauge(
            rows, "symphony_requests_queued", "Requests accepted and not dispatched.", lambda stats: stats.queued
        )
        yield _model_histogram(
            rows,
            "symphony_request_latency_seconds",
            "Time from arrival to outputs, of requests that got any.",
            lambda stats: stats.latency.snapshot(NS_PER_S),
        )
        yield _model_histogram(
            rows,
            "symphony_request_queueing_seconds",
            "Time from arrival to the start of the batch, of requests that got outputs.",
            lambda stats: stats.queueing.snapshot(NS_PER_S),
        )
        yield _model_histogram(
            rows,
            "symphony_batch_size",
            "Requests in a batch.",
            lambda stats: stats.batch_size_snapshot(),
        )
        yield _model_histogram(
            rows,
            "symphony_dispatch_slack_seconds",
            "Earliest deadline in a batch minus the instant of dispatch; none left counts as 0.",
            lambda stats: stats.slack.snapshot(NS_PER_S),
        )
        yield _model_histogram(
            rows,
            "symphony_batch_time_ratio",
            "Measured over predicted time of a batch: above 1 it ran longer than its latency profile says.",
            lambda stats: stats.ratio_permille.snapshot(_PERMILLE),
        )
        yield _model_counter(
            rows,
            "symphony_batch_busy_seconds",
            "Time spent in batches of the model, over all GPUs.",
            lambda stats: ns_to_s(sum(stats.batch_ns)),
        )
        yield _model_counter(
            rows,
            "symphony_batches_failed",
            "Batches that raised, hung or gave the wrong shape.",
            lambda stats: stats.batch_failed_count,
        )
        yield from _node_families(self._source.node_stats())


def _requests(rows: list[ModelRow]) -> Metric:
    family = CounterMetricFamily(
        "symphony_requests",
        "Requests ended, by outcome; the reason is empty for those that got outputs.",
        labels=(*_MODEL, "outcome", "reason"),
    )
    for name, version, stats in rows:
        family.add_metric((name, version, Outcome.GOOD.value, ""), stats.good)
        family.add_metric((name, version, Outcome.LATE.value, ""), stats.late)
        for (outcome, reason), count in sorted(
            stats.unanswered.copy().items(), key=lambda item: (item[0][0].value, item[0][1].token)
        ):
            family.add_metric((name, version, outcome.value, reason.token), count)
    return family


def _model_gauge(rows: list[ModelRow], name: str, text: str, value: Callable[[ModelStats], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_MODEL)
    for model, version, stats in rows:
        family.add_metric((model, version), value(stats))
    return family


def _model_counter(rows: list[ModelRow], name: str, text: str, value: Callable[[ModelStats], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=_MODEL)
    for model, version, stats in rows:
        family.add_metric((model, version), value(stats))
    return family


def _model_histogram(
    rows: list[ModelRow], name: str, text: str, value: Callable[[ModelStats], HistogramSnapshot]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=_MODEL)
    for model, version, stats in rows:
        snapshot = value(stats)
        family.add_metric((model, version), snapshot.cumulative(), snapshot.total)
    return family


def _node_families(node: NodeStats) -> Iterator[Metric]:
    build = node.build
    info = InfoMetricFamily("symphony_build", "The software that runs.")
    info.add_metric(
        (), {"version": build.version, "policy": build.policy, "python": build.python, "torch": build.torch}
    )
    yield info
    in_use = sum(gpu.is_in_use for gpu in node.gpus)
    quarantined = sum(gpu.is_quarantined for gpu in node.gpus)
    yield GaugeMetricFamily("symphony_gpus", "GPUs of this node.", value=len(node.gpus))
    yield GaugeMetricFamily("symphony_gpus_in_use", "GPUs with a batch in flight.", value=in_use)
    yield GaugeMetricFamily(
        "symphony_gpus_idle",
        "GPUs that could take a batch now and have none.",
        value=sum(not gpu.is_in_use and not gpu.is_quarantined for gpu in node.gpus),
    )
    yield GaugeMetricFamily(
        "symphony_gpus_quarantined",
        "GPUs that get no batch because one failed to return, or because they are lost or too slow.",
        value=quarantined,
    )
    slowdown = GaugeMetricFamily(
        "symphony_gpu_slowdown_ratio",
        "How much longer than on others of its kind batches take.",
        labels=("gpu",),
    )
    for gpu in node.gpus:
        slowdown.add_metric((gpu.name,), gpu.slowdown)
    yield slowdown
    if node.gpus_needed is not None:
        yield GaugeMetricFamily(
            "symphony_gpus_needed", "GPUs that the load of now asks for at the SLO.", value=node.gpus_needed
        )
    busy = CounterMetricFamily("symphony_gpu_busy_seconds", "Time a GPU spent in batches.", labels=("gpu",))
    for gpu in node.gpus:
        busy.add_metric((gpu.name,), ns_to_s(gpu.busy_ns))
    yield busy
    gaps = HistogramMetricFamily(
        "symphony_gpu_gap_seconds",
        "Time a GPU was idle between batches while a request of the next one waited.",
        labels=("gpu",),
    )
    for gpu in node.gpus:
        if gpu.gaps is not None:
            gaps.add_metric((gpu.name,), gpu.gaps.cumulative(), gpu.gaps.total)
    yield gaps
    held = GaugeMetricFamily("symphony_gpu_models", "Models in a GPU's memory.", labels=("gpu",))
    loads = CounterMetricFamily(
        "symphony_gpu_model_loads", "Models brought into a GPU's memory by demand.", labels=("gpu",)
    )
    for gpu in node.gpus:
        held.add_metric((gpu.name,), gpu.model_count)
        loads.add_metric((gpu.name,), gpu.load_count)
    yield held
    yield loads
    refused = CounterMetricFamily(
        "symphony_requests_refused", "Requests turned away before their model was known.", labels=("reason",)
    )
    for reason, count in sorted(node.refused.copy().items(), key=lambda item: item[0].token):
        refused.add_metric((reason.token,), count)
    yield refused
    yield GaugeMetricFamily("symphony_connections", "Client connections open.", value=node.connection_count)
    if node.loop_lateness is not None:
        lateness = HistogramMetricFamily(
            "symphony_loop_lateness_seconds", "How late the scheduling loop decided against the instant it was due."
        )
        lateness.add_metric((), node.loop_lateness.cumulative(), node.loop_lateness.total)
        yield lateness


def make_registry(source: MetricsSource) -> CollectorRegistry:
    """Return a registry with Symphony's families and the process's own (memory, descriptors, CPU time)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SymphonyCollector(source))
    ProcessCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """Return (text, content type) in the form that the `Accept` header asks for: Prometheus text unless OpenMetrics."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
