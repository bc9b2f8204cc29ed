"""Serve requests of different lengths: one lane per bucket of lengths, each a model of its own to the scheduler.

Three ways were weighed. Padding each batch to its longest request makes a short request pay for whichever long one it
meets, and its latency cannot be foreseen. A profile over (batch, length) in the core would let it mix lengths where
that pays, at the price of a second dimension in every window. Chosen: each bucket has its own queue, latency profile
and demand, and batches hold one bucket's requests only. A request pays for the next bucket's length at most, whatever
else arrives: that is the stated bound. The price is that little load on many buckets makes more, smaller
batches; who sees that chooses fewer buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from symphony.config import ModelConfig
from symphony.config.lengths import bucket_for, cut, length_of, padded, varying_axis
from symphony.driver.requests import PendingRequest
from symphony.server.served import ModelEntry

Array = np.ndarray[Any, Any]


class Lane(ModelEntry):
    """What the node knows of one bucket of a served model: index, profile, margin. The rest is the model's."""

    def __init__(self, parent: ModelEntry, config: ModelConfig, index: int, reply_margin_ns: int) -> None:
        super().__init__(config, parent.folder, index, reply_margin_ns)
        self.parent = parent
        self.stats = parent.stats
        self.door = parent.door

    @property
    def served(self) -> ModelEntry:
        """Return the model that clients know."""
        return self.parent


class Lanes:
    """The lanes of one model, by length."""

    def __init__(self, network: ModelConfig, lanes: Sequence[Lane]) -> None:
        """Take the model as its devices see it, dimensions that vary and all, and a lane for each of its buckets."""
        self._lanes = tuple(lanes)
        self._inputs = network.inputs
        self._buckets = network.length_buckets
        self._cut_outputs = [spec for spec in network.outputs if varying_axis(spec.shape) is not None]

    def __iter__(self) -> Any:
        return iter(self._lanes)

    def choose(self, request: PendingRequest) -> Lane:
        """Return the request's lane, and pad its inputs to the lane's length.

        Raise LengthError for inputs that preprocessing made too long, or of lengths that differ.
        """
        request.length = length_of(request.inputs, self._inputs, self._buckets[-1])
        lane = self._lanes[bucket_for(request.length, self._buckets)]
        length = lane.config.length
        request.inputs = {spec.name: padded(request.inputs[spec.name], spec, length) for spec in self._inputs}
        return lane

    def own(self, outputs: dict[str, Array], length: int) -> dict[str, Array]:
        """Return a request's outputs without what was computed for its padding."""
        if not self._cut_outputs:
            return outputs
        return outputs | {spec.name: cut(outputs[spec.name], spec, length) for spec in self._cut_outputs}
