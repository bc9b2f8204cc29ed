"""Lay out the fixed-size records that nodes and leader exchange by the thousand: one C struct each, no object each.

All are little-endian, naturally aligned, with padding spelled out, so that a C compiler lays the same struct out
without being told. A payload is an array of one record type, nothing else. docs/cluster-wire.md has the same table.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from symphony.errors import Reason
from symphony.links.faults import FrameError
from symphony.links.frames import Kind

Records = NDArray[Any]
"""A structured array of one of the types below."""

_Field = tuple[str, str, int]


def _record(size: int, *fields: _Field) -> np.dtype[Any]:
    names, formats, offsets = zip(*fields, strict=True)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})


SUBMIT: Final = _record(
    24, ("request", "<u8", 0), ("deadline_ns", "<i8", 8), ("model", "<u4", 16), ("priority", "u1", 20)
)
"""A request to schedule; `deadline_ns` is an instant on the sender's clock."""
CANCEL: Final = _record(8, ("request", "<u8", 0))
"""A request that nobody waits for any more."""
OUTCOME: Final = _record(16, ("request", "<u8", 0), ("reason", "u1", 8))
"""A request that will not run; `reason` is a number of REASON_NUMBERS."""
BATCH_STARTED: Final = _record(24, ("plan_id", "<u8", 0), ("at_ns", "<i8", 8), ("gpu", "<u4", 16))
"""A batch that runs; `at_ns` is an instant on the sender's clock."""
BATCH_FINISHED: Final = BATCH_STARTED
"""A batch that has ended, laid out as its start is."""

RECORDS: Final = {
    Kind.SUBMIT: SUBMIT,
    Kind.CANCEL: CANCEL,
    Kind.OUTCOME: OUTCOME,
    Kind.BATCH_STARTED: BATCH_STARTED,
    Kind.BATCH_FINISHED: BATCH_FINISHED,
}

REASON_NUMBERS: Final = {
    Reason.BAD_INPUT: 1,
    Reason.UNKNOWN_MODEL: 2,
    Reason.TOO_LARGE: 3,
    Reason.RATE_LIMITED: 4,
    Reason.CANCELLED: 5,
    Reason.WORKER_FAILED: 6,
    Reason.QUEUE_FULL: 7,
    Reason.WOULD_MISS: 8,
    Reason.NOT_READY: 9,
    Reason.DRAINING: 10,
    Reason.NO_GPU: 11,
    Reason.EXPIRED: 12,
    Reason.UNAUTHORIZED: 13,
    Reason.FORBIDDEN: 14,
}
"""The number of each reason on the wire: fixed for ever, not to be derived from the order of an enum."""
REASONS_BY_NUMBER: Final = {number: reason for reason, number in REASON_NUMBERS.items()}


def read_records(kind: Kind, payload: memoryview) -> Records:
    """Return the records in a payload as a read-only array on it. Raise FrameError unless it holds whole ones."""
    dtype = RECORDS[kind]
    if len(payload) % dtype.itemsize:
        raise FrameError(f"{len(payload)} bytes of {kind.name} records, which have {dtype.itemsize} bytes each")
    return np.frombuffer(payload, dtype)


def write_records(kind: Kind, records: Records) -> bytes:
    """Return an array of records as a payload. Raise ValueError for an array of another type or shape."""
    dtype = RECORDS[kind]
    if records.dtype != dtype or records.ndim != 1:
        raise ValueError(f"{kind.name} takes an array [n] of {dtype}, got {records.dtype} {list(records.shape)}")
    return records.tobytes()
