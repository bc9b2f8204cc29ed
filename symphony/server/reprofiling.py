"""Measure a served model again: on one device, taken out of service for that, while it is served on the others.

No batch is queued on the device while it measures, so nothing but the model's own time is in a sample. A model that
has no other device is refused meanwhile, with the reason and for a short time; what it had accepted waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from symphony.errors import Reason, SymphonyError
from symphony.execution.devices import Device, Fault, Flight, LoadedModel
from symphony.execution.devices.base import Tensors
from symphony.execution.worker import Worker
from symphony.loop import SchedulingLoop
from symphony.metrics import GpuStats
from symphony.profiles import LatencyProfile
from symphony.server.catalog import Catalog
from symphony.server.loading import make_profile, profile_key
from symphony.server.served import ModelEntry
from symphony.units import ms_to_ns

_log = logging.getLogger(__name__)

PAUSED_BUDGET_S = 2.0
"""How long is measured at most while a model is refused for it."""
REST_EVERY_S = 0.002
LOOK_EVERY_S = 0.05
ABANDON_S = 1.0
"""How long a batch that hung may take to notice that it was given up."""


class Reprofiler:
    """Measure models again, one at a time. All methods run on the asyncio thread."""

    def __init__(
        self,
        loop: SchedulingLoop,
        catalog: Catalog,
        workers: Sequence[Worker],
        gpus: Sequence[GpuStats],
        kinds: dict[str, int],
        budget_s: float,
        load_beside: Callable[[ModelEntry, Device], LoadedModel],
        restore: Callable[[int], None],
        lose: Callable[[int, str], None],
    ) -> None:
        """`load_beside` blocks, and brings a model into a device's memory beside the one placed there.

        `restore(gpu)` gives a device batches again unless something else forbids that; `lose` gives up a lost one.
        """
        self.held: set[int] = set()
        """Devices that get no batches because something is measured there."""
        self._loop = loop
        self._catalog = catalog
        self._workers = workers
        self._gpus = gpus
        self._kinds = kinds
        self._budget_s = budget_s
        self._load_beside = load_beside
        self._restore = restore
        self._lose = lose

    async def measure(self, entry: ModelEntry) -> list[dict[str, Any]]:
        """Measure the model on one device of each kind that holds it, and let the scheduler count with the result.

        Return the profiles as JSON values. Raise SymphonyError: `no_gpu` where no device of a kind can be had,
        `worker_failed` where a batch failed or hung; profiles measured before that stay in force.
        """
        found = []
        for key in sorted(entry.profiles):
            profile = await self._measure_on(self._choose(entry, key), entry)
            self._adopt(entry, key, profile)
            found.append(json.loads(profile.to_json()))
        return found

    def _usable(self, index: int) -> list[int]:
        """Return the devices that hold the model and get batches."""
        return [
            worker.gpu
            for worker in self._workers
            if index in worker.models and not self._gpus[worker.gpu].is_quarantined
        ]

    def _choose(self, entry: ModelEntry, key: str) -> int:
        """Return the device of the kind with the highest number: it is the one most likely to be idle."""
        gpus = [gpu for gpu in self._usable(entry.index) if profile_key(self._workers[gpu].device) == key]
        if not gpus:
            raise SymphonyError(
                Reason.NO_GPU,
                f'model "{entry.config.name}": no usable {key} holds it now; try again later',
                model=entry.config.name,
                retry_after_s=1,
            )
        return max(gpus)

    async def _measure_on(self, gpu: int, entry: ModelEntry) -> LatencyProfile:
        """Take the device out of service, measure when it is idle, and give it back whatever happens."""
        paused = [other for other in self._catalog.by_index.values() if self._usable(other.index) == [gpu]]
        budget_s = min(self._budget_s, PAUSED_BUDGET_S) if paused else self._budget_s
        name = self._gpus[gpu].name
        for other in paused:
            other.served.pause = (
                f'{name}, its only device, measures model "{entry.config.name}" for {budget_s:g} s or so'
            )
        self.held.add(gpu)
        self._loop.gpu_drained(gpu)
        try:
            while self._is_busy(gpu, entry.index):
                await asyncio.sleep(REST_EVERY_S)
            return await self._run(self._workers[gpu], entry, budget_s)
        finally:
            for other in paused:
                other.served.pause = ""
            self.held.discard(gpu)
            self._restore(gpu)

    def _is_busy(self, gpu: int, index: int) -> bool:
        """Return whether batches are in flight, or the device has a new worker to which the model comes yet."""
        worker = self._workers[gpu]
        is_renewed = self._gpus[gpu].is_quarantined and index not in worker.models
        return is_renewed or not self._loop.is_at_rest(gpu) or worker.in_flight_count > 0

    async def _run(self, worker: Worker, entry: ModelEntry, budget_s: float) -> LatencyProfile:
        """Measure on the idle device, in a thread of its own: loads of other models need not wait for it."""
        device, config = worker.device, entry.config.network
        placed = worker.models.get(entry.index)
        if placed is None:
            raise self._failed(entry, f"it left {device.name} before it was measured")
        watched = _Watched(placed, ms_to_ns(config.run_timeout_ms))

        def work() -> LatencyProfile:
            device.enter_thread()
            if worker.swapper is not None and placed.swap_bytes:
                watched.model = self._load_beside(entry, device)
            return make_profile(watched, config, entry.folder, device, budget_s, lambda text: None)

        _log.info('model "%s": measuring it again on %s', config.name, device.name)
        measured = asyncio.wrap_future(_in_thread(work, f"profile-{device.name}"))
        while not (await asyncio.wait({measured}, timeout=LOOK_EVERY_S))[0]:
            if watched.is_overdue(time.monotonic_ns()):
                watched.abandon()
                if not (await asyncio.wait({measured}, timeout=ABANDON_S))[0]:
                    # Something still runs there, and nobody can end it.
                    self._gpus[worker.gpu].is_quarantined = True
                    raise self._failed(entry, f"a batch hung on {device.name}, which gets no more batches")
        error = measured.exception()
        if error is None:
            return measured.result()
        if not isinstance(error, Exception):
            raise self._failed(entry, f"its code raised {error!r}")
        if device.examine(error) is Fault.DEVICE:
            self._lose(worker.gpu, f"{device.name} is lost and needs a new process: {error}")
        raise self._failed(entry, f"{type(error).__name__}: {error}") from error

    def _adopt(self, entry: ModelEntry, key: str, profile: LatencyProfile) -> None:
        """Put the profile in the place of the old one; what drift was learned against that is forgotten."""
        if self._catalog.by_index.get(entry.index) is not entry or entry.served.state != "READY":
            raise self._failed(entry, f"it was taken out of service meanwhile: {entry.served.reason}")
        entry.replace_profile(key, profile)
        self._loop.profile_changed(entry.index, self._kinds[key], entry.table_ns(key))
        _log.info('model "%s": has a new profile for %s', entry.config.name, key)
        fault = entry.describe_slo_fault()
        if fault:
            _log.error("%s", fault)

    def _failed(self, entry: ModelEntry, why: str) -> SymphonyError:
        name = entry.config.name
        return SymphonyError(Reason.WORKER_FAILED, f'model "{name}" was not measured again: {why}', model=name)


class _Watched:
    """A loaded model whose current batch can be seen, and given up."""

    def __init__(self, model: LoadedModel, limit_ns: int) -> None:
        self.model = model
        self._limit_ns = limit_ns
        self._since_ns: int | None = None
        """When the current batch began; None before the first."""
        self._flight: Flight | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def launch(self, inputs: Sequence[Tensors]) -> Flight:
        self._since_ns = time.monotonic_ns()
        self._flight = self.model.launch(inputs)
        return self._flight

    def is_overdue(self, now_ns: int) -> bool:
        """Return whether the current batch has run longer than it may."""
        return self._since_ns is not None and now_ns - self._since_ns > self._limit_ns

    def abandon(self) -> None:
        if self._flight is not None:
            self._flight.abandon()


def _in_thread(work: Callable[[], LatencyProfile], name: str) -> Future[LatencyProfile]:
    """Run `work` in a daemon thread: a batch that hangs in it must not keep the process from ending."""
    future: Future[LatencyProfile] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
