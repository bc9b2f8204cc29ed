"""The scheduling loop on a real clock: what goes in comes out exactly once, on time, without the GIL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from symphony.errors import Reason
from symphony.loop import SchedulingLoop

LATENCY_NS = [5_000_000 + 1_000_000 * b for b in range(1, 17)]
SLO_NS = 50_000_000


@pytest.fixture
def loop() -> Iterator[SchedulingLoop]:
    """Yield a running loop with model 0 on GPU 0."""
    loop = SchedulingLoop(request_count_max=256, model_count_max=4, gpu_count_max=2)
    loop.model_added(0, SLO_NS, len(LATENCY_NS), 0)
    loop.profile_changed(0, 0, LATENCY_NS)
    loop.gpu_joined(0, 0)
    loop.model_placed(0, 0)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield loop
    loop.stop()
    thread.join(5)
    assert not thread.is_alive()
    loop.close()


def wait_for_outcomes(loop: SchedulingLoop, count: int, timeout_s: float = 2.0) -> list[tuple[int, Reason]]:
    """Return the first `count` outcomes, fewer if they do not come in time."""
    found: list[tuple[int, Reason]] = []
    end = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < end:
        found += loop.drain_outcomes()
        time.sleep(0.001)
    return found


def test_batch_is_dispatched_at_its_frontrun(loop: SchedulingLoop) -> None:
    """A lone request waits until nothing more could join, then goes; neither at once nor too late."""
    arrived_ns = time.monotonic_ns()
    deadline_ns = arrived_ns + SLO_NS
    loop.request_arrived(7, 0, deadline_ns, 4)
    plan = loop.take(0)
    assert plan is not None and plan.ids == [7]
    frontrun_ns = deadline_ns - LATENCY_NS[1]
    assert frontrun_ns <= plan.decided_at_ns <= deadline_ns - LATENCY_NS[0]
    assert plan.finish_at_ns <= deadline_ns


def test_requests_that_arrive_together_form_one_batch(loop: SchedulingLoop) -> None:
    """Ids come in deadline order."""
    now_ns = time.monotonic_ns()
    for slot, later_ns in ((1, 3_000), (2, 1_000), (3, 2_000)):
        loop.request_arrived(slot, 0, now_ns + SLO_NS + later_ns, 4)
    plan = loop.take(0)
    assert plan is not None and plan.ids == [2, 3, 1]


def test_hopeless_request_comes_back_as_would_miss_and_past_one_as_expired(loop: SchedulingLoop) -> None:
    """The reason tells the two apart."""
    now_ns = time.monotonic_ns()
    loop.request_arrived(1, 0, now_ns + 1_000_000, 4)
    loop.request_arrived(2, 0, now_ns - 1, 4)
    assert sorted(wait_for_outcomes(loop, 2)) == [(1, Reason.WOULD_MISS), (2, Reason.EXPIRED)]


def test_cancelled_request_comes_back_once(loop: SchedulingLoop) -> None:
    """A second cancellation, and one of a request that left, say nothing."""
    loop.request_arrived(5, 0, time.monotonic_ns() + SLO_NS, 4)
    loop.request_cancelled(5)
    loop.request_cancelled(5)
    loop.request_cancelled(9)
    assert wait_for_outcomes(loop, 2, timeout_s=0.1) == [(5, Reason.CANCELLED)]
    assert loop.queued_count == 0


def test_request_for_a_removed_model_comes_back_as_not_ready(loop: SchedulingLoop) -> None:
    """Both one that waited and one that was on its way."""
    loop.request_arrived(1, 0, time.monotonic_ns() + SLO_NS, 4)
    loop.model_removed(0)
    loop.request_arrived(2, 0, time.monotonic_ns() + SLO_NS, 4)
    assert sorted(wait_for_outcomes(loop, 2)) == [(1, Reason.NOT_READY), (2, Reason.NOT_READY)]


def test_every_request_leaves_exactly_once_under_load(loop: SchedulingLoop) -> None:
    """Slots are used again as they come back; at the end all have."""
    left: list[int] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            plan = loop.take(0)
            if plan is not None:
                loop.wait_and_finish(plan.plan_id, 0, time.monotonic_ns() + 200_000)
                left.extend(plan.ids)

    worker = threading.Thread(target=work)
    worker.start()
    free = list(range(256))
    sent = 0
    while sent < 3000:
        while left:
            free.append(left.pop())
        free.extend(slot for slot, _ in loop.drain_outcomes())
        if free:
            loop.request_arrived(free.pop(), 0, time.monotonic_ns() + 15_000_000, 1 + sent % 8)
            sent += 1
            if sent % 5 == 0:
                loop.request_cancelled(sent % 256)
        else:
            time.sleep(0.0005)
    end = time.monotonic() + 2
    while len(free) < 256 and time.monotonic() < end:
        while left:
            free.append(left.pop())
        free.extend(slot for slot, _ in loop.drain_outcomes())
        time.sleep(0.001)
    stop.set()
    loop.rouse(0)
    worker.join(5)
    assert sorted(free) == list(range(256))
    assert loop.queued_count == 0


def test_broken_invariant_stops_the_loop_with_its_state() -> None:
    """An id used twice is the caller's bug: the thread ends and says so instead of going on."""
    loop = SchedulingLoop(request_count_max=4, model_count_max=1, gpu_count_max=1)
    loop.model_added(0, SLO_NS, len(LATENCY_NS), 0)
    loop.profile_changed(0, 0, LATENCY_NS)
    loop.gpu_joined(0, 0)
    loop.model_placed(0, 0)
    loop.request_arrived(1, 0, time.monotonic_ns() + SLO_NS, 4)
    loop.request_arrived(1, 0, time.monotonic_ns() + SLO_NS, 4)
    with pytest.raises(RuntimeError, match="broke an invariant"):
        loop.run()
    assert loop.fault != 0
    loop.close()


def test_decisions_are_on_time_while_python_holds_the_gil(loop: SchedulingLoop) -> None:
    """A thread that needed the GIL would decide one switch interval (5 ms) late; this one needs none."""
    end = time.monotonic() + 1.0
    slot = 0
    next_s = 0.0
    while time.monotonic() < end:
        if time.monotonic() >= next_s and slot < 256:
            loop.request_arrived(slot, 0, time.monotonic_ns() + 12_000_000, 4)
            slot += 1
            next_s = time.monotonic() + 0.01
    counts, _ = loop.lateness_counts()
    total = sum(count for _, count in counts)
    assert total >= 20
    late = sum(count for upper_ns, count in counts if upper_ns > 2_500_000)
    assert late <= total * 0.1, counts
