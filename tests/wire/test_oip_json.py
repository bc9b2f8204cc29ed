"""The JSON form, byte for byte as Triton's clients send and expect it, and what it refuses."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from symphony.wire import (
    JSON,
    JSON_BINARY,
    Form,
    FormKind,
    InferRequest,
    InferResponse,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

X = np.array([[1.5, -2.0]], "<f4")
X_RAW = struct.pack("<2f", 1.5, -2.0)
TEXT = (
    b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}],'
    b'"parameters":{"binary_data_output":true}}'
)


def test_tritonclient_binary_request_is_taken() -> None:
    # What tritonclient sends by default: no content type, no outputs named, the length of the JSON part in a header.
    request = decode_request(TEXT + X_RAW, "", len(TEXT))
    assert request.inputs["x"].tolist() == X.tolist()
    assert request.form == JSON_BINARY
    assert (request.id, request.output_names, request.timeout_ns, request.priority) == (None, None, None, 0)
    assert request.parameters == {}


def test_binary_request_is_written_as_tritonclient_writes_it() -> None:
    parts, content_type, headers = encode_request(InferRequest({"x": X}, form=JSON_BINARY))
    assert b"".join(parts) == TEXT + X_RAW
    assert content_type == "application/octet-stream"
    assert headers == {"Inference-Header-Content-Length": str(len(TEXT))}


def test_tritonclient_request_with_everything_is_taken() -> None:
    text = (
        b'{"id":"r-1","parameters":{"priority":2,"timeout":25000,"slo_ms":20},'
        b'"inputs":[{"name":"a","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":11}},'
        b'{"name":"b","shape":[2],"datatype":"INT32","data":[1,-1]},'
        b'{"name":"c","shape":[2],"datatype":"BF16","parameters":{"binary_data_size":4}}],'
        b'"outputs":[{"name":"y","parameters":{"binary_data":true}},{"name":"z","parameters":{"binary_data":false}},'
        b'{"name":"w"}]}'
    )
    raw = b"\x01\0\0\0a\x02\0\0\0bc" + b"\x80\x3f\0\xc0"
    request = decode_request(text + raw, "application/octet-stream", len(text))
    assert request.id == "r-1"
    assert request.priority == 2
    assert request.timeout_ns == 25_000_000
    assert request.parameters == {"slo_ms": 20}
    assert request.inputs["a"].tolist() == [b"a", b"bc"]
    assert request.inputs["b"].tolist() == [1, -1]
    assert request.inputs["c"].tolist() == [0x3F80, 0xC000]
    assert request.bf16_names == {"c"}
    assert request.output_names == ("y", "z", "w")
    assert request.form == Form(FormKind.JSON, False, {"y": True, "z": False})


def test_binary_response_is_what_tritonclient_parses() -> None:
    response = InferResponse("m", "1", {"y": X, "z": np.array([b"a"], object)}, id="r-1")
    parts, content_type, headers = encode_response(response, JSON_BINARY)
    text = (
        b'{"model_name":"m","model_version":"1","id":"r-1","outputs":['
        b'{"name":"y","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},'
        b'{"name":"z","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}'
    )
    assert b"".join(parts) == text + X_RAW + b"\x01\0\0\0a"
    assert content_type == "application/octet-stream"
    assert headers == {"Inference-Header-Content-Length": str(len(text))}


def test_json_response_has_flat_data_and_no_length_header() -> None:
    response = InferResponse("m", "1", {"y": X, "z": np.array([["a", "é"]], object), "t": np.array([True])})
    parts, content_type, headers = encode_response(response, JSON)
    assert b"".join(parts) == (
        b'{"model_name":"m","model_version":"1","outputs":['
        b'{"name":"y","shape":[1,2],"datatype":"FP32","data":[1.5,-2.0]},'
        b'{"name":"z","shape":[1,2],"datatype":"BYTES","data":["a","\\u00e9"]},'
        b'{"name":"t","shape":[1],"datatype":"BOOL","data":[true]}]}'
    )
    assert content_type == "application/json"
    assert headers == {}


def test_per_output_choice_overrides_the_requests() -> None:
    response = InferResponse("m", "1", {"y": X, "z": X})
    for form, listed in (
        (Form(FormKind.JSON, True, {"y": False}), "y"),
        (Form(FormKind.JSON, False, {"z": True}), "y"),
    ):
        parts, _, headers = encode_response(response, form)
        text = json.loads(b"".join(parts)[: int(headers["Inference-Header-Content-Length"])])
        assert [output["name"] for output in text["outputs"] if "data" in output] == [listed]


def test_empty_binary_output_still_carries_the_length_header(receive_response) -> None:
    encoded = encode_response(InferResponse("m", "1", {"y": np.zeros((0, 2), "<f4")}), JSON_BINARY)
    assert "Inference-Header-Content-Length" in encoded.headers
    assert receive_response(encoded).outputs["y"].shape == (0, 2)


def test_binary_tensors_are_readonly_views_of_the_body() -> None:
    for body in (TEXT + X_RAW, bytearray(TEXT + X_RAW), memoryview(bytearray(TEXT + X_RAW))):
        array = decode_request(body, "", len(TEXT)).inputs["x"]
        assert not array.flags.writeable
        assert np.shares_memory(array, np.frombuffer(body, np.uint8))


def test_large_output_is_sent_without_copying() -> None:
    array = np.zeros(1 << 16, "<f4")
    parts = encode_response(InferResponse("m", "1", {"y": array}), JSON_BINARY).parts
    assert len(parts) == 2
    assert np.shares_memory(np.frombuffer(parts[1], np.uint8), array)


def test_output_that_is_no_text_is_refused_in_json_with_a_remedy(refused) -> None:
    response = InferResponse("m", "1", {"y": np.array([b"\xff"], object)})
    message = refused(encode_response, response, JSON)
    assert 'output "y"' in message
    assert "binary_data" in message


def test_request_without_outputs_named_asks_for_all(to_json) -> None:
    assert decode_request(to_json(outputs=[])).output_names is None
    assert decode_request(to_json(outputs=["y"])).output_names == ("y",)
    assert decode_request(to_json(outputs=[{"name": "y"}])).output_names == ("y",)


def test_unknown_keys_are_ignored(to_json) -> None:
    request = decode_request(to_json({"hint": [1]}, model_name="m", anything={"deep": [{}]}))
    assert request.inputs["x"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("timeout", [0, -1, True, False, 1.0, "100", None, [], 10**30])
def test_timeout_must_be_microseconds_above_0(timeout: object, to_json, refused) -> None:
    assert "timeout" in refused(decode_request, to_json(parameters={"timeout": timeout}))


def test_smallest_timeout_is_a_microsecond(to_json) -> None:
    assert decode_request(to_json(parameters={"timeout": 1})).timeout_ns == 1000


@pytest.mark.parametrize("priority", [-1, 9, True, 1.0, "1", [], 10**30])
def test_priority_must_be_0_to_8(priority: object, to_json, refused) -> None:
    assert "priority" in refused(decode_request, to_json(parameters={"priority": priority}))
    assert decode_request(to_json(parameters={"priority": 8})).priority == 8
    assert decode_request(to_json(parameters={"priority": 0})).priority == 0


@pytest.mark.parametrize(
    ("tensor", "changes", "words"),
    [
        ({"name": ""}, {}, "empty name"),
        ({"name": 3}, {}, "name"),
        ({"name": ...}, {}, "name"),
        ({"name": "\ud800"}, {}, "surrogate"),
        ({"datatype": "FP8"}, {}, "FP8"),
        ({"datatype": ...}, {}, "datatype"),
        ({"shape": ...}, {}, "shape"),
        ({"shape": [-2]}, {}, "-2"),
        ({"shape": [3]}, {}, "3"),
        ({"data": ...}, {}, "data"),
        ({"data": None}, {}, "data"),
        ({"parameters": {"binary_data_size": 8}}, {}, "both"),
        ({"parameters": []}, {}, "parameters"),
        ({"parameters": {"shared_memory_region": "r"}}, {}, "shared memory"),
        ({"data": ..., "parameters": {"binary_data_size": 8}}, {}, "0 bytes are left"),
        ({"data": ..., "parameters": {"binary_data_size": -8}}, {}, "-8"),
        ({"data": ..., "parameters": {"binary_data_size": True}}, {}, "binary_data_size"),
        ({"data": ..., "parameters": {"binary_data_size": 10**40}}, {}, "left"),
        ({}, {"inputs": None}, "inputs"),
        ({}, {"inputs": {}}, "map"),
        ({}, {"inputs": [1]}, "input"),
        ({}, {"inputs": "x"}, "inputs"),
        ({}, {"id": 7}, "id"),
        ({}, {"id": "\udfff"}, "id"),
        ({}, {"parameters": []}, "parameters"),
        ({}, {"parameters": {"a": None}}, '"a"'),
        ({}, {"parameters": {"a": [1]}}, '"a"'),
        ({}, {"parameters": {"a": float("nan")}}, '"a"'),
        ({}, {"parameters": {"binary_data_output": 1}}, "binary_data_output"),
        ({}, {"outputs": {}}, "outputs"),
        ({}, {"outputs": [1]}, "output"),
        ({}, {"outputs": [{}]}, "output"),
        ({}, {"outputs": [{"name": "y"}, {"name": "y"}]}, "twice"),
        ({}, {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "binary_data"),
        ({}, {"outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "classification"),
        ({}, {"outputs": [{"name": "y", "parameters": {"classification": True}}]}, "classification"),
        ({}, {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]}, "shared memory"),
    ],
)  # fmt: skip
def test_fault_is_named(tensor: dict, changes: dict, words: str, to_json, refused) -> None:
    assert words in refused(decode_request, to_json(tensor, **changes))


def test_input_given_twice_is_refused(refused) -> None:
    item = {"name": "x", "shape": [1], "datatype": "INT8", "data": [1]}
    assert '"x" is given twice' in refused(decode_request, json.dumps({"inputs": [item, item]}).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"inputs"',
        b"{}",
        b"\xff",
        b"\xef\xbb\xbf{}",
        '{"inputs":[]}'.encode("utf-16"),
        b'{"inputs":[]} {}',
        b'{"inputs":[],"inputs":[]}',
        b'{"inputs":[],"id":"a","id":"b"}',
        b'{"inputs":[' + b"1" * 5000 + b"]}",
        b"[" * 100_000,
        b'{"inputs":' * 50_000,
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":' + b"[" * 900 + b"1" + b"]" * 900 + b"}]}",
    ],
)
def test_body_that_is_no_request_is_refused(body: bytes, refused) -> None:
    refused(decode_request, body)


@pytest.mark.parametrize("length", [-1, len(TEXT) - 1, len(TEXT) + 1, len(TEXT) + 9, 10**12])
def test_wrong_header_length_is_refused(length: int, refused) -> None:
    message = refused(decode_request, TEXT + X_RAW, "", length)
    if not 0 <= length <= len(TEXT + X_RAW):
        assert f"{length}, but the body has" in message


@pytest.mark.parametrize("raw", [X_RAW[:-1], X_RAW + b"!", b""])
def test_raw_part_of_another_size_is_refused(raw: bytes, refused) -> None:
    assert "left" in refused(decode_request, TEXT + raw, "", len(TEXT))


def test_response_of_another_server_is_taken() -> None:
    text = (
        b'{"model_name":"m","model_version":"3","parameters":{"sequence_id":0},"outputs":[{"name":"y","datatype":"INT64",'
        b'"shape":[1,2],"data":[[1,2]]},{"name":"z","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}'
    )
    response = decode_response(text + bytes(4), "application/octet-stream", len(text))
    assert (response.model_name, response.model_version, response.id) == ("m", "3", None)
    assert response.outputs["y"].tolist() == [[1, 2]]
    assert response.outputs["z"].tolist() == [0.0]


def test_parameter_that_has_a_field_is_refused_when_encoding(refused) -> None:
    request = InferRequest({}, parameters={"timeout": 5})
    assert "timeout" in refused(encode_request, request)
    refused(encode_request, InferRequest({}, parameters={"a": np.float32(1)}))
    refused(encode_request, InferRequest({}, timeout_ns=0))
    refused(encode_request, InferRequest({}, priority=9))
