"""Hold the core to the claims of the paper and of docs/core.md, one test a claim.

The first part runs a few events by hand; the second, seeds of arrivals in virtual time (tests/virtual.py).
"""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise
from statistics import mean

import pytest

from symphony.core import Scheduler
from symphony.core.events import (
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
from tests.oracle import NEVER
from tests.virtual import MS, Arrival, ModelSpec, S, goodput_search, linear, make_arrivals, set_up, simulate

SPEC = ModelSpec(slo_ns=25 * MS, latency_ns=linear(1, 5, 4))
"""Batches of 1 to 4 take 6, 7, 8, 9 ms."""
STAIRS = ModelSpec(slo_ns=100 * MS, latency_ns=tuple(ms * MS for ms in (10, 10, 10, 10, 20, 20, 20, 20)))


def make(*specs: ModelSpec, gpu_count: int = 1, **options) -> Scheduler:
    """Return a scheduler with these models (`SPEC` if none is given), each resident on all GPUs.

    Early starts are off unless asked for: most claims are about the paper's rule.
    """
    is_deferred = options.get("policy", "deferred") == "deferred"
    scheduler = Scheduler(**({"early": False} if is_deferred else {}) | options)
    set_up(scheduler, specs or [SPEC], gpu_count)
    return scheduler


def arrive(scheduler, now_ms: float, ids, deadline_ms: float, *, model: int = 0, priority: int = 4) -> list[Decision]:
    """Let requests arrive, a step each, and return all decisions."""
    now_ns, deadline_ns = round(now_ms * MS), round(deadline_ms * MS)
    events = [RequestArrived(id_, model, deadline_ns, priority) for id_ in ids]
    return [decision for event in events for decision in scheduler.step(now_ns, event)]


def wake(scheduler, now_ms: float) -> list[Decision]:
    return scheduler.step(round(now_ms * MS), None)


def finish(scheduler, now_ms: float, plan_id: int, gpu: int = 0) -> list[Decision]:
    now_ns = round(now_ms * MS)
    return scheduler.step(now_ns, BatchFinished(plan_id, gpu, now_ns))


def batches(decisions: list[Decision]) -> list[tuple[int, ...]]:
    return [decision.ids for decision in decisions if isinstance(decision, Dispatch)]


def gpus(decisions: list[Decision]) -> list[int]:
    return [decision.gpu for decision in decisions if isinstance(decision, Dispatch)]


def drops(decisions: list[Decision]) -> dict[int, str]:
    return {decision.id: decision.reason for decision in decisions if isinstance(decision, Drop)}


# The window


def test_batch_waits_until_frontrun():
    scheduler = make()
    assert arrive(scheduler, 0, [1], 25) == []
    frontrun_ns = (25 - 7) * MS
    assert scheduler.wakeup_ns == frontrun_ns
    assert scheduler.step(frontrun_ns - 1, None) == []
    assert scheduler.step(frontrun_ns, None) == [Dispatch(1, 0, 0, (1,), frontrun_ns, frontrun_ns + 6 * MS)]


def test_each_arrival_brings_frontrun_forward_by_one_request():
    scheduler = make()
    frontruns = []
    for id_ in range(3):
        assert arrive(scheduler, 0, [id_], 25) == []
        frontruns.append(scheduler.wakeup_ns)
    assert frontruns == [18 * MS, 17 * MS, 16 * MS]


def test_full_batch_goes_at_once():
    scheduler = make()
    assert batches(arrive(scheduler, 0, range(4), 25)) == [(0, 1, 2, 3)]


def test_batch_that_cannot_grow_in_time_goes_at_once():
    # One more request fits the batch, not the deadline of the first.
    scheduler = make()
    assert arrive(scheduler, 0, [1], 13) == []
    assert batches(arrive(scheduler, 5.5, [2], 30)) == [(1, 2)]


def test_batch_goes_early_on_the_active_set_once_it_carries_its_share_of_the_target():
    # While no load is measured the active set is one GPU: a quarter of the target (3 of 4 that fit) goes early: 1.
    scheduler = make(gpu_count=2, early=True)
    assert batches(arrive(scheduler, 0, [1], 25)) == [(1,)]


def test_further_gpu_is_opened_at_the_last_call_only():
    scheduler = make(gpu_count=2, early=True)
    arrive(scheduler, 0, [1], 25)
    assert arrive(scheduler, 1, [2], 25) == []
    assert scheduler.wakeup_ns == (25 - 6) * MS  # its latest, not its frontrun at 18 ms
    assert wake(scheduler, 18.5) == []
    assert gpus(wake(scheduler, 19)) == [1]


def test_last_call_comes_half_a_window_before_latest():
    scheduler = make(gpu_count=2, early=True, window_ns=4 * MS)
    arrive(scheduler, 0, [1], 25)
    arrive(scheduler, 1, [2], 25)
    assert scheduler.wakeup_ns == (25 - 6 - 2) * MS


def test_batch_that_waits_for_the_active_set_goes_when_one_of_it_comes_free():
    scheduler = make(gpu_count=2, early=True)
    arrive(scheduler, 0, [1], 25)
    arrive(scheduler, 1, [2], 25)
    assert gpus(finish(scheduler, 6, 1)) == [0]


def test_batch_that_cannot_grow_opens_a_gpu_at_once():
    scheduler = make(gpu_count=2, early=True)
    arrive(scheduler, 0, [9], 25)
    assert gpus(arrive(scheduler, 0, range(4), 25)) == [1]


def test_candidates_are_looked_at_anew_at_each_epoch_while_one_waits():
    scheduler = make(SPEC, dataclasses.replace(SPEC, slo_ns=30 * S), early=True, epoch_ns=10 * MS)
    assert scheduler.wakeup_ns == NEVER
    arrive(scheduler, 0, [1], 1000)
    arrive(scheduler, 0, [2], 1000)
    assert scheduler.wakeup_ns <= 10 * MS


def test_batch_stops_at_a_stair_when_the_next_one_is_too_high():
    scheduler = make(STAIRS)
    assert arrive(scheduler, 0, range(4), 25) == []
    # The fifth would take 20 ms and end at 30: the first four go without it.
    assert batches(arrive(scheduler, 10, [4], 60)) == [(0, 1, 2, 3)]


def test_window_on_a_stair_is_as_wide_as_asked_for():
    # l(2) = l(1): frontrun would be the last instant, and a caller who is late would find the request hopeless.
    for window_ms in (0, 3):
        scheduler = make(STAIRS, window_ns=window_ms * MS)
        arrive(scheduler, 0, [1], 100)
        assert scheduler.wakeup_ns == (100 - 10 - window_ms) * MS


def test_window_that_is_wide_enough_is_left_alone():
    scheduler = make(window_ns=MS // 2)
    arrive(scheduler, 0, [1], 25)
    assert scheduler.wakeup_ns == (25 - 7) * MS


def test_margin_brings_the_window_forward():
    scheduler = make()
    scheduler.step(0, MarginChanged(0, 2 * MS))
    arrive(scheduler, 0, [1], 25)
    assert scheduler.wakeup_ns == (25 - 2 - 7) * MS


def test_control_delay_brings_the_window_forward_and_the_start_back():
    scheduler = make(control_ns=MS)
    arrive(scheduler, 0, [1], 25)
    assert scheduler.wakeup_ns == 17 * MS
    assert wake(scheduler, 17) == [Dispatch(1, 0, 0, (1,), 18 * MS, 24 * MS)]


def test_equal_deadlines_keep_their_order_of_arrival():
    scheduler = make()
    assert batches(arrive(scheduler, 0, [9, 3, 7, 1], 25)) == [(9, 3, 7, 1)]


def test_earlier_deadline_goes_first_when_it_arrives_later():
    scheduler = make()
    arrive(scheduler, 0, [1], 30)
    arrive(scheduler, 0, [2], 20)
    arrive(scheduler, 0, [3], 25)
    assert batches(arrive(scheduler, 0, [4], 28)) == [(2, 3, 4, 1)]


def test_early_call_changes_nothing():
    quiet, nervous = make(gpu_count=2), make(gpu_count=2)
    for id_ in range(20):
        for part in range(5):
            at_ns = id_ * MS + part * MS // 5
            if at_ns < nervous.wakeup_ns:
                assert nervous.step(at_ns, None) == []
        event = RequestArrived(id_, 0, (id_ + 25) * MS)
        assert quiet.step((id_ + 1) * MS, event) == nervous.step((id_ + 1) * MS, event)
        assert quiet.wakeup_ns == nervous.wakeup_ns


# Which GPU, which model


def test_lowest_id_gpu_is_used_first():
    scheduler = make(gpu_count=3)
    assert gpus(arrive(scheduler, 0, range(12), 25)) == [0, 1, 2]
    finish(scheduler, 9, 2, gpu=1)
    finish(scheduler, 9, 1, gpu=0)
    assert gpus(arrive(scheduler, 10, range(4), 35)) == [0]


def test_most_urgent_candidate_takes_the_freed_gpu():
    scheduler = make(SPEC, SPEC, SPEC)
    assert batches(arrive(scheduler, 0, range(4), 25)) == [(0, 1, 2, 3)]
    arrive(scheduler, 1, range(10, 14), 28, model=0)
    arrive(scheduler, 1, range(20, 24), 26, model=1)
    arrive(scheduler, 1, range(30, 34), 27, model=2)
    [plan] = finish(scheduler, 9, 1)
    assert (plan.model, plan.ids) == (1, (20, 21, 22, 23))


def test_lower_model_index_goes_first_when_candidates_are_equally_urgent():
    scheduler = make(SPEC, SPEC, SPEC)
    arrive(scheduler, 0, range(4), 25)
    arrive(scheduler, 1, range(20, 24), 26, model=2)
    arrive(scheduler, 1, range(10, 14), 26, model=1)
    [plan] = finish(scheduler, 9, 1)
    assert plan.model == 1


def test_batch_runs_only_where_its_model_is_resident():
    scheduler = make(SPEC, SPEC, gpu_count=2)
    scheduler.step(0, ModelEvicted(1, 0))
    assert gpus(arrive(scheduler, 0, range(4), 25, model=1)) == [1]
    assert gpus(arrive(scheduler, 0, range(10, 14), 25, model=1)) == []
    [plan] = scheduler.step(0, ModelPlaced(1, 0))
    assert plan.gpu == 0


def test_drained_gpu_gets_no_batch_until_it_is_restored():
    scheduler = make()
    scheduler.step(0, GpuDrained(0))
    assert arrive(scheduler, 0, range(4), 25) == []
    assert batches(scheduler.step(1, GpuRestored(0))) == [(0, 1, 2, 3)]


def test_each_kind_is_planned_with_its_own_profile():
    scheduler = make()
    scheduler.step(0, ProfileChanged(0, 5, linear(1, 10, 4)))
    scheduler.step(0, GpuJoined(1, 5))
    scheduler.step(0, ModelPlaced(0, 1))
    arrive(scheduler, 0, [1], 25)
    assert scheduler.wakeup_ns == (25 - 12) * MS
    assert wake(scheduler, 13) == [Dispatch(1, 1, 0, (1,), 13 * MS, 24 * MS)]


def test_request_too_late_for_a_slow_kind_waits_for_a_fast_one():
    scheduler = make()
    scheduler.step(0, ProfileChanged(0, 5, linear(1, 30, 4)))
    scheduler.step(0, GpuJoined(1, 5))
    scheduler.step(0, ModelPlaced(0, 1))
    assert arrive(scheduler, 0, [1], 25) == []
    assert gpus(wake(scheduler, 18)) == [0]


# Hopeless requests and shedding


def test_nothing_hopeless_is_run():
    scheduler = make()
    arrive(scheduler, 0, range(4), 25)
    assert arrive(scheduler, 1, [4], 12) == []
    assert wake(scheduler, 6) == []
    assert scheduler.wakeup_ns == 6 * MS + 1
    assert scheduler.step(6 * MS + 1, None) == [Drop(4, "would_miss")]


def test_request_past_its_deadline_is_dropped_as_expired():
    scheduler = make()
    assert arrive(scheduler, 5, [1], 5) == [Drop(1, "expired")]
    assert arrive(scheduler, 5, [1], 5.001) == [Drop(1, "would_miss")]


def test_request_of_a_model_without_a_gpu_is_dropped():
    scheduler = make()
    scheduler.step(0, ModelEvicted(0, 0))
    assert arrive(scheduler, 0, [1], 25) == [Drop(1, "no_gpu")]


def test_queue_of_a_removed_model_is_dropped_in_order():
    scheduler = make()
    arrive(scheduler, 0, [1], 30)
    arrive(scheduler, 0, [2], 25)
    assert scheduler.step(1, ModelRemoved(0)) == [Drop(2, "not_ready"), Drop(1, "not_ready")]
    assert scheduler.queued_count == 0


def make_pressed(**options) -> Scheduler:
    """Return an empty scheduler at 100 ms that was asked, in those 100 ms, for more than its GPU bears."""
    scheduler = make(epoch_ns=100 * MS, **options)
    for id_ in range(200):
        arrive(scheduler, 0, [id_], 1000)
        scheduler.step(0, RequestCancelled(id_))
    assert wake(scheduler, 100) == []
    return scheduler


def test_old_head_is_shed_rather_than_forcing_a_small_batch_in_overload():
    scheduler = make_pressed()
    arrive(scheduler, 100, range(4), 125)
    arrive(scheduler, 101, [4], 116)
    arrive(scheduler, 102, range(5, 9), 140)
    decisions = finish(scheduler, 109, 1)
    assert drops(decisions) == {4: "would_miss"}
    assert batches(decisions) == [(5, 6, 7, 8)]


def test_old_head_is_served_by_a_smaller_batch_while_the_load_can_be_carried():
    scheduler = make()
    arrive(scheduler, 0, range(4), 25)
    arrive(scheduler, 1, [4], 16)
    arrive(scheduler, 2, range(5, 9), 40)
    assert batches(finish(scheduler, 9, 1)) == [(4, 5)]


def test_old_head_forces_a_small_batch_without_shedding():
    scheduler = make_pressed(shed=False)
    arrive(scheduler, 100, range(4), 125)
    arrive(scheduler, 101, [4], 115)
    arrive(scheduler, 102, range(5, 9), 140)
    assert batches(finish(scheduler, 109, 1)) == [(4,)]


def test_priority_protects_from_shedding_by_lower_ones():
    scheduler = make_pressed()
    arrive(scheduler, 100, range(4), 125)
    arrive(scheduler, 101, [4], 115, priority=1)
    arrive(scheduler, 102, range(5, 9), 140, priority=2)
    decisions = finish(scheduler, 109, 1)
    assert drops(decisions) == {}
    assert batches(decisions) == [(4,)]


def test_priority_goes_before_deadline():
    scheduler = make()
    arrive(scheduler, 0, range(4), 25)
    arrive(scheduler, 1, range(10, 13), 30, priority=8)
    arrive(scheduler, 1, range(20, 23), 40, priority=1)
    assert batches(finish(scheduler, 9, 1)) == [(20, 21, 22, 10)]


def test_cancelled_request_leaves_without_a_decision():
    scheduler = make()
    arrive(scheduler, 0, [1, 2], 25)
    assert scheduler.step(0, RequestCancelled(1)) == []
    assert scheduler.queued_count == scheduler.queued_count_of(0) == 1
    assert batches(wake(scheduler, 18)) == [(2,)]
    assert scheduler.step(18 * MS, RequestCancelled(2)) == []  # It left already.


def test_id_may_be_used_again_once_its_request_left():
    scheduler = make()
    scheduler.step(0, RequestArrived(7, 0, 25 * MS))
    with pytest.raises(ValueError, match="7"):
        scheduler.step(0, RequestArrived(7, 0, 25 * MS))
    scheduler.step(0, RequestCancelled(7))
    scheduler.step(0, RequestArrived(7, 0, 25 * MS))
    assert batches(wake(scheduler, 18)) == [(7,)]
    assert drops(arrive(scheduler, 18, [7], 19)) == {7: "would_miss"}
    assert arrive(scheduler, 18, [7], 60) == []
    assert scheduler.queued_count == 1


# What the GPUs report


def test_next_batch_is_handed_over_lead_ahead():
    scheduler = make(lead_ns=2 * MS)
    arrive(scheduler, 0, range(4), 25)
    assert arrive(scheduler, 1, range(4), 30) == []
    assert scheduler.wakeup_ns == 7 * MS
    assert scheduler.step(7 * MS - 1, None) == []
    assert wake(scheduler, 7) == [Dispatch(2, 0, 0, (0, 1, 2, 3), 9 * MS, 18 * MS)]


def test_gpu_holds_at_most_two_batches():
    scheduler = make(lead_ns=S)
    assert gpus(arrive(scheduler, 0, range(12), 50)) == [0, 0]
    assert batches(finish(scheduler, 9, 1)) == [(8, 9, 10, 11)]


def test_overrun_makes_the_gpu_unavailable_until_it_finishes():
    scheduler = make(lead_ns=2 * MS)
    arrive(scheduler, 0, range(4), 25)
    assert arrive(scheduler, 9, range(4), 40) == []
    assert wake(scheduler, 12) == []
    assert finish(scheduler, 13, 1) == [Dispatch(2, 0, 0, (0, 1, 2, 3), 13 * MS, 22 * MS)]


def test_measured_start_moves_the_prediction():
    scheduler = make(lead_ns=2 * MS)
    arrive(scheduler, 0, range(4), 25)
    scheduler.step(MS, BatchStarted(1, 0, MS))
    arrive(scheduler, 1, range(4), 40)
    assert scheduler.wakeup_ns == (1 + 9 - 2) * MS


def test_late_end_moves_the_batch_that_was_handed_over_ahead():
    scheduler = make(lead_ns=2 * MS)
    arrive(scheduler, 0, range(4), 25)
    arrive(scheduler, 7, range(4), 40)
    finish(scheduler, 11, 1)
    arrive(scheduler, 12, range(4), 60)
    assert scheduler.wakeup_ns == (11 + 9 - 2) * MS


def test_gpu_that_finishes_early_is_used_at_once():
    scheduler = make()
    arrive(scheduler, 0, range(4), 25)
    arrive(scheduler, 1, range(4), 30)
    assert batches(finish(scheduler, 3, 1)) == [(0, 1, 2, 3)]


def test_no_queued_work_is_lost_when_a_gpu_leaves():
    scheduler = make(gpu_count=2)
    arrive(scheduler, 0, range(8), 25)
    arrive(scheduler, 1, range(10, 14), 30)
    assert scheduler.step(2 * MS, GpuLeft(0)) == []
    assert scheduler.queued_count == 4
    assert finish(scheduler, 3, 1, gpu=0) == []  # A batch of the GPU that left: ignored.
    assert batches(finish(scheduler, 9, 2, gpu=1)) == [(10, 11, 12, 13)]


def test_gpu_that_left_may_join_again_as_another_kind():
    scheduler = make()
    arrive(scheduler, 0, range(4), 25)
    scheduler.step(1, GpuLeft(0))
    scheduler.step(2, ProfileChanged(0, 3, linear(1, 1, 4)))
    scheduler.step(2, GpuJoined(0, 3))
    scheduler.step(2, ModelPlaced(0, 0))
    [plan] = arrive(scheduler, 1, range(4), 25)
    assert plan.finish_at_ns - plan.start_at_ns == 5 * MS


# Other policies


def test_eager_policy_runs_what_there_is_on_an_idle_gpu():
    scheduler = make(policy="eager")
    assert batches(arrive(scheduler, 0, [1], 25)) == [(1,)]


def test_eager_policy_takes_the_earliest_deadline_first():
    scheduler = make(SPEC, SPEC, policy="eager")
    arrive(scheduler, 0, [1], 25)
    arrive(scheduler, 1, [2], 40, model=0)
    arrive(scheduler, 2, [3], 35, model=1)
    assert batches(finish(scheduler, 6, 1)) == [(3,)]


def test_timeout_policy_waits_for_the_delay_or_the_preferred_size():
    scheduler = make(dataclasses.replace(SPEC, delay_ns=3 * MS, batch_size_preferred=2), policy="timeout")
    arrive(scheduler, 0, [1], 25)
    assert scheduler.wakeup_ns == 3 * MS
    assert batches(wake(scheduler, 3)) == [(1,)]
    finish(scheduler, 9, 1)
    arrive(scheduler, 10, [1], 35)
    assert batches(arrive(scheduler, 11, [2], 36)) == [(1, 2)]


# Callers' mistakes and limits


def make_small() -> Scheduler:
    """Return a scheduler at 5 ns with model 0 (batches up to 2), GPU 0 of kind 0, and request 1 waiting."""
    scheduler = Scheduler(request_count_max=8, model_count_max=2, gpu_count_max=3, early=False)
    scheduler.step(5, ModelAdded(0, 1000, 2))
    scheduler.step(5, ProfileChanged(0, 0, (10, 20)))
    scheduler.step(5, GpuJoined(0, 0))
    scheduler.step(5, ModelPlaced(0, 0))
    scheduler.step(5, RequestArrived(1, 0, 1000))
    return scheduler


@pytest.mark.parametrize(
    ("now_ns", "event", "words"),
    [
        (4, None, ["now_ns", 4, 5]),
        (5, ModelAdded(2, 1000, 1), ["model", 2, 1]),
        (5, ModelAdded(-1, 1000, 1), ["model", -1, 0]),
        (5, ModelAdded(0, 1000, 1), ["model 0"]),
        (5, ModelAdded(1, 0, 1), ["slo_ns", 0, 1]),
        (5, ModelAdded(1, 1000, 0), ["batch_size_max", 0, 1]),
        (5, ModelAdded(1, 1000, 2, margin_ns=-1), ["margin_ns", -1, 0]),
        (5, ModelAdded(1, 1000, 2, delay_ns=-3), ["delay_ns", -3, 0]),
        (5, ModelAdded(1, 1000, 2, batch_size_preferred=3), ["batch_size_preferred", 3, 2]),
        (5, ModelRemoved(1), ["model 1"]),
        (5, MarginChanged(0, -1), ["margin_ns", -1, 0]),
        (5, MarginChanged(1, 0), ["model 1"]),
        (5, ProfileChanged(0, 0, (10,)), ["model 0", 1, 2]),
        (5, ProfileChanged(0, 0, (10, 20, 30)), ["model 0", 3, 2]),
        (5, ProfileChanged(0, 0, (0, 10)), ["model 0", 0]),
        (5, ProfileChanged(0, 0, (20, 10)), ["model 0", 20, 10]),
        (5, ProfileChanged(0, 8, (10, 20)), ["kind", 8, 7]),
        (5, ProfileChanged(1, 0, (10, 20)), ["model 1"]),
        (5, GpuJoined(3), ["gpu", 3, 2]),
        (5, GpuJoined(0), ["GPU 0"]),
        (5, GpuJoined(1, -1), ["kind", -1, 0]),
        (5, GpuLeft(1), ["GPU 1"]),
        (5, GpuDrained(1), ["GPU 1"]),
        (5, GpuRestored(1), ["GPU 1"]),
        (5, ModelPlaced(1, 0), ["model 1"]),
        (5, ModelPlaced(0, 1), ["GPU 1"]),
        (5, ModelEvicted(0, 1), ["GPU 1"]),
        (5, RequestArrived(8, 0, 1000), ["id", 8, 7]),
        (5, RequestArrived(-1, 0, 1000), ["id", -1, 0]),
        (5, RequestArrived(1, 0, 1000), ["request", 1]),
        (5, RequestArrived(2, 1, 1000), ["model 1"]),
        (5, RequestArrived(2, 0, 1000, 0), ["priority", 0, 1, 8]),
        (5, RequestArrived(2, 0, 1000, 9), ["priority", 9, 1, 8]),
        (5, RequestArrived(2, 0, 2**63), ["deadline_ns", 2**63]),
    ],
)
def test_mistake_raises_an_error_that_names_thing_value_and_limit_and_changes_nothing(
    now_ns: int, event: Event | None, words: list[str | int]
):
    scheduler = make_small()
    wakeup_ns = scheduler.wakeup_ns
    with pytest.raises(ValueError) as caught:
        scheduler.step(now_ns, event)
    for word in words:
        assert re.search(rf"(?<![\w-]){word}(?!\w)", str(caught.value)), f"{word} is not in: {caught.value}"
    assert scheduler.wakeup_ns == wakeup_ns
    assert scheduler.queued_count == 1
    assert scheduler.step(wakeup_ns, None) == [Dispatch(1, 0, 0, (1,), wakeup_ns, wakeup_ns + 10)]


def test_model_needs_a_profile_for_the_kind_it_is_placed_on():
    scheduler = make()
    scheduler.step(0, GpuJoined(1, 6))
    with pytest.raises(ValueError, match=r"model 0.*kind 6.*GPU 1"):
        scheduler.step(0, ModelPlaced(0, 1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "lazy"}, ["policy", "lazy", "deferred"]),
        ({"request_count_max": 0}, ["request_count_max", 0, 1]),
        ({"model_count_max": 0}, ["model_count_max", 0, 1]),
        ({"gpu_count_max": 0}, ["gpu_count_max", 0, 1]),
        ({"control_ns": -1}, ["control_ns", -1, 0]),
        ({"lead_ns": -1}, ["lead_ns", -1, 0]),
        ({"window_ns": -1}, ["window_ns", -1, 0]),
        ({"epoch_ns": 0}, ["epoch_ns", 0, 1]),
        ({"target_share": 0.0}, ["target_share", 0]),
    ],
)
def test_scheduler_refuses_options_out_of_range(options, words):
    with pytest.raises(ValueError) as caught:
        Scheduler(**options)
    for word in words:
        assert re.search(rf"(?<![\w-]){word}(?!\w)", str(caught.value)), f"{word} is not in: {caught.value}"


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_request_ids_end_at_request_count_max(limit):
    scheduler = make(request_count_max=limit)
    scheduler.step(0, GpuDrained(0))
    for id_ in range(limit):
        assert arrive(scheduler, 0, [id_], 25) == []
    assert scheduler.queued_count == limit
    with pytest.raises(ValueError, match=rf"{limit}\b"):
        arrive(scheduler, 0, [limit], 25)
    assert scheduler.queued_count == limit
    assert scheduler.step(26 * MS, None) == [Drop(id_, "expired") for id_ in range(limit)]
    assert arrive(scheduler, 26, range(limit), 60) == []


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_models_end_at_model_count_max(limit):
    scheduler = Scheduler(model_count_max=limit)
    set_up(scheduler, [SPEC] * limit, 1)
    with pytest.raises(ValueError, match=rf"{limit}\b"):
        scheduler.step(0, ModelAdded(limit, 25 * MS, 4))
    assert batches(arrive(scheduler, 0, range(4), 25, model=limit - 1))


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_gpus_end_at_gpu_count_max(limit):
    scheduler = make(gpu_count=limit, gpu_count_max=limit)
    with pytest.raises(ValueError, match=rf"{limit}\b"):
        scheduler.step(0, GpuJoined(limit))
    assert gpus(arrive(scheduler, 0, range(4 * limit), 25)) == list(range(limit))


