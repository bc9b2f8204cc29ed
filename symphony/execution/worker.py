"""Run one device's plans: a thread that launches and, for devices that compute by themselves, one that waits.

The launcher takes plans from the scheduling loop (waiting without the GIL), gathers the requests' inputs and launches;
the completer waits for each flight, tells the loop that the device is free, and hands the batch over. So the next
batch's inputs are gathered and copied while the last one still runs. A synchronous device (cpu) computes inside
`launch` and needs no completer.

A batch that fails is run again in halves, and the half that fails again in its halves, while a deadline is still to
be met: one bad request does not take the others with it, and a batch that did not fit the device's memory is answered
in two. Where both halves fail the model is at fault, and nothing more is tried.

A device that is lost, be it while a failed batch is run again, ends all tries: what was answered by then is, the rest
is handed back as lost with the device, for another device to run.

A worker whose batch hangs is abandoned, not waited for: its threads end when they wake up, what it would still say is
ignored, and the node starts another worker in its place.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from symphony.driver.requests import PendingRequest
from symphony.execution.devices import Device, DeviceError, Fault, Flight, LoadedModel, Tensors
from symphony.execution.swapper import LoadOrder, LoadPort, Swapper
from symphony.metrics import Histogram

FINITE_CHECKS: dict[str, Callable[[Any], Any]] = {
    "FP16": np.isfinite,
    "FP32": np.isfinite,
    "FP64": np.isfinite,
    "BF16": lambda bits: (bits & 0x7F80) != 0x7F80,
}
"""For each datatype that has NaN: from a batch's values, whether each is finite. BF16 comes as its bits."""
GAP_BOUNDS_NS = tuple(us * 1_000 for us in (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 100_000))
SUSPECT_FACTOR, SUSPECT_NS = 4, 20_000_000
"""A batch may hang that has run for so many times its predicted time, and this much longer than predicted."""
JOIN_S = 0.2
"""How long `abandon` waits for a launcher that is not stuck."""


class Plan(Protocol):
    """What the worker reads of a plan (symphony.loop.Plan)."""

    is_load: Literal[False]
    plan_id: int
    gpu: int
    model: int
    ids: list[int]
    start_at_ns: int
    finish_at_ns: int
    decided_at_ns: int


class PlanPort(LoadPort, Protocol):
    """What the worker needs of the scheduling loop."""

    def take(self, gpu: int) -> Plan | LoadOrder | None: ...
    def rouse(self, gpu: int) -> None: ...
    def batch_started(self, plan_id: int, gpu: int, started_ns: int) -> None: ...
    def batch_finished(self, plan_id: int, gpu: int, finished_ns: int) -> None: ...
    def wait_and_finish(self, plan_id: int, gpu: int, finished_ns: int) -> None: ...


@dataclass(slots=True)
class Batch:
    """A plan that ended: its requests with either outputs [batch, ...] or the error that all of them share."""

    plan: Plan
    requests: list[PendingRequest]
    outputs: Tensors | None
    error: Exception | None
    started_ns: int
    finished_ns: int
    fault: Fault | None = None
    """What this part's error meant; of requests that were answered when run again, the batch's first error.

    DEVICE, PLACE: none of the requests can be answered here now, and another device may take them.
    """
    bad_rows: frozenset[int] = frozenset()
    """Requests whose outputs hold NaN or infinities though the model allows none."""
    part: int = 0
    """Which part of a batch this is that was run again in parts."""
    size_limit: int = 0
    """A larger batch did not fit the device's memory; 0: nothing is known."""
    input_ns: int = 0
    output_ns: int = 0
    """How long copying inputs to the device and outputs back took."""
    infer_ns: int | None = None
    """What lies between the copies, None: as long as from `started_ns` to `finished_ns`."""


@dataclass(slots=True)
class _Running:
    """A batch between launch and end."""

    plan: Plan
    requests: list[PendingRequest]
    since_ns: int
    limit_ns: int
    loaded: LoadedModel | None
    flight: Flight | None = None
    """What runs of it now, or ran last: itself, or a part of it that is run again."""
    loss: Exception | None = None
    """How the device was lost while parts were run again; None: it was not."""


