"""Be one node: accept requests, let the loop schedule them, let workers run them, answer each exactly once.

The composition root: the only place that knows the loop, the workers, the repository and the ingress's `Service`
at once. Everything here runs on the asyncio thread unless it says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from symphony.config import ModelConfig, NodeConfig
from symphony.config.lengths import LengthError
from symphony.dashboard import BatchRing, Journal
from symphony.driver.requests import PendingRequest
from symphony.driver.table import RequestTable
from symphony.errors import ConfigError, Reason, SymphonyError
from symphony.execution.devices import Device, DeviceLostError, LoadedModel, make_devices
from symphony.execution.processing import ProcessingPool
from symphony.execution.repository import Repository
from symphony.execution.staging import Stager, make_ring
from symphony.execution.worker import Batch, Plan, Worker
from symphony.ingress.arrival_clock import ArrivalClock
from symphony.ingress.service import Health, not_ready
from symphony.loop import SchedulingLoop
from symphony.metrics import GpuStats, HistogramSnapshot, ModelRow, NodeStats, make_registry, render
from symphony.profiles import staggered_bound
from symphony.server.answers import Answers, forget
from symphony.server.build import build_info
from symphony.server.catalog import MODEL_COUNT_MAX, Catalog
from symphony.server.door import Doors
from symphony.server.drift import SlowDevices
from symphony.server.holding import Holds
from symphony.server.lanes import Lane, Lanes
from symphony.server.loading import load_model, profile_key
from symphony.server.processor import Processor
from symphony.server.recorded import workload_text, write_new
from symphony.server.recorder import Recorder
from symphony.server.reprofiling import Reprofiler
from symphony.server.served import ModelEntry
from symphony.server.watching import RepositoryWatch
from symphony.units import BYTES_PER_MB, NS_PER_S, ms_to_ns, us_to_ns

_log = logging.getLogger(__name__)

WATCH_EVERY_S = 0.05
"""How often doors, processing and slow devices are looked after."""
HANG_EVERY_S = 0.01
HANG_EVERY_NS = round(HANG_EVERY_S * NS_PER_S)
"""How often batches are looked for that hang: what a hang costs the others beyond its model's limit."""
MB = 1_000_000
HANG_COUNT_MAX = 3
"""After so many hung batches a model is taken out of service."""
STOP_TIMEOUT_S = 5.0
LATENESS_BOUNDS_S = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1)


