"""Clocks: whatever the delays, the true offset is within the bound; a jump is noticed unless it is small."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.links.clocks import INSTANT_NS_MAX, ClockJumped, LinkClock, RoundTrip

EXAMPLE_COUNT = int(os.environ.get("SYMPHONY_EXAMPLES", "300"))
MS = 1_000_000
S = 1_000 * MS


@dataclass
class Clock:
    """A clock that starts at `start_ns` and runs `ppm` millionths fast, as a function of true time; and jumps."""

    start_ns: int
    ppm: int
    jumps: tuple[tuple[int, int], ...] = ()  # (true instant, by)

    def at(self, true_ns: int) -> int:
        jumped_ns = sum(by_ns for at_ns, by_ns in self.jumps if true_ns >= at_ns)
        return self.start_ns + true_ns + true_ns * self.ppm // 1_000_000 + jumped_ns


trips = st.lists(
    # waits before asking, there, at the other node, back: asymmetric as can be
    st.tuples(st.integers(0, 2 * S), st.integers(0, 50 * MS), st.integers(0, 5 * MS), st.integers(0, 50 * MS)),
    min_size=1,
    max_size=20,
)


def round_trip(ours: Clock, theirs: Clock, now_ns: int, there_ns: int, busy_ns: int, back_ns: int) -> RoundTrip:
    received_ns = now_ns + there_ns
    answered_ns = received_ns + busy_ns
    return RoundTrip(ours.at(now_ns), theirs.at(received_ns), theirs.at(answered_ns), ours.at(answered_ns + back_ns))


@settings(max_examples=EXAMPLE_COUNT, deadline=None)
@given(trips, st.integers(-(10**15), 10**15), st.integers(-100, 100), st.integers(-100, 100), st.integers(-S, 10 * S))
def test_true_offset_is_always_within_the_bound(sent, start_ns, our_ppm, their_ppm, later_ns) -> None:
    """Two crystals 100 ppm off each, so 200 ppm apart at worst."""
    ours, theirs = Clock(7 * S, our_ppm), Clock(start_ns, their_ppm)
    clock = LinkClock(drift_ppm=201)  # 200 ppm of a fast clock's time are a little more of true time
    now_ns = 0
    best_ns = None
    for wait_ns, there_ns, busy_ns, back_ns in sent:
        now_ns += wait_ns
        trip = round_trip(ours, theirs, now_ns, there_ns, busy_ns, back_ns)
        now_ns += there_ns + busy_ns + back_ns
        assert clock.update(trip) is None
        estimate = clock.estimate
        assert abs(theirs.at(now_ns) - ours.at(now_ns) - estimate.offset_ns) <= estimate.bound_ns + 2
        # Never worse than the best round trip so far, widened by the drift since, which is NTP's clock filter.
        alone = LinkClock(drift_ppm=201)
        alone.update(trip)
        if best_ns is not None:
            best_ns += -(-wait_ns - there_ns - busy_ns - back_ns) * 202 // 1_000_000 + 2
        best_ns = min(alone.estimate.bound_ns, best_ns) if best_ns is not None else alone.estimate.bound_ns
        assert estimate.bound_ns <= best_ns + 1
        when_ns = now_ns + later_ns  # an instant before or after, as a deadline is
        here_ns, bound_ns = clock.to_local(theirs.at(when_ns))
        assert abs(here_ns - ours.at(when_ns)) <= bound_ns + 2
        there, bound_ns = clock.to_remote(ours.at(when_ns))
        assert abs(there - theirs.at(when_ns)) <= bound_ns + 2


@settings(max_examples=EXAMPLE_COUNT, deadline=None)
@given(trips, trips, st.integers(-(10**12), 10**12))
def test_jump_is_noticed_or_smaller_than_the_round_trips(before, after, by_ns) -> None:
    now_ns = 0
    ours, theirs = Clock(0, 0), Clock(5 * S, 100)
    clock = LinkClock(drift_ppm=101)
    for is_after, sent in ((False, before), (True, after)):
        for index, (wait_ns, there_ns, busy_ns, back_ns) in enumerate(sent):
            now_ns += wait_ns
            trip = round_trip(ours, theirs, now_ns, there_ns, busy_ns, back_ns)
            now_ns += there_ns + busy_ns + back_ns
            old = clock.estimate
            jump = clock.update(trip)
            new = clock.estimate
            alone = LinkClock(drift_ppm=101)
            alone.update(trip)
            error_ns = abs(theirs.at(now_ns) - ours.at(now_ns) - new.offset_ns)
            # Noticed or not, the estimate stays inside what the newest round trip alone allows.
            assert error_ns <= 2 * alone.estimate.bound_ns + 2
            assert jump is None or (is_after and error_ns <= new.bound_ns + 2)
            if is_after and index == 0:
                grown_ns = (trip.back_at_ns - old.at_ns) * 101 // 1_000_000 + 1
                doubt_ns = old.bound_ns + grown_ns + alone.estimate.bound_ns + 4
                if jump is None:
                    assert abs(by_ns) <= 2 * doubt_ns
                else:
                    assert abs(jump.by_ns - by_ns) <= doubt_ns
            if jump is not None:
                return
        theirs.jumps = ((now_ns, by_ns),)


def test_best_round_trip_is_kept_while_slow_ones_come() -> None:
    clock = LinkClock(drift_ppm=100)
    clock.update(RoundTrip(0, 1_000_050, 1_000_050, 100))
    assert (clock.estimate.offset_ns, clock.estimate.bound_ns) == (1_000_000, 51)
    clock.update(RoundTrip(S, S + 1_000_000 + 40 * MS, S + 1_000_000 + 40 * MS, S + 41 * MS))
    assert clock.estimate.bound_ns <= 51 + 105_000
    assert abs(clock.estimate.offset_ns - 1_000_000) <= 1_000


def test_bound_grows_with_the_drift_allowed() -> None:
    clock = LinkClock(drift_ppm=100)
    clock.update(RoundTrip(0, 50, 50, 100))
    _, near_ns = clock.to_local(100)
    _, far_ns = clock.to_local(100 + 10 * S)
    assert near_ns <= 55
    assert 1 * MS <= far_ns <= 1 * MS + 200


def test_jump_says_by_how_much_and_forgets_the_past() -> None:
    clock = LinkClock()
    clock.update(RoundTrip(0, 50, 50, 100))
    jump = clock.update(RoundTrip(S, S + 30 * MS + 50, S + 30 * MS + 50, S + 100))
    assert isinstance(jump, ClockJumped)
    assert abs(jump.by_ns - 30 * MS) <= 1000
    assert clock.jump_count == 1
    assert clock.to_local(2 * S)[0] == pytest.approx(2 * S - 30 * MS, abs=100)


@pytest.mark.parametrize(
    "trip",
    [
        RoundTrip(100, 0, 0, 99),
        RoundTrip(0, 10, 9, 100),
        RoundTrip(0, 0, 200, 100),
        RoundTrip(0, INSTANT_NS_MAX + 1, INSTANT_NS_MAX + 1, 100),
    ],
    ids=["back before sent", "answered before received", "longer there than here", "no clock shows it"],
)
def test_impossible_round_trip_is_refused_and_changes_nothing(trip) -> None:
    clock = LinkClock()
    clock.update(RoundTrip(0, 50, 50, 100))
    before = clock.estimate
    with pytest.raises(ValueError, match=r"cannot be|no clock shows"):
        clock.update(trip)
    assert clock.estimate == before


def test_nothing_is_converted_before_the_first_round_trip() -> None:
    with pytest.raises(LookupError, match="not been compared"):
        LinkClock().to_local(0)


def test_drift_beyond_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="drift_ppm"):
        LinkClock(drift_ppm=100_001)
    with pytest.raises(ValueError, match="drift_ppm"):
        LinkClock(drift_ppm=-1)


def test_bound_covers_drift_exactly_at_its_limit() -> None:
    """A clock that drifts by all that is allowed stays within the bound for an hour without another round trip."""
    clock = LinkClock(drift_ppm=500)
    clock.update(RoundTrip(0, 0, 0, 0))
    for seconds in range(0, 3600, 60):
        truth_ns = int(Fraction(seconds * S) * (1 + Fraction(500, 1_000_000)))
        here_ns, bound_ns = clock.to_local(truth_ns)
        assert abs(here_ns - seconds * S) <= bound_ns
