"""More models than memory: claims of docs/core.md, and random sequences watched by a checker of its promises."""

from __future__ import annotations

import heapq
import os
import random
from collections import Counter
from itertools import count

import pytest

from symphony.core import Scheduler
from symphony.core.events import (
    BatchFinished,
    Decision,
    Dispatch,
    Drop,
    Event,
    FootprintDeclared,
    GpuDrained,
    GpuJoined,
    GpuLeft,
    GpuRestored,
    Load,
    LoadFinished,
    MemoryDeclared,
    ModelAdded,
    ModelPlaced,
    ModelRemoved,
    ProfileChanged,
    RequestArrived,
    RequestCancelled,
)

MS = 1_000_000
SLO_NS = 100 * MS
LOAD_NS = 10 * MS
LATENCY_NS = tuple(round((3 + 0.5 * size) * MS) for size in range(1, 9))
NEVER = 2**63 - 1
SEEDS = int(os.environ.get("SYMPHONY_EXAMPLES", "300")) // 10


def make(model_count: int, slots: int, gpu_count: int = 1, **options) -> Scheduler:
    """Return a scheduler whose GPUs hold `slots` models of one size; nothing is loaded yet."""
    scheduler = Scheduler(request_count_max=4096, model_count_max=64, gpu_count_max=8, **options)
    for gpu in range(gpu_count):
        scheduler.step(0, GpuJoined(gpu))
        scheduler.step(0, MemoryDeclared(gpu, slots * 100))
    for model in range(model_count):
        scheduler.step(0, ModelAdded(model, SLO_NS, len(LATENCY_NS)))
        scheduler.step(0, ProfileChanged(model, 0, LATENCY_NS))
    return scheduler


def declare(scheduler: Scheduler, models, load_ns: int = LOAD_NS, now_ns: int = 0) -> list[Decision]:
    """Declare what the models take, a step each; return all decisions."""
    events = [FootprintDeclared(model, 0, 100, load_ns) for model in models]
    return [decision for event in events for decision in scheduler.step(now_ns, event)]


def filled(model_count: int, slots: int, gpu_count: int = 1, **options) -> Scheduler:
    """Return a scheduler whose GPUs hold the first models, the others absent."""
    scheduler = make(model_count, slots, gpu_count, **options)
    for gpu in range(gpu_count):
        for model in range(gpu * slots, gpu * slots + slots):
            scheduler.step(0, ModelPlaced(model, gpu))
    assert declare(scheduler, range(model_count)) == []
    return scheduler


def loads(decisions: list[Decision]) -> list[Load]:
    return [decision for decision in decisions if isinstance(decision, Load)]


def play(scheduler: Scheduler, now_ns: int, event: Event) -> list[Decision]:
    """Take the step and whatever follows from it, batches and loads ending as predicted; return all decisions."""
    queue: list[tuple[int, int, Event | None]] = [(now_ns, 0, event)]
    numbers, found = count(1), []
    while queue or scheduler.wakeup_ns != NEVER:
        if not queue or scheduler.wakeup_ns < queue[0][0]:
            heapq.heappush(queue, (max(now_ns, scheduler.wakeup_ns), next(numbers), None))
        now_ns, _, event = heapq.heappop(queue)
        for decision in scheduler.step(now_ns, event):
            found.append(decision)
            if isinstance(decision, Load):
                end: Event = LoadFinished(decision.load_id, decision.gpu)
            elif isinstance(decision, Dispatch):
                end = BatchFinished(decision.plan_id, decision.gpu, decision.finish_at_ns)
            else:
                continue
            heapq.heappush(queue, (decision.finish_at_ns, next(numbers), end))
    return found


def test_free_memory_is_filled_one_load_at_a_time_on_each_gpu() -> None:
    scheduler = make(5, slots=2, gpu_count=2)
    found = loads(declare(scheduler, range(5)))
    assert [(load.gpu, load.model, load.evicted) for load in found] == [(0, 0, ()), (1, 1, ())]
    [third] = scheduler.step(LOAD_NS, LoadFinished(found[0].load_id, 0))
    assert (third.gpu, third.model, third.finish_at_ns) == (0, 2, 2 * LOAD_NS)
    [fourth] = scheduler.step(LOAD_NS, LoadFinished(found[1].load_id, 1))
    assert (fourth.gpu, fourth.model) == (1, 3)
    assert scheduler.step(2 * LOAD_NS, LoadFinished(third.load_id, 0)) == []
    assert scheduler.step(2 * LOAD_NS, LoadFinished(fourth.load_id, 1)) == []


