"""The msgpack form: OIP in msgpack, `bin` or lists, tensors in a list or a map."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from symphony.wire import (
    MSGPACK,
    MSGPACK_LISTS,
    MSGPACK_MAP,
    MSGPACK_MAP_LISTS,
    InferResponse,
    WireLimits,
    decode_request,
    encode_response,
)
from symphony.wire.msgpack_scan import check_tokens

TYPE = "application/msgpack"
RAW = np.array([1.5, -2.0], "<f4").tobytes()


def decode(message: object, limits: WireLimits | None = None):
    body = message if isinstance(message, bytes) else msgpack.packb(message)
    return decode_request(body, TYPE, None, limits or WireLimits())


@pytest.mark.parametrize("word", ["FP32", "<f4"])
@pytest.mark.parametrize("key", ["datatype", "dtype"])
@pytest.mark.parametrize(("data", "form"), [(RAW, MSGPACK), ([1.5, -2.0], MSGPACK_LISTS), ([1.5, -2], MSGPACK_LISTS)])
def test_list_form_is_taken(word: str, key: str, data: object, form) -> None:
    request = decode({"inputs": [{"name": "x", "shape": [2], key: word, "data": data}]})
    assert request.inputs["x"].tolist() == [1.5, -2.0]
    assert not request.inputs["x"].flags.writeable
    assert request.form == form


@pytest.mark.parametrize(("data", "form"), [(RAW, MSGPACK_MAP), ([1.5, -2.0], MSGPACK_MAP_LISTS)])
def test_map_form_is_taken_and_answered_alike(data: object, form) -> None:
    request = decode({"inputs": {"x": {"dtype": "<f4", "shape": [2], "data": data}}})
    assert request.inputs["x"].tolist() == [1.5, -2.0]
    assert request.form == form
    reply = msgpack.unpackb(encode_response(InferResponse("m", "1", {"y": request.inputs["x"]}), form).body())
    assert reply == {
        "model_name": "m",
        "model_version": "1",
        "outputs": {"y": {"dtype": "<f4", "shape": [2], "data": data}},
    }


def test_list_form_is_answered_in_the_protocols_words() -> None:
    encoded = encode_response(InferResponse("m", "1", {"y": np.array([b"a"], object)}, id="7"), MSGPACK_LISTS)
    assert encoded.content_type == TYPE
    assert msgpack.unpackb(encoded.body()) == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [1], "data": [b"a"]}],
    }


def test_bytes_come_raw_in_bin_and_one_by_one_in_lists() -> None:
    raw = b"\x01\0\0\0a\0\0\0\0"
    for data in (raw, [b"a", b""], ["a", ""]):
        request = decode({"inputs": {"x": {"dtype": "bytes", "shape": [2], "data": data}}})
        assert request.inputs["x"].tolist() == [b"a", b""]


def test_request_says_how_outputs_are_carried() -> None:
    inputs = {"x": {"dtype": "<f4", "shape": [2], "data": RAW}}
    assert decode({"inputs": inputs, "parameters": {"binary_data_output": False}}).form == MSGPACK_MAP_LISTS
    request = decode({"inputs": inputs, "outputs": ["y", {"name": "z", "parameters": {"binary_data": False}}]})
    assert request.output_names == ("y", "z")
    assert request.form.is_binary_by_name == {"z": False}


@pytest.mark.parametrize(
    ("tensor", "changes", "words"),
    [
        ({"data": ...}, {}, "data"),
        ({"data": RAW[:-1]}, {}, "7 bytes"),
        ({"data": RAW + b"!"}, {}, "9 bytes"),
        ({"data": "12345678"}, {}, "data"),
        ({"data": [1, True]}, {}, "element 1"),
        ({"data": [1, msgpack.Timestamp(1)]}, {}, "element 1"),
        ({"data": msgpack.ExtType(4, RAW)}, {}, "data"),
        ({"data": {b"nd": True}}, {}, "data"),
        ({"datatype": b"FP32"}, {}, "datatype"),
        ({"datatype": "O"}, {}, "datatype"),
        ({"datatype": "UINT8", "data": [1, 300]}, {}, "300"),
        ({"name": b"x"}, {}, "name"),
        ({"shape": [2.0]}, {}, "dimension"),
        ({"shape": b"\x02"}, {}, "shape"),
        ({}, {"inputs": {1: {}}}, "msgpack"),
        ({}, {"inputs": {"x": 1}}, "input"),
        ({}, {"inputs": {"": {}}}, "name"),
        ({}, {"parameters": {"timeout": -5}}, "timeout"),
        ({}, {"parameters": {"a": b"b"}}, '"a"'),
        ({}, {"id": b"7"}, "id"),
    ],
)
def test_fault_is_named(tensor: dict, changes: dict, words: str, to_msgpack, refused) -> None:
    assert words in refused(decode, to_msgpack(tensor, **changes))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81",
        b"\xc0",
        b"\x80",
        b"\x80\x80",
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdd\x00\x10\x00\x00" * 3000,
        b"\x82\xa6inputs\x90\xa6inputs\x90",
        b"\x81\x90\x90",
        b"\x81\xa2\xff\xff\xc0",
    ],
)
def test_body_that_is_no_request_is_refused(body: bytes, refused) -> None:
    refused(decode, body)


def test_what_msgpack_numpy_would_unpickle_stays_data(refused) -> None:
    # msgpack-numpy's form of an object array: decoding it there runs pickle.
    evil = {b"nd": True, b"type": b"O", b"kind": b"O", b"shape": [1], b"data": b"cos\nsystem\n(S'false'\ntR."}
    refused(decode, {"inputs": {"x": evil}})
    refused(decode, {"inputs": {"x": {"dtype": "|O", "shape": [1], "data": evil[b"data"]}}})


def test_large_body_needs_its_bulk_in_bin(refused) -> None:
    limits = WireLimits(list_body_bytes_max=1000, token_count_max=100)
    listed = {"inputs": [{"name": "x", "shape": [900], "datatype": "INT8", "data": [0] * 900}]}
    assert decode(listed, limits).inputs["x"].shape == (900,)
    listed["inputs"][0] |= {"shape": [1100], "data": [0] * 1100}
    message = refused(decode, listed, limits)
    assert "token_count_max" in message
    assert '"bin"' in message
    listed["inputs"][0] |= {"data": bytes(1100)}
    assert decode(listed, limits).inputs["x"].shape == (1100,)


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 127, 128, 2**16, 2**32, 2**63, -128, -(2**15), -(2**31), -(2**63), 1.5, None, True, "", "a" * 40,
        "a" * 300, "a" * 70_000, b"", b"\xdf" * 300, b"\xdf" * 70_000, [], [1] * 20, [0] * 70_000, {},
        {"a": [1, {"b": 2}]}, {str(number): number for number in range(70)},
        {str(number): [] for number in range(70_000)},
        *(msgpack.ExtType(5, b"\xdf" * size) for size in (1, 2, 3, 4, 8, 16, 300, 70_000)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_scan_walks_every_kind_of_value_to_its_end(value: object, refused) -> None:
    # A payload byte taken for a value would be a map of hundreds of millions.
    body = msgpack.packb([value, 7])
    count = count_values(value)
    check_tokens(body, WireLimits(token_count_max=count + 2))
    assert "token_count_max" in refused(check_tokens, body, WireLimits(token_count_max=count + 1))


def count_values(value: object) -> int:
    if isinstance(value, list):
        return 1 + sum(map(count_values, value))
    if isinstance(value, dict):
        return 1 + sum(1 + count_values(each) for each in value.values())
    return 1


def test_map_of_tensors_alone_is_a_request_and_its_reply_is_one_too() -> None:
    tensor = {"dtype": "<f4", "shape": [2], "data": np.array([1.5, -2], "<f4").tobytes()}
    request = decode_request(msgpack.packb({"x": tensor, "y": tensor}), "application/msgpack")
    assert [(name, array.tolist()) for name, array in request.inputs.items()] == [("x", [1.5, -2]), ("y", [1.5, -2])]
    encoded = encode_response(InferResponse("m", "1", {"z": np.array([3], "|u1")}, "lost"), request.form)
    assert msgpack.unpackb(encoded.body()) == {"z": {"dtype": "|u1", "shape": [1], "data": b"\x03"}}


@pytest.mark.parametrize("message", [{}, {"x": 1}, {"x": {"shape": [1]}}, {"x": {"data": b""}, "id": "a"}, []])
def test_other_maps_are_no_request(message, refused) -> None:
    assert "inputs" in refused(decode_request, msgpack.packb(message), "application/msgpack")
