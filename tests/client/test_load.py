"""The load generator is open loop: it sends when it was meant to, and counts latency from then."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.client.calls import Calls
from symphony.client.http import Address, TransportError
from symphony.client.load import ANSWERED, BROKEN, NO_ANSWER, REFUSED, LoadResult, run_load
from tests.client.script import answer

pytestmark = pytest.mark.sockets

MS = 1_000_000


def load(url: str, at_ms: list[float], *, connections: int = 4, warm: int = 1, grace_s: float = 0.5) -> LoadResult:
    address = Address.parse(url)
    body = Calls(address, "json").other("GET", "/v2")
    at_ns = np.array([at * MS for at in at_ms], np.int64)
    return run_load(
        address,
        at_ns,
        [[body]],
        np.zeros(len(at_ns), np.int32),
        connection_count_max=connections,
        warm_connection_count=warm,
        grace_s=grace_s,
    )


def test_every_request_is_sent_at_its_instant_and_answered(serve) -> None:
    script = serve(answer())
    result = load(script.url, [0, 5, 10, 15, 20, 25])
    assert (result.state == ANSWERED).all()
    assert len(script.heads) == 6
    assert script.connection_count == 1
    assert (result.lag_ns >= 0).all()
    assert np.median(result.lag_ns) < 2 * MS
    assert np.median(result.latency_ns) < 10 * MS


def test_latency_counts_from_the_intended_instant_when_no_connection_is_free(serve) -> None:
    script = serve(0.1, answer(), answer())
    result = load(script.url, [0, 0, 10], connections=1)
    assert (result.state == ANSWERED).all()
    assert result.latency_ns.min() >= 85 * MS
    assert result.lag_ns[1:].min() >= 85 * MS


def test_slow_answer_does_not_hold_back_the_next_request(serve) -> None:
    script = serve(0.15, answer(), answer())
    result = load(script.url, [0, 20, 40], connections=3, warm=3)
    assert (result.state == ANSWERED).all()
    assert result.lag_ns.max() < 50 * MS
    assert sorted(result.latency_ns > 100 * MS) == [False, False, True]


def test_refusal_is_told_by_its_reason(serve) -> None:
    script = serve(answer(503, b'{"error": "no", "reason": "would_miss"}'))
    result = load(script.url, [0])
    assert result.state.tolist() == [REFUSED]
    assert result.reasons == {0: "would_miss"}
    assert result.first_fault == "no"


def test_broken_connection_fails_one_request_and_the_next_gets_another(serve) -> None:
    script = serve(None, answer())
    result = load(script.url, [0, 50])
    assert result.state.tolist() == [BROKEN, ANSWERED]
    assert result.reasons == {0: "connection"}


def test_request_without_answer_is_waited_for_no_longer_than_the_grace(serve) -> None:
    script = serve(3.0, answer())
    result = load(script.url, [0], grace_s=0.2)
    assert result.state.tolist() == [NO_ANSWER]
    assert result.duration_s < 1.0


def test_server_that_is_not_there_is_said() -> None:
    with pytest.raises(TransportError, match="cannot connect"):
        load("http://127.0.0.1:1", [0])


def test_empty_schedule_ends_at_once(serve) -> None:
    assert len(load(serve(answer()).url, []).state) == 0
