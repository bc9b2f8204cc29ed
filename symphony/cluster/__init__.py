"""What the nodes of a cluster agree on, as values: records, leases, snapshots, and what a coordinator's store must do.

Pure: no clock, socket or thread. `symphony.coordination` speaks to the stores.
"""

from symphony.cluster.faults import (
    CoordinationError,
    CoordinatorRefused,
    CoordinatorUnavailable,
    LeaseLost,
    NodeIdTaken,
    RecordError,
    RevisionConflict,
)
from symphony.cluster.records import Document, Leader, NodeRecord, model_document_name
from symphony.cluster.snapshot import Changes, Snapshot
from symphony.cluster.store import ABSENT
from symphony.cluster.timing import Timing

__all__ = [
    "ABSENT",
    "Changes",
    "CoordinationError",
    "CoordinatorRefused",
    "CoordinatorUnavailable",
    "Document",
    "Leader",
    "LeaseLost",
    "NodeIdTaken",
    "NodeRecord",
    "RecordError",
    "RevisionConflict",
    "Snapshot",
    "Timing",
    "model_document_name",
]
