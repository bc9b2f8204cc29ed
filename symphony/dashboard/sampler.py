"""Read the counters a few times a second and say what changed since: the figures beside the timeline.

Counters are sent as they are, not as rates: a viewer that missed something is right again with the next figure. A
model of which nothing changed costs a comparison and is left out. Pure but for what it reads: the time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from symphony.dashboard.journal import Journal
from symphony.dashboard.numbers import Numbers
from symphony.dashboard.recent import RecentQuantile
from symphony.dashboard.source import ShownModel, Source
from symphony.errors import Reason
from symphony.metrics import ModelStats, NodeStats, Outcome
from symphony.units import NS_PER_S, NS_PER_US

ROW_FIELDS = (
    "model",
    "good",
    "late",
    "dropped",
    "rejected",
    "failed",
    "cancelled",
    "queued",
    "in_flight",
    "batches",
    "batch_requests",
    "busy_us",
    "p99_us",
)
NODE_FIELDS = (
    "gpu_count",
    "gpus_in_use",
    "gpus_idle",
    "gpus_quarantined",
    "gpus_needed",
    "gpus_busy",
    "connections",
    "loop_delay_us",
)
HISTORY_S_MAX = 300
HISTORY_ROWS_MAX = 20_000
"""Rows of the history: with many models it reaches less far back."""
DROP_EVENTS_MAX = 16
"""Kinds of drops told of in one second; the largest go first."""

Row = list[int]


@dataclass(slots=True)
class _Moment:
    """One second of the history: what had changed by then."""

    at_us: int
    node: list[float | None]
    rows: list[Row]


class _Shown:
    """What was last said of one model."""

    __slots__ = (
        "batch_failed_count",
        "description",
        "mark",
        "p99",
        "p99_us",
        "remembered",
        "row",
        "stats",
        "unanswered",
    )

    def __init__(self, stats: ModelStats) -> None:
        self.stats = stats
        self.mark: tuple[object, ...] = ()
        self.description: list[object] = []
        self.row: Row = []
        """A new list whenever something changed."""
        self.remembered = self.row
        """The row that the history has last."""
        self.p99 = RecentQuantile()
        self.p99_us = 0
        self.unanswered: dict[tuple[Outcome, Reason], int] = {}
        self.batch_failed_count = 0


class Sampler:
    """Compare the source with what was last said of it."""

    def __init__(self, source: Source, journal: Journal, numbers: Numbers, origin_ns: int) -> None:
        """Let the stream's clock begin at `origin_ns`."""
        self._source = source
        self._journal = journal
        self._numbers = numbers
        self._origin_ns = origin_ns
        self._shown: dict[tuple[str, str], _Shown] = {}
        self._history: deque[_Moment] = deque()
        self._history_rows = 0
        self._base: dict[int, Row] = {}
        """The rows that had been said before the history begins."""
        self._busy_ns: list[int] = []
        self._load_counts: list[int] = []
        self._slow: set[int] = set()
        self.sampled_ns = origin_ns
        """When the counters were read last."""
        self._second_ns = 0
        self._delay_sums = (0, 0)

    def sample(self, now_ns: int) -> dict[str, Any]:
        """Return what changed since the last call, as the stream says it (docs/dashboard.md)."""
        is_second = now_ns - self._second_ns >= NS_PER_S
        models: list[list[object]] = []
        rows: list[Row] = []
        reasons: list[list[object]] = []
        drops: list[tuple[int, Outcome, Reason, tuple[str, str]]] = []
        seen_count = 0
        for model in self._source.models():
            key = (model.config.name, model.config.version)
            shown = self._shown.get(key)
            stats = model.stats
            if shown is None or shown.stats is not stats:
                # New, or loaded anew: its counters begin at zero again.
                shown = self._shown[key] = _Shown(stats)
            seen_count += 1
            mark = (
                stats.good,
                stats.late,
                stats.in_flight,
                stats.queued,
                stats.batch_failed_count,
                stats.inference_count,
                sum(stats.unanswered.values()),
            )
            description = describe(self._numbers(key), model)
            if description != shown.description:
                shown.description = description
                models.append(description)
            if is_second:
                shown.p99_us = shown.p99.look(stats.latency.bounds, stats.latency.counts) // NS_PER_US
            if mark != shown.mark or (shown.row and shown.row[-1] != shown.p99_us):
                shown.mark = mark
                shown.row = _row(self._numbers(key), stats, shown.p99_us)
                rows.append(shown.row)
            if is_second and stats.unanswered != shown.unanswered:
                for pair, count in stats.unanswered.items():
                    before = shown.unanswered.get(pair, 0)
                    if count != before:
                        reasons.append([self._numbers(key), pair[0].value, pair[1].token, count])
                        if count > before and pair[0] is not Outcome.CANCELLED:
                            drops.append((count - before, *pair, key))
                shown.unanswered = dict(stats.unanswered)
            if is_second:
                if stats.batch_failed_count > shown.batch_failed_count:
                    fresh = stats.batch_failed_count - shown.batch_failed_count
                    self._journal.note("fault", f"{fresh} {'batches' if fresh > 1 else 'batch'} failed", key)
                shown.batch_failed_count = stats.batch_failed_count
        if len(self._shown) > seen_count:
            known = {(model.config.name, model.config.version) for model in self._source.models()}
            self._shown = {key: shown for key, shown in self._shown.items() if key in known}
        node = self._source.node_stats()
        gpus = self._gpus(node, now_ns)
        result: dict[str, Any] = {
            "t": self.at_us(now_ns),
            "health": self._source.health(),
            "node": self._node(node, gpus[0::3]),
            "gpus": gpus,
            "rows": rows,
        }
        if models:
            result["models"] = models
        if reasons:
            result["reasons"] = reasons
        if is_second:
            self._second_ns = now_ns
            self._note_drops(drops)
            self._note_gpus(node)
            self._remember(result)
        self.sampled_ns = now_ns
        return result

    def state(self) -> dict[str, Any]:
        """Return all there is to say, for a viewer that knows nothing or missed something."""
        return {
            "models": [shown.description for shown in self._shown.values() if shown.description],
            "rows": [shown.row for shown in self._shown.values() if shown.row],
            "reasons": [
                [self._numbers(key), outcome.value, reason.token, count]
                for key, shown in self._shown.items()
                for (outcome, reason), count in shown.unanswered.items()
            ],
        }

    def history(self) -> dict[str, Any]:
        """Return the last minutes, once a second, oldest first; `base` is what was so before them."""
        return {
            "base": list(self._base.values()),
            "history": [[moment.at_us, moment.node, moment.rows] for moment in self._history],
        }

    def at_us(self, at_ns: int) -> int:
        """Return a monotonic instant on the stream's clock."""
        return (at_ns - self._origin_ns) // NS_PER_US

    def _gpus(self, node: NodeStats, now_ns: int) -> list[int]:
        """Return for each GPU its busy share in thousandths, its state and the models that it holds, one flat list."""
        if len(self._busy_ns) != len(node.gpus):
            self._busy_ns = [gpu.busy_ns for gpu in node.gpus]
        passed_ns = max(1, now_ns - self.sampled_ns)
        result: list[int] = []
        for index, gpu in enumerate(node.gpus):
            busy = min(1_000, (gpu.busy_ns - self._busy_ns[index]) * 1_000 // passed_ns)
            self._busy_ns[index] = gpu.busy_ns
            state = 3 if gpu.is_quarantined else 2 if gpu.is_slow else 1 if gpu.is_in_use else 0
            result += (max(0, busy), state, gpu.model_count)
        return result

    def _node(self, node: NodeStats, busy: list[int]) -> list[float | None]:
        in_use = sum(gpu.is_in_use for gpu in node.gpus)
        quarantined = sum(gpu.is_quarantined for gpu in node.gpus)
        idle = sum(not gpu.is_in_use and not gpu.is_quarantined for gpu in node.gpus)
        needed = None if node.gpus_needed is None else round(node.gpus_needed, 2)
        count, total = sum(node.event_loop_delay.counts), node.event_loop_delay.total
        delay_us = (total - self._delay_sums[1]) // max(1, count - self._delay_sums[0]) // NS_PER_US
        self._delay_sums = (count, total)
        return [
            len(node.gpus),
            in_use,
            idle,
            quarantined,
            needed,
            sum(busy) / 1_000,
            node.connection_count,
            delay_us,
        ]

    def _note_drops(self, drops: list[tuple[int, Outcome, Reason, tuple[str, str]]]) -> None:
        for count, outcome, reason, key in sorted(drops, key=lambda drop: -drop[0])[:DROP_EVENTS_MAX]:
            what = "requests" if count > 1 else "request"
            self._journal.note("drop", f"{count} {what} {outcome.value}: {reason.token}", key)

    def _note_gpus(self, node: NodeStats) -> None:
        if len(self._load_counts) != len(node.gpus):
            self._load_counts = [gpu.load_count for gpu in node.gpus]
        for index, gpu in enumerate(node.gpus):
            fresh = gpu.load_count - self._load_counts[index]
            if fresh > 0:
                self._journal.note(
                    "load", f"{fresh} {'models' if fresh > 1 else 'model'} brought into memory", gpu=index
                )
            self._load_counts[index] = gpu.load_count
            if gpu.is_slow and index not in self._slow:
                self._journal.note("gpu", f"slow: batches take {gpu.slowdown:.2f} times the others' time", gpu=index)
                self._slow.add(index)
            elif not gpu.is_slow:
                self._slow.discard(index)

    def _remember(self, said: dict[str, Any]) -> None:
        changed = [shown.row for shown in self._shown.values() if shown.row is not shown.remembered]
        for shown in self._shown.values():
            shown.remembered = shown.row
        self._history.append(_Moment(said["t"], said["node"], changed))
        self._history_rows += len(changed)
        while len(self._history) > HISTORY_S_MAX or (self._history_rows > HISTORY_ROWS_MAX and len(self._history) > 1):
            oldest = self._history.popleft()
            self._history_rows -= len(oldest.rows)
            self._base.update({row[0]: row for row in oldest.rows})


def describe(number: int, model: ShownModel) -> list[object]:
    """Return what is said once of a model: number, name, version, SLO, largest batch, state, reason."""
    config = model.config
    return [number, config.name, config.version, config.slo_ms, config.batch_size_max, model.state, model.reason]


def _row(number: int, stats: ModelStats, p99_us: int) -> Row:
    ended = dict.fromkeys(Outcome, 0)
    for (outcome, _), count in stats.unanswered.items():
        ended[outcome] += count
    return [
        number,
        stats.good,
        stats.late,
        ended[Outcome.DROPPED],
        ended[Outcome.REJECTED],
        ended[Outcome.FAILED],
        ended[Outcome.CANCELLED],
        stats.queued,
        stats.in_flight,
        stats.execution_count,
        stats.inference_count,
        sum(stats.batch_ns) // NS_PER_US,
        p99_us,
    ]
