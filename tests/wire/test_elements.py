"""Lists of values: what each datatype takes and refuses, flat and nested."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from symphony.wire import decode_request
from symphony.wire.elements import from_list, to_list
from symphony.wire.limits import WireLimits
from symphony.wire.tensors import BY_NAME

LIMITS = WireLimits()
INTEGERS = [name for name in BY_NAME if "INT" in name]
FLOATS = ["FP16", "FP32", "FP64", "BF16"]


def read(data: object, datatype: str, shape: list[int] | None = None) -> np.ndarray:
    return from_list(data, BY_NAME[datatype], [len(data)] if shape is None else shape, 'input "x"', LIMITS)


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integer_is_taken_to_the_ends_of_its_range_and_refused_beyond(datatype: str, refused) -> None:
    info = np.iinfo(BY_NAME[datatype].dtype)
    assert read([info.min, info.max], datatype).tolist() == [info.min, info.max]
    for value in (info.min - 1, info.max + 1):
        message = refused(read, [0, value], datatype)
        assert 'input "x"' in message
        assert str(value) in message
        assert datatype in message


@pytest.mark.parametrize("datatype", INTEGERS)
@pytest.mark.parametrize("value", [1.0, True, "1", None, math.nan, math.inf, [1], {}, b"1"], ids=str)
def test_integer_tensor_takes_integers_only(datatype: str, value: object, refused) -> None:
    assert "element 1" in refused(read, [1, value], datatype)


@pytest.mark.parametrize("value", [0, 1, 1.0, "true", None, [True], {}], ids=str)
def test_bool_tensor_takes_truths_only(value: object, refused) -> None:
    assert read([True, False], "BOOL").tolist() == [True, False]
    assert "element 1" in refused(read, [True, value], "BOOL")


@pytest.mark.parametrize("datatype", FLOATS)
@pytest.mark.parametrize("value", [True, "1.0", None, [1.0], {}, b"1"], ids=str)
def test_float_tensor_takes_numbers_only(datatype: str, value: object, refused) -> None:
    assert "element 1" in refused(read, [1.0, value], datatype)


@pytest.mark.parametrize("value", [1, 1.5, True, None, ["a"], {}], ids=str)
def test_bytes_tensor_takes_texts_only(value: object, refused) -> None:
    assert read(["a", b"\xff"], "BYTES").tolist() == [b"a", b"\xff"]
    assert "element 1" in refused(read, ["a", value], "BYTES")


@pytest.mark.parametrize("datatype", FLOATS)
def test_float_tensor_keeps_nan_and_infinities(datatype: str) -> None:
    values = to_list(read([math.nan, math.inf, -math.inf, -0.0, 1], datatype), BY_NAME[datatype], "x")
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf, 0.0, 1.0]
    assert math.copysign(1, values[3]) == -1


@pytest.mark.parametrize(
    ("datatype", "most"), [("FP16", 65504.0), ("FP32", 3.4028234663852886e38), ("BF16", 3.3895313892515355e38)]
)
def test_finite_number_that_would_become_infinite_is_refused(datatype: str, most: float, refused) -> None:
    assert to_list(read([most, -most], datatype), BY_NAME[datatype], "x") == [most, -most]
    for value in (most * 1.01, -most * 1.01):
        message = refused(read, [0.5, value], datatype)
        assert datatype in message
        assert repr(value) in message


def test_integer_beyond_every_float_is_refused(refused) -> None:
    assert "out of range" in refused(read, [10**400], "FP64")


@pytest.mark.parametrize(
    ("value", "bits"),
    [(1.0, 0x3F80), (1.00390625, 0x3F80), (1.01171875, 0x3F82), (1.004, 0x3F81), (-0.0, 0x8000), (1e-45, 0x0000)],
)
def test_bf16_rounds_to_the_nearest_and_ties_to_even(value: float, bits: int) -> None:
    assert read([value], "BF16").tolist() == [bits]


def test_nested_data_must_follow_the_shape(refused) -> None:
    nested = [[1, 2, 3], [4, 5, 6]]
    assert read(nested, "INT32", [2, 3]).tolist() == nested
    assert read([1, 2, 3, 4, 5, 6], "INT32", [2, 3]).tolist() == nested
    assert read([[[1], [2]]], "INT8", [1, 2, 1]).tolist() == [[[1], [2]]]
    for data in ([[1, 2], [3, 4], [5, 6]], [[1, 2, 3], [4, 5]], [[1, 2, 3], 4], [[[1, 2, 3], [4, 5, 6]]], [[1, 2, 3]]):
        assert "shape [2, 3]" in refused(read, data, "INT32", [2, 3])


def test_nesting_deeper_than_the_shape_is_refused(refused) -> None:
    refused(read, [[1], [2]], "INT32", [2])
    refused(read, [[[1], [2]]], "INT32", [1, 2])
    refused(read, [[1]], "INT32", [])


@pytest.mark.parametrize("shape", [[0], [2, 0], [0, 3]])
def test_empty_tensor_is_taken_flat_and_nested(shape: list[int], refused) -> None:
    for data in ([], np.zeros(shape).tolist()):
        assert read(data, "FP32", shape).shape == tuple(shape)
    refused(read, [1], "FP32", shape)


def test_scalar_tensor_takes_its_value_bare_or_listed(refused) -> None:
    for data in (7, [7]):
        array = read(data, "INT8", [])
        assert array.shape == ()
        assert array == 7
    assert read("text", "BYTES", []).tolist() == b"text"
    for data in (None, {}, [], [1, 2]):
        refused(read, data, "INT8", [])


@pytest.mark.parametrize("data", [[1], [1, 2, 3], 1, "12", None, {}], ids=str)
def test_data_of_another_count_is_refused(data: object, refused) -> None:
    refused(read, data, "INT32", [2])


def test_uint8_300_names_tensor_and_value(to_json, refused) -> None:
    body = to_json({"datatype": "UINT8", "data": [1, 300]})
    assert refused(decode_request, body) == 'input "x": value 300 is out of range for UINT8 (0 to 255)'


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_non_finite_literal_is_taken_by_float_tensors_only(literal: str, refused) -> None:
    template = '{"inputs":[{"name":"x","shape":[1],"datatype":"%s","data":[%s]}]}'
    for datatype in BY_NAME:
        body = (template % (datatype, literal)).encode()
        if datatype in FLOATS:
            array = decode_request(body).inputs["x"]
            assert not np.isfinite(to_list(array, BY_NAME[datatype], "x")[0])
        else:
            assert "element 0" in refused(decode_request, body)


def test_list_is_json() -> None:
    for name in set(BY_NAME) - {"BYTES"}:
        json.dumps(to_list(np.zeros(2, BY_NAME[name].dtype), BY_NAME[name], "x"))
