"""Each named limit, at it, below it and above it, in every form that it bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

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
    Form,
    InferRequest,
    InferResponse,
    WireLimits,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)

FORMS = {
    "json": JSON,
    "json_binary": JSON_BINARY,
    "msgpack": MSGPACK,
    "msgpack_lists": MSGPACK_LISTS,
    "msgpack_map": MSGPACK_MAP,
    "framed": FRAMED,
}
RAW_FORMS = ["json_binary", "msgpack", "msgpack_map", "framed"]
X = {"x": np.zeros(1, "<f4")}


def decode(request: InferRequest, limits: WireLimits) -> InferRequest:
    encoded = encode_request(request)
    length = encoded.headers.get("Inference-Header-Content-Length")
    return decode_request(encoded.body(), encoded.content_type, None if length is None else int(length), limits)


def assert_limit(name: str, limit: int, make: Callable[[int], InferRequest]) -> None:
    """Expect requests at the limit and one below to be taken, and the one above to be refused by the limit's name."""
    limits = WireLimits(**{name: limit})
    decode(make(limit - 1), limits)
    decode(make(limit), limits)
    with pytest.raises(SymphonyError, match=name) as caught:
        decode(make(limit + 1), limits)
    assert caught.value.reason is Reason.BAD_INPUT
    assert str(limit) in caught.value.message


@pytest.fixture(params=FORMS, ids=str)
def form(request) -> Form:
    return FORMS[request.param]


def test_tensor_count_bounds_inputs(form: Form) -> None:
    make = lambda count: InferRequest({str(index): X["x"] for index in range(count)}, form=form)  # noqa: E731
    assert_limit("tensor_count_max", 3, make)
    assert_limit("tensor_count_max", 64, make)


def test_tensor_count_bounds_outputs_asked_for(form: Form) -> None:
    assert_limit(
        "tensor_count_max", 3, lambda count: InferRequest(X, output_names=tuple(map(str, range(count))), form=form)
    )


def test_tensor_count_bounds_outputs_of_a_response(form: Form) -> None:
    for count in (2, 3, 4):
        encoded = encode_response(InferResponse("m", "1", {str(index): X["x"] for index in range(count)}), form)
        length = encoded.headers.get("Inference-Header-Content-Length")
        arguments = (encoded.body(), encoded.content_type, None if length is None else int(length))
        if count <= 3:
            assert len(decode_response(*arguments, WireLimits(tensor_count_max=3)).outputs) == count
        else:
            with pytest.raises(SymphonyError, match="tensor_count_max"):
                decode_response(*arguments, WireLimits(tensor_count_max=3))


def test_dimension_count(form: Form) -> None:
    make = lambda count: InferRequest({"x": np.zeros([1] * count, "<f4")}, form=form)  # noqa: E731
    assert_limit("dimension_count_max", 3, make)
    assert_limit("dimension_count_max", 16, make)


def test_element_count(form: Form) -> None:
    assert_limit("element_count_max", 12, lambda count: InferRequest({"x": np.zeros(count, "|u1")}, form=form))


def test_element_count_takes_a_zero_for_a_one(form: Form) -> None:
    assert_limit("element_count_max", 12, lambda count: InferRequest({"x": np.zeros((0, count), "|u1")}, form=form))


def test_element_count_multiplies_dimensions(form: Form) -> None:
    assert_limit("element_count_max", 13, lambda count: InferRequest({"x": np.zeros((1, count), "|u1")}, form=form))


def test_bytes_element_count(form: Form) -> None:
    assert_limit(
        "bytes_element_count_max", 5, lambda count: InferRequest({"x": np.full(count, b"a", object)}, form=form)
    )


def test_name_length_bounds_inputs_outputs_and_parameters(form: Form) -> None:
    for make in (
        lambda length: InferRequest({"n" * length: X["x"]}, form=form),
        lambda length: InferRequest(X, output_names=("é" * length,), form=form),
        lambda length: InferRequest(X, parameters={"n" * length: 1}, form=form),
    ):
        assert_limit("name_length_max", 20, make)


