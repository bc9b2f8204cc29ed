"""Count what happened to requests, batches and GPUs, and render it for Prometheus and for Triton's clients.

The counters are plain Python integers that the asyncio thread bumps; reading them (from any thread) never disturbs it.
This package reads no clock: times are arguments. Names and queries are in docs/metrics.md.
"""

from symphony.metrics.collector import MetricsSource, ModelRow, SymphonyCollector, make_registry, render
from symphony.metrics.histogram import Histogram, HistogramSnapshot
from symphony.metrics.model import ModelStats, Outcome
from symphony.metrics.node import BuildInfo, GpuStats, NodeStats
from symphony.metrics.triton import triton_statistics

__all__ = [
    "BuildInfo",
    "GpuStats",
    "Histogram",
    "HistogramSnapshot",
    "MetricsSource",
    "ModelRow",
    "ModelStats",
    "NodeStats",
    "Outcome",
    "SymphonyCollector",
    "make_registry",
    "render",
    "triton_statistics",
]
