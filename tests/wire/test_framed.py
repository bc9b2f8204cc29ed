"""The framed form: its layout to the byte, tensors as views, and frames that lie about themselves."""

from __future__ import annotations

import tracemalloc

import msgpack
import numpy as np
import pytest

from symphony.wire import FRAMED, InferRequest, InferResponse, decode_request, decode_response, encode_request, framed
from symphony.wire import encode_response as encode_response_in
from symphony.wire.framed import encode_response

TYPE = "application/x-symphony-msgpack"


def decode(body: bytes | bytearray | memoryview) -> InferRequest:
    return decode_request(body, TYPE)


def test_frame_is_laid_out_as_documented() -> None:
    inputs = {"a": np.arange(17, dtype="|u1"), "b": np.array([1.5], "<f4")}
    parts, content_type, headers = encode_request(InferRequest(inputs, id="7", timeout_ns=5_000_000, form=FRAMED))
    body = b"".join(parts)
    assert (content_type, headers) == (TYPE, {})
    length = int.from_bytes(body[:4], "little")
    assert msgpack.unpackb(body[4 : 4 + length]) == {
        "v": 1,
        "id": "7",
        "timeout_us": 5000,
        "inputs": [
            {"name": "a", "dtype": "|u1", "shape": [17], "off": 0, "n": 17},
            {"name": "b", "dtype": "<f4", "shape": [1], "off": 64, "n": 4},
        ],
    }
    data_at = -(-(4 + length) // 64) * 64
    assert body[4 + length : data_at] == bytes(data_at - 4 - length)
    assert body[data_at : data_at + 17] == bytes(range(17))
    assert body[data_at + 17 : data_at + 64] == bytes(47)
    assert body[data_at + 64 :] == np.array([1.5], "<f4").tobytes()


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, lambda body: memoryview(bytearray(body))], ids=["bytes", "bytearray", "view"]
)
def test_tensors_are_readonly_views_of_the_body(kind) -> None:
    sent = {name: np.arange(100, dtype=dtype) for name, dtype in (("a", "<i8"), ("b", "<f4"), ("c", "|u1"))}
    body = kind(encode_request(InferRequest(sent, form=FRAMED)).body())
    for name, array in decode(body).inputs.items():
        assert np.shares_memory(array, np.frombuffer(body, np.uint8))
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        assert array.tolist() == sent[name].tolist()


def test_decoding_takes_no_memory_for_large_tensors() -> None:
    body = encode_request(InferRequest({"x": np.zeros(1 << 24, "<f4")}, form=FRAMED)).body()
    decode(body)
    tracemalloc.start()
    request = decode(body)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert request.inputs["x"].shape == (1 << 24,)
    assert peak_bytes < 10_000


def test_encoding_a_large_response_copies_nothing() -> None:
    array = np.zeros(1 << 20, "<f4")
    for response in (InferResponse("m", "1", {"y": array}), InferResponse("m", "1", {"y": array}, id="7")):
        for _ in range(2):
            parts = encode_response(response).parts
            assert np.shares_memory(np.frombuffer(parts[-1], np.uint8), array)


def test_response_is_the_same_whether_or_not_its_header_is_remembered() -> None:
    response = InferResponse("m", "1", {"y": np.arange(16, dtype="<f4")})
    first = encode_response(response).body()
    assert encode_response(response).body() == first
    other = InferResponse("m", "2", {"y": np.arange(16, dtype="<f4")})
    assert decode_response(encode_response(other).body(), TYPE).model_version == "2"
    assert decode_response(first, TYPE).model_version == "1"


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": "n"},
        {"model_version": "2"},
        {"outputs": {"z": np.arange(4, dtype="<f4")}},
        {"outputs": {"y": np.arange(4, dtype="<i4")}},
        {"outputs": {"y": np.arange(4, dtype=">f4")}},
        {"outputs": {"y": np.arange(4, dtype="<f4").reshape(2, 2)}},
        {"outputs": {"y": np.arange(4, dtype="<u2")}, "bf16_names": frozenset({"y"})},
        {"outputs": {"y": np.arange(4, dtype="<u2")}},
        {"outputs": {"y": np.array([b"ab"])}},
        {"outputs": {"y": np.array([b"abc"])}},
        {"outputs": {"y": np.array([b"abc", b""], object)}},
        {"outputs": {}},
        {"id": "7"},
    ],
)
def test_remembered_header_serves_its_own_signature_only(change: dict) -> None:
    plain = {"model_name": "m", "model_version": "1", "outputs": {"y": np.arange(4, dtype="<f4")}}
    for fields in (plain, plain | change, plain, plain | change):
        sent = InferResponse(**fields)
        got = decode_response(encode_response_in(sent, FRAMED).body(), TYPE)
        assert (got.model_name, got.model_version, got.id) == (sent.model_name, sent.model_version, sent.id)
        assert got.bf16_names == sent.bf16_names
        assert list(got.outputs) == list(sent.outputs)
        for name, array in sent.outputs.items():
            assert got.outputs[name].tolist() == array.tolist()
            assert got.outputs[name].shape == array.shape


def test_remembered_headers_are_bounded() -> None:
    for count in range(framed._PREFIX_COUNT_MAX + 10):
        encode_response(InferResponse("m", "1", {"y": np.zeros(count, "|u1")}))
        assert len(framed._prefixes) <= framed._PREFIX_COUNT_MAX


def test_datatype_may_be_the_protocols_word(to_frame) -> None:
    assert decode(to_frame({"dtype": "FP32"})).inputs["x"].tolist() == [0.0, 0.0]


