"""Margins follow what answers overrun, generously only where there is room."""

from symphony.server.margin import ADJUST_EVERY_NS, HEADROOM, SAMPLE_COUNT_MAX, MarginEstimator

MS = 1_000_000


def fed(overruns_ms: list[float], has_room: bool) -> MarginEstimator:
    """Return an estimator that saw these overruns and was then asked to adjust."""
    estimator = MarginEstimator(2 * MS, 20 * MS)
    for overrun in overruns_ms:
        estimator.observe(round(overrun * MS), 0, has_room)
    estimator.observe(round(overruns_ms[-1] * MS), ADJUST_EVERY_NS, has_room)
    return estimator


def test_near_the_limit_it_is_the_99th_percentile() -> None:
    assert fed([3.0] * 990 + [9.0] * 5 + [3.0] * 5, has_room=False).margin_ns == 3 * MS


def test_with_room_it_covers_the_longest_overrun_and_more() -> None:
    assert fed([3.0] * 990 + [9.0] + [3.0] * 9, has_room=True).margin_ns == round(9 * MS * HEADROOM)


def test_it_stays_within_its_bounds() -> None:
    assert fed([0.1] * 10, has_room=True).margin_ns == 2 * MS
    assert fed([500.0] * 10, has_room=True).margin_ns == 20 * MS


def test_an_overrun_is_forgotten_in_time() -> None:
    estimator = fed([9.0] + [3.0] * SAMPLE_COUNT_MAX, has_room=True)
    assert estimator.margin_ns == round(3 * MS * HEADROOM)


def test_it_changes_once_a_second_at_most_and_says_so() -> None:
    estimator = MarginEstimator(2 * MS, 20 * MS)
    assert estimator.observe(5 * MS, 0, has_room=True)
    assert not estimator.observe(9 * MS, ADJUST_EVERY_NS - 1, has_room=True)
    assert estimator.observe(9 * MS, ADJUST_EVERY_NS, has_room=True)
    assert not estimator.observe(9 * MS, 2 * ADJUST_EVERY_NS, has_room=True)