# Targets


def test_target_is_the_staggered_bound():
    # l(b) (1 + 1/N) <= 25 ms with l(b) = b + 5 ms: b = 7.5 for one GPU, 11.6 for two, 15 for four.
    for gpu_count, bound in ((1, 7), (2, 11), (4, 15)):
        spec = ModelSpec(25 * MS, linear(1, 5, 32))
        assert make(spec, gpu_count=gpu_count, target_share=1.0).target_batch_size(0, 0) == bound
        assert make(spec, gpu_count=gpu_count, target_share=0.5).target_batch_size(0, 0) == bound // 2


def test_target_follows_the_share_of_the_demand():
    spec = ModelSpec(25 * MS, linear(1, 5, 32))
    scheduler = make(spec, spec, gpu_count=4, target_share=1.0, epoch_ns=10 * MS)
    assert scheduler.target_batch_size(0, 0) == scheduler.target_batch_size(1, 0) == 11
    arrive(scheduler, 0, range(20), 25, model=1)
    wake(scheduler, 10)
    assert scheduler.target_batch_size(0, 0) == 1
    assert scheduler.target_batch_size(1, 0) == 15


def test_target_counts_no_drained_gpu():
    spec = ModelSpec(25 * MS, linear(1, 5, 32))
    scheduler = make(spec, gpu_count=2, target_share=1.0)
    scheduler.step(0, GpuDrained(1))
    assert scheduler.target_batch_size(0, 0) == 7
    scheduler.step(0, GpuRestored(1))
    assert scheduler.target_batch_size(0, 0) == 11


