"""Slots are given once, come back once, and their number is bounded."""

from __future__ import annotations

import pytest

from symphony.driver import PendingRequest
from symphony.driver.table import RequestTable


def make_request() -> PendingRequest:
    """Return a request nobody waits for."""
    return PendingRequest(0, {}, 0, 1, 4, lambda request: None)


def test_slots_are_distinct_until_the_table_is_full_and_then_refused() -> None:
    """At the capacity the last slot is given, above it none."""
    table = RequestTable(3)
    slots = {table.acquire(make_request()) for _ in range(3)}
    assert slots == {0, 1, 2} and len(table) == 3
    assert table.acquire(make_request()) == -1
    table.release(1)
    assert len(table) == 2
    assert table.acquire(make_request()) == 1


def test_lookup_returns_requests_in_the_order_asked() -> None:
    """As a plan names them."""
    table = RequestTable(4)
    requests = [make_request() for _ in range(4)]
    for request in requests:
        table.acquire(request)
    assert table.lookup([3, 0, 2]) == [requests[3], requests[0], requests[2]]


def test_slot_released_twice_is_an_error() -> None:
    """Nothing is answered twice unnoticed."""
    table = RequestTable(1)
    slot = table.acquire(make_request())
    assert table.release(slot).id == -1
    with pytest.raises(KeyError):
        table.release(slot)
