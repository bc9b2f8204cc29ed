"""Whatever arrives becomes a valid request or `bad_input`: random bytes, spoilt bodies, spoilt structures, cuts."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Iterator

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
    InferRequest,
    WireLimits,
    decode_error,
    decode_request,
    decode_response,
    encode_request,
)
from symphony.wire.messages import Scalar
from symphony.wire.oip import PRIORITY_MAX
from symphony.wire.tensors import NUMPY_DTYPES

pytestmark = pytest.mark.filterwarnings("error")

SEED = 20_261_124
RANDOM_COUNT = 10_000
MUTATED_COUNT = 3_000
LIMITS = WireLimits(element_count_max=1 << 16, list_body_bytes_max=2048, token_count_max=512, header_bytes_max=4096)
TYPES = {"json": "application/json", "msgpack": "application/msgpack", "framed": "application/x-symphony-msgpack"}
DTYPES = set(NUMPY_DTYPES.values())
INPUTS = {
    "a": np.arange(6, dtype="<f4").reshape(2, 3),
    "b": np.array([True, False]),
    "c": np.array([b"one", b"", b"three"], object),
    "d": np.array([1, 2], "<u2"),
    "e": np.array(-7, "<i8"),
}
REQUEST = InferRequest(
    INPUTS,
    id="r-7",
    output_names=("y", "z"),
    timeout_ns=50_000_000,
    priority=3,
    parameters={"k": 1, "s": "text", "f": 0.5},
    bf16_names=frozenset({"d"}),
)
DECODERS = ["json", "json_binary", "msgpack", "framed"]


def check(call: Callable[[], InferRequest]) -> bool:
    """Decode; return whether the request was taken. Anything but a valid request or `bad_input` fails the test."""
    try:
        request = call()
    except SymphonyError as error:
        assert error.reason is Reason.BAD_INPUT
        error.message.encode()
        assert 0 < len(error.message) < 2000
        return False
    for name, array in request.inputs.items():
        assert type(name) is str
        assert name
        assert array.dtype in DTYPES
        assert not array.flags.writeable
        array.copy()
        if array.dtype == object:
            assert all(type(element) is bytes for element in array.reshape(-1))
    assert request.bf16_names <= set(request.inputs)
    assert request.id is None or type(request.id) is str
    assert request.timeout_ns is None or (type(request.timeout_ns) is int and request.timeout_ns > 0)
    assert type(request.priority) is int
    assert 0 <= request.priority <= PRIORITY_MAX
    assert all(type(name) is str and isinstance(value, Scalar) for name, value in request.parameters.items())
    assert request.output_names is None or all(type(name) is str for name in request.output_names)
    return True


def decode(decoder: str, body: bytes, header_length: int | None = None) -> bool:
    content_type = TYPES[decoder.partition("_")[0]]
    taken = check(lambda: decode_request(body, content_type, header_length, LIMITS))
    try:
        decode_response(body, content_type, header_length, LIMITS)
    except SymphonyError as error:
        assert error.reason is Reason.BAD_INPUT
    return taken


@pytest.mark.parametrize("decoder", DECODERS)
def test_random_bytes_are_refused_or_a_request(decoder: str) -> None:
    rng = random.Random(SEED)
    for _ in range(RANDOM_COUNT):
        body = rng.randbytes(rng.randrange(200))
        decode(decoder, body, rng.randrange(-1, 220) if decoder == "json_binary" else None)


def test_random_header_in_a_frame_of_right_length_is_refused_or_a_request() -> None:
    rng = random.Random(SEED)
    for _ in range(RANDOM_COUNT):
        header = rng.randbytes(rng.randrange(100))
        decode("framed", struct.pack("<I", len(header)) + header)


def encoded_requests() -> Iterator[tuple[str, bytes, int | None]]:
    """Yield (decoder, body, header length) of one rich request in every form."""
    for form in (JSON, JSON_BINARY, MSGPACK, MSGPACK_LISTS, MSGPACK_MAP, FRAMED):
        request = copy.copy(REQUEST)
        request.form = form
        encoded = encode_request(request)
        length = encoded.headers.get("Inference-Header-Content-Length")
        decoder = {"json": "json_binary" if length else "json"}.get(form.kind.name.lower(), form.kind.name.lower())
        yield decoder, encoded.body(), None if length is None else int(length)


ENCODED = list(encoded_requests())
IDS = ["json", "json_binary", "msgpack", "msgpack_lists", "msgpack_map", "framed"]


@pytest.mark.parametrize(("decoder", "body", "length"), ENCODED, ids=IDS)
def test_mutated_body_is_refused_or_a_request(decoder: str, body: bytes, length: int | None) -> None:
    rng = random.Random(SEED)
    assert decode(decoder, body, length)
    taken = 0
    for _ in range(MUTATED_COUNT):
        spoilt = bytearray(body)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(len(spoilt))
            kind = rng.randrange(4)
            if kind == 0:
                spoilt[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                spoilt[at] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xDF, 0xFF))
            elif kind == 2:
                del spoilt[at : at + rng.randrange(1, 9)]
            else:
                spoilt[at:at] = rng.randbytes(rng.randrange(1, 9))
            if not spoilt:
                break
        taken += decode(decoder, bytes(spoilt), length)
    assert 0 < taken < MUTATED_COUNT  # both ends of the decoder were reached


@pytest.mark.parametrize(("decoder", "body", "length"), ENCODED, ids=IDS)
def test_body_cut_at_any_byte_is_refused(decoder: str, body: bytes, length: int | None) -> None:
    for size in range(len(body)):
        assert not decode(decoder, body[:size], length), f"{size} of {len(body)} bytes were taken for a request"
    assert not decode(decoder, body + bytes(64), length)


JUNK = (
    None, True, False, 0, -1, 1, 8, 64, 255, 256, 2**31, 2**63, 2**64 - 1, -(2**63), 0.0, -1.5, 1e308, "", "x", "a",
    "FP32", "<f4", "bytes", "BYTES", "BOOL", "é\U0001f600", "\0", "a" * 5000, [], [1], [0, 0], [1] * 70, [[1]], [[]],
    [None], {}, {"name": "a"},
    {"a": {}}, [{}], [{"name": "y"}], {"binary_data_size": 4}, {"timeout": 1},
)  # fmt: skip
JSON_JUNK = (*JUNK, float("nan"), float("inf"), "\ud800", 10**400)
MSGPACK_JUNK = (*JUNK, b"", b"\0" * 8, b"\1\0\0\0a", msgpack.Timestamp(1, 2), msgpack.ExtType(5, b"abc"))


def places(node: object) -> Iterator[tuple[dict | list, object]]:
    """Yield every (container, key) of a decoded message."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        yield node, key
        yield from places(value)