# In virtual time

ONE_MODEL = [ModelSpec(slo_ns=50 * MS, latency_ns=linear(1.053, 5.072, 64))]
GPU_COUNT = 8
PEAK_RATE = 6200
"""About what eight GPUs bear."""


def run(rate: float, seed: int = 1, *, models=ONE_MODEL, gpu_count: int = GPU_COUNT, seconds: int = 3, **options):
    arrivals = make_arrivals(rate, seconds * S, seed, model_count=len(models))
    control_ns = options.get("control_ns", 0)
    return simulate(Scheduler(**options), models, gpu_count, arrivals, control_ns=control_ns)


@pytest.mark.parametrize("rate", [500, 4000, 12000])
@pytest.mark.parametrize("options", [{}, {"early": False}, {"control_ns": MS, "lead_ns": 3 * MS}, {"policy": "eager"}])
def test_every_request_leaves_once_and_none_is_late(rate, options):
    # `simulate` forgets an id when its request leaves and fails if it leaves again.
    result = run(rate, **options)
    assert result.good_count + result.dropped_count == result.offered_count
    assert result.late_count == 0


def test_same_seed_gives_the_same_run():
    assert run(4000, seed=3, seconds=1) == run(4000, seed=3, seconds=1) != run(4000, seed=4, seconds=1)


