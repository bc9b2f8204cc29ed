"""An overloaded model is shared by weight: whoever asks for less than his share is refused nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.server.door import PRIORITY_LOWEST, Door
from symphony.server.shares import CALLER_COUNT_MAX, Share, Shares, level_of


def rated(rate: float, weight: float = 1.0) -> Share:
    share = Share(weight)
    share.rate = rate
    return share


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0.001, 1000)), min_size=1, max_size=30),
    st.floats(0, 1.5),
)
def test_level_fills_the_capacity_and_cuts_only_those_above_it(callers, part: float) -> None:
    shares = [rated(*caller) for caller in callers]
    total = sum(share.rate for share in shares)
    capacity = part * total
    level = level_of(shares, capacity)
    given_out = sum(min(share.rate, level * share.weight) for share in shares)
    assert given_out == pytest.approx(min(total, capacity), rel=1e-6, abs=1e-6)


def test_level_is_by_weight() -> None:
    assert level_of([rated(10), rated(1000), rated(1000, 3.0)], 410) == pytest.approx(100)


def offer(shares: Shares, rates: dict[str, int], refused_share: float, looks: int = 60) -> dict[str, float]:
    """Return which share of each caller's calls is refused in the last look."""
    refused: dict[str, float] = {}
    for _ in range(looks):
        for name, rate in rates.items():
            share = shares.of(name, 1.0)
            share.call_count += rate
            refused[name] = sum(share.refuses() for _ in range(rate)) / rate
        shares.look(refused_share)
    return refused


def test_only_the_greedy_caller_is_refused() -> None:
    """It sends twenty times its share of a thousand; nine others send theirs, or less."""
    rates = {"greedy": 2000} | {f"other{number}": 100 - 10 * number for number in range(9)}
    total = sum(rates.values())
    refused = offer(Shares(), rates, 1 - 1000 / total)
    assert refused.pop("greedy") == pytest.approx((total - 1000) / 2000, abs=0.01)
    assert set(refused.values()) == {0.0}


def test_two_greedy_callers_are_let_in_alike() -> None:
    refused = offer(Shares(), {"one": 4000, "two": 1000, "other": 100}, 1 - 1100 / 5100)
    assert refused["one"] == pytest.approx(1 - 500 / 4000, abs=0.01)
    assert refused["two"] == pytest.approx(1 - 500 / 1000, abs=0.01)
    assert refused["other"] == 0.0


def test_requests_above_the_share_go_behind_those_of_others() -> None:
    door = Door()
    door.hold_count = 100.0
    greedy, other = door.shares.of("greedy", 1.0), door.shares.of("other", 1.0)
    assert door.enter(other, 1, 4, 4) == 4
    priorities = [door.enter(greedy, 1, 2, 4) for _ in range(300)]
    assert set(priorities[:49]) == {2}
    assert set(priorities[60:]) == {PRIORITY_LOWEST}
    assert [door.enter(other, 1, 4, 4) for _ in range(45)] == [4] * 45


def test_caller_alone_is_never_put_back() -> None:
    door = Door()
    door.hold_count = 10.0
    assert {door.enter(door.shares.of("one", 1.0), 1, 4, 4) for _ in range(1000)} == {4}


def test_nobody_is_put_back_while_there_is_enough_for_all() -> None:
    door = Door()
    door.hold_count = 1000.0
    door.enter(door.shares.of("other", 1.0), 1, 4, 4)
    assert {door.enter(door.shares.of("one", 1.0), 1, 4, 4) for _ in range(499)} == {4}


def test_greedy_caller_cannot_keep_the_door_open_by_calling_everything_urgent() -> None:
    door = Door()
    for _ in range(60):
        for name, rate in {"greedy": 2000, "other": 100}.items():
            share = door.shares.of(name, 1.0)
            for _ in range(rate):
                if not door.refuses(share):
                    door.accepted_count += 1
                    door.enter(share, 1, 1, 4)
                    door.shares.leave(name, 1)
        door.dropped_count = max(0, door.accepted_count - 1000)
        door.look(gpus_asked=4.0 * 2100 / 1000, gpu_count=4)
    assert door.shares.of("greedy", 1.0).refused_share > 0.4
    assert sum(door.refuses(door.shares.of("greedy", 1.0)) for _ in range(1000)) > 400
    assert not any(door.refuses(door.shares.of("other", 1.0)) for _ in range(1000))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, CALLER_COUNT_MAX + 20), st.integers(1, 64)), max_size=300))
def test_what_is_under_way_balances_whatever_comes_and_goes(steps) -> None:
    shares = Shares()
    under_way: list[tuple[str, int]] = []
    for is_coming, number, count in steps:
        if is_coming:
            shares.enter(shares.of(str(number), 1.0), count)
            under_way.append((str(number), count))
        elif under_way:
            shares.leave(*under_way.pop(number % len(under_way)))
        if number % 7 == 0:
            shares.look(0.5)
    for caller, count in under_way:
        shares.leave(caller, count)
    assert shares.inside_count == 0
    for _ in range(100):
        shares.look(0.0)
    assert len(shares) == 0


def test_callers_told_apart_are_bounded() -> None:
    shares = Shares()
    for number in range(3 * CALLER_COUNT_MAX):
        shares.of(str(number), 1.0).call_count += 1
    assert len(shares) == CALLER_COUNT_MAX
