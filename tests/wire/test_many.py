"""Many requests in a body: each is read, refused and answered as it would be alone."""

from __future__ import annotations

import json
import random

import msgpack
import numpy as np
import pytest

from symphony.errors import Reason, SymphonyError
from symphony.wire import (
    FRAMED,
    JSON,
    JSON_BINARY,
    MSGPACK,
    MSGPACK_LISTS,
    MSGPACK_MAP,
    Failure,
    Form,
    FormKind,
    InferRequest,
    InferRequests,
    InferResponse,
    WireLimits,
    decode_call,
    decode_request,
    decode_responses,
    encode_requests,
    encode_responses,
)
from symphony.wire.accept import reply_kind

FORMS = {
    "json": JSON,
    "json_binary": JSON_BINARY,
    "msgpack": MSGPACK,
    "msgpack_lists": MSGPACK_LISTS,
    "msgpack_map": MSGPACK_MAP,
    "framed": FRAMED,
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Form:
    return FORMS[request.param]


def parts_of(encoded):
    """Return what a decoder takes of an encoded message."""
    length = encoded.headers.get("Inference-Header-Content-Length")
    return encoded.body(), encoded.content_type, None if length is None else int(length)


def requests_of(form: Form, count: int = 3) -> list[InferRequest]:
    return [
        InferRequest(
            {"x": np.arange(place, place + 5, dtype="<f4"), "w": np.array([b"one", b""], object)},
            id=f"r-{place}" if place else None,
            timeout_ns=(place + 1) * 1_000_000,
            priority=place,
            form=form,
        )
        for place in range(count)
    ]


def test_requests_come_back_in_order_each_with_its_own_deadline(form: Form) -> None:
    call = decode_call(*parts_of(encode_requests(requests_of(form))))
    assert isinstance(call, InferRequests) and call.kind is form.kind
    assert [request.id for request in call.requests] == [None, "r-1", "r-2"]
    assert [request.timeout_ns for request in call.requests] == [1_000_000, 2_000_000, 3_000_000]
    assert [request.priority for request in call.requests] == [0, 1, 2]
    for place, request in enumerate(call.requests):
        assert request.inputs["x"].tolist() == list(range(place, place + 5))
        assert request.inputs["w"].tolist() == [b"one", b""]


def test_answers_and_failures_come_back_in_order(form: Form) -> None:
    answers = [
        InferResponse("m", "2", {"y": np.array([1.5], "<f4")}, "a"),
        Failure(SymphonyError(Reason.WOULD_MISS, "too late", model="m"), "b"),
        InferResponse("m", "2", {"y": np.array([2.5, 3.5], "<f4"), "w": np.array([b"t"], object)}),
    ]
    got = decode_responses(*parts_of(encode_responses(answers, [form] * 3, form.kind)))
    assert [answer.id for answer in got] == ["a", "b", None]
    assert got[0].outputs["y"].tolist() == [1.5] and got[0].model_version == "2"
    assert (got[1].error.reason, got[1].error.message, got[1].error.model) == (Reason.WOULD_MISS, "too late", "m")
    assert got[2].outputs["y"].tolist() == [2.5, 3.5] and got[2].outputs["w"].tolist() == [b"t"]


def test_framed_tensors_of_many_requests_are_views() -> None:
    requests = [InferRequest({"x": np.full(1 << 16, place, "<f4")}, form=FRAMED) for place in range(4)]
    body = encode_requests(requests).body()
    call = decode_call(body, FRAMED.kind.value)
    whole = np.frombuffer(body, np.uint8)
    for place, request in enumerate(call.requests):
        assert np.shares_memory(request.inputs["x"], whole) and request.inputs["x"].ctypes.data % 4 == 0
        assert request.inputs["x"][0] == place


def test_fault_of_one_request_is_its_own(form: Form) -> None:
    """In JSON with raw tensors nobody knows where those of the next one are, so the body is refused."""
    if form.kind is FormKind.FRAMED:
        header = {"v": 1, "requests": [{"id": "a", "inputs": 7}, {"id": "b", "inputs": []}]}
        packed = msgpack.packb(header)
        arguments = (len(packed).to_bytes(4, "little") + packed, FRAMED.kind.value, None)
    else:
        message = {"requests": [{"id": "a", "inputs": 7}, {"id": "b", "inputs": []}]}
        is_json = form.kind is FormKind.JSON
        body = json.dumps(message).encode() if is_json else msgpack.packb(message)
        arguments = (body, form.kind.value, len(body) if form is JSON_BINARY else None)
    if form is JSON_BINARY:
        with pytest.raises(SymphonyError, match=r"requests\[0\]: inputs is 7"):
            decode_call(*arguments)
        return
    call = decode_call(*arguments)
    faulty, good = call.requests
    assert isinstance(faulty, Failure) and faulty.id == "a"
    assert faulty.error.reason is Reason.BAD_INPUT and "requests[0]: inputs is 7" in faulty.error.message
    assert isinstance(good, InferRequest) and good.id == "b"


def test_tensor_that_ends_behind_the_frame_is_its_requests_fault() -> None:
    requests = [InferRequest({"x": np.full(64, place, "<f4")}, form=FRAMED) for place in range(3)]
    body = encode_requests(requests).body()
    call = decode_call(body[:-4], FRAMED.kind.value)
    assert [type(one) for one in call.requests] == [InferRequest, InferRequest, Failure]
    assert "requests[2]" in call.requests[2].error.message


def test_framed_tensors_of_two_requests_do_not_overlap() -> None:
    item = {"inputs": [{"name": "x", "dtype": "<f4", "shape": [1], "off": 0, "n": 4}]}
    packed = msgpack.packb({"v": 1, "requests": [item, item]})
    body = len(packed).to_bytes(4, "little") + packed
    call = decode_call(body + bytes(-len(body) % 64) + bytes(4), FRAMED.kind.value)
    assert isinstance(call.requests[0], InferRequest)
    assert "off is 0" in call.requests[1].error.message


@pytest.mark.parametrize("count", [0, 3, 4])
def test_request_count_is_bounded(form: Form, count: int) -> None:
    limits = WireLimits(request_count_max=3)
    if count == 0:
        empty = {FormKind.JSON: b'{"requests": []}', FormKind.MSGPACK: msgpack.packb({"requests": []})}
        packed = msgpack.packb({"v": 1, "requests": []})
        empty[FormKind.FRAMED] = len(packed).to_bytes(4, "little") + packed
        arguments = (empty[form.kind], form.kind.value, None)
    else:
        arguments = parts_of(encode_requests(requests_of(form, count)))
    if count == 3:
        assert len(decode_call(*arguments, limits).requests) == 3
    else:
        with pytest.raises(SymphonyError, match="request_count_max"):
            decode_call(*arguments, limits)


def test_one_request_is_asked_for_and_many_are_refused(form: Form) -> None:
    with pytest.raises(SymphonyError, match="holds 2 requests, expected one"):
        decode_request(*parts_of(encode_requests(requests_of(form, 2))))


def test_spoilt_bodies_are_taken_or_bad_input(form: Form) -> None:
    random_numbers = random.Random(7)
    body, kind, length = parts_of(encode_requests(requests_of(form)))
    taken = 0
    for _ in range(2_000):
        spoilt = bytearray(body)
        for _ in range(random_numbers.randint(1, 3)):
            spoilt[random_numbers.randrange(len(spoilt))] = random_numbers.randrange(256)
        if random_numbers.random() < 0.3:
            del spoilt[random_numbers.randrange(len(spoilt)) :]
        try:
            call = decode_call(bytes(spoilt), kind, length)
        except SymphonyError as error:
            assert error.reason is Reason.BAD_INPUT
            continue
        taken += 1
        if isinstance(call, InferRequests):
            for one in call.requests:
                assert isinstance(one, Failure) or all(array.tobytes() is not None for array in one.inputs.values())
    assert taken > 0


@pytest.mark.parametrize(
    ("accept", "own", "kind"),
    [
        ("", FormKind.FRAMED, FormKind.FRAMED),
        ("*/*", FormKind.MSGPACK, FormKind.MSGPACK),
        ("application/json, text/plain, */*", FormKind.MSGPACK, FormKind.MSGPACK),
        ("application/json", FormKind.MSGPACK, FormKind.JSON),
        ("application/msgpack", FormKind.JSON, FormKind.MSGPACK),
        ("application/x-symphony-msgpack", FormKind.JSON, FormKind.FRAMED),
        ("application/json;q=0.5, application/msgpack", FormKind.JSON, FormKind.MSGPACK),
        ("application/json, application/msgpack", FormKind.MSGPACK, FormKind.MSGPACK),
        ("application/msgpack;q=0", FormKind.JSON, FormKind.JSON),
        ("application/msgpack;q=x, */*;q=0.1", FormKind.JSON, FormKind.JSON),
        ("image/png", FormKind.FRAMED, FormKind.FRAMED),
        ("application/json," * 200, FormKind.FRAMED, FormKind.FRAMED),
    ],
)
def test_form_of_a_reply_follows_accept(accept: str, own: FormKind, kind: FormKind) -> None:
    assert reply_kind(accept, own) is kind