def spoil(rng: random.Random, message: dict, junk: tuple[object, ...]) -> dict:
    """Return a copy in which a few places hold junk, are gone, or are doubled."""
    message = copy.deepcopy(message)
    for _ in range(rng.choice((1, 1, 2, 4))):
        found = list(places(message))
        if not found:
            break
        container, key = rng.choice(found)
        kind = rng.randrange(6)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif kind == 2 and isinstance(container, dict):
            container[rng.choice(("", "zz", "name", "data", "dtype", "parameters"))] = container.pop(key)
        else:
            container[key] = copy.deepcopy(rng.choice(junk))
    return message


def json_cases(rng: random.Random) -> Iterator[tuple[bytes, int | None]]:
    for index, (body, length) in enumerate([ENCODED[0][1:], ENCODED[1][1:]]):
        message = json.loads(body[:length])
        for _ in range(MUTATED_COUNT):
            text = json.dumps(spoil(rng, message, JSON_JUNK)).encode()
            yield (text + body[length:], len(text)) if index else (text, None)


def msgpack_cases(rng: random.Random) -> Iterator[tuple[bytes, int | None]]:
    for _, body, _ in ENCODED[2:5]:
        message = msgpack.unpackb(body)
        for _ in range(MUTATED_COUNT):
            yield msgpack.packb(spoil(rng, message, MSGPACK_JUNK)), None


def framed_cases(rng: random.Random) -> Iterator[tuple[bytes, int | None]]:
    body = ENCODED[5][1]
    end = 4 + int.from_bytes(body[:4], "little")
    message, raw = msgpack.unpackb(body[4:end]), body[end + -end % 64 :]
    for _ in range(2 * MUTATED_COUNT):
        packed = msgpack.packb(spoil(rng, message, MSGPACK_JUNK))
        head = struct.pack("<I", len(packed)) + packed
        yield head + bytes(-len(head) % 64) + raw, None


@pytest.mark.parametrize(
    ("decoder", "cases"), [("json", json_cases), ("msgpack", msgpack_cases), ("framed", framed_cases)]
)
def test_spoilt_structure_is_refused_or_a_request(decoder: str, cases) -> None:
    taken = count = 0
    for body, length in cases(random.Random(SEED)):
        count += 1
        taken += decode(decoder, body, length)
    assert 0 < taken < count


def test_any_error_body_becomes_an_error() -> None:
    rng = random.Random(SEED)
    for _ in range(RANDOM_COUNT):
        body = rng.choice((rng.randbytes(rng.randrange(60)), json.dumps(rng.choice(JSON_JUNK)).encode()))
        error = decode_error(rng.randrange(201, 600), body, rng.choice((*TYPES.values(), "", "text/html")))
        assert isinstance(error, SymphonyError)
        assert error.message
