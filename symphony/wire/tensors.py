"""Convert between raw bytes and arrays: the datatypes there are, their names, sizes and checks.

Raw form: elements in C order, little-endian, no padding; BOOL one byte, 0 or 1; BYTES each element as its length
(uint32) and its bytes. Nothing else ever becomes an object: there is no datatype that unpickles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from struct import Struct
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from symphony.wire.faults import bad_input, quoted, shown
from symphony.wire.limits import WireLimits
from symphony.wire.messages import Array, Buffer

COPY_BYTES_MAX: Final = 32 * 1024
"""Raw tensors up to this size are copied into one piece with what surrounds them; larger ones are sent as views."""


class Datatype(NamedTuple):
    """One datatype: its OIP name, its code in the framed form, numpy's dtype, and bytes per element (0: varies)."""

    name: str
    code: str
    dtype: np.dtype[Any]
    itemsize: int


DATATYPES: Final = tuple(
    Datatype(name, code, np.dtype(dtype), 0 if name == "BYTES" else np.dtype(dtype).itemsize)
    for name, code, dtype in (
        ("BOOL", "|b1", "|b1"),
        ("INT8", "|i1", "|i1"),
        ("INT16", "<i2", "<i2"),
        ("INT32", "<i4", "<i4"),
        ("INT64", "<i8", "<i8"),
        ("UINT8", "|u1", "|u1"),
        ("UINT16", "<u2", "<u2"),
        ("UINT32", "<u4", "<u4"),
        ("UINT64", "<u8", "<u8"),
        ("FP16", "<f2", "<f2"),
        ("FP32", "<f4", "<f4"),
        ("FP64", "<f8", "<f8"),
        ("BF16", "bf16", "<u2"),
        ("BYTES", "bytes", "O"),
    )
)
NUMPY_DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType({each.name: each.dtype for each in DATATYPES})
"""OIP name -> the dtype that carries it: BF16 as the raw bits in uint16, BYTES as objects (bytes)."""

BY_NAME: Final[dict[str, Datatype]] = {each.name: each for each in DATATYPES}
BY_WORD: Final[dict[str, Datatype]] = {word: each for each in DATATYPES for word in (each.name, each.code)}
"""Every word that may stand for a datatype in a message, OIP name or code: the whitelist."""

# BF16 is not in it: its dtype is that of UINT16.
_BY_DTYPE: Final[dict[np.dtype[Any], Datatype]] = {each.dtype: each for each in DATATYPES if each.name != "BF16"}
_U32 = Struct("<I")


def dtype_of(datatype: str) -> np.dtype[Any]:
    """Return the dtype that carries an OIP datatype; raise SymphonyError `bad_input` for an unknown one."""
    return find_datatype(datatype, "datatype").dtype


def datatype_of(dtype: np.dtype[Any], is_bf16: bool = False) -> str:
    """Return the OIP name for arrays of `dtype`; raise SymphonyError `bad_input` if none can carry it.

    Object, bytes and text arrays are BYTES. uint16 is UINT16 unless `is_bf16`; a dtype that names itself bfloat16
    (as the ml_dtypes package has) is BF16.
    """
    return _datatype_of(dtype, is_bf16, "").name


def _datatype_of(dtype: np.dtype[Any], is_bf16: bool, name: str) -> Datatype:
    if is_bf16:
        if (dtype.kind == "u" and dtype.itemsize == 2) or dtype.name == "bfloat16":
            return BY_NAME["BF16"]
        raise bad_input(
            f"{_named(name)}BF16 is carried as uint16 (its raw bits), not as {dtype}; convert and view it as uint16"
        )
    try:
        return _BY_DTYPE[dtype]
    except KeyError:
        if dtype.kind in "SU":
            return BY_NAME["BYTES"]
        if dtype.name == "bfloat16":
            return BY_NAME["BF16"]
        found = _BY_DTYPE.get(dtype.newbyteorder("<"))
        if found is None:
            raise bad_input(
                f"{_named(name)}arrays of dtype {dtype} cannot be sent; convert to one of {', '.join(BY_NAME)}"
            ) from None
        return found


def _named(name: str) -> str:
    return f"tensor {quoted(name)}: " if name else ""


def find_datatype(word: Any, what: str) -> Datatype:
    """Return the datatype that `word` (OIP name or code) stands for; raise `bad_input` naming `what` otherwise."""
    try:
        return BY_WORD[word]
    except (KeyError, TypeError):
        raise bad_input(
            f"{what}: unknown datatype {shown(word)}; known are {', '.join(BY_NAME)} "
            f"(or {', '.join(each.code for each in DATATYPES)})"
        ) from None


