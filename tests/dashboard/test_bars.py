from hypothesis import given
from hypothesis import strategies as st

from symphony.dashboard.bars import Bar, thin
from symphony.dashboard.ring import Fate

BARS = st.lists(
    st.builds(
        lambda gpu, model, start, length, size, fate: Bar(gpu, model, size, start, start + length, -5, 5, fate),
        st.integers(0, 3),
        st.integers(1, 3),
        st.integers(0, 100_000),
        st.integers(1, 500),
        st.integers(1, 8),
        st.sampled_from(Fate),
    ),
    max_size=200,
)


@given(BARS, st.integers(4, 250))
def test_thinned_bars_are_few_and_hold_every_request_batch_and_fault(bars: list[Bar], limit: int) -> None:
    thinned = thin(bars, limit)
    assert len(thinned) <= limit
    for what in ("size", "count"):
        assert sum(getattr(bar, what) for bar in thinned) == sum(getattr(bar, what) for bar in bars)
    for gpu in range(4):
        own = [bar for bar in bars if bar.gpu == gpu]
        drawn = [bar for bar in thinned if bar.gpu == gpu]
        assert bool(own) == bool(drawn)
        if own:
            assert min(bar.start_us for bar in own) == min(bar.start_us for bar in drawn)
            assert max(bar.end_us for bar in own) == max(bar.end_us for bar in drawn)
            assert max(bar.fate for bar in own) == max(bar.fate for bar in drawn)


def test_bars_within_the_limit_are_left_as_they_are() -> None:
    bars = [Bar(0, 1, 4, 0, 10, -1, 1, Fate.GOOD), Bar(0, 2, 4, 10, 20, -1, 1, Fate.GOOD)]
    assert thin(bars, 2) is bars


def test_bar_that_stands_for_several_models_has_the_colour_of_the_one_that_ran_longest() -> None:
    bars = [Bar(0, 1, 1, 0, 10, 0, 0, Fate.GOOD), Bar(0, 2, 1, 10, 90, 0, 0, Fate.LATE)]
    (bar,) = thin(bars, 1)
    assert (bar.model, bar.size, bar.count, bar.start_us, bar.end_us, bar.fate) == (2, 2, 2, 0, 90, Fate.LATE)
