"""The staggered bound is the paper's: the largest b with (1 + 1/N) l(b) <= SLO, at N b / l(b) requests per second."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.profiles import LatencyProfile, staggered_bound
from symphony.units import ms_to_ns

RESNET = LatencyProfile.linear(1.053, 5.072, 64).table_ns(64)


@pytest.mark.parametrize(
    ("alpha_ms", "beta_ms", "slo_ms", "gpu_count", "rate"),
    [(1.053, 5.072, 50, 1, 749), (1.053, 5.072, 50, 4, 3315), (0.5, 20.0, 100, 1, 1200), (0.5, 20.0, 100, 4, 6000)],
)
def test_bound_of_known_workloads(alpha_ms: float, beta_ms: float, slo_ms: float, gpu_count: int, rate: int) -> None:
    """The figures against which the server is measured."""
    table = LatencyProfile.linear(alpha_ms, beta_ms, 256).table_ns(256)
    assert round(staggered_bound(table, ms_to_ns(slo_ms), gpu_count)[1]) == rate


def test_batch_that_fits_exactly_counts() -> None:
    """(1 + 1/N) l(b) = SLO is in time; a nanosecond less is not."""
    for count in range(1, 100):
        assert staggered_bound([count * 7], (count + 1) * 7, count)[0] == 1
        assert staggered_bound([count * 7], (count + 1) * 7 - 1, count) == (0, 0.0)


def test_nothing_fits_below_twice_the_smallest_batch_on_one_gpu() -> None:
    """No batch, no rate."""
    assert staggered_bound(RESNET, 2 * RESNET[0] - 1, 1) == (0, 0.0)
    assert staggered_bound([], 10**9, 1) == (0, 0.0)


def test_staircase_is_used_up_to_its_edge() -> None:
    """The last size of the plateau."""
    table = [10, 10, 10, 10, 20, 20, 20, 20]
    assert staggered_bound(table, 39, 1) == (4, pytest.approx(4e9 / 10))
    assert staggered_bound(table, 40, 1) == (8, pytest.approx(8e9 / 20))


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=40).map(sorted),
    st.integers(1, 10**10),
    st.integers(1, 1000),
)
def test_bound_is_what_the_definition_says(table: list[int], slo_ns: int, gpu_count: int) -> None:
    """In exact fractions."""
    fitting = [size for size, duration in enumerate(table, 1) if (1 + Fraction(1, gpu_count)) * duration <= slo_ns]
    size, rate = staggered_bound(table, slo_ns, gpu_count)
    assert size == max(fitting, default=0)
    assert rate == pytest.approx(gpu_count * size * 1e9 / table[size - 1] if size else 0.0)


@given(st.integers(1, 100), st.integers(10, 500))
def test_more_gpus_never_carry_less(gpu_count: int, slo_ms: int) -> None:
    """Neither per GPU nor in all."""
    _, rate = staggered_bound(RESNET, ms_to_ns(slo_ms), gpu_count)
    _, more = staggered_bound(RESNET, ms_to_ns(slo_ms), gpu_count + 1)
    assert more / (gpu_count + 1) >= rate / gpu_count * (1 - 1e-12)
