"""Viewers are told what happens, all the same frames, and none is buffered for."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from symphony.dashboard import Fate, View
from symphony.dashboard.hub import BAR_COUNT_MAX, BAR_FIELDS, FRAME_COUNT_MAX, VIEWER_COUNT_MAX
from symphony.dashboard.sampler import HISTORY_S_MAX, ROW_FIELDS
from symphony.errors import Reason, SymphonyError
from symphony.metrics import ModelStats
from tests.dashboard.fake import MS, Shown


def said(frame: bytes) -> dict[str, Any]:
    assert frame.startswith(b"data: ") and frame.endswith(b"\n\n") and frame.count(b"\n") == 2
    return json.loads(frame[6:])


async def frame_of(shown: Shown, position: int) -> dict[str, Any]:
    (frame,), _, missed = await shown.hub.next(position)
    assert missed == 0
    return said(frame)


async def test_frame_holds_each_batch_with_its_window() -> None:
    shown = Shown()
    shown.hub.join()
    shown.clock.now_ns += 100 * MS
    shown.batch(gpu=1, size=4, ago_ms=20, fate=Fate.LATE)
    shown.pass_ms(150)
    frame = await frame_of(shown, 0)
    # Deadline 30 ms after the start, less 2 ms margin and 10 ms (15 ms with one more) predicted.
    assert dict(zip(BAR_FIELDS, frame["bars"], strict=True)) == {
        "gpu": 1,
        "model": 1,
        "size": 4,
        "start_us": 80_000,
        "duration_us": 20_000,
        "frontrun_us": 13_000,
        "latest_us": 18_000,
        "fate": Fate.LATE,
        "count": 1,
    }
    assert frame["sizes"] == [1, 4, 1]
    assert frame["t"] == 250_000


async def test_more_batches_than_a_frame_holds_are_joined_and_sizes_stay_exact() -> None:
    shown = Shown(gpu_count=4)
    shown.hub.join()
    for number in range(4 * BAR_COUNT_MAX):
        shown.clock.now_ns += MS // 10
        shown.batch(gpu=number % 4, size=1 + number % 2, ago_ms=0.1)
    shown.hub.tick()
    frame = await frame_of(shown, 0)
    assert 0 < len(frame["bars"]) <= BAR_COUNT_MAX * len(BAR_FIELDS)
    assert sorted([frame["sizes"][:3], frame["sizes"][3:]]) == [[1, 1, 2 * BAR_COUNT_MAX], [1, 2, 2 * BAR_COUNT_MAX]]


async def test_without_viewers_batches_are_not_looked_at_and_no_frame_is_made() -> None:
    shown = Shown()
    shown.source.growth = None  # type: ignore[assignment] # would be called
    for _ in range(20):
        shown.batch()
        shown.pass_ms(250)
    assert shown.hub.position == 0


async def test_viewer_that_comes_later_gets_the_minutes_before_and_the_last_batches() -> None:
    shown = Shown()
    stats = shown.source.list[0].stats
    for _ in range(HISTORY_S_MAX + 20):
        stats.request_accepted()
        stats.request_answered(30 * MS, 10 * MS, False)
        shown.batch()
        shown.pass_ms(1000)
    shown.hub.join()
    hello = said(shown.hub.greeting(has_history=True))
    assert len(hello["history"]) == HISTORY_S_MAX
    assert hello["base"][0][ROW_FIELDS.index("good")] == 20
    assert [moment[2][0][1] for moment in hello["history"]] == list(range(21, HISTORY_S_MAX + 21))
    assert len(hello["bars"]) == (HISTORY_S_MAX + 20) * len(BAR_FIELDS)
    assert hello["gpu_names"] == ["emulated:0", "emulated:1"]


async def test_model_of_which_nothing_changed_is_left_out() -> None:
    shown = Shown("a", "b")
    shown.hub.join()
    shown.pass_ms(250)
    assert len((await frame_of(shown, 0))["rows"]) == 2
    shown.source.list[1].stats.request_accepted()
    shown.pass_ms(250)
    (row,) = (await frame_of(shown, 1))["rows"]
    assert row[0] == 2 and row[ROW_FIELDS.index("in_flight")] == 1
    shown.pass_ms(250)
    assert (await frame_of(shown, 2))["rows"] == []


async def test_slow_viewer_is_skipped_ahead() -> None:
    shown = Shown()
    shown.hub.join()
    for _ in range(FRAME_COUNT_MAX + 5):
        shown.pass_ms(250)
    frames, position, missed = await shown.hub.next(0)
    assert (len(frames), position, missed) == (FRAME_COUNT_MAX, FRAME_COUNT_MAX + 5, 5)


async def test_waiting_viewer_is_woken_by_the_next_frame_and_let_go_at_the_end() -> None:
    shown = Shown()
    shown.hub.join()
    waiting = asyncio.create_task(shown.hub.next(0))
    await asyncio.sleep(0)
    assert not waiting.done()
    shown.pass_ms(250)
    assert len((await waiting)[0]) == 1
    waiting = asyncio.create_task(shown.hub.next(1))
    await asyncio.sleep(0)
    shown.hub.close()
    assert (await waiting)[0] == []
    with pytest.raises(SymphonyError, match="shutting down"):
        shown.hub.join()


async def test_viewer_beyond_the_limit_is_refused_with_the_remedy() -> None:
    shown = Shown()
    for _ in range(VIEWER_COUNT_MAX):
        shown.hub.join()
    with pytest.raises(SymphonyError, match=f"{VIEWER_COUNT_MAX} viewers.*close a dashboard") as refused:
        shown.hub.join()
    assert refused.value.reason is Reason.QUEUE_FULL
    shown.hub.leave()
    shown.hub.join()


async def test_drops_loads_and_failures_become_events() -> None:
    shown = Shown()
    stats, gpu = shown.source.list[0].stats, shown.source.node.gpus[1]
    shown.hub.join()
    shown.pass_ms(1000)
    for _ in range(3):
        stats.request_accepted()
        stats.request_dropped(Reason.WOULD_MISS, MS)
    stats.batch_failed()
    gpu.load_count += 2
    gpu.is_slow, gpu.slowdown = True, 1.5
    shown.pass_ms(1000)
    texts = [(event.kind, event.text, event.model, event.gpu) for event in shown.journal.since(0)]
    assert texts == [
        ("fault", "1 batch failed", ("resnet", "1"), -1),
        ("drop", "3 requests dropped: would_miss", ("resnet", "1"), -1),
        ("load", "2 models brought into memory", None, 1),
        ("gpu", "slow: batches take 1.50 times the others' time", None, 1),
    ]
    shown.pass_ms(1000)
    assert shown.journal.count == 4, "nothing is told twice"


async def test_view_follows_rates_reasons_and_a_reload() -> None:
    shown = Shown("resnet", "bert")
    stats = shown.source.list[0].stats
    view = View()
    shown.hub.join()
    shown.hub.tick()
    view.apply(said(shown.hub.greeting(has_history=True)))
    for _ in range(16):
        for number in range(10):
            stats.request_accepted()
            if number == 0:
                stats.request_dropped(Reason.WOULD_MISS, MS)
            else:
                stats.request_answered(30 * MS, 10 * MS, False)
        stats.batch_finished(9, 20 * MS, 10 * MS, 125 * MS, 0)
        shown.pass_ms(250)
        view.apply(await frame_of(shown, shown.hub.position - 1))
    worst, other = view.models
    assert (worst.name, other.name) == ("resnet", "bert")
    assert worst.offered_rate == pytest.approx(40) and worst.bad_rate == pytest.approx(0.1)
    assert worst.batch_size == 9 and worst.gpu_share == pytest.approx(0.5)
    assert worst.worst == "would_miss" and 20 < worst.p99_ms <= 30
    assert other.bad_rate is None and other.offered_rate == 0
    shown.source.list[0].stats = ModelStats(16)
    shown.pass_ms(250)
    view.apply(await frame_of(shown, shown.hub.position - 1))
    assert view.models[-1].offered_rate == 0 or view.models[0].offered_rate == 0
    assert all(model.offered_rate >= 0 for model in view.models)
    assert any(event[1] == "drop" and event[3] == "resnet" for event in view.events)


async def test_frame_of_ten_thousand_requests_a_second_on_64_gpus_is_small_and_quick() -> None:
    """1,250 batches a second, all 20 models changing: what one frame takes of the event loop, and of the line."""
    names = tuple(f"model{number}" for number in range(20))
    shown = Shown(*names, gpu_count=64)
    shown.hub.join()
    best_ns, size = 1 << 62, 0
    for _ in range(40):  # as many as a busy machine needs to have a quiet moment
        for number in range(312):
            shown.batch(gpu=number % 64, model=names[number % 20], size=8)
        for model in shown.source.list:
            model.stats.request_accepted()
            model.stats.batch_finished(8, 20 * MS, 10 * MS, 10 * MS, 0)
        began_ns = time.perf_counter_ns()
        shown.pass_ms(250)
        best_ns = min(best_ns, time.perf_counter_ns() - began_ns)
        size = len((await shown.hub.next(shown.hub.position - 1))[0][0])
    print(f"a frame: {best_ns / 1e6:.2f} ms, {size / 1e3:.1f} kB")
    assert best_ns < 5 * MS
    assert size < 25_000
