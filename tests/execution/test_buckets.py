"""Buckets: few, close enough that padding stays small, each worth its place."""

from __future__ import annotations

import pytest

from symphony.execution.buckets import bucket_candidates, bucket_of, choose_buckets


@pytest.mark.parametrize("size_max", [1, 2, 7, 16, 17, 33, 64, 100, 256, 4096])
def test_candidates_reach_the_largest_size_and_pad_by_an_eighth_at_most(size_max: int) -> None:
    candidates = bucket_candidates(size_max)
    assert candidates == sorted(set(candidates))
    assert (candidates[0], candidates[-1]) == (1, size_max)
    for size in range(1, size_max + 1):
        assert size <= bucket_of(candidates, size) <= max(16, size * 1.125)
    assert len(candidates) <= 16 + 8 * 8


def test_all_sizes_up_to_16_are_candidates() -> None:
    assert bucket_candidates(16) == list(range(1, 17))


def test_bucket_that_is_hardly_quicker_than_the_next_is_given_up() -> None:
    # 3 takes as long as 4, 7 as 8, and 6 is quicker by one in a hundred.
    assert choose_buckets({1: 100, 2: 150, 3: 200, 4: 200, 6: 396, 7: 400, 8: 400}) == (1, 2, 4, 8)


def test_slow_decline_is_not_given_up_step_by_step() -> None:
    """Each is compared with the next one kept, not with its neighbour."""
    durations = {size: 1000 + 15 * size for size in range(1, 9)}
    kept = choose_buckets(durations)
    assert kept[-1] == 8
    for size, duration in durations.items():
        assert durations[bucket_of(kept, size)] <= duration / 0.98
