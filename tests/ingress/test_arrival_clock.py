"""Stamps of arrivals: now after a pause, the beginning of the work that kept the loop otherwise."""

from __future__ import annotations

import asyncio

import pytest

from symphony.ingress.arrival_clock import BACKDATED_NS_MAX, SLEPT_NS, ArrivalClock

US = 1000
MS = 1_000_000


class Time:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_ns = 1000 * MS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def clock(time: Time) -> ArrivalClock:
    return ArrivalClock(time)


async def end_turn() -> None:
    await asyncio.sleep(0)


async def test_request_found_after_a_pause_has_just_arrived(clock, time) -> None:
    assert clock() == time.now_ns


async def test_all_that_one_poll_found_has_one_stamp(clock, time) -> None:
    first = clock()
    time.now_ns += 3 * MS
    assert clock() == first


async def test_what_came_during_a_turn_counts_from_its_poll(clock, time) -> None:
    polled_ns = clock()
    time.now_ns += 3 * MS
    await end_turn()
    time.now_ns += 10 * US
    assert clock() == polled_ns


async def test_stretches_of_reading_do_not_add_up(clock, time) -> None:
    clock()
    time.now_ns += 3 * MS
    await end_turn()
    second_ns = time.now_ns
    clock()
    time.now_ns += 4 * MS
    await end_turn()
    assert clock() == second_ns


async def test_answering_keeps_the_loop_busy_too(clock, time) -> None:
    since_ns = time.now_ns
    clock.worked(since_ns, since_ns + 2 * MS)
    clock.worked(since_ns + 2 * MS + 10 * US, since_ns + 5 * MS)
    time.now_ns = since_ns + 5 * MS + 10 * US
    assert clock() == since_ns


async def test_pause_after_work_means_that_the_loop_slept(clock, time) -> None:
    clock.worked(time.now_ns, time.now_ns + MS)
    time.now_ns += MS + SLEPT_NS + 1
    assert clock() == time.now_ns


async def test_stall_does_not_date_arrivals_back_for_ever(clock, time) -> None:
    clock.worked(time.now_ns, time.now_ns + 900 * MS)
    time.now_ns += 900 * MS
    assert clock() == time.now_ns - BACKDATED_NS_MAX
