"""The door refuses what cannot be served anyway, and never more."""

import pytest

from symphony.server.door import SPARE, Door, Doors
from symphony.server.shares import Share


def caller(door: Door, name: str = "one", weight: float = 1.0) -> Share:
    return door.shares.of(name, weight)


def run(door: Door, rate: int, capacity: int, looks: int = 40, asked_at: float | None = None) -> int:
    """Offer `rate` requests per look to GPUs that serve `capacity`; return how many were served in the last look."""
    gpu_count, served = 4, 0
    for _ in range(looks):
        let_in = sum(not door.refuses(caller(door)) for _ in range(rate))
        served = min(let_in, capacity)
        door.accepted_count += let_in
        door.dropped_count += let_in - served
        door.look(rate / capacity * gpu_count if asked_at is None else asked_at, gpu_count)
    return served


def test_nothing_is_refused_without_drops() -> None:
    door = Door()
    run(door, rate=90, capacity=100)
    assert door.refused_share == 0.0
    run(door, rate=99, capacity=100, asked_at=40.0)  # however many GPUs are asked for
    assert door.refused_share == 0.0


def test_drops_without_want_of_gpus_refuse_nothing() -> None:
    """Deadlines too short for the queue, a model on one GPU of many: more arrivals are not the trouble."""
    door = Door()
    run(door, rate=200, capacity=100, asked_at=3.0)
    assert door.refused_share == 0.0


@pytest.mark.parametrize("load", [1.5, 2.0, 5.0, 20.0])
def test_overload_is_refused_and_the_gpus_stay_full(load: float) -> None:
    door = Door()
    served = run(door, rate=round(load * 1000), capacity=1000)
    assert served == 1000
    let_in = 1.0 - door.refused_share
    assert let_in * load == pytest.approx(SPARE, rel=0.02)


def test_the_share_is_gone_soon_after_the_load() -> None:
    door = Door()
    run(door, rate=3000, capacity=1000)
    assert run(door, rate=500, capacity=1000, looks=1) < 500  # this look still refuses
    assert run(door, rate=500, capacity=1000, looks=2) == 500


def test_share_refused_is_exact_and_evenly_spread() -> None:
    door = Door()
    caller(door).refused_share = 0.25
    refused = [door.refuses(caller(door)) for _ in range(1000)]
    assert sum(refused) == 250
    assert all(sum(refused[i : i + 40]) == 10 for i in range(0, 1000, 40))


def test_urgent_requests_keep_the_door_open_for_a_while() -> None:
    door = Door()
    run(door, rate=3000, capacity=1000)
    door.enter(caller(door), 1, priority=1, priority_default=4)
    door.shares.leave("one", 1)
    assert not any(door.refuses(caller(door)) for _ in range(100))
    run(door, rate=3000, capacity=1000, looks=90)
    assert not any(door.refuses(caller(door)) for _ in range(100))
    run(door, rate=3000, capacity=1000, looks=40)
    assert sum(door.refuses(caller(door)) for _ in range(100)) > 50


def test_drops_count_against_requests_not_calls() -> None:
    """One in a hundred requests dropped, sixty-four to a call: far from overload, however few the calls."""
    door = Door()
    for _ in range(20):
        for _ in range(30):
            door.refuses(caller(door))
            door.accepted_count += 64
        door.dropped_count += 19
        door.look(gpus_asked=8.0, gpu_count=4)
    assert door.refused_share == 0.0


def test_doors_count_what_was_refused_into_the_wish_for_gpus() -> None:
    """The scheduler sees only what is let in, and so asks for too few; the share must not fall for that."""
    doors, door = Doors(), Door()
    for _ in range(200):
        let_in = sum(not door.refuses(caller(door)) for _ in range(2000))
        door.accepted_count += let_in
        door.dropped_count += max(0, let_in - 1000)
        doors.look([door], gpus_asked=4.0 * let_in / 1000, gpu_count=4)
    assert 1.0 - door.refused_share == pytest.approx(SPARE / 2, rel=0.15)
