"""Merge the streams of several models into one schedule that a seed reproduces."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from symphony.workload.arrivals import Arrivals, Instants


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to send when: `at_ns[i]` from the start, for model number `models[i]`; ascending."""

    at_ns: Instants
    models: np.ndarray[Any, np.dtype[np.int32]]

    def __len__(self) -> int:
        """Return how many requests there are."""
        return len(self.at_ns)

    def digest(self) -> str:
        """Return 16 hexadecimal digits that differ when any instant or model does."""
        digest = hashlib.sha256(self.at_ns.astype("<i8").tobytes())
        digest.update(self.models.astype("<i4").tobytes())
        return digest.hexdigest()[:16]


def make_schedule(arrivals: Arrivals, rates: Sequence[float], duration_s: float, seed: int) -> Schedule:
    """Return the merged streams of models 0, 1, ... at `rates` requests per second each.

    Each model has a random stream of its own, so another model's rate does not change it.
    """
    streams = np.random.SeedSequence(seed).spawn(len(rates))
    pieces = [
        arrivals.instants(rate, duration_s, np.random.default_rng(stream))
        for rate, stream in zip(rates, streams, strict=True)
    ]
    at_ns = np.concatenate(pieces)
    models = np.concatenate([np.full(len(piece), number, np.int32) for number, piece in enumerate(pieces)])
    order = np.argsort(at_ns, kind="stable")
    return Schedule(at_ns[order], models[order])
