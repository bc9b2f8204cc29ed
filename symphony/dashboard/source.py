"""Declare what is shown. The node implements it; tests fake it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from symphony.config import ModelConfig
from symphony.metrics import ModelStats, NodeStats


class ShownModel(Protocol):
    """One version of one model, read-only."""

    @property
    def config(self) -> ModelConfig:
        """Return its configuration."""
        ...

    @property
    def state(self) -> str:
        """Return "READY", "LOADING" or "UNAVAILABLE"."""
        ...

    @property
    def reason(self) -> str:
        """Return why it is not ready ("" when it is)."""
        ...

    @property
    def stats(self) -> ModelStats:
        """Return its counters."""
        ...


class Source(Protocol):
    """What the figures are read from, on the asyncio thread."""

    def models(self) -> Iterable[ShownModel]:
        """Return every version of every model, in a fixed order, `stats.queued` brought up to date."""
        ...

    def node_stats(self) -> NodeStats:
        """Return the node's numbers, brought up to date."""
        ...

    def health(self) -> str:
        """Return why the node is not ready, "" when it is."""
        ...

    def growth(self, model: tuple[str, str], gpu: int, size: int) -> float:
        """Return l(size + 1) / l(size) of the model on the GPU; 1.0 when not known, or `size` is the largest."""
        ...
