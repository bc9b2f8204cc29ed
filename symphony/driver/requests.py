"""Hold what the node must remember of a request while the scheduler decides about its id.

Only the asyncio thread touches these objects, except that a worker reads `inputs` while it runs the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from symphony.errors import SymphonyError


class PendingRequest:
    """One accepted request: checked inputs, times, and the outcome once there is one.

    `inputs` maps a tensor's name to an array of one request's shape (no batch dimension; `BYTES` is an object array of
    bytes). Times are integer nanoseconds of the monotonic clock. `on_done(self)` is called exactly once, on the
    asyncio thread, with either `outputs` or `error` set; never after a cancellation. `copying_ns`: how
    long its batch's inputs and outputs were copied; `infer_ns`: what its batch took between. `is_queued`: the
    scheduling loop knows it; before that it may be preprocessed, afterwards postprocessed. `length`: its own, before it
    was padded, where its model lets that vary.
    """

    __slots__ = (
        "arrived_ns",
        "batch_size",
        "copying_ns",
        "deadline_ns",
        "error",
        "finished_ns",
        "id",
        "infer_ns",
        "inputs",
        "is_queued",
        "length",
        "model",
        "on_done",
        "outputs",
        "priority",
        "started_ns",
    )

    def __init__(
        self,
        model: int,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        arrived_ns: int,
        deadline_ns: int,
        priority: int,
        on_done: Callable[[PendingRequest], None],
    ) -> None:
        self.id = -1
        self.is_queued = False
        self.length = 0
        self.model = model
        self.inputs = inputs
        self.arrived_ns = arrived_ns
        self.deadline_ns = deadline_ns
        self.priority = priority
        self.on_done = on_done
        self.outputs: Mapping[str, np.ndarray[Any, Any]] | None = None
        self.error: SymphonyError | None = None
        self.batch_size = 0
        self.copying_ns = (0, 0)
        self.infer_ns = 0
        self.started_ns = 0
        self.finished_ns = 0
