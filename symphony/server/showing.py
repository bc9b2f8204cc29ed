"""Show the node on the dashboard: hand over what it declares to need (symphony.dashboard.Source)."""

from __future__ import annotations

from collections.abc import Sequence

from symphony.metrics import NodeStats
from symphony.server.node import Node
from symphony.server.served import ModelEntry


class Showing:
    """The node as those see it who watch."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def models(self) -> Sequence[ModelEntry]:
        """Return every version of every model, its queue's length brought up to date."""
        self._node.model_rows()
        return self._node.models()

    def node_stats(self) -> NodeStats:
        """Return the node's numbers, brought up to date."""
        return self._node.node_stats()

    def health(self) -> str:
        """Return why the node is not ready, "" when it is."""
        return self._node.health().reason

    def growth(self, model: tuple[str, str], gpu: int, size: int) -> float:
        """Return l(size + 1) / l(size) as profiled, 1.0 where it is not known."""
        return self._node.growth(model, gpu, size)