def test_gpu_runs_one_batch_at_a_time():
    result = run(12000, control_ns=MS, lead_ns=3 * MS)
    for gpu in range(GPU_COUNT):
        spans = [(batch.started_ns, batch.finished_ns) for batch in result.batches if batch.gpu == gpu]
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_gpu_use_is_proportional_to_load():
    used = {share: len(run(PEAK_RATE * share, early=False).gpus_used) for share in (0.1, 0.25, 0.4, 0.7, 0.95)}
    assert used[0.1] <= 2
    assert used[0.25] <= 4
    assert used[0.4] <= 6
    assert used[0.95] == GPU_COUNT
    assert list(used.values()) == sorted(used.values())


def test_idle_gpus_are_the_highest_ids():
    result = run(PEAK_RATE * 0.4, early=False)
    assert result.gpus_used == set(range(len(result.gpus_used)))
    busy = [result.busy_ns(gpu) for gpu in range(GPU_COUNT)]
    assert busy == sorted(busy, reverse=True)


def test_eager_policy_uses_more_gpus_at_the_same_load():
    deferred, eager = run(PEAK_RATE * 0.4, early=False), run(PEAK_RATE * 0.4, policy="eager")
    assert len(deferred.gpus_used) < len(eager.gpus_used) == GPU_COUNT
    assert mean(deferred.batch_sizes) > mean(eager.batch_sizes)