class Worker:
    """Own the threads of one device. `place` and `evict` may be called from any thread while it runs."""

    def __init__(
        self,
        gpu: int,
        device: Device,
        port: PlanPort,
        lookup: Callable[[list[int]], list[PendingRequest]],
        on_batch: Callable[[Batch], None],
        is_swapping: bool = False,
    ) -> None:
        self.gpu = gpu
        self.device = device
        self.busy_ns = 0
        self.gaps = Histogram(GAP_BOUNDS_NS)
        """How long the device was idle between batches, of those where a request of the next waited already."""
        self._idle_since_ns: int | None = None
        """When the last batch ended; None before the first, and after one that failed."""
        self._port = port
        self._lookup = lookup
        self._on_batch = on_batch
        self._models: dict[int, LoadedModel] = {}
        self.swapper: Swapper | None = Swapper(device, port, lambda: self.models) if is_swapping else None
        """Where the device's memory does not hold all models."""
        self._running: list[_Running] = []
        self._flights: queue.SimpleQueue[_Running | None] = queue.SimpleQueue()
        self._strays: list[tuple[Plan, list[PendingRequest]]] = []
        self._is_stopping = False
        self._is_abandoned = False
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._launch_all, name=f"launch-{device.name}", daemon=True)]
        if not device.is_synchronous:
            self._threads.append(
                threading.Thread(target=self._complete_all, name=f"complete-{device.name}", daemon=True)
            )

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        if self.swapper is not None:
            self.swapper.start()

    def place(self, model: int, loaded: LoadedModel) -> None:
        """Make the model runnable here; do this before the scheduler hears that it is resident."""
        self._models[model] = loaded

    def evict(self, model: int) -> None:
        """Let go of the model; no plan for it may be under way."""
        self._models.pop(model, None)

    @property
    def models(self) -> dict[int, LoadedModel]:
        """Return the models placed here, by the scheduler's index."""
        return dict(self._models)

    @property
    def in_flight_count(self) -> int:
        """Return how many batches are launched and have not ended."""
        return len(self._running)

    def overdue(self, now_ns: int) -> bool:
        """Return whether the oldest batch has run longer than its model's limit."""
        with self._lock:
            return self._hangs(now_ns)

    def _hangs(self, now_ns: int) -> bool:
        return bool(self._running) and now_ns - self._running[0].since_ns > self._running[0].limit_ns

    def suspect(self, now_ns: int) -> int | None:
        """Return the model of the oldest batch if that takes far longer than predicted, else None."""
        with self._lock:
            if not self._running:
                return None
            running = self._running[0]
        plan = running.plan
        predicted_ns = plan.finish_at_ns - plan.start_at_ns
        limit_ns = max(SUSPECT_FACTOR * predicted_ns, predicted_ns + SUSPECT_NS)
        return plan.model if now_ns - running.since_ns > limit_ns else None

    def stop(self, timeout_s: float) -> bool:
        """End the threads after what runs has ended; return whether they did.

        What has not ended after `timeout_s` seconds is given up. Blocks for `timeout_s` and `JOIN_S` at most.
        """
        self._is_stopping = True
        self._port.rouse(self.gpu)
        if self.swapper is not None:
            self.swapper.abandon()
        if not self._join(timeout_s):
            with self._lock:
                unfinished = self._give_up()
            self._let_go(unfinished)
            return self._join(JOIN_S)
        return True

    def abandon(self, now_ns: int) -> list[tuple[Plan, list[PendingRequest]]]:
        """Give up the worker if it is overdue; return its unfinished batches, the one that hangs first.

        Empty: what was overdue when the caller looked has ended meanwhile, and the worker goes on. Blocks for `JOIN_S`
        at most.
        """
        with self._lock:
            if not self._hangs(now_ns):
                return []
            unfinished = self._give_up()
        self._let_go(unfinished)
        if not self.device.is_synchronous:  # where it is, the launcher is what hangs
            # The launcher may take one more plan instead of the rouse; it must not take it from its successor.
            self._threads[0].join(JOIN_S)
        return [(running.plan, running.requests) for running in unfinished] + self._strays

    def _give_up(self) -> list[_Running]:
        """Ignore from now on what the threads still say; return what they have not ended. Call with the lock held."""
        self._is_abandoned = True
        unfinished = list(self._running)
        self._running.clear()
        return unfinished

    def _let_go(self, unfinished: list[_Running]) -> None:
        """Wake the threads, as far as what they wait for allows."""
        self._flights.put(None)
        if self.swapper is not None:
            self.swapper.abandon()
        for running in unfinished:
            if running.flight is not None:
                running.flight.abandon()
        self._port.rouse(self.gpu)

    def _join(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        is_swapper_gone = self.swapper is None or self.swapper.join(max(0.0, deadline - time.monotonic()))
        return is_swapper_gone and not any(thread.is_alive() for thread in self._threads)

    # ---- the launcher ------------------------------------------------------------------------------------------

    def _launch_all(self) -> None:
        self.device.enter_thread()
        while not self._is_abandoned:
            plan = self._port.take(self.gpu)
            if plan is not None and plan.is_load:
                assert self.swapper is not None
                self.swapper.submit(plan)
            elif plan is not None:
                self._launch(plan)
            elif self._is_stopping:
                break
        self._flights.put(None)

    def _launch(self, plan: Plan) -> None:
        requests = self._lookup(plan.ids)
        loaded = self._models.get(plan.model)
        now_ns = time.monotonic_ns()
        limit_ns = round(loaded.config.run_timeout_ms * 1e6) if loaded is not None else 0
        running = _Running(plan, requests, now_ns, limit_ns, loaded)
        with self._lock:
            if self._is_abandoned:
                self._strays.append((plan, requests))
                return
            self._running.append(running)
        try:
            if loaded is None:
                raise _AbsentError(f"model {plan.model} left {self.device.name} before its batch began")
            if self.device.is_synchronous:
                self._port.batch_started(plan.plan_id, self.gpu, now_ns)
            flight = loaded.launch([request.inputs for request in requests])
        except BaseException as raised:
            self._end(running, None, _as_error(raised), now_ns)
            return
        running.flight = flight
        if self.device.is_synchronous:
            self._end(running, flight.wait(), None, flight.started_ns)
        else:
            if flight.ends_at_ns is not None:
                running.since_ns = flight.started_ns
                self._port.batch_started(plan.plan_id, self.gpu, flight.started_ns)
            self._flights.put(running)

    # ---- the completer -----------------------------------------------------------------------------------------

    def _complete_all(self) -> None:
        self.device.enter_thread()
        while (running := self._flights.get()) is not None:
            if self._is_abandoned:
                break
            flight = running.flight
            assert flight is not None
            outputs: Tensors | None = None
            error: Exception | None = None
            is_reported = False
            try:
                if flight.ends_at_ns is not None:
                    self._port.wait_and_finish(running.plan.plan_id, self.gpu, flight.ends_at_ns)
                    is_reported = True
                outputs = flight.wait()
            except BaseException as raised:
                error = _as_error(raised)
            self._end(running, outputs, error, flight.started_ns, is_reported)

    def _end(
        self,
        running: _Running,
        outputs: Tensors | None,
        error: Exception | None,
        started_ns: int,
        is_reported: bool = False,
    ) -> None:
        fault = self._examine(error) if error is not None else None
        parts = [_Part(running.requests, outputs, error, fault)]
        if fault in (Fault.BATCH, Fault.MEMORY):
            parts = self._run_again(running, parts[0])
        finished_ns = time.monotonic_ns()
        input_ns, output_ns, infer_ns = 0, 0, None
        if outputs is not None and running.flight is not None:
            # On the device it ended before its outputs were copied back and this thread woke up.
            timing = running.flight.timing
            finished_ns = min(finished_ns, started_ns + timing.duration_ns)
            input_ns, output_ns = timing.input_ns, timing.output_ns
            if self.device.is_synchronous:  # there the copies are part of the duration
                infer_ns = finished_ns - started_ns - input_ns - output_ns
        with self._lock:
            if self._is_abandoned:
                return
            was_oldest = self._running[0] is running
            self._running.remove(running)
            if was_oldest and self._running:
                # The next one on this device begins only now, whenever it was launched. (One that failed at its launch
                # ends before those ahead of it, and says nothing about when they began.)
                self._running[0].since_ns = max(self._running[0].since_ns, finished_ns)
        if not is_reported:
            self._port.batch_finished(running.plan.plan_id, self.gpu, finished_ns)
        if error is None:
            self.busy_ns += finished_ns - started_ns
            self._note_gap(running.requests, started_ns)
        self._idle_since_ns = finished_ns if error is None else None
        limit = len(running.requests) // 2 if fault is Fault.MEMORY else 0
        for place, part in enumerate(parts):
            bad_rows = _bad_rows(running.loaded, part.outputs)
            self._on_batch(
                Batch(
                    running.plan,
                    part.requests,
                    part.outputs,
                    part.error,
                    started_ns,
                    finished_ns,
                    part.fault or fault,
                    bad_rows,
                    place,
                    limit,
                    input_ns,
                    output_ns,
                    infer_ns,
                )
            )

    def _note_gap(self, requests: Sequence[PendingRequest], started_ns: int) -> None:
        since_ns = self._idle_since_ns
        if since_ns is not None and any(request.arrived_ns <= since_ns for request in requests):
            self.gaps.observe(max(0, started_ns - since_ns))

    def _examine(self, error: Exception) -> Fault | None:
        """Return what the error means; None once abandoned, for a device that hangs is not asked."""
        if self._is_abandoned:
            return None
        return Fault.PLACE if isinstance(error, _AbsentError) else self.device.examine(error)

    def _run_again(self, running: _Running, failed: _Part) -> list[_Part]:
        """Return a failed batch's requests in parts that were answered, failed again, or lost their device."""
        count = len(failed.requests)
        if count == 1:
            return [failed]
        if running.loss is not None:
            return [_lost(running.loss, failed.requests)]
        if running.loaded is None or self._is_abandoned or _is_late(failed.requests):
            return [failed]
        parts = []
        for requests in (failed.requests[: count // 2], failed.requests[count // 2 :]):
            if running.loss is not None:
                parts.append(_lost(running.loss, requests))
            elif _is_late(requests):
                parts.append(_Part(requests, None, failed.error, failed.fault))
            else:
                parts.append(self._run_part(running, running.loaded, requests))
        failures = [part for part in parts if part.error is not None]
        is_memory = all(part.fault is Fault.MEMORY for part in failures)
        if len(failures) == len(parts) and not is_memory and running.loss is None:
            return parts
        return [piece for part in parts for piece in (self._run_again(running, part) if part.error else [part])]

    def _run_part(self, running: _Running, loaded: LoadedModel, requests: list[PendingRequest]) -> _Part:
        """Run some of a failed batch's requests; note in `running` when that loses the device."""
        with self._lock:
            running.since_ns = time.monotonic_ns()
        try:
            flight = loaded.launch([request.inputs for request in requests])
            with self._lock:
                running.flight = flight
                if self._is_abandoned:
                    flight.abandon()
            return _Part(requests, flight.wait(), None, None)
        except BaseException as raised:
            error = _as_error(raised)
        fault = self._examine(error)
        if fault is Fault.DEVICE:
            running.loss = error
        return _Part(requests, None, error, fault)


class _AbsentError(DeviceError):
    """Report a batch of a model that is not on the device."""


@dataclass(slots=True)
class _Part:
    """Requests of a batch that ended alike. `fault`: what `error` means, None where there is none."""

    requests: list[PendingRequest]
    outputs: Tensors | None
    error: Exception | None
    fault: Fault | None


def _lost(loss: Exception, requests: list[PendingRequest]) -> _Part:
    """Return requests that can no longer be run on their device."""
    return _Part(requests, None, loss, Fault.DEVICE)


def _as_error(raised: BaseException) -> Exception:
    """Return what a model's code raised as an error of its batch, be it SystemExit: a worker's thread outlives it."""
    return raised if isinstance(raised, Exception) else DeviceError(f"the model's code raised {raised!r}")


def _is_late(requests: Sequence[PendingRequest]) -> bool:
    """Return whether none of the requests can still be good."""
    now_ns = time.monotonic_ns()
    return all(request.deadline_ns <= now_ns for request in requests)


def _bad_rows(loaded: LoadedModel | None, outputs: Tensors | None) -> frozenset[int]:
    """Return the requests of which an output that allows no NaN holds one, or an infinity."""
    if loaded is None or outputs is None:
        return frozenset()
    bad: set[int] = set()
    for spec in loaded.config.outputs:
        if not spec.allow_nan and spec.datatype in FINITE_CHECKS:
            values = FINITE_CHECKS[spec.datatype](outputs[spec.name])
            finite = values.reshape(len(values), -1).all(axis=1)
            bad.update(np.flatnonzero(~finite).tolist())
    return frozenset(bad)


def split_outputs(outputs: Tensors, count: int) -> Sequence[dict[str, Any]]:
    """Return each request's outputs of a batch as views: `count` mappings of name to array without the batch axis."""
    names = list(outputs)
    if len(names) == 1:
        name = names[0]
        return [{name: row} for row in outputs[name][:count]]
    return [{name: outputs[name][i] for name in names} for i in range(count)]