class Node:
    """Serve a repository of models on this machine's devices. Implements `symphony.ingress.Service`."""

    def __init__(self, config: NodeConfig, on_fatal: Callable[[BaseException], None]) -> None:
        """Make the devices; raise ConfigError when one does not exist, or arrivals cannot be recorded.

        `on_fatal` hears of a broken invariant.
        """
        self.config = config
        self.build = build_info(config.policy)
        self.name = "symphony"
        self.version = self.build.version
        self._on_fatal = on_fatal
        self._devices = make_devices(config.devices, config.cpu_thread_count, config.device_memory_mb > 0)
        self._kinds: dict[str, int] = {}
        for device in self._devices:
            self._kinds.setdefault(profile_key(device), len(self._kinds))
        self.stats = NodeStats(self.build, [GpuStats(device.name) for device in self._devices])
        self._table = RequestTable(config.request_count_max)
        self.loop = SchedulingLoop(
            policy=config.policy,
            request_count_max=config.request_count_max,
            model_count_max=MODEL_COUNT_MAX,
            gpu_count_max=len(self._devices),
            control_ns=us_to_ns(config.control_us),
            lead_ns=us_to_ns(config.lead_us),
            window_ns=us_to_ns(config.window_us),
            spin_ns=us_to_ns(config.spin_us),
        )
        self._repository = Repository(config.repository)
        self._catalog = Catalog()
        self._workers: list[Worker] = []
        self._stager = Stager()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._changes = asyncio.Lock()
        self._registry = make_registry(self)
        self._retirements: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._is_started = False
        self._is_stopped = False
        self._is_ring_due = False
        self._ring_arrived_ns = 0
        self._doors = Doors()
        self.arrival_clock = ArrivalClock()
        """When what is being read arrived: the deadline of a request counts from there."""
        self._slow_devices = SlowDevices(self.stats.gpus)
        self.timeline = BatchRing()
        """The batches that ended last, for those who watch."""
        self.journal = Journal()
        """What happened to models and GPUs, for those who watch."""
        self._answers = Answers(
            self._table,
            self.loop,
            self._catalog,
            self._devices,
            self._kinds,
            self._slow_devices,
            self.arrival_clock,
            self._queue,
            self._lose,
            self.stats,
            self.timeline,
        )
        self._holds = Holds(self.loop, self._catalog, self._workers)
        self._reprofiler = Reprofiler(
            self.loop,
            self._catalog,
            self._workers,
            self.stats.gpus,
            self._kinds,
            config.profile_budget_s,
            self._load_beside,
            self._restore,
            self._lose,
        )
        self._profiling: asyncio.Task[list[dict[str, Any]]] | None = None
        self._thread = threading.Thread(target=self._run_loop, name="schedule", daemon=True)
        self._watch: asyncio.Task[None] | None = None
        self._polling: asyncio.Task[None] | None = None
        self._recorder = Recorder(config.record, config.record_mb_max * MB) if config.record is not None else None
        self._recording: asyncio.Task[None] | None = None

    # ---- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the scheduling thread and the workers, then load every model of the repository.

        A model that cannot be loaded is UNAVAILABLE with its reason; the others are served.
        """
        self._asyncio = asyncio.get_running_loop()
        self._asyncio.add_reader(self.loop.outcome_fd, self._answers.take_outcomes)
        self._thread.start()
        self._stager.start()
        for gpu, device in enumerate(self._devices):
            self._workers.append(self._make_worker(gpu, device))
            self._join_pool(gpu, device)
        self._watch = asyncio.create_task(self._watch_workers())
        if self._recorder is not None:
            self._recording = asyncio.create_task(self._recorder.run())
        if self.config.poll_s > 0:
            watch = await asyncio.to_thread(RepositoryWatch, self._repository)
            self._polling = asyncio.create_task(self._poll(watch))
        for found in await asyncio.to_thread(self._repository.scan):
            if isinstance(found[1], ConfigError):
                _log.error("%s", found[1])
                continue
            await self._load(*found)
        self._is_started = True

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait until the accepted ones have ended; return whether all did in time."""
        self._is_draining = True
        self.journal.note("node", "draining: new requests are refused")
        deadline = time.monotonic() + timeout_s
        while len(self._table) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return len(self._table) == 0

    async def stop(self) -> None:
        """End the threads; requests still inside fail, and say that the node stopped."""
        self._is_stopped = self._answers.is_stopped = True
        for task in (self._watch, self._polling, self._recording, self._profiling):
            if task is not None:
                task.cancel()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._asyncio.remove_reader(self.loop.outcome_fd)
        self._is_draining = True
        self._answers.fail_all("the node stopped before the batch ended")
        for entry in self._catalog:
            if entry.processor is not None:
                entry.processor.close()
        if self._recorder is not None:
            await self._end_recording(self._recorder)
        self.loop.stop()
        ended = await asyncio.to_thread(self._join)
        if ended:
            self.loop.close()

    async def _end_recording(self, recorder: Recorder) -> None:
        """Close the recording, and lay beside it what simulating it needs: models with their profiles, and devices."""
        await recorder.close()
        keys = [profile_key(device) for device in self._devices]
        text = workload_text(self._catalog, keys, recorder.file.name, recorder.duration_s, self.config.policy)
        try:
            if text:
                await asyncio.to_thread(write_new, recorder.file.with_suffix(".toml"), text)
        except OSError as error:
            _log.error("cannot describe the recording %s: %s", recorder.file, error.strerror or error)

    def _join(self) -> bool:
        deadline = time.monotonic() + STOP_TIMEOUT_S  # for all together: several may hang
        ended = [worker.stop(max(0.0, deadline - time.monotonic())) for worker in self._workers]
        ended.append(self._stager.stop(STOP_TIMEOUT_S))
        self._thread.join(STOP_TIMEOUT_S)
        return all(ended) and not self._thread.is_alive()

    def _run_loop(self) -> None:
        """Run the scheduling thread's body; a broken invariant ends the process."""
        try:
            self.loop.run()
        except BaseException as error:
            self._asyncio.call_soon_threadsafe(self._on_fatal, error)

    def _is_swapping(self, device: Device) -> bool:
        """Return whether the device's memory is shared by demand."""
        return self.config.device_memory_mb > 0 and device.kind != "cpu"

    def _join_pool(self, gpu: int, device: Device) -> None:
        """Let the scheduler use the device."""
        self.loop.gpu_joined(gpu, self._kinds[profile_key(device)])
        if self._is_swapping(device):
            self.loop.memory_declared(gpu, round(self.config.device_memory_mb * BYTES_PER_MB))

    def _make_worker(self, gpu: int, device: Device) -> Worker:
        worker = Worker(
            gpu, device, self.loop, self._table.lookup, self._batch_ended, is_swapping=self._is_swapping(device)
        )
        worker.start()
        return worker

    # ---- Service -----------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Return live always; ready once all models of the repository were tried and until draining."""
        if self._is_draining:
            return Health(True, False, "draining")
        if not self._is_started:
            return Health(True, False, "loading models")
        return Health(True, True, "")

    def models(self) -> Sequence[ModelEntry]:
        """Return every model known, in any state, by name and version."""
        return list(self._catalog)

    def find(self, name: str, version: str | None) -> ModelEntry:
        """Return the model's version (the latest loaded one when None); raise SymphonyError `unknown_model`."""
        return self._catalog.find(name, version)

    def submit(self, request: PendingRequest) -> None:
        """Accept the request or raise SymphonyError; see `symphony.ingress.Service`."""
        if self._is_draining:
            raise SymphonyError(Reason.DRAINING, "the node is shutting down; use another node", retry_after_s=1)
        entry = self._catalog.by_index.get(request.model)
        if entry is None:
            raise SymphonyError(Reason.NOT_READY, "the model is not loaded; load it first", retry_after_s=1)
        if self._recorder is not None:
            slo_ns = request.deadline_ns - request.arrived_ns
            self._recorder.arrived(entry.config.name, request.arrived_ns, 0 if slo_ns == entry.slo_ns else slo_ns)
        entry.check_admission(request.deadline_ns, time.monotonic_ns())
        if self._table.acquire(request) < 0:
            raise SymphonyError(
                Reason.QUEUE_FULL,
                f"the node holds {self._table.capacity} requests, its request_count_max; try again later",
                model=entry.config.name,
                retry_after_s=entry.retry_after_s(),
            )
        entry.held_count += 1
        entry.door.accepted_count += 1
        entry.stats.request_accepted()
        if entry.processor is not None and "preprocess" in entry.processor.steps:
            entry.processor.begin(
                request, "preprocess", request.inputs, partial(self._answers.preprocessed, entry, request)
            )
        else:
            self._queue(entry, request)

    def _queue(self, entry: ModelEntry, request: PendingRequest) -> None:
        """Hand an accepted request to the scheduling loop."""
        if entry.lanes is not None:
            try:
                entry = entry.lanes.choose(request)
            except LengthError as error:
                self._answers.refuse(entry, request, str(error))
                return
            request.model = entry.index
        request.is_queued = True
        if entry.ring is not None:
            self._stager.submit(entry.ring, request)
        self.loop.queue_arrival(request.id, request.model, request.deadline_ns, request.priority)
        if not self._is_ring_due:
            # Once for all that this turn of the event loop reads: waking a thread costs more than scheduling a request.
            self._is_ring_due = True
            # Preprocessing takes its time on purpose; what arrived and was read in this turn tells of the loop.
            self._ring_arrived_ns = request.arrived_ns if entry.processor is None else 0
            self._asyncio.call_soon(self._ring)

    def _ring(self) -> None:
        self._is_ring_due = False
        if not self._is_stopped:
            self.loop.ring()
            if self._ring_arrived_ns:
                self.stats.ingress_lag.observe(time.monotonic_ns() - self._ring_arrived_ns)

    def cancel(self, request: PendingRequest) -> None:
        """Forget a submitted request; its slot comes back with its batch or from the loop."""
        if request.id < 0 or request.on_done is forget:
            return
        request.on_done = forget
        self._catalog.by_index[request.model].stats.request_cancelled()
        if request.is_queued:
            self.loop.request_cancelled(request.id)

    async def load(self, name: str) -> None:
        """Load (again) every version of `name` in the repository; the old one serves until the new one is ready."""
        scanned = await asyncio.to_thread(self._repository.scan)
        found = [item for item in scanned if not isinstance(item[1], ConfigError) and item[0].name == name]
        if not found:
            faults = [str(item[1]) for item in scanned if isinstance(item[1], ConfigError)]
            hint = f" (faulty: {'; '.join(faults)})" if faults else ""
            raise SymphonyError(
                Reason.UNKNOWN_MODEL,
                f'the repository {self.config.repository} holds no model "{name}"{hint}',
                model=name,
            )
        for config, folder in found:
            entry = await self._load(config, folder)
            if entry.state != "READY":
                raise SymphonyError(Reason.BAD_INPUT, entry.reason, model=name)

    async def unload(self, name: str) -> None:
        """Stop serving all versions of `name`; return when their accepted requests have ended."""
        entries = self._catalog.of_name(name) or [self._catalog.find(name, None)]
        async with self._changes:
            for entry in entries:
                await self._retire(entry, "unloaded")

    async def profile(self, name: str) -> list[dict[str, Any]]:
        """Measure every ready version of `name` again; return the new profiles. One model is measured at a time."""
        entries = [entry for entry in self._catalog.of_name(name) if entry.state == "READY"]
        if not entries:
            raise not_ready(self._catalog.find(name, None))
        if self._profiling is not None and not self._profiling.done():
            raise SymphonyError(
                Reason.QUEUE_FULL,
                "a model is being measured already; try again when it was",
                model=name,
                retry_after_s=1,
            )
        self._profiling = asyncio.create_task(self._profile(entries))
        # A client that goes away must not leave a device half measured.
        return await asyncio.shield(self._profiling)

    async def _profile(self, entries: list[ModelEntry]) -> list[dict[str, Any]]:
        async with self._changes:
            scheduled = [one for entry in entries for one in entry.scheduled]
            return [profile for one in scheduled for profile in await self._reprofiler.measure(one)]

    def metrics_text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as Prometheus text. Called from another thread; only reads."""
        return render(self._registry, accept)

    def model_rows(self) -> list[ModelRow]:
        """Return every model's counters, for the metrics."""
        rows = []
        for key, entry in sorted(self._catalog.entries.copy().items()):
            if entry.state == "READY":
                entry.stats.queued = sum(self.loop.queued_count_of(one.index) for one in entry.scheduled)
            rows.append(ModelRow(*key, entry.stats))
        return rows

    def node_stats(self) -> NodeStats:
        """Return the node's gauges, brought up to date, for the metrics."""
        for gpu, worker in zip(self.stats.gpus, self._workers, strict=False):
            gpu.busy_ns = worker.busy_ns
            gpu.gaps = worker.gaps.snapshot()
            gpu.is_in_use = worker.in_flight_count > 0
            held = worker.models
            if worker.swapper is not None:
                held = {index: held[index] for index in tuple(worker.swapper.resident) if index in held}
            gpu.model_count = len(held)
            gpu.model_bytes = sum(model.memory_bytes for model in held.values())
            gpu.load_count = 0 if worker.swapper is None else worker.swapper.load_count
        self.stats.gpus_needed = self.loop.gpus_asked
        self.stats.loop_lateness = lateness_snapshot(self.loop)
        return self.stats

    def growth(self, model: tuple[str, str], gpu: int, size: int) -> float:
        """Return l(size + 1) / l(size) of the model on the GPU as profiled; 1.0 when not known or none is larger."""
        entry = self._catalog.entries.get(model)
        key = profile_key(self._devices[gpu])
        if entry is None or key not in entry.profiles or size >= entry.config.batch_size_max:
            return 1.0
        return entry.profiled_ns(key, size + 1) / entry.profiled_ns(key, size)

    # ---- models ------------------------------------------------------------------------------------------------

    async def _load(self, config: ModelConfig, folder: Path) -> ModelEntry:
        async with self._changes:
            key = (config.name, config.version)
            old = self._catalog.entries.get(key)
            if self._catalog.free_count <= len(config.length_buckets):
                raise SymphonyError(
                    Reason.QUEUE_FULL, f"the node holds {MODEL_COUNT_MAX} models already; unload one", model=config.name
                )
            entry = ModelEntry(config, folder, self._catalog.take_index(), ms_to_ns(self.config.reply_margin_ms))
            entry.recorder = self._recorder
            is_serving = old is not None and old.state == "READY"
            devices = list(self._devices)
            if not is_serving:
                self._catalog.publish(entry)
            network = config.network
            if network.length_buckets:
                margin_ns = ms_to_ns(self.config.reply_margin_ms)
                lanes = [
                    Lane(entry, network.at_length(length), self._catalog.take_index(), margin_ns)
                    for length in network.length_buckets
                ]
                entry.lanes = Lanes(network, lanes)
            try:
                loaded, pool = await self._asyncio.run_in_executor(self._loader, self._load_blocking, entry)
                if pool is not None:
                    entry.processor = Processor(pool, config.run_timeout_ms)
                fault = entry.scheduled[0].describe_slo_fault()
                if fault:
                    raise ConfigError(fault)
                await self._follow_devices(entry, loaded, devices)
            except Exception as error:
                entry.state, entry.reason = "UNAVAILABLE", str(error) or type(error).__name__
                for one in {*entry.scheduled, entry}:
                    self._catalog.give_back_index(one)
                if entry.processor is not None:
                    entry.processor.close()
                _log.error('model "%s" version %s cannot be served: %s', config.name, config.version, entry.reason)
                self.journal.note("model", f"cannot be served: {entry.reason}", entry.key)
                return entry
            self._serve(entry, loaded)
            if is_serving and old is not None:
                self._catalog.publish(entry)
                await self._retire(old, "replaced by a newer load")
            _log.info('model "%s" version %s is ready', config.name, config.version)
            self.journal.note("model", "ready", entry.key)
            return entry

    async def _poll(self, watch: RepositoryWatch) -> None:
        """Follow the changes of the repository's folder: load what came or changed, unload what went."""
        while True:
            await asyncio.sleep(self.config.poll_s)
            served = {key: entry.folder for key, entry in self._catalog.entries.items() if entry.state == "READY"}
            try:
                changes = await asyncio.to_thread(watch.look, served)
            except ConfigError as error:
                _log.error("%s; what is loaded is served on", error)
                continue
            for fault in changes.faults:
                _log.error("%s; what is loaded is served on", fault)
            for config, folder in changes.to_load:
                try:
                    await self._load(config, folder)
                except SymphonyError as error:
                    _log.error('model "%s" version %s cannot be loaded: %s', config.name, config.version, error)
            for key in changes.to_unload:
                async with self._changes:
                    entry = self._catalog.entries.get(key)
                    if entry is not None and entry.state == "READY":
                        _log.info('model "%s" version %s left the repository', *key)
                        await self._retire(entry, "it left the repository")

    def _load_blocking(self, entry: ModelEntry) -> tuple[dict[int, dict[str, LoadedModel]], ProcessingPool | None]:
        """Load on every device that the model may use, and its processing. Runs in the loader thread.

        Return what is loaded by index and device; each lane of a model whose requests vary in length has its own, of
        the same weights.
        """
        config = entry.config.network
        devices = [device for device in self._devices if device.kind in config.device_kinds]
        if not devices:
            raise ConfigError(
                f'model "{config.name}" may run on {", ".join(config.device_kinds)}, but this node has '
                f"{', '.join(sorted({device.kind for device in self._devices}))}; change devices in model.toml or "
                "start the node with --devices"
            )

        def progress(text: str) -> None:
            entry.reason = text
            _log.info('model "%s": %s', config.name, text)

        scheduled = entry.scheduled
        budget_s = self.config.profile_budget_s / len(scheduled)
        found: dict[int, dict[str, LoadedModel]] = {}
        like: dict[str, LoadedModel] | None = None
        # The longest first: it is the one that may not fit.
        for one in reversed(scheduled):
            loaded, one.profiles = load_model(one.config.network, entry.folder, devices, budget_s, progress, like)
            found[one.index] = like = loaded
        budget = round(self.config.device_memory_mb * BYTES_PER_MB)
        for device in filter(self._is_swapping, devices):
            model = found[scheduled[0].index][device.name]
            if entry.lanes is not None:
                _log.warning('model "%s" varies in length: it stays in the memory of %s', config.name, device.name)
                continue
            if model.swap_bytes > budget:
                raise ConfigError(
                    f'model "{config.name}" takes {model.swap_bytes / BYTES_PER_MB:.0f} MB of {device.name}, '
                    f"device_memory_mb is {self.config.device_memory_mb:g}; raise it, or leave the model out"
                )
            if model.swap_bytes:
                model.evict()
            else:
                _log.warning('model "%s" cannot leave the memory of %s: it stays there', config.name, device.name)
        if any(device.kind == "cuda" for device in devices):
            for one in scheduled:
                one.ring = make_ring(one.config.network)
        pool = ProcessingPool(entry.config, entry.folder) if entry.config.processing is not None else None
        return found, pool

    async def _follow_devices(
        self, entry: ModelEntry, loaded: dict[int, dict[str, LoadedModel]], devices: list[Device]
    ) -> None:
        """Load again what was loaded on a device that was renewed meanwhile, because another model hung on it."""
        while devices != self._devices:
            held = loaded[entry.scheduled[0].index]
            renewed = [device for device in self._devices if device not in devices and device.name in held]
            devices = list(self._devices)
            for device in renewed:
                like: LoadedModel | None = None
                for one in entry.scheduled:
                    like = loaded[one.index][device.name] = await self._asyncio.run_in_executor(
                        self._loader, self._load_again, one, device, like
                    )

    def _serve(self, entry: ModelEntry, loaded: dict[int, dict[str, LoadedModel]]) -> None:
        """Tell the loop and the workers of a loaded model; requests are taken from now on."""
        for one in entry.scheduled:
            self._schedule(one, loaded[one.index])
        entry.alone_ns = min(one.alone_ns for one in entry.scheduled)
        entry.control_ns = us_to_ns(self.config.control_us)
        # Which lengths will be asked for is not known: as if each were as often.
        entry.capacity_known(fmean(one.capacity_per_s for one in entry.scheduled))
        entry.state, entry.reason = "READY", ""
        self._catalog.publish(entry)

    def _schedule(self, entry: ModelEntry, loaded: dict[str, LoadedModel]) -> None:
        """Make the model, or a lane of one, known to the loop and the workers."""
        config, index = entry.config, entry.index
        self._catalog.by_index[index] = entry
        tables = {key: entry.table_ns(key) for key in entry.profiles}
        jitter_ns = max(profile.jitter_ns() for profile in entry.profiles.values())
        entry.margin.margin_ns = min(entry.margin.ceiling_ns, entry.margin.floor_ns + jitter_ns)
        if entry.served.processor is not None and "postprocess" in entry.served.processor.steps:
            # What that takes is learned from the first batches; until then as much is left as may be.
            entry.margin.margin_ns = entry.margin.ceiling_ns
        entry.alone_ns = min(table[0] for table in tables.values())
        entry.control_ns = us_to_ns(self.config.control_us)
        counts = Counter(profile_key(worker.device) for worker in self._workers if worker.device.name in loaded)
        entry.capacity_known(sum(capacity_per_s(tables[key], entry.slo_ns, count) for key, count in counts.items()))
        self.loop.model_added(
            index,
            entry.slo_ns,
            config.batch_size_max,
            entry.margin.margin_ns,
            ms_to_ns(self.config.timeout_delay_ms),
            min(config.batch_size_max, self.config.timeout_batch_size or config.batch_size_max),
        )
        for key, table in tables.items():
            self.loop.profile_changed(index, self._kinds[key], table)
        for worker in self._workers:
            model = loaded.get(worker.device.name)
            if model is not None:
                worker.place(index, model)
                if worker.swapper is not None and model.swap_bytes and entry.served is entry:
                    kind = self._kinds[profile_key(worker.device)]
                    self.loop.footprint_declared(index, kind, model.swap_bytes, model.swap_ns)
                else:
                    self.loop.model_placed(index, worker.gpu)

    async def _retire(self, entry: ModelEntry, reason: str) -> None:
        """Take a model out of service once its accepted requests have ended."""
        was_ready = entry.state == "READY"
        entry.state, entry.reason = "UNAVAILABLE", reason
        self._catalog.choose_latest(entry.config.name)
        if not was_ready:
            return
        self.journal.note("model", f"out of service: {reason}", entry.key)
        # Cancelled requests are no longer in flight, but their batch may be.
        while entry.held_count:
            await asyncio.sleep(0.005)
        for one in entry.scheduled:
            self.loop.model_removed(one.index)
            for worker in self._workers:
                worker.evict(one.index)
            one.ring = None
        for one in {*entry.scheduled, entry}:
            self._catalog.give_back_index(one)
        if entry.processor is not None:
            entry.processor.close()
            entry.processor = None

    def _batch_ended(self, batch: Batch) -> None:
        """Hand a batch over to the asyncio thread: one wake-up per batch. Called by workers."""
        self._asyncio.call_soon_threadsafe(self._answers.answer, batch)

    # ---- devices -----------------------------------------------------------------------------------------------

    async def _watch_workers(self) -> None:
        """Replace workers whose batch runs past its model's limit; look after the doors."""
        watch_at_ns = 0
        try:
            while True:
                due_ns = time.monotonic_ns() + HANG_EVERY_NS
                await asyncio.sleep(HANG_EVERY_S)
                # uvloop's timers may be early, too.
                self.stats.event_loop_delay.observe(max(0, time.monotonic_ns() - due_ns))
                now_ns = time.monotonic_ns()
                for worker in list(self._workers):
                    if worker.overdue(now_ns):
                        await self._replace(worker, now_ns)
                now_ns = time.monotonic_ns()
                self._holds.look(now_ns)
                if now_ns < watch_at_ns:
                    continue
                watch_at_ns = now_ns + round(WATCH_EVERY_S * NS_PER_S)
                for gpu in self._slow_devices.look():
                    self.loop.gpu_drained(gpu)
                    self.journal.note("gpu", "quarantined: too slow, it gets no more batches", gpu=gpu)
                doors = list({entry.door for entry in self._catalog.by_index.values()})
                self._doors.look(doors, self.loop.gpus_asked, sum(not gpu.is_quarantined for gpu in self.stats.gpus))
                for entry in list(self._catalog.by_index.values()):
                    if entry.served is entry:
                        entry.looked(WATCH_EVERY_S)
                    if entry.processor is not None:
                        entry.processor.look(now_ns)
        except Exception as error:
            # Without the watch a hanging batch would hold its device for ever.
            self._on_fatal(error)

    async def _replace(self, worker: Worker, now_ns: int) -> None:
        """Fail the batch that hangs, give its device a new worker, schedule anew what had not started."""
        gpu = worker.gpu
        # A device that gets no batches for another reason, being too slow or lost, gets none afterwards either.
        was_quarantined = self.stats.gpus[gpu].is_quarantined
        self.loop.gpu_drained(gpu)
        self.stats.gpus[gpu].is_quarantined = True
        unfinished = await asyncio.to_thread(worker.abandon, now_ns)
        if unfinished:
            await self._succeed(worker, unfinished)
        if not was_quarantined:
            self.stats.gpus[gpu].is_quarantined = False
            self._restore(gpu)

    def _restore(self, gpu: int) -> None:
        """Let a device have batches again, unless another reason forbids it."""
        if not self.stats.gpus[gpu].is_quarantined and gpu not in self._reprofiler.held:
            self.loop.gpu_restored(gpu)

    async def _succeed(self, worker: Worker, unfinished: list[tuple[Plan, list[PendingRequest]]]) -> None:
        """Put a new worker in the place of an abandoned one, which left these batches, the one that hangs first."""
        gpu = worker.gpu
        device = worker.device.renew()
        self._devices[gpu] = device
        successor = self._make_worker(gpu, device)
        successor.busy_ns, successor.gaps = worker.busy_ns, worker.gaps
        self._workers[gpu] = successor
        now_ns = time.monotonic_ns()
        for position, (plan, requests) in enumerate(unfinished):
            self.loop.batch_finished(plan.plan_id, gpu, now_ns)
            entry = self._catalog.by_index[plan.model]
            if position > 0:
                self._answers.schedule_again(entry, requests)
                continue
            entry.stats.batch_failed()
            limit_ms = entry.config.run_timeout_ms
            self._answers.fail(entry, requests, f"it ran longer than run_timeout_ms = {limit_ms:g} ms on {device.name}")
            _log.error('model "%s" hung on %s; the device has a new worker', entry.config.name, device.name)
            self.journal.note("gpu", "quarantined while it got a new worker: a batch hung", entry.served.key, gpu)
            self._holds.hung(entry)
            self._note_hang(entry.served)
        fresh: dict[ModelEntry, LoadedModel] = {}
        for index in worker.models:
            await self._place_again(index, successor, fresh)
        if self._is_swapping(device):
            # The new one holds nothing yet; what is asked for is loaded, once batches may go there.
            self.loop.gpu_left(gpu)
            self._join_pool(gpu, device)
            self.loop.gpu_drained(gpu)

    def _lose(self, gpu: int, why: str) -> None:
        """Give up a device on which nothing runs any more; the process ends once the others have done their work."""
        _log.critical("%s", why)
        self.journal.note("gpu", f"lost: {why}", gpu=gpu)
        self.stats.gpus[gpu].is_quarantined = True
        self.loop.gpu_drained(gpu)
        self._holds.lose(gpu)
        for index in self._workers[gpu].models:
            self.loop.model_evicted(index, gpu)
        self._on_fatal(DeviceLostError(why))

    async def _place_again(self, index: int, worker: Worker, done: dict[ModelEntry, LoadedModel]) -> None:
        """Load a model that was resident on a device onto the device's new worker.

        `done`: what was loaded there so far, by the model that clients know; its other lanes share the weights.
        """
        entry = self._catalog.by_index.get(index)
        if entry is None or entry.served.state != "READY":
            return
        try:
            fresh = await self._asyncio.run_in_executor(
                self._loader, self._load_again, entry, worker.device, done.get(entry.served)
            )
            done[entry.served] = fresh
        except Exception as error:
            _log.error('model "%s" cannot be loaded on %s again: %s', entry.config.name, worker.device.name, error)
            self.loop.model_evicted(index, worker.gpu)
            return
        if self._catalog.by_index.get(index) is entry:
            worker.place(index, fresh)

    def _load_again(self, entry: ModelEntry, device: Device, like: LoadedModel | None) -> LoadedModel:
        """Load a model as it was on the device before. Runs in the loader thread."""
        device.enter_thread()
        network = entry.config.network
        fresh = device.load(network, entry.folder) if like is None else like.variant(network)
        fresh.prepare(entry.profiles[profile_key(device)].buckets)
        if self._is_swapping(device) and entry.served is entry:
            fresh.evict()
        return fresh

    def _load_beside(self, entry: ModelEntry, device: Device) -> LoadedModel:
        """Load a model into the memory of a device where it comes and goes. Blocks."""
        fresh = self._load_again(entry, device, None)
        fresh.restore()
        return fresh

    def _note_hang(self, entry: ModelEntry) -> None:
        entry.hang_count += 1
        count = entry.hang_count
        if count >= HANG_COUNT_MAX and entry.state == "READY":
            _log.error('model "%s" hung %d times and is taken out of service', entry.config.name, count)
            task = asyncio.create_task(self._retire(entry, f"hung {count} times; see the log, then load it again"))
            self._retirements.add(task)
            task.add_done_callback(self._retirements.discard)


def capacity_per_s(table_ns: Sequence[int], slo_ns: int, gpu_count: int) -> float:
    """Return how many requests per second so many GPUs answer in time, if they have nothing else to do."""
    return staggered_bound(table_ns, slo_ns, gpu_count)[1] or gpu_count * NS_PER_S / table_ns[0]


def lateness_snapshot(loop: SchedulingLoop) -> HistogramSnapshot:
    """Return the scheduling loop's lateness (decision done minus decision due) in seconds."""
    counts, total_ns = loop.lateness_counts()
    buckets = [0] * (len(LATENESS_BOUNDS_S) + 1)
    for upper_ns, count in counts:
        buckets[bisect_left(LATENESS_BOUNDS_S, (upper_ns - 1) / NS_PER_S)] += count
    return HistogramSnapshot(LATENESS_BOUNDS_S, tuple(buckets), total_ns / NS_PER_S)