def test_staggered_execution_emerges():
    # With N GPUs a batch starts about every l(b) / N, although nobody tells the GPUs to take turns.
    gpu_count = 4
    result = run(PEAK_RATE / 2 * 0.9, gpu_count=gpu_count, early=False)
    steady = [batch for batch in result.batches if S < batch.started_ns < 2.5 * S]
    gaps = [after.started_ns - before.started_ns for before, after in pairwise(steady)]
    cycle = mean(batch.finished_ns - batch.started_ns for batch in steady)
    evenness = sum(0.4 < gap / (cycle / gpu_count) < 1.9 for gap in gaps) / len(gaps)
    assert evenness > 0.8


def test_batches_reach_the_staggered_bound_near_capacity():
    # (1 + 1/8) l(b) <= 50 ms: 37. Arrivals are random, so they come a little short of it.
    assert 0.75 * 37 <= mean(run(PEAK_RATE, early=False).batch_sizes) <= 37 * 1.1


def test_shedding_keeps_goodput_in_overload():
    peak = goodput_search(lambda rate: run(rate, seconds=2), 1000, 20000)
    overloaded = run(2 * peak, seconds=4)
    assert overloaded.good_count / 4 >= 0.9 * peak


def test_without_shedding_goodput_collapses_in_overload():
    peak = goodput_search(lambda rate: run(rate, seconds=2, shed=False), 1000, 20000)
    shedding, not_shedding = run(2 * peak, seconds=4), run(2 * peak, seconds=4, shed=False)
    assert not_shedding.good_count < 0.9 * shedding.good_count


