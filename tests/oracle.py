"""Decide what docs/core.md says, slowly: the twin that `symphony.core.Scheduler` is compared with.

Everything is worked out anew from its definition whenever it is asked for: queues are sorted, GPUs and batch sizes are
walked through one by one. Nothing is cached and nothing is clever, so that a reader can hold this file beside
the contract. Float operations happen in the contract's order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from symphony.core.events import (
    KIND_COUNT_MAX,
    PRIORITY_HIGHEST,
    PRIORITY_LOWEST,
    BatchFinished,
    BatchStarted,
    Decision,
    Dispatch,
    Drop,
    Event,
    GpuDrained,
    GpuJoined,
    GpuLeft,
    GpuRestored,
    MarginChanged,
    ModelAdded,
    ModelEvicted,
    ModelPlaced,
    ModelRemoved,
    ProfileChanged,
    RequestArrived,
    RequestCancelled,
)

NEVER = 2**63 - 1
POLICIES = ("deferred", "eager", "timeout")
EPOCHS_REMEMBERED = 8
"""After more boundaries than this without a step, all rates are 0."""


@dataclass
class Request:
    id: int
    model: int
    deadline_ns: int
    priority: int
    sequence: int
    """How many requests arrived before it."""
    arrived_ns: int
    """The `now` of the step that brought it."""

    @property
    def order(self) -> tuple[int, int, int]:
        return self.priority, self.deadline_ns, self.sequence


@dataclass
class Model:
    slo_ns: int
    batch_size_max: int
    margin_ns: int
    delay_ns: int
    batch_size_preferred: int
    profiles: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """By kind; element b - 1 is l(b)."""
    share: float = 0.0
    rate: float = 0.0
    count: int = 0
    drop_rate: float = 0.0
    drop_count: int = 0
    neglected: bool = False


@dataclass
class Batch:
    plan_id: int
    start_ns: int
    """Planned."""
    duration_ns: int
    """l(b) when it was dispatched."""
    started_ns: int | None = None
    """Measured."""


@dataclass
class Gpu:
    kind: int
    drained: bool = False
    models: set[int] = field(default_factory=set)
    batches: list[Batch] = field(default_factory=list)
    """In flight, oldest first, at most two."""
    free_at_ns: int = 0


@dataclass
class Candidate:
    urgency: int
    model: int
    kind: int
    schedulable: bool
    """It may start on any GPU."""
    confined: bool
    """It may start on the active set."""
    next_ns: int
    """When it may start in more places, if it is not schedulable."""

    @property
    def order(self) -> tuple[int, int, int]:
        return self.urgency, self.model, self.kind


def need(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def need_between(name: str, value: int, low: int, high: int) -> None:
    """Raise ValueError unless low <= value <= high."""
    need(low <= value <= high, f"{name} is {value}, must be {low} to {high}")


class OracleScheduler:
    """Take the same arguments and steps as `symphony.core.Scheduler` and give the same decisions."""

    def __init__(
        self,
        *,
        policy: str = "deferred",
        request_count_max: int = 65536,
        model_count_max: int = 1024,
        gpu_count_max: int = 1024,
        control_ns: int = 0,
        lead_ns: int = 0,
        window_ns: int = 0,
        shed: bool | None = None,
        early: bool | None = None,
        target_share: float = 0.9,
        epoch_ns: int = 250_000_000,
    ) -> None:
        need(policy in POLICIES, f"policy is {policy!r}, must be one of {', '.join(POLICIES)}")
        need(not early or policy == "deferred", f"early is set with policy {policy!r}, which never waits for frontrun")
        need_between("request_count_max", request_count_max, 1, NEVER)
        need_between("model_count_max", model_count_max, 1, NEVER)
        need_between("gpu_count_max", gpu_count_max, 1, NEVER)
        need_between("control_ns", control_ns, 0, NEVER)
        need_between("lead_ns", lead_ns, 0, NEVER)
        need_between("window_ns", window_ns, 0, NEVER)
        need_between("epoch_ns", epoch_ns, 1, NEVER)
        need(0.0 < target_share <= 1.0, f"target_share is {target_share}, must be above 0 and at most 1")
        self.policy = policy
        self.request_count_max = request_count_max
        self.model_count_max = model_count_max
        self.gpu_count_max = gpu_count_max
        self.control_ns = control_ns
        self.lead_ns = lead_ns
        self.window_ns = window_ns
        self.shed = policy != "timeout" if shed is None else shed
        self.early = policy == "deferred" and early is not False
        self.target_share = target_share
        self.epoch_ns = epoch_ns
        self.now_ns: int | None = None
        self.epoch: int | None = None
        self.models: dict[int, Model] = {}
        self.gpus: dict[int, Gpu] = {}
        self.requests: dict[int, Request] = {}
        self.sequence = 0
        self.plan_count = 0
        self.asked = 0.0
        """How many GPUs the load asks for."""
        self.in_use_ns = 0.0
        self.in_use_since_ns = 0
        self.busy_gpus = 0.0
        """GPUs in use, added up over time since demand was measured last, and on average."""
        self.arrivals = [0.0, 0.0]
        self.drops = [0.0, 0.0]
        """Of all models, for lack of time if drops: rate per epoch, and count in this one."""
        self.measured_since_ns: int | None = None
        self.kinds_seen: set[int] = set()
        self.speeds: dict[int, float] = {}
        """How much faster than average a GPU of each kind is for the demand."""
        self.decisions: list[Decision] = []
        self.is_settled = True
        """False when the last step set a candidate aside and then decided something else.

        What it was set aside for may have changed by that decision, and it is tried again only in the next step, which
        is due at once.
        """

    # The door

    def step(self, now_ns: int, event: Event | None) -> list[Decision]:
        """Apply one event, or none, at `now_ns` and return what follows from it, in the order decided."""
        need(self.now_ns is None or now_ns >= self.now_ns, f"now_ns is {now_ns}, must be at least {self.now_ns}")
        if event is not None:
            self.check(event)
        self.wait_until(now_ns)
        self.decisions = []
        self.roll_epoch()
        if event is not None:
            self.apply(event)
        self.drop_hopeless()
        self.match()
        return self.decisions

    def wait_until(self, now_ns: int) -> None:
        """Let time pass in which nothing is told."""
        if self.now_ns is not None:
            self.in_use_ns += float(self.in_use_count()) * float(now_ns - self.now_ns)
        self.now_ns = now_ns

    @property
    def queued_count(self) -> int:
        return len(self.requests)

    def queued_count_of(self, model: int) -> int:
        need(model in self.models, f"model {model} is unknown")
        return len(self.queue(model))

    @property
    def wakeup_ns(self) -> int:
        """The earliest instant from the last step on at which a step without an event could decide something."""
        if not self.is_settled:
            return self.now_ns
        return min((instant for instant in self.instants() if instant > self.now_ns), default=NEVER)

    def instants(self) -> Iterator[int]:
        """Yield the instants at which something may change without an event."""
        for candidate in self.candidates():
            if not candidate.schedulable:
                yield candidate.next_ns
                if self.early:
                    yield (self.epoch + 1) * self.epoch_ns
        for m, model in self.models.items():
            least = self.least_latency(m)
            if least is not None:
                for request in self.queue(m):
                    yield request.deadline_ns - model.margin_ns - least - self.control_ns + 1
        for gpu in self.gpus.values():
            if len(gpu.batches) == 1 and self.lead_ns > 0:
                yield gpu.free_at_ns - self.lead_ns

    # Events

    def check(self, event: Event) -> None:
        """Raise ValueError, with nothing changed, if the caller made a mistake."""
        match event:
            case ModelAdded(model=m):
                need_between("model", m, 0, self.model_count_max - 1)
                need(m not in self.models, f"model {m} exists, remove it first")
                need_between("slo_ns", event.slo_ns, 1, NEVER)
                need_between("batch_size_max", event.batch_size_max, 1, NEVER)
                need_between("margin_ns", event.margin_ns, 0, NEVER)
                need_between("delay_ns", event.delay_ns, 0, NEVER)
                need_between("batch_size_preferred", event.batch_size_preferred, 0, event.batch_size_max)
            case ProfileChanged(model=m, kind=kind, latency_ns=table):
                self.check_model(m)
                need_between("kind", kind, 0, KIND_COUNT_MAX - 1)
                size = self.models[m].batch_size_max
                need(len(table) == size, f"latency_ns has {len(table)} entries, must have batch_size_max = {size}")
                need(table[0] > 0, f"latency_ns[0] is {table[0]}, must be positive")
                for b in range(1, size):
                    need(table[b - 1] <= table[b], f"latency_ns[{b}] is {table[b]}, must be at least {table[b - 1]}")
            case MarginChanged(model=m):
                self.check_model(m)
                need_between("margin_ns", event.margin_ns, 0, NEVER)
            case ModelRemoved(model=m):
                self.check_model(m)
            case GpuJoined(gpu=g, kind=kind):
                need_between("gpu", g, 0, self.gpu_count_max - 1)
                need_between("kind", kind, 0, KIND_COUNT_MAX - 1)
                need(g not in self.gpus, f"GPU {g} has joined, it must leave first")
            case GpuLeft(gpu=g) | GpuDrained(gpu=g) | GpuRestored(gpu=g):
                self.check_gpu(g)
            case ModelPlaced(model=m, gpu=g):
                self.check_model(m)
                self.check_gpu(g)
                kind = self.gpus[g].kind
                need(kind in self.models[m].profiles, f"model {m} has no profile for kind {kind} of GPU {g}")
            case ModelEvicted(model=m, gpu=g):
                self.check_model(m)
                self.check_gpu(g)
            case RequestArrived(id=id_, model=m):
                need_between("id", id_, 0, self.request_count_max - 1)
                need(id_ not in self.requests, f"id {id_} is in use")
                self.check_model(m)
                need_between("priority", event.priority, PRIORITY_HIGHEST, PRIORITY_LOWEST)
            case RequestCancelled() | BatchStarted() | BatchFinished():
                pass  # What is not inside any more is ignored.
            case _:
                raise ValueError(f"{event!r} is no event")

    def check_model(self, m: int) -> None:
        need(m in self.models, f"model {m} is unknown, add it first")

    def check_gpu(self, g: int) -> None:
        need(g in self.gpus, f"GPU {g} is unknown, it must join first")

    def apply(self, event: Event) -> None:
        match event:
            case ModelAdded(model=m):
                preferred = event.batch_size_preferred or event.batch_size_max
                self.models[m] = Model(event.slo_ns, event.batch_size_max, event.margin_ns, event.delay_ns, preferred)
                self.share_out(self.work_sizes())
            case ModelRemoved(model=m):
                for request in self.queue(m):
                    self.drop(request, "not_ready")
                del self.models[m]
                for gpu in self.gpus.values():
                    gpu.models.discard(m)
                self.share_out(self.work_sizes())
            case ProfileChanged(model=m, kind=kind, latency_ns=table):
                self.models[m].profiles[kind] = tuple(table)
            case MarginChanged(model=m, margin_ns=margin_ns):
                self.models[m].margin_ns = margin_ns
            case GpuJoined(gpu=g, kind=kind):
                self.gpus[g] = Gpu(kind)
                self.kinds_seen.add(kind)
            case GpuLeft(gpu=g):
                del self.gpus[g]
            case GpuDrained(gpu=g):
                self.gpus[g].drained = True
            case GpuRestored(gpu=g):
                self.gpus[g].drained = False
            case ModelPlaced(model=m, gpu=g):
                self.gpus[g].models.add(m)
            case ModelEvicted(model=m, gpu=g):
                self.gpus[g].models.discard(m)
            case RequestArrived(id=id_, model=m, deadline_ns=deadline_ns, priority=priority):
                self.requests[id_] = Request(id_, m, deadline_ns, priority, self.sequence, self.now_ns)
                self.sequence += 1
                self.models[m].count += 1
                self.arrivals[1] += 1
                if self.least_latency(m) is not None and self.is_hopeless(self.requests[id_]):
                    self.drop_in_vain(self.requests[id_])
            case RequestCancelled(id=id_):
                self.requests.pop(id_, None)
            case BatchStarted(plan_id=plan_id, gpu=g, started_ns=started_ns):
                self.batch_started(plan_id, g, started_ns)
            case BatchFinished(plan_id=plan_id, gpu=g, finished_ns=finished_ns):
                self.batch_finished(plan_id, g, finished_ns)

    def batch_started(self, plan_id: int, g: int, started_ns: int) -> None:
        batches = self.gpus[g].batches if g in self.gpus else []
        if not batches or batches[0].plan_id != plan_id:
            return
        first = batches[0]
        first.started_ns = started_ns
        self.gpus[g].free_at_ns = started_ns + first.duration_ns
        if len(batches) == 2:
            second = batches[1]
            self.gpus[g].free_at_ns = max(started_ns + first.duration_ns, second.start_ns) + second.duration_ns

    def batch_finished(self, plan_id: int, g: int, finished_ns: int) -> None:
        gpu = self.gpus.get(g)
        place = next((i for i, batch in enumerate(gpu.batches) if batch.plan_id == plan_id), None) if gpu else None
        if place is None:
            return
        del gpu.batches[place]
        if not gpu.batches:
            return
        [left] = gpu.batches
        if place == 0:
            gpu.free_at_ns = max(finished_ns, left.start_ns) + left.duration_ns
        else:
            start_ns = left.start_ns if left.started_ns is None else left.started_ns
            gpu.free_at_ns = start_ns + left.duration_ns

    # Queues and GPUs

    def queue(self, m: int) -> list[Request]:
        """Return the model's live requests in queue order."""
        return sorted((r for r in self.requests.values() if r.model == m), key=lambda r: r.order)

    def drop(self, request: Request, reason: str) -> None:
        del self.requests[request.id]
        if reason in ("would_miss", "expired"):
            if self.measured_since_ns is not None:
                self.drops[1] += self.now_ns - self.models[request.model].slo_ns >= self.measured_since_ns
            self.models[request.model].drop_count += 1
        self.decisions.append(Drop(request.id, reason))

    def kinds(self, m: int) -> list[int]:
        """Return the kinds of the joined GPUs, drained or not, where the model is resident."""
        return sorted({gpu.kind for gpu in self.gpus.values() if m in gpu.models})

    def latency(self, m: int, kind: int, b: int) -> int:
        """Return l(b)."""
        return self.models[m].profiles[kind][b - 1]

    def least_latency(self, m: int) -> int | None:
        """Return the smallest l(1) over the kinds where the model is resident; None if there is no such kind."""
        return min((self.latency(m, kind, 1) for kind in self.kinds(m)), default=None)

    def is_idle(self, gpu: Gpu) -> bool:
        return not gpu.batches

    def is_ahead(self, gpu: Gpu) -> bool:
        return len(gpu.batches) == 1 and gpu.free_at_ns - self.lead_ns <= self.now_ns < gpu.free_at_ns

    def gpus_for(self, m: int, kind: int) -> list[int]:
        """Return the available GPUs of this kind where the model is resident, lowest id first."""
        return [
            g
            for g, gpu in sorted(self.gpus.items())
            if gpu.kind == kind and m in gpu.models and not gpu.drained and (self.is_idle(gpu) or self.is_ahead(gpu))
        ]

    # Candidates

    def due(self, m: int, queue: list[Request], b: int) -> int:
        """Return D(b): the earliest deadline among the first b of the queue, minus the margin."""
        return min(request.deadline_ns for request in queue[:b]) - self.models[m].margin_ns

    def fit(self, m: int, kind: int, start_ns: int) -> int:
        """Return the largest batch that ends in time if it starts at `start_ns`."""
        queue = self.queue(m)
        fitting = 0
        for b in range(1, min(len(queue), self.models[m].batch_size_max) + 1):
            if start_ns + self.latency(m, kind, b) <= self.due(m, queue, b):
                fitting = b
        return fitting

    def candidate(self, m: int, kind: int) -> Candidate | None:
        model = self.models[m]
        b = self.fit(m, kind, self.now_ns + self.control_ns)
        if b == 0:
            return None
        queue = self.queue(m)
        n = len(queue)
        due_ns = self.due(m, queue, b)
        if self.policy == "deferred":
            latency = self.latency(m, kind, b)
            latest = due_ns - latency - self.control_ns
            may_wait = self.early and not self.is_full()
            last_call = self.latest(m, kind, n - n // 10) - self.window_ns // 2 if n <= model.batch_size_max else 0
            if not b == n < model.batch_size_max:
                is_nearly_whole = b >= n - n // 10 and n <= model.batch_size_max and b < model.batch_size_max
                if may_wait and is_nearly_whole and last_call > self.now_ns:
                    return Candidate(latest, m, kind, False, True, last_call)
                return Candidate(latest, m, kind, True, False, self.now_ns)
            frontrun = due_ns - max(self.latency(m, kind, b + 1), latency + self.window_ns) - self.control_ns
            is_confined = frontrun <= self.now_ns or (self.early and b >= self.early_size(m, kind))
            if not may_wait:
                last_call = frontrun
            if last_call <= self.now_ns:
                return Candidate(latest, m, kind, True, False, self.now_ns)
            return Candidate(latest, m, kind, False, is_confined, last_call if is_confined else frontrun)
        if self.policy == "eager":
            return Candidate(due_ns, m, kind, True, False, self.now_ns)
        arrived_ns = queue[0].arrived_ns
        end_of_delay = arrived_ns + model.delay_ns
        schedulable = n >= model.batch_size_preferred or self.now_ns >= end_of_delay
        return Candidate(arrived_ns, m, kind, schedulable, False, end_of_delay)

    def latest(self, m: int, kind: int, b: int) -> int:
        """Return the latest start of the first b requests."""
        return self.due(m, self.queue(m), b) - self.latency(m, kind, b) - self.control_ns

    def candidates(self) -> list[Candidate]:
        """Return every candidate, the one that goes first in front."""
        pairs = [(m, kind) for m in sorted(self.models) for kind in self.kinds(m)]
        found = [candidate for m, kind in pairs if (candidate := self.candidate(m, kind)) is not None]
        return sorted(found, key=lambda candidate: candidate.order)

    # Decisions

    def drop_hopeless(self) -> None:
        for m in sorted(self.models):
            for request in self.queue(m):
                if self.least_latency(m) is None:
                    self.drop(request, "no_gpu")
                elif self.is_hopeless(request):
                    self.drop_in_vain(request)

    def is_hopeless(self, request: Request) -> bool:
        """Return whether no GPU could end it in time, alone and started now."""
        m = request.model
        return self.now_ns + self.control_ns + self.least_latency(m) > request.deadline_ns - self.models[m].margin_ns

    def drop_in_vain(self, request: Request) -> None:
        self.drop(request, "expired" if request.deadline_ns <= self.now_ns else "would_miss")

    def match(self) -> None:
        set_aside: set[tuple[int, int]] = set()
        self.is_settled = True
        decision_count = len(self.decisions)
        while self.match_one(set_aside):
            if set_aside and len(self.decisions) > decision_count:
                self.is_settled = False
            decision_count = len(self.decisions)

    def match_one(self, set_aside: set[tuple[int, int]]) -> bool:
        """Dispatch, shed or set aside once; return False if no candidate has a GPU on which it may start."""
        open_ = [c for c in self.candidates() if self.gpus_open_to(c) and (c.model, c.kind) not in set_aside]
        found = [c for c in open_ if not self.early or self.is_full() or not self.waits_for_faster(c)]
        schedulable = next((c for c in found if c.schedulable), None)
        confined = next((c for c in found if c.confined), None)
        candidate = schedulable or confined
        if candidate is None:
            return False
        if schedulable and confined and self.models[confined.model].neglected:
            candidate = min(schedulable, confined, key=self.due_now)
        m, kind = candidate.model, candidate.kind
        gpus = self.gpus_open_to(candidate)
        g = gpus[0]
        start_ns = self.start_on(g)
        b = self.fit(m, kind, start_ns)
        if b == 0 and not self.is_idle(self.gpus[g]):
            idle = [other for other in gpus if self.is_idle(self.gpus[other])]
            if idle:
                g = idle[0]
                start_ns = self.start_on(g)
                b = self.fit(m, kind, start_ns)
        if b == 0:
            set_aside.add((m, kind))
            return True

        queue = self.queue(m)
        has_shed = False
        while b > 0 and self.shed and b < len(queue) and self.is_wasteful(m, kind, b):
            limiting = min(queue[: b + 1], key=lambda request: (request.deadline_ns, *request.order))
            if not all(request.priority <= limiting.priority for request in queue):
                break
            self.drop(limiting, "would_miss")
            has_shed = True
            queue = self.queue(m)
            b = self.fit(m, kind, start_ns)
        if has_shed:
            return True
        self.dispatch(g, m, [request.id for request in queue[:b]], start_ns, self.latency(m, kind, b))
        return True

    def gpus_open_to(self, candidate: Candidate) -> list[int]:
        """Return where it may start: a confined one opens an idle GPU only while the active set is not full."""
        gpus = self.gpus_for(candidate.model, candidate.kind)
        if candidate.schedulable or self.in_use_count() < self.active_count():
            return gpus
        return [g for g in gpus if not self.is_idle(self.gpus[g])]

    def waits_for_faster(self, candidate: Candidate) -> bool:
        """Return whether a GPU of a faster kind with the model is idle."""
        m = candidate.model
        faster = [kind for kind in self.kinds(m) if self.latency(m, kind, 1) < self.latency(m, candidate.kind, 1)]
        return any(self.is_idle(self.gpus[g]) for kind in faster for g in self.gpus_for(m, kind))

    def due_now(self, candidate: Candidate) -> int:
        """Return D(b) of the batch that it would be now."""
        m = candidate.model
        return self.due(m, self.queue(m), self.fit(m, candidate.kind, self.now_ns + self.control_ns))

    def start_on(self, g: int) -> int:
        """Return the earliest start of a batch decided now for this GPU."""
        gpu = self.gpus[g]
        return max(self.now_ns + self.control_ns, gpu.free_at_ns if gpu.batches else 0)

    def dispatch(self, g: int, m: int, ids: list[int], start_ns: int, duration_ns: int) -> None:
        self.plan_count += 1
        for id_ in ids:
            del self.requests[id_]
        gpu = self.gpus[g]
        gpu.batches.append(Batch(self.plan_count, start_ns, duration_ns))
        gpu.free_at_ns = start_ns + duration_ns
        self.decisions.append(Dispatch(self.plan_count, g, m, tuple(ids), start_ns, gpu.free_at_ns))

    # Targets

    def roll_epoch(self) -> None:
        epoch = self.now_ns // self.epoch_ns
        if self.epoch is None:
            self.epoch = epoch
            self.in_use_since_ns = self.now_ns
        boundaries = epoch - self.epoch
        self.epoch = epoch
        if boundaries == 0:
            return
        if boundaries > EPOCHS_REMEMBERED:
            self.arrivals[:] = self.drops[:] = 0.0, 0.0
        if self.arrivals[0] == 0:
            self.measured_since_ns = epoch * self.epoch_ns
        for _ in range(min(boundaries, EPOCHS_REMEMBERED)):
            self.drops[0] += (self.drops[1] - self.drops[0]) / 10
            self.arrivals[0] += (self.arrivals[1] - self.arrivals[0]) / 10
            self.arrivals[1] = self.drops[1] = 0.0
        self.busy_gpus += (self.in_use_ns / float(self.now_ns - self.in_use_since_ns) - self.busy_gpus) / 10
        self.in_use_ns, self.in_use_since_ns = 0.0, self.now_ns
        sizes = self.work_sizes()
        for model in self.models.values():
            for _ in range(min(boundaries, EPOCHS_REMEMBERED)):
                has_fallen = model.rate > 16 and model.count < model.rate / 2
                model.rate = float(model.count) if has_fallen else (model.rate + model.count) / 2
                model.drop_rate += (model.drop_count - model.drop_rate) / 10
                model.count = model.drop_count = 0
            if boundaries > EPOCHS_REMEMBERED:
                model.rate = model.drop_rate = 0.0
            model.neglected = model.drop_rate > 0.01 * model.rate
        self.share_out(sizes)

    def share_out(self, sizes: dict[tuple[int, int], int]) -> None:
        """Set every model's share of the demand, by the targets that hold until now, and what all ask for together."""
        works = {m: self.work(m, sizes) for m in sorted(self.models)}
        total = 0.0
        for work in works.values():
            total += work
        for m, work in works.items():
            self.models[m].share = work / total if total != 0 else 1 / len(works)
        self.asked = total / self.epoch_ns
        self.speeds = dict.fromkeys(range(KIND_COUNT_MAX), 0.0)
        for m in sorted(self.models):
            gpus, speed = self.gpus_and_speed(m, sizes)
            for kind in self.kinds(m) if speed > 0 else ():
                t = sizes[m, kind]
                self.speeds[kind] += self.models[m].share * gpus / speed * (t / self.latency(m, kind, t))

    def work(self, m: int, sizes: dict[tuple[int, int], int]) -> float:
        """Return the GPU time that a model's arrivals of one epoch ask for, in nanoseconds."""
        gpus, speed = self.gpus_and_speed(m, sizes)
        return self.models[m].rate * gpus / speed if gpus else 0.0

    def gpus_and_speed(self, m: int, sizes: dict[tuple[int, int], int]) -> tuple[float, float]:
        """Return how many GPUs hold the model, and how many requests per nanosecond they run together."""
        gpus = speed = 0.0
        for kind in self.kinds(m):
            count = float(sum(gpu.kind == kind and m in gpu.models for gpu in self.gpus.values()))
            t = sizes[m, kind]
            gpus += count
            speed += count * t / self.latency(m, kind, t)
        return gpus, speed

    def is_wasteful(self, m: int, kind: int, b: int) -> bool:
        """Return whether a batch of b is below the target, and too inefficient for what the arrivals ask for."""
        t = self.target_batch_size(m, kind)
        model = self.models[m]
        loses_more = model.drop_rate * self.arrivals[0] > 2 * self.drops[0] * model.rate
        if b >= t or (model.neglected and loses_more and self.asked < self.undrained_count()):
            return False
        able = float(b) * float(self.latency(m, kind, t)) * float(self.undrained_count())
        return able < self.asked * float(t) * float(self.latency(m, kind, b))

    def active_count(self) -> int:
        """Return A: how many GPUs the load asks for, all of them if bursts cost requests."""
        if self.is_bursty():
            return self.undrained_count()
        if len(self.kinds_seen) <= 1:
            return min(self.undrained_count(), math.ceil(self.asked + 0.5))
        carried, count = 0.0, 0
        for _, gpu in sorted(self.gpus.items()):
            if not gpu.drained and carried < self.asked + 0.5:
                carried += self.speeds.get(gpu.kind, 0.0)
                count += 1
        return count

    def is_bursty(self) -> bool:
        is_idle = self.busy_gpus < 0.9 * self.undrained_count()
        return self.drops[0] > 0.001 * self.arrivals[0] and self.asked < 0.85 * self.undrained_count() and is_idle

    def in_use_count(self) -> int:
        return sum(not gpu.drained and bool(gpu.batches) for gpu in self.gpus.values())

    def is_full(self) -> bool:
        return self.active_count() >= self.undrained_count()

    def undrained_count(self) -> int:
        return sum(not gpu.drained for gpu in self.gpus.values())

    def gpu_share(self, m: int) -> float:
        """Return N(m): the model's part of the pool."""
        return self.models[m].share * self.undrained_count()

    def early_size(self, m: int, kind: int) -> int:
        """Return the batch that need not wait for frontrun."""
        if self.is_bursty():
            return 1
        s = self.models[m].share * self.active_count() / 4
        if s >= 1:
            return self.worthwhile_size(m, kind) if self.is_full() else NEVER
        return max(1, math.ceil(s * self.target_batch_size(m, kind)))

    def worthwhile_size(self, m: int, kind: int) -> int:
        """Return the target, or where batches gain little the smallest that is nearly as efficient."""
        target = self.target_batch_size(m, kind)
        if kind not in self.models[m].profiles:
            return target
        whole = float(self.latency(m, kind, target))
        if whole < 0.9 * target * float(self.latency(m, kind, 1)):
            return target
        return next(b for b in range(1, target + 1) if b * whole >= 0.97 * target * float(self.latency(m, kind, b)))

    def work_sizes(self) -> dict[tuple[int, int], int]:
        """Return the batches by which the models' demand is measured, by model and kind."""
        return {(m, kind): self.work_size(m, kind) for m in self.models for kind in self.kinds(m)}

    def work_size(self, m: int, kind: int) -> int:
        """Return the target, or what a model with less than a GPU's demand gathers until its last call."""
        model = self.models[m]
        target = self.target_batch_size(m, kind)
        gpu_share = self.gpu_share(m)
        if gpu_share >= 1 or kind not in model.profiles:
            return target
        budget = float(model.slo_ns - model.margin_ns - self.control_ns)
        rate = model.rate / self.epoch_ns
        alone = self.bound(m, kind, 1.0)
        gathered = max(
            (b for b in range(2, alone + 1) if b - 1 <= rate * (budget - self.latency(m, kind, b))), default=1
        )
        return max(target, gathered)

    def target_batch_size(self, m: int, kind: int) -> int:
        """Return the batch that shedding defends: the model's staggered bound times `target_share`."""
        self.check_model(m)
        need_between("kind", kind, 0, KIND_COUNT_MAX - 1)
        model = self.models[m]
        gpu_share = self.gpu_share(m)
        if gpu_share == 0 or kind not in model.profiles:
            return 1
        return self.bound(m, kind, gpu_share)

    def bound(self, m: int, kind: int, gpu_count: float) -> int:
        """Return the staggered bound's batch on so many GPUs times `target_share`, at least 1."""
        model = self.models[m]
        target = 1
        for b in range(1, model.batch_size_max + 1):
            latency = float(self.latency(m, kind, b))
            if latency + latency / gpu_count <= model.slo_ns - model.margin_ns - self.control_ns:
                target = b
        return max(1, int(target * self.target_share))
