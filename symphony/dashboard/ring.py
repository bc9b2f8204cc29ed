"""Keep the last batches that ended, each with what a timeline wants to know of it."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from symphony.dashboard.numbers import Numbers

CAPACITY = 1 << 14
"""Batches kept: a quarter of a second of 65,000 batches per second. A power of two."""
_RECORD = struct.Struct("9q")


class Fate(IntEnum):
    """Say how a batch ended; of a bar that stands for several, the worst."""

    GOOD = 0
    LATE = 1
    """Some of its answers left after their deadline."""
    FAILED = 2


class BatchRecord(NamedTuple):
    """One batch that ended. Instants and durations are nanoseconds, instants monotonic.

    `model` is its number in `BatchRing.numbers`. `deadline_ns`: the earliest in the batch. `margin_ns`: what the
    scheduler kept free before it. `predicted_ns`: l(size) as the scheduler had it. `fate`: a `Fate`.
    """

    gpu: int
    model: int
    size: int
    deadline_ns: int
    margin_ns: int
    predicted_ns: int
    started_ns: int
    finished_ns: int
    fate: int


class BatchRing:
    """The last `capacity` records; the oldest is overwritten. One thread writes and reads.

    Records are bytes in memory taken once: no object lives on for a batch, and the garbage collector sees none.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"a batch ring's capacity must be a power of two, got {capacity}")
        self.count = 0
        """Records put so far."""
        self.numbers = Numbers()
        """Models by (name, version)."""
        self._mask = capacity - 1
        self._records = bytearray(capacity * _RECORD.size)

    def put(
        self,
        gpu: int,
        model: tuple[str, str],
        size: int,
        deadline_ns: int,
        margin_ns: int,
        predicted_ns: int,
        started_ns: int,
        finished_ns: int,
        fate: Fate,
    ) -> None:
        """Keep the record (see `BatchRecord`; `model` is (name, version)), in place of the oldest."""
        number = self.numbers(model)
        at = (self.count & self._mask) * _RECORD.size
        _RECORD.pack_into(
            self._records,
            at,
            gpu,
            number,
            size,
            deadline_ns,
            margin_ns,
            predicted_ns,
            started_ns,
            finished_ns,
            fate,
        )
        self.count += 1

    def since(self, position: int) -> tuple[list[BatchRecord], int]:
        """Return the records put since `count` was `position`, oldest first, and how many were overwritten by now."""
        first = max(position, self.count - self._mask - 1)
        found = [
            BatchRecord._make(_RECORD.unpack_from(self._records, (index & self._mask) * _RECORD.size))
            for index in range(first, self.count)
        ]
        return found, first - position
