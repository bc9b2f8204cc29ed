"""Keep the last batches that ended, each with what a timeline wants to know of it."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

CAPACITY = 1 << 14
"""Batches kept: a quarter of a second of 65,000 batches per second. A power of two."""


class Fate(IntEnum):
    """Say how a batch ended; of a bar that stands for several, the worst."""

    GOOD = 0
    LATE = 1
    """Some of its answers left after their deadline."""
    FAILED = 2


class BatchRecord(NamedTuple):
    """One batch that ended. Instants and durations are nanoseconds, instants monotonic.

    `model` is (name, version). `deadline_ns`: the earliest in the batch. `margin_ns`: what the scheduler kept free
    before it. `predicted_ns`: l(size) as the scheduler had it.
    """

    gpu: int
    model: tuple[str, str]
    size: int
    deadline_ns: int
    margin_ns: int
    predicted_ns: int
    started_ns: int
    finished_ns: int
    fate: Fate


class BatchRing:
    """The last `capacity` records; the oldest is overwritten. One thread writes and reads."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"a batch ring's capacity must be a power of two, got {capacity}")
        self.count = 0
        """Records put so far."""
        self._mask = capacity - 1
        self._slots: list[BatchRecord | None] = [None] * capacity

    def put(self, record: BatchRecord) -> None:
        """Keep the record, in place of the oldest."""
        self._slots[self.count & self._mask] = record
        self.count += 1

    def since(self, position: int) -> tuple[list[BatchRecord], int]:
        """Return the records put since `count` was `position`, oldest first, and how many were overwritten by now."""
        first = max(position, self.count - len(self._slots))
        found = [self._slots[index & self._mask] for index in range(first, self.count)]
        return [record for record in found if record is not None], first - position
