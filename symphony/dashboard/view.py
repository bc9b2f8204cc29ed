"""Follow a node's stream: the rates and states that its messages amount to. Pure; the page does the same in a browser.

Messages are the JSON objects of the stream (docs/dashboard.md). What is not understood is ignored, so that a newer node
can be watched, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from symphony.dashboard.journal import EVENT_COUNT_MAX

SPAN_US = 5_000_000
"""Rates are taken over so long."""
GPU_STATES = ("idle", "busy", "slow", "quarantined")


@dataclass(slots=True)
class ModelView:
    """One model. Rates are per second over the last five; `bad_rate` is 0 to 1, None while nothing arrives."""

    name: str = ""
    version: str = ""
    slo_ms: float = 0.0
    state: str = ""
    reason: str = ""
    offered_rate: float = 0.0
    good_rate: float = 0.0
    bad_rate: float | None = None
    queued: int = 0
    batch_size: float = 0.0
    gpu_share: float = 0.0
    """GPUs' worth of time that its batches take."""
    p99_ms: float = 0.0
    worst: str = ""
    """The commonest reason of those that were not good lately, "" when all were."""
    _looks: deque[tuple[int, dict[str, int]]] = field(default_factory=deque)
    _reasons: dict[str, int] = field(default_factory=dict)

    def look(self, at_us: int, row: dict[str, int]) -> None:
        """Take its counters at one instant."""
        if self._looks and row["good"] < self._looks[-1][1]["good"]:
            self._looks.clear()  # loaded anew
        self._looks.append((at_us, row))
        while len(self._looks) > 2 and self._looks[1][0] <= at_us - SPAN_US:
            self._looks.popleft()
        (since_us, old), (_, new) = self._looks[0], self._looks[-1]
        passed_s = max(1e-6, (at_us - since_us) / 1e6)

        def fresh(*names: str) -> int:
            return sum(new[name] - old[name] for name in names)

        bad = fresh("late", "dropped", "rejected", "failed")
        offered = fresh("good") + bad
        self.good_rate, self.offered_rate = fresh("good") / passed_s, offered / passed_s
        self.bad_rate = bad / offered if offered else None
        self.queued, self.p99_ms = new["queued"], new["p99_us"] / 1e3
        self.batch_size = fresh("batch_requests") / batches if (batches := fresh("batches")) else 0.0
        self.gpu_share = fresh("busy_us") / 1e6 / passed_s
        if not bad:
            self.worst = ""
        elif fresh("late") * 2 > bad:
            self.worst = "late"

    def reason_counted(self, outcome: str, reason: str, count: int) -> None:
        """Take how many requests ended so, so far."""
        before = self._reasons.get(f"{outcome} {reason}", 0)
        self._reasons[f"{outcome} {reason}"] = count
        if count > before and outcome != "cancelled":
            self.worst = reason


class View:
    """What is known of the node so far."""

    def __init__(self) -> None:
        self.about: dict[str, str] = {}
        self.health = ""
        self.at_us = 0
        self.gpu_names: list[str] = []
        self.gpu_busy: list[float] = []
        """Busy share of each GPU, 0 to 1."""
        self.gpu_states: list[str] = []
        self.node: dict[str, float | None] = {}
        self.events: deque[tuple[int, str, str, str]] = deque(maxlen=EVENT_COUNT_MAX)
        """(at, kind, text, about): `at` in microseconds on the stream's clock."""
        self._models: dict[int, ModelView] = {}
        self._fields: dict[str, list[str]] = {}

    @property
    def models(self) -> list[ModelView]:
        """Return the models, those with most bad requests first."""
        return sorted(self._models.values(), key=lambda model: (-_bad(model), -model.offered_rate, model.name))

    def apply(self, message: Mapping[str, Any]) -> None:
        """Take one message of the stream."""
        if "hello" in message:
            self.about = message["hello"]
            self._fields = message["fields"]
            self.gpu_names = message["gpu_names"]
        self.at_us = message["t"]
        self.health = message.get("health", self.health)
        for number, name, version, slo_ms, _, state, reason in message.get("models", ()):
            model = self._models.setdefault(number, ModelView())
            model.name, model.version, model.slo_ms, model.state, model.reason = name, version, slo_ms, state, reason
        told: set[int] = set()
        for values in message.get("rows", ()):
            row = dict(zip(self._fields["rows"], values, strict=False))
            told.add(row["model"])
            self._models.setdefault(row["model"], ModelView()).look(self.at_us, row)
        for number, model in self._models.items():
            if number not in told and model._looks:
                model.look(self.at_us, model._looks[-1][1])  # nothing changed, and that is news for its rates
        for number, outcome, reason, count in message.get("reasons", ()):
            if number in self._models:
                self._models[number].reason_counted(outcome, reason, count)
        if "node" in message:
            self.node = dict(zip(self._fields["node"], message["node"], strict=False))
        gpus = message.get("gpus", ())
        if gpus:
            self.gpu_busy = [busy / 1_000 for busy in gpus[0::3]]
            self.gpu_states = [GPU_STATES[state] for state in gpus[1::3]]
        for at_us, kind, text, number, gpu in message.get("events", ()):
            about = self._models[number].name if number in self._models else ""
            if 0 <= gpu < len(self.gpu_names):
                about = f"{about} {self.gpu_names[gpu]}".strip()
            self.events.append((at_us, kind, text, about))


def _bad(model: ModelView) -> float:
    return (model.bad_rate or 0.0) * model.offered_rate