def test_a_request_for_an_absent_model_waits_for_its_load_and_runs() -> None:
    scheduler = filled(3, slots=2)
    [load] = scheduler.step(MS, RequestArrived(0, 2, MS + SLO_NS))
    assert isinstance(load, Load) and load.model == 2 and len(load.evicted) == 1
    assert scheduler.step(2 * MS, RequestArrived(1, 2, 2 * MS + SLO_NS)) == []
    decisions = scheduler.step(load.finish_at_ns, LoadFinished(load.load_id, 0))
    while not decisions:
        decisions = scheduler.step(scheduler.wakeup_ns, None)
    assert isinstance(decisions[0], Dispatch) and decisions[0].ids == (0, 1)


def test_a_request_that_cannot_wait_for_the_load_is_refused_at_once() -> None:
    scheduler = filled(3, slots=2)
    need_ns = LOAD_NS + LATENCY_NS[0]
    assert scheduler.step(0, RequestArrived(0, 2, need_ns - 1)) == [Drop(0, "would_miss")]
    assert [type(decision) for decision in scheduler.step(0, RequestArrived(1, 2, need_ns))] == [Load]


def test_without_footprint_an_absent_model_has_no_gpu() -> None:
    scheduler = make(3, slots=2)
    declare(scheduler, range(2))
    assert scheduler.step(0, RequestArrived(0, 2, SLO_NS)) == [Drop(0, "no_gpu")]


def ask_often(scheduler: Scheduler, model: int, first_id: int, count_: int, now_ns: int) -> int:
    """Let so many requests of a resident model come and run, 1 ms apart; return the instant after them."""
    for number in range(count_):
        decisions = scheduler.step(now_ns, RequestArrived(first_id + number, model, now_ns + SLO_NS))
        while not any(isinstance(decision, Dispatch) for decision in decisions):
            decisions = scheduler.step(max(now_ns, scheduler.wakeup_ns), None)
            now_ns = max(now_ns, scheduler.wakeup_ns if scheduler.wakeup_ns != NEVER else now_ns)
        [plan] = [decision for decision in decisions if isinstance(decision, Dispatch)]
        now_ns = plan.finish_at_ns
        scheduler.step(now_ns, BatchFinished(plan.plan_id, 0, now_ns))
        now_ns += MS
    return now_ns


def test_the_model_asked_for_least_leaves_though_it_was_used_last() -> None:
    scheduler = filled(3, slots=2, epoch_ns=10 * MS)
    now_ns = ask_often(scheduler, 0, 0, 20, 0)
    now_ns = ask_often(scheduler, 1, 100, 1, now_ns + 20 * MS)
    [load] = loads(scheduler.step(now_ns + 20 * MS, RequestArrived(200, 2, now_ns + SLO_NS)))
    assert load.evicted == (1,)


def test_by_recency_the_model_used_longest_ago_leaves() -> None:
    scheduler = filled(3, slots=2, epoch_ns=10 * MS, eviction="recency")
    now_ns = ask_often(scheduler, 0, 0, 20, 0)
    now_ns = ask_often(scheduler, 1, 100, 1, now_ns + 20 * MS)
    [load] = loads(scheduler.step(now_ns + 20 * MS, RequestArrived(200, 2, now_ns + SLO_NS)))
    assert load.evicted == (0,)


def test_a_model_with_a_batch_in_flight_stays() -> None:
    scheduler = filled(3, slots=1)
    [first] = loads(scheduler.step(0, RequestArrived(0, 1, SLO_NS)))
    decisions = scheduler.step(first.finish_at_ns, LoadFinished(first.load_id, 0))
    decisions += scheduler.step(first.finish_at_ns, RequestArrived(1, 2, first.finish_at_ns + SLO_NS))
    while not decisions:
        decisions = scheduler.step(scheduler.wakeup_ns, None)
    [plan] = [decision for decision in decisions if isinstance(decision, Dispatch)]
    assert not loads(decisions), "model 1 left before its request had run"
    [load] = loads(scheduler.step(plan.finish_at_ns, BatchFinished(plan.plan_id, 0, plan.finish_at_ns)))
    assert (load.model, load.evicted) == (2, (1,))


def test_a_batch_goes_early_when_another_model_waits_for_its_memory() -> None:
    """Else it would hold the memory until its last call, and the other be lost."""
    scheduler = filled(2, slots=1, policy="deferred", early=False)
    assert scheduler.step(0, RequestArrived(0, 0, SLO_NS)) == []
    assert scheduler.step(MS, RequestArrived(1, 1, MS + SLO_NS)) == []
    assert scheduler.wakeup_ns == MS
    [plan] = scheduler.step(MS, None)
    assert isinstance(plan, Dispatch) and plan.model == 0


