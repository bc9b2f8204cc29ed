"""Datatypes and raw bytes: the whitelist, the sizes, and what becomes of dtypes that are not ours."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from symphony.errors import SymphonyError
from symphony.wire import WireLimits, datatype_of, dtype_of
from symphony.wire.tensors import BY_NAME, BY_WORD, DATATYPES, check_shape, find_datatype, from_raw, to_raw

LIMITS = WireLimits()
NUMERIC = [each for each in DATATYPES if each.name not in ("BYTES", "BOOL")]


def test_datatypes_are_those_of_the_protocol() -> None:
    numbers = {f"{kind}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)}
    assert set(BY_NAME) == numbers | {"BOOL", "FP16", "FP32", "FP64", "BF16", "BYTES"}


def test_code_is_numpys_own() -> None:
    for each in DATATYPES:
        if each.name not in ("BF16", "BYTES"):
            assert np.dtype(each.code) == each.dtype
            assert each.dtype.str == each.code


@pytest.mark.parametrize(
    "word", ["O", "|O", "object", ">f4", "f4", "<c8", "<M8[s]", "S4", "<U4", "", "fp32", None, 1, []]
)
def test_word_outside_the_whitelist_is_refused(word: object, refused) -> None:
    assert word not in list(BY_WORD)
    assert 'input "x"' in refused(find_datatype, word, 'input "x"')


@pytest.mark.parametrize("each", DATATYPES, ids=lambda each: each.name)
def test_datatype_and_dtype_are_inverse(each) -> None:
    assert datatype_of(dtype_of(each.name), is_bf16=each.name == "BF16") == each.name


def test_text_and_bytes_arrays_are_bytes() -> None:
    assert datatype_of(np.dtype("S3")) == datatype_of(np.dtype("U3")) == "BYTES"


def test_big_endian_dtype_has_a_datatype_and_is_sent_little_endian() -> None:
    array = np.array([1, 2], ">i4")
    assert datatype_of(array.dtype) == "INT32"
    assert bytes(to_raw(array, BY_NAME["INT32"], "x")) == bytes([1, 0, 0, 0, 2, 0, 0, 0])


@pytest.mark.parametrize("dtype", ["<c8", "<M8[s]", "<m8[s]", "V4"])
def test_dtype_nothing_can_carry_is_refused(dtype: str, refused) -> None:
    assert "cannot be sent" in refused(datatype_of, np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["<f2", "<i2", "<u4", "|u1", "<f4"])
def test_bf16_is_carried_as_uint16_only(dtype: str, refused) -> None:
    assert "uint16" in refused(datatype_of, np.dtype(dtype), True)


def test_bfloat16_of_ml_dtypes_is_bf16() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    array = np.array([1.0, -2.0], bfloat16)
    assert datatype_of(array.dtype) == "BF16"
    assert bytes(to_raw(array, BY_NAME["BF16"], "x")) == bytes([0x80, 0x3F, 0x00, 0xC0])


@pytest.mark.parametrize(
    ("shape", "count"), [((), 1), ([], 1), ([3], 3), ((2, 3), 6), ([0], 0), ([2, 0, 3], 0), ([1] * 16, 1)]
)
def test_shape_gives_its_element_count(shape, count: int) -> None:
    assert check_shape(shape, "x", LIMITS) == count


@pytest.mark.parametrize(
    "shape",
    [None, 3, "3", {}, [-1], [2, -3], [True], [2.0], ["2"], [None], [[2]], [1 << 40, 1 << 40], [0, 1 << 62],
     [10**4000] * 16],
    ids=lambda shape: str(shape)[:20],
)  # fmt: skip
def test_shape_that_is_none_is_refused(shape: object, refused) -> None:
    assert 'input "x"' in refused(check_shape, shape, 'input "x"', LIMITS)


@pytest.mark.parametrize("each", NUMERIC, ids=lambda each: each.name)
@pytest.mark.parametrize("excess", [-1, 1])
def test_data_of_another_size_is_refused(each, excess: int, refused) -> None:
    size = 6 * each.itemsize + excess
    message = refused(from_raw, bytes(size), 0, size, each, (2, 3), 6, 'input "x"', LIMITS)
    assert f"{size} bytes" in message
    assert f"{each.name}[2, 3]" in message


@pytest.mark.parametrize("each", NUMERIC, ids=lambda each: each.name)
def test_array_is_a_readonly_view_of_the_body(each) -> None:
    body = bytes(range(100))
    array = from_raw(body, 3, 6 * each.itemsize, each, (2, 3), 6, "x", LIMITS)
    assert array.base is body
    assert not array.flags.writeable
    assert array.tobytes() == body[3 : 3 + 6 * each.itemsize]


def test_bool_byte_other_than_0_and_1_is_refused(refused) -> None:
    assert from_raw(b"\0\1\1", 0, 3, BY_NAME["BOOL"], (3,), 3, "x", LIMITS).tolist() == [False, True, True]
    assert "neither 0 nor 1" in refused(from_raw, b"\0\1\2", 0, 3, BY_NAME["BOOL"], (3,), 3, "x", LIMITS)


def raw_bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@pytest.mark.parametrize("elements", [(), (b"",), (b"a", b"", b"\0\xff" * 50)])
def test_bytes_elements_come_out_as_they_went_in(elements) -> None:
    raw = raw_bytes(*elements)
    array = from_raw(raw, 0, len(raw), BY_NAME["BYTES"], (len(elements),), len(elements), "x", LIMITS)
    assert array.tolist() == list(elements)
    assert array.dtype == object
    assert not array.flags.writeable
    assert to_raw(array, BY_NAME["BYTES"], "x") == raw


def test_bytes_data_is_refused_when_cut_anywhere_or_too_long(refused) -> None:
    raw = raw_bytes(b"ab", b"", b"cde")
    for size in [*range(len(raw)), len(raw) + 1]:
        body = (raw + b"!")[:size]
        refused(from_raw, body, 0, size, BY_NAME["BYTES"], (3,), 3, "x", LIMITS)


def test_bytes_element_with_a_huge_length_is_refused(refused) -> None:
    raw = b"\xff\xff\xff\xffab"
    assert "4294967295" in refused(from_raw, raw, 0, 6, BY_NAME["BYTES"], (1,), 1, "x", LIMITS)


def test_bytes_array_takes_text_and_refuses_other_objects(refused) -> None:
    assert to_raw(np.array(["é", b"x"], object), BY_NAME["BYTES"], "x") == raw_bytes("é".encode(), b"x")
    assert to_raw(np.array(["é", "x"]), BY_NAME["BYTES"], "x") == raw_bytes("é".encode(), b"x")
    assert to_raw(np.array([b"ab"]), BY_NAME["BYTES"], "x") == raw_bytes(b"ab")
    assert '"x": element 1' in refused(to_raw, np.array([b"", 3], object), BY_NAME["BYTES"], "x")
    refused(to_raw, np.array(["\ud800"], object), BY_NAME["BYTES"], "x")


@pytest.mark.parametrize("size", [4, 1 << 20])
def test_array_in_any_layout_is_sent_in_c_order(size: int) -> None:
    array = np.arange(size, dtype="<i4").reshape(2, -1)
    for laid in (array, np.asfortranarray(array), array[:, ::-1][:, ::-1], array.T.copy().T):
        assert bytes(to_raw(laid, BY_NAME["INT32"], "x")) == array.tobytes()


def test_large_array_is_sent_as_a_view() -> None:
    array = np.zeros(1 << 20, "<f4")
    assert np.shares_memory(np.frombuffer(to_raw(array, BY_NAME["FP32"], "x"), np.uint8), array)


def test_scalar_tensor_keeps_its_shape() -> None:
    array = from_raw(b"\0\0\x80\x3f", 0, 4, BY_NAME["FP32"], (), 1, "x", LIMITS)
    assert array.shape == ()
    assert float(array) == 1.0


def test_unknown_datatype_is_refused() -> None:
    with pytest.raises(SymphonyError, match="FP8"):
        dtype_of("FP8")
