"""Put the scheduling core behind one small port: events in, decisions out.

The simulated cluster and the tests use `SteppedCore`, which is `symphony.core.Scheduler`; a live leader can put the
native loop behind the same two names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from symphony.core import Decision, Event, Scheduler


class Core(Protocol):
    """Schedule requests: docs/core.md is the contract of events and decisions."""

    @property
    def wakeup_ns(self) -> int:
        """Return when it next wants to be called, NEVER_NS if not at all."""

    @property
    def request_count_max(self) -> int:
        """Return how many requests it can hold; ids are smaller."""

    def apply(self, now_ns: int, events: Sequence[Event]) -> list[Decision]:
        """Apply events in order at `now_ns`, and return what follows; without events, what time alone decides.

        A request's id may be used again once the decision about it was returned, not within the same call.
        """


class SteppedCore:
    """Step `symphony.core.Scheduler` once per event."""

    def __init__(self, scheduler: Scheduler, request_count_max: int) -> None:
        self._scheduler = scheduler
        self.request_count_max = request_count_max

    @property
    def wakeup_ns(self) -> int:
        """Return when it next wants to be called."""
        return int(self._scheduler.wakeup_ns)

    @property
    def queued_count(self) -> int:
        """Return how many requests are inside."""
        return int(self._scheduler.queued_count)

    def apply(self, now_ns: int, events: Sequence[Event]) -> list[Decision]:
        """Step through the events."""
        step = self._scheduler.step
        if not events:
            return list(step(now_ns, None))
        decisions: list[Decision] = []
        for event in events:
            decisions += step(now_ns, event)
        return decisions
