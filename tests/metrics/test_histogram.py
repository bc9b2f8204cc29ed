import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.metrics import Histogram, HistogramSnapshot

BOUNDS = (1, 2, 5, 10)


def test_value_on_a_bound_counts_in_the_bucket_that_ends_there():
    histogram = Histogram(BOUNDS)
    for value in (0, 1, 2, 3, 5, 10, 11):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 2, 1, 1]
    assert histogram.total == 32


@given(st.lists(st.integers(-5, 20)))
def test_cumulative_counts_are_what_counting_by_hand_gives(values):
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    snapshot = histogram.snapshot(1)
    by_hand = [float(sum(value <= bound for value in values)) for bound in BOUNDS] + [float(len(values))]
    assert [count for _, count in snapshot.cumulative()] == by_hand
    assert [label for label, _ in snapshot.cumulative()] == ["1.0", "2.0", "5.0", "10.0", "+Inf"]
    assert snapshot.count == len(values)


def test_snapshot_converts_nanoseconds_to_seconds():
    histogram = Histogram((1_000_000, 50_000_000))
    histogram.observe(2_000_000)
    snapshot = histogram.snapshot()
    assert snapshot.bounds == (0.001, 0.05)
    assert snapshot.total == 0.002


@pytest.mark.parametrize("bounds", [(), (2, 1), (1, 1)])
def test_bounds_that_do_not_ascend_are_refused(bounds):
    with pytest.raises(ValueError, match="ascending"):
        Histogram(bounds)


def test_snapshot_with_a_wrong_number_of_counts_is_refused():
    with pytest.raises(ValueError, match="2 counts for 2 bounds"):
        HistogramSnapshot((1.0, 2.0), (0, 0), 0.0)
