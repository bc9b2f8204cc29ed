"""Who is refused is told when trying again makes sense, and with how much time: both computed from what is queued."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.client import AsyncClient
from symphony.errors import Reason, SymphonyError
from symphony.ingress.callers import Caller
from symphony.server.served import RETRY_AFTER_S_MAX, ModelEntry
from tests.ingress.conftest import make_config
from tests.server.conftest import write_echo

X = {"x": np.ones(8, np.float32)}


def entry(capacity_per_s: float, in_flight: int) -> ModelEntry:
    """Return a model that answers so many requests per second and has so many under way."""
    made = ModelEntry(make_config(), Path("none"), 0, 2_000_000)
    made.alone_ns = 5_000_000
    made.capacity_known(capacity_per_s)
    for _ in range(in_flight):
        made.stats.request_accepted()
    return made


@pytest.mark.parametrize(("in_flight", "seconds"), [(0, 0.001), (100, 1.0), (1000, 10.0), (10**5, RETRY_AFTER_S_MAX)])
def test_retry_after_is_what_is_queued_by_what_is_served(in_flight: int, seconds: float) -> None:
    assert entry(100.0, in_flight).retry_after_s() == pytest.approx(seconds)


def test_retry_after_counts_what_is_refused_unread() -> None:
    model = entry(100.0, 100)
    model.door.refused_share = 0.75
    assert model.retry_after_s() == pytest.approx(4.0)


def test_earliest_is_behind_the_queue_and_includes_batch_and_margin() -> None:
    model = entry(100.0, 50)
    assert model.earliest_ns() == 500_000_000 + 5_000_000 + model.margin.margin_ns
    assert model.dropped(Reason.WOULD_MISS, 0).body()["earliest_ms"] == pytest.approx(507.0)


def test_capacity_under_overload_is_what_is_served() -> None:
    model = entry(1000.0, 100)
    model.door.is_dropping = True
    model.door.served_count = 5.0
    model.looked(0.05)
    assert model.retry_after_s() == pytest.approx(1.0)
    model.door.is_dropping = False
    model.looked(0.05)
    assert model.retry_after_s() == pytest.approx(0.1)


def test_call_refused_unread_says_both_and_anew_after_each_look() -> None:
    model = entry(100.0, 100)
    caller = Caller("peer:a")
    model.door.shares.of(caller.id, 1.0).refused_share = 1.0
    first = model.refusal(caller)
    assert first is not None
    assert first is model.refusal(caller)
    assert (first.retry_after_s, first.body()["earliest_ms"]) == (pytest.approx(1.0), pytest.approx(1007.0))
    for _ in range(100):
        model.stats.request_accepted()
    model.looked(0.05)
    second = model.refusal(caller)
    assert second is not None
    assert second.retry_after_s == pytest.approx(2.0)


def test_queue_that_fills_up_keeps_its_last_quarter_for_those_within_their_share() -> None:
    model = entry(1000.0, 0)
    greedy, other = Caller("peer:greedy"), Caller("peer:other")
    model.enter(other, 1, 4)
    count = round(0.8 * model.config.queue_count_max)
    for _ in range(count):
        model.enter(greedy, 1, 4)
        model.stats.request_accepted()
    assert model.refusal(greedy) is not None
    assert model.refusal(other) is None
    model.leave(greedy, count)
    assert model.refusal(greedy) is None


@pytest.mark.sockets
async def test_time_out_that_cannot_be_met_is_refused_at_once_with_one_that_can(
    run_node: Callable[..., Any], tmp_path: Path
) -> None:
    """No batch is awaited for that: a batch of one takes 200 ms."""
    write_echo(tmp_path / "models", alpha_ms=1.0, beta_ms=199.0, slo_ms=1000)
    async with run_node() as node, AsyncClient(node.url) as client:
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(SymphonyError) as refused:
            await client.infer("echo", X, timeout_ms=50)
        assert asyncio.get_running_loop().time() - began_s < 0.15
        assert refused.value.reason is Reason.WOULD_MISS
        assert refused.value.earliest_ms is not None
        assert 200 < refused.value.earliest_ms < 300
        # Had it been sent with that time-out (and what a busy machine needs), it would have been met.
        await client.infer("echo", X, timeout_ms=refused.value.earliest_ms + 100)
        status, body = await node.infer(1.0, X_Request_Timeout_Ms="50")
        assert (status, json.loads(body)["reason"]) == (503, "would_miss")