def test_under_overload_the_load_that_helps_most_goes_first() -> None:
    """Seven absent models and time for four loads: those with one request are passed over for those with five."""
    load_ns = 18 * MS
    scheduler = filled(11, slots=3)
    declare(scheduler, range(11), load_ns)
    [busy] = loads(scheduler.step(0, RequestArrived(0, 3, SLO_NS)))
    ids = count(1)
    for model in range(4, 11):
        for _ in range(5 if model > 7 else 1):
            scheduler.step(MS, RequestArrived(next(ids), model, MS + SLO_NS))
    found = play(scheduler, busy.finish_at_ns, LoadFinished(busy.load_id, 0))
    assert {8, 9, 10} <= {load.model for load in loads(found)}, found


def test_a_failed_load_is_tried_again_after_a_second() -> None:
    scheduler = filled(2, slots=1)
    deadline_ns = 5000 * MS
    [load] = loads(scheduler.step(0, RequestArrived(0, 1, deadline_ns)))
    assert not loads(scheduler.step(LOAD_NS, LoadFinished(load.load_id, 0, False)))
    assert scheduler.wakeup_ns <= 1000 * MS + LOAD_NS
    now_ns, found = LOAD_NS, []
    while not found:
        now_ns = max(now_ns + 1, scheduler.wakeup_ns)
        found = loads(scheduler.step(now_ns, None))
    assert found[0].model == 1 and now_ns >= 1000 * MS


def test_a_model_whose_only_gpu_is_drained_is_loaded_elsewhere() -> None:
    scheduler = filled(2, slots=1, gpu_count=2)
    scheduler.step(0, GpuDrained(0))
    [load] = loads(scheduler.step(0, RequestArrived(0, 0, SLO_NS)))
    assert (load.gpu, load.model, load.evicted) == (1, 0, (1,))


