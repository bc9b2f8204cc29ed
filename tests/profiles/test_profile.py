"""A latency profile is monotone, exact where measured, never extrapolated, and survives its file or is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.errors import ConfigError
from symphony.profiles import LatencyProfile
from symphony.profiles.profile import BATCH_SIZE_LIMIT, DURATION_NS_MAX

FILE = "m/profiles/cpu.json"


def make(medians: dict[int, int], p99: dict[int, int] | None = None) -> LatencyProfile:
    """Return a measured profile from batch size -> nanoseconds."""
    sizes = tuple(medians)
    p99_ns = tuple((p99 or medians)[size] for size in sizes)
    counts = (9,) * len(sizes)
    return LatencyProfile(
        sizes, tuple(medians.values()), p99_ns, counts, "m", "1", "cpu x1 threads", "2.13.0", "2026-01-31", "abc"
    )


@st.composite
def profiles(draw: st.DrawFn) -> LatencyProfile:
    """Draw any profile that may be measured, noisy and with gaps."""
    sizes = [1, *sorted(draw(st.sets(st.integers(2, 200), max_size=12)))]
    medians = {size: draw(st.integers(1, 10**9)) for size in sizes}
    return make(medians, {size: median + draw(st.integers(0, 10**8)) for size, median in medians.items()})


def test_table_keeps_what_was_measured() -> None:
    """At each measured size, if it does not fall."""
    assert make({1: 10, 2: 20, 3: 25}).table_ns(3) == (10, 20, 25)
    assert make({1: 10, 2: 20, 3: 25}).table_ns(2) == (10, 20)


def test_table_is_a_straight_line_between_measured_sizes() -> None:
    """Rounded up: too long is safe, too short is late."""
    assert make({1: 10, 4: 40}).table_ns(4) == (10, 20, 30, 40)
    assert make({1: 10, 4: 11}).table_ns(4) == (10, 11, 11, 11)


def test_staircase_stays_a_staircase() -> None:
    """A plateau is not smoothed, a step not spread."""
    steps = {1: 10, 2: 20, 3: 30, 4: 30, 5: 50, 6: 50, 7: 50, 8: 50}
    assert make(steps).table_ns(8) == tuple(steps.values())


def test_dip_is_raised_to_what_came_before() -> None:
    """Of two sizes the larger is never said to be quicker."""
    assert make({1: 10, 2: 30, 3: 20, 4: 31}).table_ns(4) == (10, 30, 30, 31)


def test_nothing_is_extrapolated() -> None:
    """Beyond the largest measured size there is an error, not a guess."""
    with pytest.raises(ConfigError, match=r"profile of m ends at batch size 4, max_batch_size is 5; measure it again"):
        make({1: 10, 4: 40}).table_ns(5)


@given(profiles())
def test_table_is_monotone_and_covers_every_measurement(profile: LatencyProfile) -> None:
    """At least the median at each measured size, at most the largest up to there, never falling."""
    table = profile.table_ns(profile.batch_sizes[-1])
    assert len(table) == profile.batch_sizes[-1]
    assert list(table) == sorted(table)
    highest = 0
    for size, median in zip(profile.batch_sizes, profile.median_ns, strict=True):
        highest = max(highest, median)
        assert table[size - 1] == highest


@given(profiles(), st.integers(1, 200))
def test_shorter_table_is_the_beginning_of_the_longer(profile: LatencyProfile, size: int) -> None:
    """The limit changes nothing below it."""
    size = min(size, profile.batch_sizes[-1])
    assert profile.table_ns(size) == profile.table_ns(profile.batch_sizes[-1])[:size]


@given(profiles())
def test_every_size_lies_between_its_measured_neighbours(profile: LatencyProfile) -> None:
    """Interpolation adds no bend."""
    table = profile.table_ns(profile.batch_sizes[-1])
    for low, high in zip(profile.batch_sizes, profile.batch_sizes[1:], strict=False):
        for size in range(low, high + 1):
            exact = table[low - 1] + (table[high - 1] - table[low - 1]) * (size - low) / (high - low)
            assert exact - 1e-3 <= table[size - 1] < exact + 1 + 1e-3


def test_jitter_is_the_largest_distance_of_p99_from_the_median() -> None:
    """Over all sizes."""
    assert make({1: 10, 2: 20, 3: 30}, {1: 11, 2: 27, 3: 31}).jitter_ns() == 7
    assert make({1: 10, 2: 20}).jitter_ns() == 0


@given(profiles())
def test_jitter_is_never_negative(profile: LatencyProfile) -> None:
    """Nor more than the largest p99."""
    assert 0 <= profile.jitter_ns() <= max(profile.p99_ns)


@given(st.integers(0, 10**7), st.integers(1, 10**8), st.sets(st.integers(2, 4096), min_size=1, max_size=20))
def test_fit_finds_the_line(alpha_ns: int, beta_ns: int, sizes: set[int]) -> None:
    """Whatever sizes were measured."""
    found = make({size: alpha_ns * size + beta_ns for size in [1, *sorted(sizes)]}).fit()
    assert found == pytest.approx((alpha_ns, beta_ns), rel=1e-6, abs=1)


def test_fit_is_least_squares() -> None:
    """By hand: points (1, 10), (2, 30), (3, 20)."""
    assert make({1: 10, 2: 30, 3: 20}).fit() == pytest.approx((5.0, 10.0))


def test_fit_of_one_size_is_all_alpha() -> None:
    """Nothing is known of beta."""
    assert make({1: 10}).fit() == (10.0, 0.0)


def test_linear_profile_is_the_line() -> None:
    """In nanoseconds, for each size."""
    profile = LatencyProfile.linear(1.053, 5.072, 4, "r", "2")
    assert profile.table_ns(4) == (6_125_000, 7_178_000, 8_231_000, 9_284_000)
    assert (profile.model, profile.version, profile.device, profile.jitter_ns()) == ("r", "2", "declared", 0)
    assert profile.fit() == pytest.approx((1_053_000, 5_072_000))


def test_profile_matches_its_device_torch_and_files_only() -> None:
    """One difference is enough."""
    profile = make({1: 10})
    assert profile.matches("cpu x1 threads", "2.13.0", "abc")
    assert not profile.matches("cpu x2 threads", "2.13.0", "abc")
    assert not profile.matches("cpu x1 threads", "2.13.1", "abc")
    assert not profile.matches("cpu x1 threads", "2.13.0", "abd")


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_sizes": (2, 3)},
        {"batch_sizes": (1, 1)},
        {"batch_sizes": (1,)},
        {"batch_sizes": ()},
        {"median_ns": (10,)},
        {"sample_counts": (1, 2, 3)},
        {"median_ns": (0, 20)},
        {"median_ns": (-1, 20)},
        {"p99_ns": (9, 20)},
        {"p99_ns": (10, DURATION_NS_MAX + 1)},
    ],
)
def test_impossible_profile_is_refused(changes: dict[str, tuple[int, ...]]) -> None:
    """Sizes from 1 upwards, columns of one length, times that can be."""
    with pytest.raises(ConfigError, match="profile of m"):
        replace(make({1: 10, 2: 20}), **changes)


@given(profiles())
def test_file_gives_back_the_profile(profile: LatencyProfile) -> None:
    """Every field."""
    assert LatencyProfile.from_json(profile.to_json(), FILE) == profile


GOOD = json.loads(make({1: 10, 2: 20}).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        "[" * 100_000,
        json.dumps(GOOD | {"format": 1}),
        json.dumps({key: value for key, value in GOOD.items() if key != "device"}),
        json.dumps(GOOD | {"extra": 1}),
        json.dumps(GOOD | {"median_ns": [10, 20.0]}),
        json.dumps(GOOD | {"median_ns": [10, True]}),
        json.dumps(GOOD | {"median_ns": [10, "20"]}),
        json.dumps(GOOD | {"median_ns": {"1": 10}}),
        json.dumps(GOOD | {"median_ns": [10, -20]}),
        json.dumps(GOOD | {"p99_ns": [10, float("inf")]}),
        json.dumps(GOOD | {"batch_sizes": [2, 1]}),
        json.dumps(GOOD | {"device": 3}),
        json.dumps(GOOD | {"input_ns": [1]}),
        json.dumps(GOOD | {"output_ns": [1, -1]}),
        json.dumps(GOOD | {"buckets": [1]}),
        json.dumps(GOOD | {"buckets": [2, 2]}),
        json.dumps(GOOD | {"memory_bytes": -1}),
        json.dumps(GOOD | {"memory_bytes": 1.5}),
        json.dumps(GOOD | {"model": "m" * 2000}),
        json.dumps(GOOD).replace("20", "2" * 5000),
        json.dumps(
            GOOD
            | {
                key: list(range(1, BATCH_SIZE_LIMIT + 2))
                for key in ("batch_sizes", "median_ns", "p99_ns", "sample_counts")
            }
        ),
    ],
)
def test_foreign_file_is_refused_by_name(text: str) -> None:
    """With ConfigError, whatever is in it."""
    with pytest.raises(ConfigError) as caught:
        LatencyProfile.from_json(text, FILE)
    assert str(caught.value).startswith(FILE)


@given(st.data())
def test_damaged_file_is_refused_or_read_as_a_sound_profile(data: st.DataObject) -> None:
    """A byte here and there is changed."""
    raw = bytearray(make({1: 10, 2: 20, 8: 35}).to_json().encode())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 127))
    try:
        profile = LatencyProfile.from_json(raw.decode(), FILE)
    except ConfigError as error:
        assert FILE in str(error)
    else:
        table = profile.table_ns(profile.batch_sizes[-1])
        assert list(table) == sorted(table) and table[0] > 0
