"""Bring requests to their end on the asyncio thread: answered, dropped or failed, each exactly once.

What a batch tells beside its outputs is learned here, too: how long it took, how late its answers left, what did not
fit. The node decides what becomes of models and devices.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from symphony.dashboard import BatchRing, Fate
from symphony.driver.requests import PendingRequest
from symphony.driver.table import RequestTable
from symphony.errors import Reason, SymphonyError
from symphony.execution.devices import Device, Fault
from symphony.execution.worker import Batch, Plan, split_outputs
from symphony.ingress.arrival_clock import ArrivalClock
from symphony.loop import SchedulingLoop
from symphony.metrics import NodeStats
from symphony.server.catalog import Catalog
from symphony.server.drift import DriftEstimator, SlowDevices
from symphony.server.loading import profile_key
from symphony.server.processor import Overdue
from symphony.server.served import ModelEntry

_log = logging.getLogger(__name__)

ROOM_SHARE = 0.85
"""GPUs asked for, as a share of those there are, below which there is room for generous margins."""
_FOR_WANT_OF_TIME = frozenset((Reason.WOULD_MISS, Reason.EXPIRED))


class Answers:
    """End requests, and learn from the batches that they were in. All methods run on the asyncio thread."""

    def __init__(
        self,
        table: RequestTable,
        loop: SchedulingLoop,
        catalog: Catalog,
        devices: Sequence[Device],
        kinds: dict[str, int],
        slow_devices: SlowDevices,
        arrival_clock: ArrivalClock,
        queue: Callable[[ModelEntry, PendingRequest], None],
        on_lost: Callable[[int, str], None],
        stats: NodeStats,
        timeline: BatchRing,
    ) -> None:
        """`queue` hands a preprocessed request to the loop; `on_lost(gpu, why)` hears once of a lost device.

        `timeline` gets each batch that ended, for those who watch.
        """
        self.is_stopped = False
        self._table = table
        self._loop = loop
        self._catalog = catalog
        self._devices = devices
        self._kinds = kinds
        self._slow_devices = slow_devices
        self._arrival_clock = arrival_clock
        self._queue = queue
        self._on_lost = on_lost
        self._stats = stats
        self._timeline = timeline
        self._lost: set[int] = set()

    def take_outcomes(self) -> None:
        """Answer the requests that the scheduler dropped, and free the slots of the cancelled ones."""
        now_ns = time.monotonic_ns()
        for slot, reason in self._loop.drain_outcomes():
            request = self._table.release(slot)
            entry = self._catalog.by_index[request.model]
            entry.served.held_count -= 1
            if request.on_done is forget:
                continue
            waited_ns = now_ns - request.arrived_ns
            entry.stats.request_dropped(reason, waited_ns)
            entry.door.dropped_count += reason in _FOR_WANT_OF_TIME
            request.error = entry.dropped(reason, waited_ns)
            request.on_done(request)
        self._arrival_clock.worked(now_ns, time.monotonic_ns())

    def answer(self, batch: Batch) -> None:
        """Answer or fail the requests of a batch that ended, or have them scheduled anew."""
        if self.is_stopped:
            # Its requests were answered when the node stopped.
            return
        requests, plan = batch.requests, batch.plan
        entry = self._catalog.by_index[plan.model]
        now_ns = time.monotonic_ns()
        self._stats.handover_lag.observe(now_ns - batch.finished_ns)
        if batch.fault is Fault.PLACE:
            self.schedule_again(entry, requests)
            return
        if batch.fault is not None and batch.part == 0:
            self._note_fault(entry, batch)
        if batch.fault is Fault.DEVICE:
            self._note_loss(batch)
            self.schedule_again(entry, requests)
            return
        if batch.outputs is None:
            self._show(entry, batch, Fate.FAILED)
            self.fail(entry, requests, str(batch.error) or type(batch.error).__name__)
            return
        stats = entry.stats
        earliest_ns = min(request.deadline_ns for request in requests)
        stats.batch_finished(
            len(requests),
            earliest_ns - plan.decided_at_ns,
            plan.finish_at_ns - plan.start_at_ns,
            batch.finished_ns - batch.started_ns,
            time.time_ns() // 1_000_000,
            batch.input_ns,
            batch.output_ns,
            batch.infer_ns,
        )
        entry.probation_count = max(0, entry.probation_count - 1)
        if batch.bad_rows:
            bad = [requests[row] for row in batch.bad_rows]
            self.fail(entry, bad, "an output holds NaN or infinities, and model.toml allows none (allow_nan)")
        self._show(entry, batch, Fate.LATE if now_ns > earliest_ns else Fate.GOOD)
        processor, lanes = entry.served.processor, entry.served.lanes
        copying_ns = (batch.input_ns, batch.output_ns)
        infer_ns = batch.finished_ns - batch.started_ns if batch.infer_ns is None else batch.infer_ns
        for row, (request, outputs) in enumerate(
            zip(requests, split_outputs(batch.outputs, len(requests)), strict=True)
        ):
            if row in batch.bad_rows:
                continue
            request.batch_size = len(requests)
            request.started_ns = batch.started_ns
            request.finished_ns = batch.finished_ns
            request.infer_ns = infer_ns
            request.copying_ns = copying_ns
            request.is_queued = False
            own = outputs if lanes is None else lanes.own(outputs, request.length)
            if processor is not None and "postprocess" in processor.steps and request.on_done is not forget:
                processor.begin(request, "postprocess", own, partial(self._postprocessed, entry, request, plan))
            else:
                self._reply(entry, request, own, now_ns)
        answered_ns = time.monotonic_ns()
        self._arrival_clock.worked(now_ns, answered_ns)
        if batch.fault is None:
            self._note_duration(entry, batch, answered_ns)
            self._note_overrun(entry, answered_ns - plan.finish_at_ns, answered_ns)

    def _show(self, entry: ModelEntry, batch: Batch, fate: Fate) -> None:
        """Put the batch on the timeline."""
        plan = batch.plan
        self._timeline.put(
            plan.gpu,
            entry.key,
            len(batch.requests),
            min(request.deadline_ns for request in batch.requests),
            entry.margin.margin_ns,
            plan.finish_at_ns - plan.start_at_ns,
            batch.started_ns,
            batch.finished_ns,
            fate,
        )

    def _reply(self, entry: ModelEntry, request: PendingRequest, outputs: Any, now_ns: int) -> None:
        """Give back what the request holds and complete it, if anybody still waits for it."""
        self._table.release(request.id)
        entry.served.held_count -= 1
        if request.on_done is forget:
            return
        request.outputs = outputs
        entry.stats.request_answered(
            now_ns - request.arrived_ns, request.started_ns - request.arrived_ns, now_ns > request.deadline_ns
        )
        request.on_done(request)

    def _note_duration(self, entry: ModelEntry, batch: Batch, now_ns: int) -> None:
        """Learn how long batches take by now, and whether the device is slower than others of its kind."""
        gpu = batch.plan.gpu
        key = profile_key(self._devices[gpu])
        if key not in entry.profiles or entry.served.state != "READY":
            return
        profiled_ns = entry.profiled_ns(key, len(batch.requests))
        ratio = (batch.finished_ns - batch.started_ns) / profiled_ns
        drift = entry.drifts.setdefault(key, DriftEstimator())
        if drift.observe(ratio, now_ns):
            _log.info(
                'model "%s": batches take %.2f times as long as profiled on %s', entry.config.name, drift.factor, key
            )
            self._loop.profile_changed(entry.index, self._kinds[key], entry.table_ns(key))
        self._slow_devices.watches[gpu].observe(ratio / drift.factor)

    def _note_overrun(self, entry: ModelEntry, overrun_ns: int, now_ns: int) -> None:
        """Learn how much later than predicted answers leave."""
        has_room = self._loop.gpus_asked < ROOM_SHARE * len(self._devices)
        if entry.margin.observe(overrun_ns, now_ns, has_room) and entry.served.state == "READY":
            self._loop.margin_changed(entry.index, entry.margin.margin_ns)

    def preprocessed(self, entry: ModelEntry, request: PendingRequest, inputs: Any, error: Exception | None) -> None:
        """Queue a request with what preprocessing made of its inputs, or fail it."""
        if request.id < 0:
            return  # the node stopped meanwhile
        if error is not None:
            self._processing_failed(entry, request, "preprocess", error)
        elif request.on_done is forget:
            self._reply(entry, request, None, time.monotonic_ns())
        else:
            request.inputs = inputs
            self._queue(entry, request)

    def _postprocessed(
        self, entry: ModelEntry, request: PendingRequest, plan: Plan, outputs: Any, error: Exception | None
    ) -> None:
        if request.id < 0:
            return
        if error is not None:
            self._processing_failed(entry, request, "postprocess", error)
            return
        now_ns = time.monotonic_ns()
        self._reply(entry, request, outputs, now_ns)
        # What postprocessing takes must be free before the deadline, too.
        self._note_overrun(entry, now_ns - plan.finish_at_ns, now_ns)

    def _processing_failed(self, entry: ModelEntry, request: PendingRequest, step: str, error: Exception) -> None:
        """Fail a request; a ValueError of preprocessing says that its inputs are bad."""
        name = entry.config.name
        reason, text = Reason.WORKER_FAILED, f'model "{name}": {step} failed: {type(error).__name__}: {error}'
        if isinstance(error, Overdue):
            reason, text = (
                Reason.EXPIRED,
                f'model "{name}": {error}; allow more time or more workers',
            )
        elif step == "preprocess" and isinstance(error, ValueError):
            reason, text = Reason.BAD_INPUT, f'model "{name}": its inputs cannot be read: {error}'
        self._refuse(entry, request, reason, text)

    def refuse(self, entry: ModelEntry, request: PendingRequest, why: str) -> None:
        """Fail an accepted request whose inputs turn out to be bad."""
        self._refuse(entry, request, Reason.BAD_INPUT, f'model "{entry.config.name}": {why}')

    def _refuse(self, entry: ModelEntry, request: PendingRequest, reason: Reason, text: str) -> None:
        self._table.release(request.id)
        entry.served.held_count -= 1
        if request.on_done is forget:
            return
        entry.stats.request_failed(reason, time.monotonic_ns() - request.arrived_ns)
        request.error = SymphonyError(reason, text, model=entry.config.name)
        request.on_done(request)

    def _note_fault(self, entry: ModelEntry, batch: Batch) -> None:
        """Count a batch that failed, and remember a size that did not fit."""
        entry.stats.batch_failed()
        name, gpu = entry.config.name, batch.plan.gpu
        device = self._devices[gpu]
        key = profile_key(device)
        if batch.size_limit and batch.size_limit < entry.size_limits.get(key, entry.config.batch_size_max):
            entry.size_limits[key] = batch.size_limit
            _log.warning(
                'model "%s": a batch of %d or so does not fit the memory of %s; batches are kept to %d from now on',
                name,
                2 * batch.size_limit,
                device.name,
                batch.size_limit,
            )
            if entry.served.state == "READY":
                self._loop.profile_changed(entry.index, self._kinds[key], entry.table_ns(key))

    def _note_loss(self, batch: Batch) -> None:
        """Give up a device that a batch, or a part of one that was run again, found lost; once for each device."""
        gpu = batch.plan.gpu
        if gpu not in self._lost:
            self._lost.add(gpu)
            self._on_lost(gpu, f"{self._devices[gpu].name} is lost and needs a new process: {batch.error}")

    def fail(self, entry: ModelEntry, requests: Sequence[PendingRequest], why: str) -> None:
        """Fail requests whose batch did; `why` is part of the error's text."""
        now_ns = time.monotonic_ns()
        name = entry.config.name
        entry.served.held_count -= len(requests)
        for request in requests:
            self._table.release(request.id)
            if request.on_done is forget:
                continue
            entry.stats.request_failed(Reason.WORKER_FAILED, now_ns - request.arrived_ns)
            request.error = SymphonyError(
                Reason.WORKER_FAILED, f'model "{name}": the batch of {len(requests)} failed: {why}', model=name
            )
            request.on_done(request)

    def fail_all(self, why: str) -> None:
        """Fail every request that holds a slot."""
        by_model: dict[int, list[PendingRequest]] = {}
        for request in self._table.requests():
            by_model.setdefault(request.model, []).append(request)
        for index, requests in by_model.items():
            self.fail(self._catalog.by_index[index], requests, why)

    def schedule_again(self, entry: ModelEntry, requests: Sequence[PendingRequest]) -> None:
        """Give back to the scheduler what was handed to a worker and never began."""
        for request in requests:
            if request.on_done is forget:
                self._table.release(request.id)
                entry.served.held_count -= 1
            else:
                self._loop.request_arrived(request.id, request.model, request.deadline_ns, request.priority)


def forget(request: PendingRequest) -> None:
    """Mark a cancelled request: nobody waits for its outcome."""
