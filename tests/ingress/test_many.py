"""Many requests in one body: each has its own deadline, its own fate, and its place in the answer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from symphony.config import KeyConfig, hash_key
from symphony.errors import Reason, SymphonyError
from symphony.metrics.model import Outcome
from symphony.wire import (
    FRAMED,
    JSON,
    JSON_BINARY,
    MSGPACK,
    MSGPACK_MAP,
    Failure,
    InferRequest,
    decode_responses,
    encode_requests,
)

pytestmark = pytest.mark.sockets

FORMS = {"json": JSON, "json_binary": JSON_BINARY, "msgpack": MSGPACK, "msgpack_map": MSGPACK_MAP, "framed": FRAMED}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest):
    return FORMS[request.param]


def request_of(value: float, form, **options) -> InferRequest:
    return InferRequest({"x": np.full(4, value, "<f4")}, form=form, **options)


async def infer_many(server, requests, accept=None, model="scale"):
    encoded = encode_requests(requests)
    headers = {"Content-Type": encoded.content_type, "X-Request-Id": "many-1"} | encoded.headers
    if accept:
        headers["Accept"] = accept
    async with server.client.post(f"/v2/models/{model}/infer", data=encoded.body(), headers=headers) as reply:
        body = await reply.read()
        assert reply.headers["X-Request-Id"] == "many-1"
        if reply.status != 200:
            return reply.status, body
        length = reply.headers.get("Inference-Header-Content-Length")
        return 200, decode_responses(body, reply.headers["Content-Type"], None if length is None else int(length))


async def test_each_request_has_its_own_answer_and_deadline(start, service, form) -> None:
    server = await start()
    requests = [request_of(value, form, id=f"r-{value}", timeout_ns=(value + 1) * 10_000_000) for value in range(5)]
    status, answers = await infer_many(server, requests)
    assert status == 200
    assert [answer.id for answer in answers] == [f"r-{value}" for value in range(5)]
    assert [answer.outputs["y"].tolist() for answer in answers] == [[2 * value] * 2 for value in range(5)]
    assert [request.deadline_ns - request.arrived_ns for request in service.submitted] == [
        (value + 1) * 10_000_000 for value in range(5)
    ]
    assert len({request.arrived_ns for request in service.submitted}) == 1


@pytest.mark.parametrize("mode", ["now", "soon"])
async def test_fault_of_one_is_its_own_answer(start, service, form, mode) -> None:
    service.mode = mode
    server = await start()
    wrong = InferRequest({"z": np.zeros(1, "<f4")}, id="wrong", form=form)
    late = request_of(7, form, id="late", timeout_ns=86_000_000_000_000)
    status, answers = await infer_many(server, [request_of(1, form), wrong, late, request_of(2, form)])
    assert status == 200
    assert isinstance(answers[1], Failure) and 'no input "z"' in answers[1].error.message
    assert (answers[1].id, answers[1].error.model) == ("wrong", "scale")
    assert isinstance(answers[2], Failure) and answers[2].error.reason is Reason.BAD_INPUT
    assert [answers[place].outputs["y"].tolist() for place in (0, 3)] == [[2, 2], [4, 4]]
    assert service.find("scale", None).stats.count(Outcome.REJECTED) == 2


async def test_all_may_fail_each_with_its_reason(start, service, form) -> None:
    server = await start()
    service.submit_error = SymphonyError(Reason.QUEUE_FULL, "the queue is full")
    status, answers = await infer_many(server, [request_of(value, form) for value in range(3)])
    assert status == 200
    assert [answer.error.reason for answer in answers] == [Reason.QUEUE_FULL] * 3


async def test_rows_of_one_of_many_are_answered_together(start, form) -> None:
    server = await start()
    rows = InferRequest({"x": np.arange(8, dtype="<f4").reshape(2, 4)}, form=form)
    status, answers = await infer_many(server, [rows, request_of(1, form)])
    assert status == 200
    assert answers[0].outputs["y"].tolist() == [[0, 2], [8, 10]] and answers[1].outputs["y"].tolist() == [2, 2]


@pytest.mark.parametrize("accept", ["application/json", "application/msgpack", "application/x-symphony-msgpack"])
async def test_answers_come_in_the_form_that_accept_names(start, form, accept) -> None:
    server = await start()
    status, answers = await infer_many(server, [request_of(1, form), request_of(2, form)], accept)
    assert status == 200 and [answer.outputs["y"].tolist() for answer in answers] == [[2, 2], [4, 4]]


async def test_client_that_leaves_cancels_all_that_wait(start, service, form) -> None:
    service.mode = "never"
    server = await start()
    task = asyncio.create_task(infer_many(server, [request_of(value, form) for value in range(4)]))
    while len(service.inside) < 4:
        await asyncio.sleep(0.01)
    task.cancel()
    while service.inside:
        await asyncio.sleep(0.01)
    assert len(service.cancelled) == 4


async def test_unknown_model_is_the_answer_to_the_whole_body(start, form) -> None:
    status, body = await infer_many(await start(), [request_of(1, form)] * 2, model="nope")
    assert status == 404 and b"unknown_model" in body


async def test_each_of_many_is_charged_to_the_key(start, service, form) -> None:
    """A body of 5 requests, one of them of 2 rows, costs 6 tokens of 6; the next call has to wait."""
    key = "sym_many"
    server = await start(keys=[KeyConfig("shop", hash_key(key), rate=0.01, burst=6)])
    server.client.headers["X-API-Key"] = key
    rows = InferRequest({"x": np.zeros((2, 4), "<f4")}, form=form)
    status, _ = await infer_many(server, [rows] + [request_of(value, form) for value in range(4)])
    assert status == 200
    async with server.client.post("/v2/models/scale/infer", data=b"{}") as reply:
        assert reply.status == 429 and "rate_limited" in await reply.text()
    assert service.find("scale", None).entered == {"key:shop": 0}
    assert server.exchanges.in_flight == server.exchanges.body_bytes == 0


async def test_each_of_many_is_asked_for_at_the_door(start, service, form) -> None:
    """The first is let in with the body; the door refuses the second and takes the third."""
    server = await start()
    model = service.find("scale", None)
    refused = SymphonyError(Reason.WOULD_MISS, "more arrive than can be answered", model="scale", earliest_ms=12.5)
    said = iter([None, refused, None])
    model.refusal = lambda caller: next(said)
    status, answers = await infer_many(server, [request_of(value, form) for value in range(3)])
    assert status == 200
    assert [isinstance(answer, Failure) for answer in answers] == [False, True, False]
    assert (answers[1].error.reason, answers[1].error.earliest_ms) == (Reason.WOULD_MISS, 12.5)
    assert model.stats.count(Outcome.REJECTED) == 1