def test_name_length_bounds_the_model_in_a_frame() -> None:
    assert_limit("name_length_max", 5, lambda length: InferRequest(X, model="m" * length, form=FRAMED))


def test_id_length(form: Form) -> None:
    assert_limit("id_length_max", 5, lambda length: InferRequest(X, id="i" * length, form=form))
    assert_limit("id_length_max", 256, lambda length: InferRequest(X, id="i" * length, form=form))


def test_parameter_count(form: Form) -> None:
    taken = 1 if form == JSON_BINARY else 0  # binary_data_output is one
    assert_limit(
        "parameter_count_max",
        5,
        lambda count: InferRequest(X, parameters={str(index): 1 for index in range(count - taken)}, form=form),
    )


def test_parameter_length(form: Form) -> None:
    assert_limit("parameter_length_max", 5, lambda length: InferRequest(X, parameters={"p": "v" * length}, form=form))


def test_timeout(form: Form) -> None:
    assert_limit("timeout_us_max", 5, lambda us: InferRequest(X, timeout_ns=us * 1000, form=form))


def test_header_bytes(refused) -> None:
    body = encode_request(InferRequest(X, form=FRAMED)).body()
    length = int.from_bytes(body[:4], "little")
    for limit in (length, length + 1):
        decode_request(body, FRAMED.kind.value, None, WireLimits(header_bytes_max=limit))
    message = refused(decode_request, body, FRAMED.kind.value, None, WireLimits(header_bytes_max=length - 1))
    assert "header_bytes_max" in message


@pytest.mark.parametrize("name", ["json", "json_binary"])
def test_json_bytes_counts_the_text_and_not_the_raw_tensors(name: str) -> None:
    request = InferRequest({"x": np.zeros(100, "<f4")}, form=FORMS[name])
    encoded = encode_request(request)
    length = int(encoded.headers.get("Inference-Header-Content-Length", len(encoded.body())))
    decode(request, WireLimits(json_bytes_max=length))
    decode(request, WireLimits(json_bytes_max=length + 1))
    with pytest.raises(SymphonyError, match="json_bytes_max") as caught:
        decode(request, WireLimits(json_bytes_max=length - 1))
    assert "framed" in caught.value.message


def test_list_body_bytes_and_token_count() -> None:
    request = InferRequest({"x": np.zeros(200, "|i1")}, form=MSGPACK_LISTS)
    size = len(encode_request(request).body())
    # The message, its key and list; the tensor, its four pairs, its dimension and its elements.
    tokens = 3 + 1 + 2 * 4 + 1 + 200
    for limits in (
        WireLimits(list_body_bytes_max=size, token_count_max=1),
        WireLimits(list_body_bytes_max=size + 1, token_count_max=1),
        WireLimits(list_body_bytes_max=size - 1, token_count_max=tokens),
        WireLimits(list_body_bytes_max=size - 1, token_count_max=tokens + 1),
    ):
        decode(request, limits)
    with pytest.raises(SymphonyError, match="token_count_max"):
        decode(request, WireLimits(list_body_bytes_max=size - 1, token_count_max=tokens - 1))


def test_every_limit_can_be_set_and_must_be_above_0() -> None:
    for each in fields(WireLimits):
        if each.init:
            for value in (0, -1):
                with pytest.raises(ValueError, match=each.name):
                    WireLimits(**{each.name: value})
            assert getattr(WireLimits(**{each.name: 1}), each.name) == 1


def test_dimension_limit_is_bounded_by_numpys() -> None:
    limits = WireLimits(dimension_count_max=32)
    decode(InferRequest({"x": np.zeros([1] * 32, "|u1")}, form=FRAMED), limits)
    with pytest.raises(ValueError, match="dimension_count_max"):
        WireLimits(dimension_count_max=33)


def test_header_array_far_above_every_limit_is_refused_by_the_parser(refused) -> None:
    header = msgpack.packb({"v": 1, "inputs": list(range(2000))})
    body = len(header).to_bytes(4, "little") + header
    assert "max_array_len" in refused(decode_request, body, FRAMED.kind.value)
