"""Arrival processes: their mean rate, their spread, their seed, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.errors import ConfigError
from symphony.units import NS_PER_S
from symphony.workload.arrivals import REQUEST_COUNT_MAX, Arrivals


def instants(text: str, rate: float = 1000.0, duration_s: float = 20.0, seed: int = 1) -> np.ndarray:
    return Arrivals.parse(text).instants(rate, duration_s, np.random.default_rng(seed))


@pytest.mark.parametrize(
    "text", ["constant", "poisson", "gamma:0.1", "gamma:4", "onoff:0.1:0.1", "diurnal:5:0.2", "burst:5:1:1"]
)
def test_instants_ascend_within_the_duration_at_the_rate_asked_for(text: str) -> None:
    found = instants(text)
    assert found.dtype == np.int64
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 0
    assert found[-1] < 20 * NS_PER_S
    assert len(found) == pytest.approx(20_000, rel=0.1)


@pytest.mark.parametrize(
    ("text", "spread"), [("constant", 0.0), ("poisson", 1.0), ("gamma:0.1", 10**0.5), ("gamma:4", 0.5)]
)
def test_gaps_have_the_spread_of_their_process(text: str, spread: float) -> None:
    gaps = np.diff(instants(text, duration_s=100.0))
    assert gaps.std() / gaps.mean() == pytest.approx(spread, rel=0.1, abs=1e-6)


def test_same_seed_gives_the_same_instants_and_another_does_not() -> None:
    np.testing.assert_array_equal(instants("poisson"), instants("poisson"))
    assert not np.array_equal(instants("poisson")[:100], instants("poisson", seed=2)[:100])


def test_no_rate_gives_no_request() -> None:
    assert len(instants("poisson", rate=0.0)) == 0


@pytest.mark.parametrize(
    "text", ["", "uniform", "poisson:2", "gamma", "gamma:x", "gamma:1:2", "onoff:1", "diurnal:1:x", "burst:1:1"]
)
def test_unknown_process_is_refused_with_what_may_be_written(text: str) -> None:
    with pytest.raises(ConfigError, match="write constant, poisson, gamma:SHAPE, onoff:ON_S:OFF_S"):
        Arrivals.parse(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("gamma:0", "SHAPE is 0"),
        ("gamma:-1", "SHAPE is -1"),
        ("gamma:nan", "SHAPE is nan"),
        ("gamma:1001", "from 0.001 to 1000"),
        ("onoff:0:1", "ON_S is 0"),
        ("diurnal:1:1.5", "LOW is 1.5"),
        ("burst:1:1:-1", "FACTOR is -1"),
    ],
)
def test_value_out_of_range_is_refused_with_its_limits(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        Arrivals.parse(text)


def test_interrupted_stream_is_silent_between_bursts_of_its_rate() -> None:
    gaps = np.diff(instants("onoff:0.5:0.5", rate=1000.0, duration_s=200.0)) / NS_PER_S
    assert np.median(gaps) == pytest.approx(np.log(2) / 2000, rel=0.05)
    silences = gaps[gaps > 0.02]
    assert len(silences) == pytest.approx(200, rel=0.2)
    assert silences.mean() == pytest.approx(0.5, rel=0.2)


def test_diurnal_stream_follows_its_sine() -> None:
    found = instants("diurnal:10:0.2", rate=1000.0, duration_s=100.0) / NS_PER_S % 10
    counts, _ = np.histogram(found, 10, (0, 10))
    wanted = [1000 * (1 - 0.8 * np.cos(2 * np.pi * (hour + 0.5) / 10)) * 10 for hour in range(10)]
    np.testing.assert_allclose(counts, wanted, rtol=0.08)


def test_burst_multiplies_the_rate_for_its_time_only() -> None:
    found = instants("burst:5:1:10", rate=1000.0, duration_s=10.0) / NS_PER_S
    counts, _ = np.histogram(found, 10, (0, 10))
    np.testing.assert_allclose(counts, [1000] * 5 + [10_000] + [1000] * 4, rtol=0.12)


def test_burst_beyond_the_end_changes_nothing() -> None:
    np.testing.assert_array_equal(instants("burst:50:1:10"), instants("poisson"))


def test_number_of_requests_is_limited() -> None:
    with pytest.raises(ConfigError, match="take a lower rate or a shorter time"):
        instants("constant", rate=REQUEST_COUNT_MAX, duration_s=1.1)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError):
        instants("poisson", rate=rate)
