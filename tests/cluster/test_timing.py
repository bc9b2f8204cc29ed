"""The arithmetic of leases and retries."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.cluster import Snapshot, Timing
from symphony.cluster.timing import TTL_NS_MAX, TTL_NS_MIN, Backoff, LeaseTime
from symphony.units import NS_PER_S

TIMING = Timing()


@given(
    st.lists(st.tuples(st.integers(0, 10 * NS_PER_S), st.integers(0, 10 * NS_PER_S), st.integers(0, 10 * NS_PER_S))),
    st.integers(TTL_NS_MIN, TTL_NS_MAX),
)
def test_holder_stands_down_a_margin_before_the_store_lets_go(
    renewals: list[tuple[int, int, int]], ttl_ns: int
) -> None:
    """Each renewal is sent after a wait, handled by the store after a delay, and answered after another."""
    timing = Timing.of_ttl(ttl_ns)
    lease, now_ns = LeaseTime(timing, 0), 0
    store_until_ns = ttl_ns
    for wait_ns, there_ns, back_ns in renewals:
        sent_ns = now_ns + wait_ns
        if not lease.is_held(sent_ns):
            break
        store_until_ns = max(store_until_ns, sent_ns + there_ns + ttl_ns)
        now_ns = sent_ns + there_ns + back_ns
        lease.granted(sent_ns)
        assert lease.until_ns + timing.margin_ns <= store_until_ns
        assert lease.renew_at_ns < lease.until_ns


def test_answer_that_comes_late_takes_nothing_back() -> None:
    lease = LeaseTime(TIMING, 0)
    lease.granted(10)
    until_ns = lease.until_ns
    lease.granted(5)
    assert lease.until_ns == until_ns
    assert lease.is_held(until_ns - 1)
    assert not lease.is_held(until_ns)


def test_two_renewals_may_fail_before_a_lease_is_lost() -> None:
    for ttl_ns in (TTL_NS_MIN, TIMING.ttl_ns, TTL_NS_MAX):
        timing = Timing.of_ttl(ttl_ns)
        assert 2 * timing.renewal_ns < timing.ttl_ns - timing.margin_ns


@pytest.mark.parametrize(
    "values",
    [
        {"ttl_ns": TTL_NS_MIN - 1},
        {"ttl_ns": TTL_NS_MAX + 1},
        {"margin_ns": 0},
        {"margin_ns": TIMING.ttl_ns // 3 + 1},
        {"operation_ns": 0},
        {"backoff_ns_min": 0},
        {"backoff_ns_min": 2, "backoff_ns_max": 1},
    ],
)
def test_timing_that_cannot_work_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Timing(**values)


def test_waits_double_up_to_a_bound_and_are_spread() -> None:
    backoff = Backoff(TIMING, random.Random(1).random)
    bounds_ns = [min(TIMING.backoff_ns_min << step, TIMING.backoff_ns_max) for step in range(20)]
    waits_ns = [backoff.next_ns() for _ in bounds_ns]
    assert all(bound // 2 <= wait <= bound for wait, bound in zip(waits_ns, bounds_ns, strict=True))
    assert len(set(waits_ns)) > 15
    backoff.reset()
    assert backoff.next_ns() <= TIMING.backoff_ns_min


def test_changes_lead_from_one_snapshot_to_the_next() -> None:
    before = Snapshot({"same": 1, "changed": 1, "gone": 1})
    after = Snapshot({"same": 1, "changed": 2, "new": 1})
    changes = after.since(before)
    assert (changes.put, changes.gone) == ({"changed": 2, "new": 1}, ("gone",))
    assert not after.since(after).put