def test_frame_may_end_padded_and_leave_gaps(to_frame) -> None:
    assert decode(to_frame(raw=bytes(64))).inputs["x"].shape == (2,)
    assert decode(to_frame({"off": 128}, raw=bytes(136))).inputs["x"].shape == (2,)


def test_tensors_without_bytes_need_no_room(to_frame) -> None:
    header = msgpack.packb({"v": 1, "inputs": []})
    assert decode(len(header).to_bytes(4, "little") + header).inputs == {}
    frame = to_frame({"shape": [0, 2], "n": 0}, raw=b"")
    assert decode(frame[: 4 + frame[0]]).inputs["x"].shape == (0, 2)


def test_header_fields_are_read(to_frame) -> None:
    request = decode(
        to_frame(id="a", model="m", timeout_us=7, priority=3, parameters={"k": 1.5}, outputs=["y", "z"], later=[1])
    )
    assert (request.id, request.model, request.timeout_ns, request.priority) == ("a", "m", 7000, 3)
    assert request.parameters == {"k": 1.5}
    assert request.output_names == ("y", "z")
    assert request.form == FRAMED
    assert decode(to_frame(outputs=[])).output_names is None


@pytest.mark.parametrize(
    ("tensor", "changes", "words"),
    [
        ({}, {"v": ...}, "version"),
        ({}, {"v": 2}, "version"),
        ({}, {"v": True}, "version"),
        ({}, {"v": 1.0}, "version"),
        ({}, {"inputs": ...}, "inputs"),
        ({}, {"inputs": {}}, "inputs"),
        ({}, {"inputs": [7]}, "input"),
        ({}, {"inputs": ["name"]}, "input"),
        ({"name": ...}, {}, "name"),
        ({"name": ""}, {}, "name"),
        ({"name": 7}, {}, "name"),
        ({"dtype": ...}, {}, "dtype"),
        ({"dtype": "|O"}, {}, "|O"),
        ({"dtype": ["<f4"]}, {}, "datatype"),
        ({"dtype": {}}, {}, "datatype"),
        ({"shape": ...}, {}, "shape"),
        ({"shape": 2}, {}, "shape"),
        ({"shape": [-2]}, {}, '"x": dimension -2'),
        ({"shape": [3]}, {}, "12"),
        ({"shape": [2, 0]}, {}, "8 bytes"),
        ({"shape": [1 << 62, 1 << 62]}, {}, "element_count_max"),
        ({"off": ...}, {}, "off"),
        ({"off": -64}, {}, "off"),
        ({"off": 8}, {}, "off"),
        ({"off": 64}, {}, "ends at byte"),
        ({"off": 1 << 63}, {}, "ends at byte"),
        ({"off": True}, {}, "off"),
        ({"off": 0.0}, {}, "off"),
        ({"n": ...}, {}, "n"),
        ({"n": -8}, {}, "n is -8"),
        ({"n": 7}, {}, "7 bytes"),
        ({"n": True}, {}, "n is True"),
        ({"n": 1 << 63}, {}, "ends at byte"),
        ({"dtype": "bytes", "shape": [1], "n": 0}, {}, "BYTES"),
        ({"dtype": "bytes", "shape": [1]}, {}, "left after"),
        ({"dtype": "bytes", "shape": [3]}, {}, "BYTES"),
        ({"dtype": "|b1", "shape": [8]}, {"raw": b"\2" * 8}, "BOOL"),
        ({}, {"raw": bytes(7)}, "ends at byte"),
        ({}, {"raw": bytes(8 + 64)}, "left behind"),
        ({}, {"id": 7}, "id"),
        ({}, {"id": b"7"}, "id"),
        ({}, {"model": 7}, "model"),
        ({}, {"timeout_us": 0}, "timeout_us"),
        ({}, {"timeout_us": 1.0}, "timeout_us"),
        ({}, {"timeout_us": True}, "timeout_us"),
        ({}, {"priority": 9}, "priority"),
        ({}, {"priority": None}, "priority"),
        ({}, {"outputs": "y"}, "outputs"),
        ({}, {"outputs": [7]}, "output"),
        ({}, {"outputs": ["y", "y"]}, "twice"),
        ({}, {"parameters": [1]}, "parameters"),
        ({}, {"parameters": {"timeout": 5}}, "timeout_us"),
        ({}, {"parameters": {"priority": 5}}, "priority"),
        ({}, {"parameters": {"a": []}}, '"a"'),
    ],
)  # fmt: skip
def test_fault_is_named(tensor: dict, changes: dict, words: str, to_frame, refused) -> None:
    assert words in refused(decode, to_frame(tensor, **changes))


def test_tensors_that_overlap_or_share_a_name_are_refused(to_frame, refused) -> None:
    items = [{"name": name, "dtype": "|u1", "shape": [65], "off": 0, "n": 65} for name in "ab"]
    assert '"b": off is 0' in refused(decode, to_frame(inputs=items, raw=bytes(200)))
    items[1]["off"] = 64
    assert '"b": off is 64' in refused(decode, to_frame(inputs=items, raw=bytes(200)))
    items[1]["off"] = 128
    assert list(decode(to_frame(inputs=items, raw=bytes(193))).inputs) == ["a", "b"]
    items[1]["name"] = "a"
    assert "twice" in refused(decode, to_frame(inputs=items, raw=bytes(193)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x01\0\0\0",
        b"\x01\0\0\0\xc1",
        b"\x01\0\0\0\xc0",
        b"\x01\0\0\0\x80",
        b"\x01\0\0\0\x90",
        (5000).to_bytes(4, "little") + b"\x91" * 5000,
        (5000).to_bytes(4, "little") + b"\xdd\xff\xff\xff\xff" * 1000,
    ],
)
def test_body_that_is_no_frame_is_refused(body: bytes, refused) -> None:
    refused(decode, body)