def test_the_end_of_a_load_that_nobody_expects_changes_nothing() -> None:
    scheduler = filled(3, slots=1)
    [load] = loads(scheduler.step(0, RequestArrived(0, 1, SLO_NS)))
    scheduler.step(0, ModelRemoved(1))
    scheduler.step(0, ModelAdded(1, SLO_NS, len(LATENCY_NS)))
    scheduler.step(0, ProfileChanged(1, 0, LATENCY_NS))
    scheduler.step(LOAD_NS, LoadFinished(load.load_id, 0))
    assert scheduler.step(LOAD_NS, RequestArrived(1, 1, LOAD_NS + SLO_NS)) == [Drop(1, "no_gpu")]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (MemoryDeclared(7, 100), "GPU 7 is unknown"),
        (MemoryDeclared(0, -1), "memory_bytes is -1"),
        (FootprintDeclared(9, 0, 1, 1), "model 9 is unknown"),
        (FootprintDeclared(0, 3, 1, 1), "no profile for kind 3"),
        (FootprintDeclared(0, 0, -5, 1), "memory_bytes is -5"),
        (FootprintDeclared(0, 0, 1, -5), "load_ns is -5"),
        (LoadFinished(-1, 0), "load_id is -1"),
    ],
)
def test_mistakes_of_the_caller_are_named(event: Event, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        filled(2, slots=1).step(0, event)


def test_memory_is_declared_before_models_are_placed() -> None:
    scheduler = make(1, slots=1)
    scheduler.step(0, GpuJoined(3))
    scheduler.step(0, ModelPlaced(0, 3))
    with pytest.raises(ValueError, match="declare its memory before"):
        scheduler.step(0, MemoryDeclared(3, 100))


class Checker:
    """Watch a scheduler's decisions: what a GPU holds, what is in flight, that each request leaves once."""

    def __init__(self, memory: dict[int, int], sizes: dict[int, int]) -> None:
        self.memory, self.sizes = memory, sizes
        self.held: dict[int, set[int]] = {gpu: set() for gpu in memory}
        self.loading: dict[int, Load] = {}
        self.flights: dict[int, list[Dispatch]] = {gpu: [] for gpu in memory}
        self.inside: set[int] = set()
        self.counts: Counter[str] = Counter()

    def see(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            self.counts[type(decision).__name__] += 1
            if isinstance(decision, Drop):
                self.inside.remove(decision.id)
            elif isinstance(decision, Dispatch):
                assert decision.model in self.held[decision.gpu], f"{decision}: it is not there"
                self.flights[decision.gpu].append(decision)
                self.inside.difference_update(decision.ids)
            else:
                held = self.held[decision.gpu]
                assert decision.gpu not in self.loading, f"{decision}: one load at a time"
                assert set(decision.evicted) <= held and decision.model not in held
                assert not {plan.model for plan in self.flights[decision.gpu]} & set(decision.evicted)
                held -= set(decision.evicted)
                self.loading[decision.gpu] = decision
                used = sum(self.sizes[model] for model in held) + self.sizes[decision.model]
                assert used <= self.memory[decision.gpu], f"{decision}: {used} bytes of {self.memory[decision.gpu]}"


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("eviction", ["popularity", "recency"])
def test_random_sequences_keep_every_promise(seed: int, eviction: str) -> None:
    """Memory is never overdrawn, no batch runs where its model is not, and every request leaves exactly once."""
    dice = random.Random(seed)
    gpu_count, model_count = dice.randint(1, 3), dice.randint(2, 12)
    sizes = {model: dice.randint(20, 100) for model in range(model_count)}
    memory = {gpu: dice.randint(100, 400) for gpu in range(gpu_count)}
    checker = Checker(memory, sizes)
    scheduler = Scheduler(
        request_count_max=8192, model_count_max=16, gpu_count_max=4, lead_ns=MS, control_ns=50_000, eviction=eviction
    )
    queue: list[tuple[int, int, Event]] = []
    numbers = count()

    def later(at_ns: int, event: Event) -> None:
        heapq.heappush(queue, (at_ns, next(numbers), event))

    def add(model: int) -> None:
        later(now_ns, ModelAdded(model, SLO_NS, len(LATENCY_NS)))
        later(now_ns, ProfileChanged(model, 0, LATENCY_NS))
        later(now_ns, FootprintDeclared(model, 0, sizes[model], dice.randint(0, 30) * MS))

    now_ns = 0
    for gpu in range(gpu_count):
        later(0, GpuJoined(gpu))
        later(0, MemoryDeclared(gpu, memory[gpu]))
    known = set(range(model_count))
    for model in known:
        add(model)
    for number in range(600):
        at_ns = round(dice.random() * 3000 * MS)
        slo_ns = SLO_NS if dice.random() < 0.9 else 20 * MS
        later(at_ns, RequestArrived(number, min(int(dice.paretovariate(0.7)) - 1, model_count - 1), at_ns + slo_ns))
    for _ in range(6):
        later(round(dice.random() * 3000 * MS), GpuDrained(dice.randrange(gpu_count)))
    gone: set[int] = set()
    while True:
        wakeup_ns = max(now_ns, scheduler.wakeup_ns)
        if not queue and wakeup_ns == NEVER:
            break
        event: Event | None = None
        if not queue or wakeup_ns < queue[0][0]:
            now_ns = wakeup_ns
        else:
            now_ns, _, event = heapq.heappop(queue)
        if isinstance(event, RequestArrived):
            if event.model not in known:
                continue
            checker.inside.add(event.id)
            if dice.random() < 0.05:
                later(now_ns + dice.randint(0, 50) * MS, RequestCancelled(event.id))
        elif isinstance(event, RequestCancelled):
            checker.inside.discard(event.id)
        elif isinstance(event, LoadFinished):
            load = checker.loading.get(event.gpu)
            if load is not None and load.load_id == event.load_id:
                del checker.loading[event.gpu]
                if event.is_there and load.model in known:
                    checker.held[event.gpu].add(load.model)
        elif isinstance(event, BatchFinished):
            checker.flights[event.gpu] = [p for p in checker.flights[event.gpu] if p.plan_id != event.plan_id]
        elif isinstance(event, GpuDrained):
            if event.gpu in gone:
                continue
            later(now_ns + dice.randint(1, 400) * MS, GpuRestored(event.gpu))
            if dice.random() < 0.3:
                later(now_ns + MS, ModelRemoved(dice.randrange(model_count)))
            if dice.random() < 0.2 and len(gone) + 1 < gpu_count:
                gone.add(event.gpu)
                later(now_ns, GpuLeft(event.gpu))
        elif isinstance(event, GpuRestored) and event.gpu in gone:
            continue
        elif isinstance(event, GpuLeft):
            checker.held[event.gpu], checker.flights[event.gpu] = set(), []
            checker.loading.pop(event.gpu, None)
        elif isinstance(event, ModelRemoved):
            if event.model not in known:
                continue
            known.discard(event.model)
            for gpu in range(gpu_count):
                checker.held[gpu].discard(event.model)
                if gpu in checker.loading and checker.loading[gpu].model == event.model:
                    del checker.loading[gpu]
        decisions = scheduler.step(now_ns, event)
        checker.see(decisions)
        if isinstance(event, ModelRemoved):
            known.add(event.model)
            add(event.model)
        for decision in decisions:
            if isinstance(decision, Load):
                late_ns = dice.randint(0, 5) * MS
                later(
                    decision.finish_at_ns + late_ns,
                    LoadFinished(decision.load_id, decision.gpu, dice.random() < 0.95),
                )
            elif isinstance(decision, Dispatch):
                later(
                    max(now_ns, decision.finish_at_ns),
                    BatchFinished(decision.plan_id, decision.gpu, decision.finish_at_ns),
                )
    assert not checker.inside, "requests that never left"
    assert scheduler.queued_count == 0
    assert checker.counts["Dispatch"] > 20, checker.counts
