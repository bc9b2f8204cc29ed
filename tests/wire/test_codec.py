"""The one door: content types, replies in the form asked for, errors both ways."""

from __future__ import annotations

import json

import msgpack
import numpy as np
import pytest

from symphony.errors import Reason, SymphonyError
from symphony.wire import (
    FRAMED,
    JSON,
    JSON_BINARY,
    MSGPACK,
    FormKind,
    InferRequest,
    InferResponse,
    decode_error,
    decode_request,
    decode_response,
    encode_error,
    encode_request,
    encode_response,
    kind_of,
)

ERROR = SymphonyError(Reason.QUEUE_FULL, "the queue is full", model="m", retry_after_s=1.2)


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [
        ("", FormKind.JSON),
        ("application/json", FormKind.JSON),
        ("Application/JSON; charset=utf-8", FormKind.JSON),
        ("application/octet-stream", FormKind.JSON),
        ("application/x-www-form-urlencoded", FormKind.JSON),
        ("text/plain", FormKind.JSON),
        ("application/msgpack", FormKind.MSGPACK),
        ("application/x-msgpack", FormKind.MSGPACK),
        ("application/vnd.msgpack", FormKind.MSGPACK),
        ("application/x-symphony-msgpack", FormKind.FRAMED),
        (" application/X-Symphony-msgpack ;v=1", FormKind.FRAMED),
    ],
)
def test_content_type_names_a_form(content_type: str, kind: FormKind) -> None:
    assert kind_of(content_type) is kind


@pytest.mark.parametrize("content_type", ["text/html", "application/x-pickle", ";", "\ud800", "x" * 10_000])
def test_unknown_content_type_is_refused_with_those_known(content_type: str, refused) -> None:
    message = refused(decode_request, b"{}", content_type)
    if content_type != ";":
        assert "application/x-symphony-msgpack" in message
        assert len(message) < 500


@pytest.mark.parametrize("form", [MSGPACK, FRAMED], ids=["msgpack", "framed"])
def test_json_length_header_on_another_form_is_refused(form, refused) -> None:
    encoded = encode_request(InferRequest({"x": np.zeros(2)}, form=form))
    for decode in (decode_request, decode_response):
        assert "Inference-Header-Content-Length" in refused(decode, encoded.body(), encoded.content_type, 5)


@pytest.mark.parametrize("form", [JSON, JSON_BINARY, MSGPACK, FRAMED], ids=["json", "json_binary", "msgpack", "framed"])
def test_reply_comes_in_the_form_of_the_request(form, receive_request) -> None:
    request = receive_request(encode_request(InferRequest({"x": np.zeros(2)}, form=form)))
    parts, content_type, headers = encode_response(InferResponse("m", "1", {"y": np.zeros(2)}), request.form)
    assert kind_of(content_type) is form.kind
    assert isinstance(parts, list)
    assert bool(headers) == (form is JSON_BINARY)


@pytest.mark.parametrize(
    ("kind", "content_type", "read"),
    [
        (FormKind.JSON, "application/json", json.loads),
        (FormKind.MSGPACK, "application/msgpack", msgpack.unpackb),
        (FormKind.FRAMED, "application/msgpack", msgpack.unpackb),
    ],
)
def test_error_survives_the_way_to_the_client(kind: FormKind, content_type: str, read) -> None:
    encoded = encode_error(ERROR, kind)
    assert encoded.content_type == content_type
    assert encoded.headers == {"Retry-After": "2"}
    assert read(encoded.body()) == {"error": "the queue is full", "reason": "queue_full", "model": "m"}
    error = decode_error(503, encoded.body(), encoded.content_type, encoded.headers["Retry-After"])
    assert (error.reason, error.message, error.model, error.retry_after_s) == (
        Reason.QUEUE_FULL,
        "the queue is full",
        "m",
        2.0,
    )


def test_error_without_a_hint_has_no_retry_after() -> None:
    assert encode_error(SymphonyError(Reason.BAD_INPUT, "no")).headers == {}


def test_error_about_text_no_encoding_holds_is_encoded_all_the_same() -> None:
    for kind in FormKind:
        assert encode_error(SymphonyError(Reason.BAD_INPUT, "\ud800", model="\udfff"), kind).body()


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.token)
def test_reason_is_the_token_whatever_the_status(reason: Reason) -> None:
    encoded = encode_error(SymphonyError(reason, "text"))
    assert decode_error(418, encoded.body(), encoded.content_type).reason is reason


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (400, Reason.BAD_INPUT),
        (404, Reason.UNKNOWN_MODEL),
        (405, Reason.BAD_INPUT),
        (413, Reason.TOO_LARGE),
        (429, Reason.RATE_LIMITED),
        (499, Reason.CANCELLED),
        (500, Reason.WORKER_FAILED),
        (502, Reason.WORKER_FAILED),
        (503, Reason.NOT_READY),
        (504, Reason.EXPIRED),
    ],
)
def test_reason_follows_from_the_status_when_the_body_has_none(status: int, reason: Reason) -> None:
    for body in (b'{"error":"text"}', b'{"error":"text","reason":"other"}', b'{"error":"text","reason":[]}'):
        error = decode_error(status, body)
        assert (error.reason, error.message) == (reason, "text")


def test_error_page_of_a_proxy_is_shown() -> None:
    error = decode_error(502, b"<html>bad gateway</html>", "text/html")
    assert error.message == "HTTP status 502: <html>bad gateway</html>"
    assert len(decode_error(502, b"x" * 10**6, "text/html").message) < 5000
    assert decode_error(502, b"").message == "HTTP status 502"


@pytest.mark.parametrize("text", [None, "", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "nan", "inf", "-1"])
def test_retry_after_that_is_no_number_is_none(text: str | None) -> None:
    assert decode_error(503, b"{}", "", text).retry_after_s is None