def test_one_head_too_old_does_not_force_small_batches_forever():
    # A burst of twice what fits leaves old heads behind; soon after it batches are as before.
    calm = make_arrivals(PEAK_RATE * 0.8, 3 * S, 5)
    burst = [Arrival(S + index * 1000, 0) for index in range(600)]
    result = simulate(Scheduler(early=False), ONE_MODEL, GPU_COUNT, sorted(calm + burst, key=lambda a: a.at_ns))
    before = mean(batch.size for batch in result.batches if 0.5 * S < batch.started_ns < S)
    after = mean(batch.size for batch in result.batches if 1.2 * S < batch.started_ns < 2.5 * S)
    assert after > 0.9 * before
    assert result.good_share > 0.9


def test_high_priority_survives_an_overload_of_low_priority():
    random = make_arrivals(2 * PEAK_RATE, 3 * S, 6)
    arrivals = [dataclasses.replace(arrival, priority=1 if i % 10 == 0 else 8) for i, arrival in enumerate(random)]
    result = simulate(Scheduler(), ONE_MODEL, GPU_COUNT, arrivals)
    high_count = sum(arrival.priority == 1 for arrival in arrivals)
    assert result.bad_by_priority[1] < 0.01 * high_count
    assert result.bad_by_priority[8] > 0.3 * (len(arrivals) - high_count)


