"""Bodies and values the wire tests share."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgpack
import pytest

from symphony.errors import Reason, SymphonyError
from symphony.wire import Encoded, InferRequest, InferResponse, decode_request, decode_response


def header_length(encoded: Encoded) -> int | None:
    text = encoded.headers.get("Inference-Header-Content-Length")
    return None if text is None else int(text)


@pytest.fixture(scope="session")
def receive_request() -> Callable[[Encoded], InferRequest]:
    """Return a function that decodes an encoded request as a node would."""
    return lambda encoded: decode_request(encoded.body(), encoded.content_type, header_length(encoded))


@pytest.fixture(scope="session")
def receive_response() -> Callable[[Encoded], InferResponse]:
    """Return a function that decodes an encoded response as a client would."""
    return lambda encoded: decode_response(encoded.body(), encoded.content_type, header_length(encoded))


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Return a function that expects a call to be refused with `bad_input`, and returns the message."""

    def refused(call: Callable, *arguments, **keywords) -> str:
        with pytest.raises(SymphonyError) as caught:
            call(*arguments, **keywords)
        assert caught.value.reason is Reason.BAD_INPUT
        assert caught.value.message
        caught.value.message.encode()
        return caught.value.message

    return refused


@pytest.fixture(scope="session")
def to_json() -> Callable[..., bytes]:
    """Return a function that makes a JSON request of one FP32[2] input, with changes to it and to the message."""

    def to_json(tensor: dict | None = None, /, **changes) -> bytes:
        item = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]} | (tensor or {})
        message = {"inputs": [{key: value for key, value in item.items() if value is not ...}]} | changes
        return json.dumps(message).encode()

    return to_json


@pytest.fixture(scope="session")
def to_msgpack() -> Callable[..., bytes]:
    """Return a function that makes a msgpack request of one FP32[2] input, with changes to it and to the message."""

    def to_msgpack(tensor: dict | None = None, /, **changes) -> bytes:
        item = {"name": "x", "shape": [2], "datatype": "FP32", "data": bytes(8)} | (tensor or {})
        message = {"inputs": [{key: value for key, value in item.items() if value is not ...}]} | changes
        return msgpack.packb(message)

    return to_msgpack


@pytest.fixture(scope="session")
def to_frame() -> Callable[..., bytes]:
    """Return a function that makes a frame of one FP32[2] input, with changes to its map and to the header."""

    def to_frame(tensor: dict | None = None, /, *, raw: bytes = bytes(8), **changes) -> bytes:
        item = {"name": "x", "dtype": "<f4", "shape": [2], "off": 0, "n": 8} | (tensor or {})
        header = {"v": 1, "inputs": [{key: value for key, value in item.items() if value is not ...}]} | changes
        packed = msgpack.packb({key: value for key, value in header.items() if value is not ...})
        head = len(packed).to_bytes(4, "little") + packed
        return head + bytes(-len(head) % 64) + raw

    return to_frame
