"""Hold what a node knows about itself: its build, its GPUs, its loop, the requests refused before a model was known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from symphony.errors import Reason
from symphony.metrics.histogram import Histogram, HistogramSnapshot
from symphony.units import NS_PER_MS, NS_PER_US

DELAY_BOUNDS_NS = tuple(NS_PER_MS * ms for ms in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000))
"""Upper limits of the event loop's delay: its timers are no finer than a millisecond."""
LAG_BOUNDS_NS = tuple(
    NS_PER_US * us for us in (50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
)
"""Upper limits of what arrivals and batches wait for the event loop."""


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """Name the software that runs: its version, the scheduling policy, Python's and torch's versions."""

    version: str
    policy: str = ""
    python: str = ""
    torch: str = ""


@dataclass(slots=True)
class GpuStats:
    """One GPU (of any device kind, `cpu` and `emulated` too) of this node.

    `name` as configuration spells it ("cuda:0"); `busy_ns`: the time it spent in batches so far; `is_in_use`: it has a
    batch in flight; `is_quarantined`: it gets none because a batch failed to return, or it is lost or too
    slow. `slowdown`: how much longer than on others of its kind its batches take; `is_slow`: persistently so.
    `model_count`: models in its memory; `model_bytes`: what they take of it, as far as known; `load_count`: how many
    were brought there by demand so far. `gaps`: seconds that it was idle between batches while a request of the next
    one waited, None when not known.
    """

    name: str
    busy_ns: int = 0
    is_in_use: bool = False
    is_quarantined: bool = False
    is_slow: bool = False
    slowdown: float = 1.0
    model_count: int = 0
    model_bytes: int = 0
    load_count: int = 0
    gaps: HistogramSnapshot | None = None


@dataclass(slots=True)
class NodeStats:
    """Counters and gauges of one node; the owner writes the fields, at the latest when metrics are read.

    `gpus_needed`: GPUs that the load of now asks for at the SLO, None when not known. `loop_lateness`: how late the
    scheduling loop decided against the instant it was due, in seconds, None when no loop runs. `event_loop_delay`: how
    late the asyncio thread's timers fire. `ingress_lag`: from a request's arrival until the scheduling loop was told;
    the longest of each turn of the event loop. `handover_lag`: from a batch's end on its GPU until the asyncio thread
    took it. All three in nanoseconds.
    """

    build: BuildInfo
    gpus: Sequence[GpuStats] = ()
    gpus_needed: float | None = None
    loop_lateness: HistogramSnapshot | None = None
    refused: dict[Reason, int] = field(default_factory=dict)
    connection_count: int = 0
    event_loop_delay: Histogram = field(default_factory=lambda: Histogram(DELAY_BOUNDS_NS))
    ingress_lag: Histogram = field(default_factory=lambda: Histogram(LAG_BOUNDS_NS))
    handover_lag: Histogram = field(default_factory=lambda: Histogram(LAG_BOUNDS_NS))

    def request_refused(self, reason: Reason) -> None:
        """Count a request turned away before its model was known (bad path, unknown model, too large)."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
