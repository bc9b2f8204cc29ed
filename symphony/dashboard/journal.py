"""Note what happens to models, GPUs and the node that is no number: loaded, quarantined, lost, a new leader."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

EVENT_COUNT_MAX = 512
TEXT_CHARS_MAX = 200

Kind = Literal["drop", "fault", "gpu", "leader", "load", "model", "node"]


class Event(NamedTuple):
    """One thing that happened, in a sentence. `model` is (name, version) where it is about one, `gpu` -1 where not."""

    at_ns: int
    kind: Kind
    text: str
    model: tuple[str, str] | None
    gpu: int


class Journal:
    """The last `EVENT_COUNT_MAX` events. Called on the asyncio thread."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.count = 0
        """Events noted so far."""
        self._clock_ns = clock_ns
        self._events: deque[Event] = deque(maxlen=EVENT_COUNT_MAX)

    def note(self, kind: Kind, text: str, model: tuple[str, str] | None = None, gpu: int = -1) -> None:
        """Keep one event, its text cut to `TEXT_CHARS_MAX` characters."""
        if len(text) > TEXT_CHARS_MAX:
            text = text[: TEXT_CHARS_MAX - 1] + "…"
        self._events.append(Event(self._clock_ns(), kind, text, model, gpu))
        self.count += 1

    def since(self, position: int) -> list[Event]:
        """Return the events kept that were noted since `count` was `position`, oldest first."""
        fresh = min(self.count - position, len(self._events))
        return list(self._events)[len(self._events) - fresh :] if fresh > 0 else []
