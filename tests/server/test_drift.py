"""Drift and slow devices: followed when persistent, ignored when not."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from symphony.server.drift import ADJUST_EVERY_NS, FACTOR_MAX, SAMPLE_COUNT, STEP, DriftEstimator, SlownessWatch


def feed(drift: DriftEstimator, ratios: list[float], start_ns: int = 0) -> int:
    """Observe the ratios, one each 10 ms; return the time."""
    now_ns = start_ns
    for ratio in ratios:
        now_ns += 10_000_000
        drift.observe(ratio, now_ns)
    return now_ns


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.3, 2.0])
def test_factor_follows_what_batches_take(factor: float) -> None:
    rng = random.Random(1)
    drift = DriftEstimator()
    feed(drift, [factor * (1 + 0.1 * rng.gauss(0, 1)) for _ in range(400)])
    assert abs(drift.factor - factor) < 0.05 * factor


def test_outliers_and_noise_around_the_profile_move_nothing() -> None:
    rng = random.Random(2)
    drift = DriftEstimator()
    changes = 0
    for number in range(2000):
        ratio = 9.0 if number % 5 == 0 else 1 + 0.01 * rng.gauss(0, 1)
        changes += drift.observe(ratio, number * 10_000_000)
    assert changes == 0 and drift.factor == 1.0


def test_drift_both_ways_is_learned_and_bounded() -> None:
    drift = DriftEstimator()
    now_ns = feed(drift, [1.3] * 2 * SAMPLE_COUNT)
    assert abs(drift.factor - 1.3) < STEP * 1.3
    now_ns = feed(drift, [1.0] * 2 * SAMPLE_COUNT, now_ns)
    assert abs(drift.factor - 1.0) <= STEP * 1.3
    feed(drift, [1e6] * 2 * SAMPLE_COUNT, now_ns)
    assert drift.factor == FACTOR_MAX


def test_factor_changes_no_more_often_than_stated() -> None:
    drift = DriftEstimator()
    changed_at = [now_ns for now_ns in range(0, 10**10, 10**7) if drift.observe(1 + now_ns / 10**10, now_ns)]
    assert len(changed_at) > 5
    assert min(after - before for before, after in pairwise(changed_at)) >= ADJUST_EVERY_NS


def test_device_is_slow_when_most_of_its_batches_are() -> None:
    watch = SlownessWatch()
    for number in range(200):
        watch.observe(5.0 if number % 4 == 0 else 1.0)
    assert not watch.is_slow
    for _ in range(SAMPLE_COUNT):
        watch.observe(1.5)
    assert watch.is_slow and not watch.is_too_slow
    for _ in range(SAMPLE_COUNT):
        watch.observe(3.0)
    assert watch.is_too_slow
