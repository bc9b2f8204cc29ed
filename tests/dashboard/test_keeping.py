"""What is kept is bounded: the ring of batches, the journal, models' numbers, the looks behind a quantile."""

import gc

import pytest

from symphony.dashboard import BatchRecord, BatchRing, Fate, Journal
from symphony.dashboard.journal import EVENT_COUNT_MAX, TEXT_CHARS_MAX
from symphony.dashboard.numbers import Numbers
from symphony.dashboard.recent import LOOK_COUNT, RecentQuantile


def put(ring: BatchRing, size: int) -> None:
    ring.put(7, ("m", "1"), size, 1 << 60, -2, 3, 4, 5, Fate.LATE)


def record(size: int) -> BatchRecord:
    return BatchRecord(7, 1, size, 1 << 60, -2, 3, 4, 5, Fate.LATE)


def test_ring_returns_what_came_since_and_counts_what_was_overwritten() -> None:
    ring = BatchRing(4)
    for size in range(3):
        put(ring, size)
    assert ring.since(1) == ([record(1), record(2)], 0)
    for size in range(3, 9):
        put(ring, size)
    assert ring.since(3) == ([record(5), record(6), record(7), record(8)], 2)
    assert ring.since(9) == ([], 0)


def test_full_ring_leaves_no_object_for_a_batch() -> None:
    ring = BatchRing(1 << 10)
    put(ring, 1)
    gc.collect()
    before = len(gc.get_objects())
    for size in range(1 << 10):
        put(ring, size)
    gc.collect()
    assert len(gc.get_objects()) - before < 20


@pytest.mark.parametrize("capacity", [0, 3, -4])
def test_ring_of_a_size_that_is_no_power_of_two_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        BatchRing(capacity)


def test_journal_keeps_the_last_events_and_cuts_long_ones() -> None:
    journal = Journal(lambda: 7)
    for number in range(EVENT_COUNT_MAX + 5):
        journal.note("node", str(number))
    assert [event.text for event in journal.since(0)] == [str(number) for number in range(5, EVENT_COUNT_MAX + 5)]
    assert journal.since(journal.count) == []
    journal.note("gpu", "x" * (TEXT_CHARS_MAX + 1), gpu=3)
    (event,) = journal.since(journal.count - 1)
    assert (len(event.text), event.text[-1], event.gpu, event.at_ns) == (TEXT_CHARS_MAX, "…", 3, 7)


def test_model_keeps_its_number_and_those_beyond_the_limit_share_one() -> None:
    numbers = Numbers(limit=2)
    assert [numbers((name, "1")) for name in "abacb"] == [1, 2, 1, 0, 2]
    assert [numbers.model(number) for number in range(3)] == [None, ("a", "1"), ("b", "1")]


def test_quantile_is_of_the_last_looks_alone() -> None:
    bounds = (10, 20, 40)
    quantile = RecentQuantile(0.5)
    assert quantile.look(bounds, (0, 0, 0, 0)) == 0
    assert quantile.look(bounds, (100, 0, 0, 0)) == 5
    for _ in range(LOOK_COUNT):
        quantile.look(bounds, (100, 0, 10, 0))
    assert quantile.look(bounds, (100, 0, 20, 0)) == 30
    assert quantile.look(bounds, (100, 0, 20, 90)) == 40