def check_shape(shape: Any, what: str, limits: WireLimits) -> int:
    """Return the element count of a decoded shape (list or tuple of ints); raise `bad_input` naming `what` if not."""
    if type(shape) is not tuple and type(shape) is not list:
        raise bad_input(f"{what}: shape is {shown(shape)}, expected a list of integers")
    if len(shape) > limits.dimension_count_max:
        raise bad_input(
            f"{what}: {len(shape)} dimensions, allowed are {limits.dimension_count_max} (dimension_count_max)"
        )
    count = 1
    extent = 1  # as count, a zero taken for one: numpy multiplies the other dimensions all the same
    for dimension in shape:
        if type(dimension) is not int or dimension < 0:
            raise bad_input(f"{what}: dimension {shown(dimension)} in shape, expected integers of 0 or more")
        count *= dimension
        extent *= dimension or 1
        if extent > limits.element_count_max:
            raise bad_input(
                f"{what}: its {len(shape)} dimensions multiply to more than {limits.element_count_max} elements "
                "(element_count_max)"
            )
    return count


def from_raw(
    body: Buffer, start: int, size: int, datatype: Datatype, shape: Sequence[int], count: int, what: str,
    limits: WireLimits,
) -> Array:  # fmt: skip
    """Return the tensor in `body[start:start + size]` as a read-only array of `shape`, `count` elements in all.

    A view, whatever the size, except for BYTES (one object per element). `body` must be read-only and hold the range.
    BOOL is read once, to refuse bytes other than 0 and 1. Raises `bad_input` naming `what` unless the sizes agree.
    """
    itemsize = datatype.itemsize
    if itemsize == 0:
        elements = _split_bytes(memoryview(body)[start : start + size], count, what, limits)
        return to_object_array(elements, shape)
    if size != count * itemsize:
        raise bad_input(
            f"{what}: {size} bytes of data, but {datatype.name}{list(shape)} takes {count * itemsize} "
            f"({count} x {itemsize})"
        )
    if count == 0:
        return _frozen(np.empty(shape, datatype.dtype))
    if datatype.name == "BOOL" and np.ndarray(count, np.uint8, body, start).max() > 1:
        raise bad_input(f"{what}: a BOOL element is neither 0 nor 1")
    return np.ndarray(shape, datatype.dtype, body, start)


def _split_bytes(raw: memoryview, count: int, what: str, limits: WireLimits) -> list[bytes]:
    if count > limits.bytes_element_count_max:
        raise bad_input(
            f"{what}: {count} BYTES elements, allowed are {limits.bytes_element_count_max} (bytes_element_count_max)"
        )
    size = len(raw)
    if size < 4 * count:
        raise bad_input(f"{what}: {size} bytes cannot hold {count} BYTES elements with their 4-byte lengths")
    elements = []
    at = 0
    for index in range(count):
        if at + 4 > size:
            raise bad_input(f"{what}: the data ends inside the length of BYTES element {index} of {count}")
        (length,) = _U32.unpack_from(raw, at)
        at += 4
        if length > size - at:
            raise bad_input(f"{what}: BYTES element {index} has a length of {length}, but {size - at} bytes are left")
        elements.append(bytes(raw[at : at + length]))
        at += length
    if at != size:
        raise bad_input(f"{what}: {size - at} bytes are left after the last of {count} BYTES elements")
    return elements


def to_object_array(elements: list[bytes], shape: Sequence[int]) -> Array:
    """Return BYTES elements as a read-only object array of `shape`."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return _frozen(array.reshape(shape))


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array


def to_raw(array: Array, datatype: Datatype, name: str) -> bytes | memoryview:
    """Return an array in raw form: a copy up to `COPY_BYTES_MAX` bytes, else a view where its layout allows.

    Raises `bad_input` naming the tensor when an object in it is neither bytes nor text.
    """
    if datatype.itemsize == 0:
        elements = to_elements(array, name)
        return b"".join([piece for element in elements for piece in (_U32.pack(len(element)), element)])
    if array.dtype != datatype.dtype:
        array = to_carried(array, datatype)
    if array.nbytes <= COPY_BYTES_MAX:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def to_carried(array: Array, datatype: Datatype) -> Array:
    """Return the array with the dtype that carries it: little-endian, BF16 as uint16."""
    if datatype.name == "BF16" and array.dtype.kind != "u":
        return np.ascontiguousarray(array).reshape(array.shape).view(datatype.dtype)
    return array.astype(datatype.dtype)


def to_elements(array: Array, name: str) -> list[bytes]:
    """Return the elements of a BYTES array, flat: bytes as they are, text as UTF-8; raise `bad_input` for others."""
    elements = array.reshape(-1).tolist()
    for index, element in enumerate(elements):
        if type(element) is str:
            try:
                elements[index] = element.encode()
            except UnicodeEncodeError:
                raise bad_input(
                    f"tensor {quoted(name)}: element {index} is text that UTF-8 cannot hold: {quoted(element)}"
                ) from None
        elif not isinstance(element, bytes):
            raise bad_input(f"tensor {quoted(name)}: element {index} is {shown(element)}, expected bytes or text")
    return elements


def describe(name: str, array: Array, bf16_names: frozenset[str]) -> Datatype:
    """Return the datatype of a tensor to be sent; raise `bad_input` naming it when nothing can carry its dtype."""
    if not bf16_names:
        found = _BY_DTYPE.get(array.dtype)
        if found is not None:
            return found
    return _datatype_of(array.dtype, name in bf16_names, name)
