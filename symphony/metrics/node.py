"""Hold what a node knows about itself: its build, its GPUs, its loop, the requests refused before a model was known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from symphony.errors import Reason
from symphony.metrics.histogram import HistogramSnapshot


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
    `model_count`: models in its memory; `load_count`: how many were brought there by demand so far. `gaps`: seconds
    that it was idle between batches while a request of the next one waited, None when not known.
    """

    name: str
    busy_ns: int = 0
    is_in_use: bool = False
    is_quarantined: bool = False
    is_slow: bool = False
    slowdown: float = 1.0
    model_count: int = 0
    load_count: int = 0
    gaps: HistogramSnapshot | None = None


@dataclass(slots=True)
class NodeStats:
    """Counters and gauges of one node; the owner writes the fields, at the latest when metrics are read.

    `gpus_needed`: GPUs that the load of now asks for at the SLO, None when not known. `loop_lateness`: how late the
    scheduling loop decided against the instant it was due, in seconds, None when no loop runs.
    """

    build: BuildInfo
    gpus: Sequence[GpuStats] = ()
    gpus_needed: float | None = None
    loop_lateness: HistogramSnapshot | None = None
    refused: dict[Reason, int] = field(default_factory=dict)
    connection_count: int = 0

    def request_refused(self, reason: Reason) -> None:
        """Count a request turned away before its model was known (bad path, unknown model, too large)."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
