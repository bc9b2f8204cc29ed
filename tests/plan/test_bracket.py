"""The least number that holds is found from any start, and no question is asked twice."""

from __future__ import annotations

import pytest

from symphony.plan.bracket import find_least


@pytest.mark.parametrize("limit", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("step", [1, 3, 10])
def test_least_number_is_found_from_any_start(limit: int, step: int) -> None:
    for least in {*range(1, min(limit, 40) + 1), limit, limit + 1}:
        for start in (1, 2, 5, 13, 50, limit, limit + 5):
            asked: list[int] = []

            def holds(n: int, least: int = least, asked: list[int] = asked) -> bool:
                asked.append(n)
                return n >= least

            assert find_least(holds, start, limit, step) == (least if least <= limit else None)
            assert len(asked) == len(set(asked)) <= 20
            assert all(1 <= n <= limit for n in asked)


def test_near_guess_takes_two_questions() -> None:
    asked = []
    assert find_least(lambda n: asked.append(n) or n >= 500, 500, 8192) == 500
    assert asked == [500, 499]


def test_answer_to_noisy_questions_was_found_to_hold_and_the_one_below_not() -> None:
    told = {n: n >= 20 or n in (11, 14) for n in range(1, 41)}
    for start in range(1, 41):
        found = find_least(told.__getitem__, start, 40)
        assert found is not None and told[found] and not told.get(found - 1, False)
