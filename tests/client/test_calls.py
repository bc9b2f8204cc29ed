"""What both clients share: arrays that can be sent, arguments that cannot, answers that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.client.calls import Calls, as_tensor, load_path, model_path
from symphony.client.http import Address, Response, TransportError
from symphony.errors import Reason, SymphonyError

FORMS = ["framed", "msgpack", "json"]


@pytest.fixture(params=FORMS)
def calls(request) -> Calls:
    return Calls(Address("127.0.0.1", 8000), request.param)


def infer(calls: Calls, **changes) -> bytes:
    names = ("version", "timeout_ms", "priority", "outputs", "request_id", "parameters", "headers")
    values = {"model": "m", "inputs": {"x": [1.0]}} | dict.fromkeys(names) | changes
    return calls.infer(**values)


def test_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="choose one of framed, msgpack, json"):
        Calls(Address("127.0.0.1", 8000), "protobuf")


def test_request_goes_to_the_models_version(calls: Calls) -> None:
    assert infer(calls, version="7").startswith(
        b"POST /v2/models/m/versions/7/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    )


def test_length_of_the_body_is_that_declared(calls: Calls) -> None:
    head, _, body = infer(calls).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head


def test_names_are_quoted_in_paths() -> None:
    assert model_path("a/b c", None) == "/v2/models/a%2Fb%20c"
    assert model_path("a", "1/2") == "/v2/models/a/versions/1%2F2"
    assert load_path("../x", "unload") == "/v2/repository/models/..%2Fx/unload"


@pytest.mark.parametrize("timeout_ms", [0, -1.0, float("nan"), float("inf"), 86_400_001])
def test_timeout_out_of_range_is_refused(calls: Calls, timeout_ms: float) -> None:
    with pytest.raises(ValueError, match="it must be above 0 and at most 8"):
        infer(calls, timeout_ms=timeout_ms)


@pytest.mark.parametrize("priority", [0, 9, -1])
def test_priority_out_of_range_is_refused(calls: Calls, priority: int) -> None:
    with pytest.raises(ValueError, match="from 1"):
        infer(calls, priority=priority)


def test_text_becomes_bytes_with_every_zero_kept() -> None:
    assert as_tensor(["é", b"a\0"], "x").tolist() == ["é".encode(), b"a\0"]
    assert as_tensor("one", "x").shape == ()


@pytest.mark.parametrize("value", [[object()], [1 + 2j], [None], np.array(["2026-01-01"], "datetime64[D]")])
def test_objects_that_cannot_be_sent_are_refused(value) -> None:
    with pytest.raises(TypeError, match="input 'x'"):
        as_tensor(value, "x")


def test_big_endian_and_strided_arrays_are_sent_as_little_endian_rows() -> None:
    array = as_tensor(np.arange(6, dtype=">i4").reshape(2, 3).T, "x")
    assert array.dtype == np.dtype("<i4")
    assert array.flags.c_contiguous
    assert array.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_error_answer_becomes_its_error(calls: Calls) -> None:
    body = b'{"error": "too busy", "reason": "queue_full", "model": "m"}'
    with pytest.raises(SymphonyError) as caught:
        calls.read_infer(Response(503, {"content-type": "application/json", "retry-after": "0.25"}, body))
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after_s == 0.25


@pytest.mark.parametrize("body", [b"", b"{", b"\x81", b"[]" * 9, b"\0" * 64])
def test_answer_that_cannot_be_read_is_a_transport_error(calls: Calls, body: bytes) -> None:
    for kind in ("application/json", "application/msgpack", "application/x-symphony-msgpack", "text/html", ""):
        with pytest.raises(TransportError, match="cannot be read"):
            calls.read_infer(Response(200, {"content-type": kind}, body))


def test_other_answers_may_be_empty_but_not_garbage(calls: Calls) -> None:
    assert calls.read_other(Response(200, {}, b" ")) is None
    with pytest.raises(TransportError, match="cannot be read"):
        calls.read_other(Response(200, {}, b"<html>"))