def test_handing_over_ahead_makes_up_for_the_control_delay():
    models = [ModelSpec(slo_ns=30 * MS, latency_ns=linear(0.1, 3, 16))]

    def goodput(**options) -> float:
        return goodput_search(lambda rate: run(rate, models=models, gpu_count=2, seconds=2, **options), 200, 20000)

    with_lead = goodput(control_ns=2 * MS, lead_ns=3 * MS)
    assert with_lead > 1.2 * goodput(control_ns=2 * MS)
    assert with_lead > 0.85 * goodput()


def test_early_starts_raise_goodput_on_one_gpu():
    def goodput(**options) -> float:
        return mean(
            goodput_search(lambda rate, seed=seed: run(rate, seed, gpu_count=1, seconds=8, **options), 100, 2000)
            for seed in range(3)
        )

    assert goodput(early=True) > goodput(early=False)


@pytest.mark.parametrize(
    ("start", "dropped_count", "is_patient"),
    [(100, 0, True), (100, 5, False), (0, 5, True)],
    ids=["no losses", "losses", "losses before any demand was measured"],
)
def test_where_bursts_cost_requests_a_candidate_no_longer_waits(start, dropped_count, is_patient):
    scheduler = make(gpu_count=8, early=True, epoch_ns=100 * MS)
    for time in range(0, start + 1, 100):
        # As many as ask for 5 of the 8 GPUs, for a first epoch counts half; nobody waits for their answers.
        for _ in range(350 if time == 0 else 175):
            arrive(scheduler, time, [0], time + 25)
            scheduler.step(time * MS, RequestCancelled(0))
    finish(scheduler, start + 95, 1)
    drops = arrive(scheduler, start + 95, range(1, 1 + dropped_count), start + 96)
    assert [drop.reason for drop in drops] == ["would_miss"] * dropped_count
    started = batches(arrive(scheduler, start + 110, [100], start + 135))
    assert started == ([] if is_patient else [(100,)])
