"""Convert between lists of numbers, truths and texts (JSON, msgpack) and arrays, strictly: no value changes unseen."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, Final

import numpy as np

from symphony.wire.bf16 import BF16_MAX, bf16_to_fp32, fp32_to_bf16
from symphony.wire.faults import bad_input, shown
from symphony.wire.limits import WireLimits
from symphony.wire.messages import Array
from symphony.wire.tensors import BY_NAME, Datatype, to_carried, to_elements, to_object_array

_INT_RANGES: Final = {
    name: (int(np.iinfo(each.dtype).min), int(np.iinfo(each.dtype).max))
    for name, each in BY_NAME.items()
    if name.startswith(("INT", "UINT"))
}
_FLOAT_MAX: Final = {
    **{name: float(np.finfo(BY_NAME[name].dtype).max) for name in ("FP16", "FP32", "FP64")},
    "BF16": BF16_MAX,
}


def from_list(
    data: Any, datatype: Datatype, shape: list[int] | tuple[int, ...], what: str, limits: WireLimits
) -> Array:
    """Return the array that `data` lists: flat in C order, or nested exactly as `shape`; the shape is checked already.

    Integer types take integers in range, BOOL takes booleans, BYTES takes texts (as UTF-8) and bytes. Floating-point
    types take integers and floats, NaN and infinities too, rounded to the nearest (BF16 by way of FP32); a finite
    number that would become infinite is refused. Raises `bad_input` naming `what`, the value and the remedy. The
    array is read-only.
    """
    flat = _flatten(data, shape, what)
    name = datatype.name
    kinds = set(map(type, flat))
    if name in _INT_RANGES:
        array = _integers(flat, kinds, datatype, what)
    elif name == "BOOL":
        if not kinds <= {bool}:
            raise _wrong_kind(flat, (bool,), what, "BOOL takes true and false")
        array = np.array(flat, np.bool_)
    elif name == "BYTES":
        return to_object_array(_texts(flat, kinds, what, limits), shape)
    else:
        array = _floats(flat, kinds, datatype, what)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def to_list(array: Array, datatype: Datatype, name: str) -> list[Any]:
    """Return the elements of an array, flat in C order: int, float, bool, or bytes. BF16 becomes floats, exactly.

    Raises `bad_input` naming the tensor when an object in it is neither bytes nor text.
    """
    if datatype.name == "BYTES":
        return to_elements(array, name)
    if datatype.name == "BF16":
        array = bf16_to_fp32(to_carried(array, datatype) if array.dtype != datatype.dtype else array)
    return array.reshape(-1).tolist()


def _flatten(data: Any, shape: list[int] | tuple[int, ...], what: str) -> list[Any]:
    count = math.prod(shape)
    if type(data) is not list:
        if shape or data is None or type(data) is dict:
            raise bad_input(f"{what}: data is {shown(data)}, expected a list of {count} elements")
        return [data]
    if data and type(data[0]) is list and shape:
        level: list[Any] = [data]
        for axis, dimension in enumerate(shape):
            for item in level:
                if type(item) is not list or len(item) != dimension:
                    raise bad_input(
                        f"{what}: nested data does not follow shape {list(shape)}: on axis {axis} a list of "
                        f"{dimension} is expected, found {shown(item)}"
                    )
            level = list(chain.from_iterable(level))
        return level
    if len(data) != count:
        raise bad_input(f"{what}: data has {len(data)} elements, shape {list(shape)} takes {count}")
    return data


def _integers(flat: list[Any], kinds: set[type], datatype: Datatype, what: str) -> Array:
    if not kinds <= {int}:
        raise _wrong_kind(flat, (int,), what, f"{datatype.name} takes integers")
    if flat:
        least, most = _INT_RANGES[datatype.name]
        for value in (min(flat), max(flat)):
            if not least <= value <= most:
                raise bad_input(f"{what}: value {shown(value)} is out of range for {datatype.name} ({least} to {most})")
    return np.array(flat, datatype.dtype)


def _floats(flat: list[Any], kinds: set[type], datatype: Datatype, what: str) -> Array:
    if not kinds <= {int, float}:
        raise _wrong_kind(flat, (int, float), what, f"{datatype.name} takes numbers")
    try:
        wide = np.array(flat, "<f8")
    except OverflowError:
        raise bad_input(f"{what}: an integer is out of range for {datatype.name}") from None
    with np.errstate(over="ignore", invalid="ignore"):
        if datatype.name == "BF16":
            array = fp32_to_bf16(wide)
            infinite = (array & 0x7FFF) == 0x7F80
        else:
            array = wide.astype(datatype.dtype)
            infinite = np.isinf(array)
    overflown = infinite & np.isfinite(wide)
    if overflown.any():
        value = float(wide[overflown][0])
        raise bad_input(
            f"{what}: value {shown(value)} is out of range for {datatype.name} "
            f"(-{_FLOAT_MAX[datatype.name]:g} to {_FLOAT_MAX[datatype.name]:g})"
        )
    return array


def _texts(flat: list[Any], kinds: set[type], what: str, limits: WireLimits) -> list[bytes]:
    if len(flat) > limits.bytes_element_count_max:
        raise bad_input(
            f"{what}: {len(flat)} BYTES elements, allowed are {limits.bytes_element_count_max} "
            "(bytes_element_count_max)"
        )
    if not kinds <= {str, bytes}:
        raise _wrong_kind(flat, (str, bytes), what, "BYTES takes texts")
    try:
        return [element.encode() if type(element) is str else element for element in flat]
    except UnicodeEncodeError:
        raise bad_input(f"{what}: a text holds half of a surrogate pair, which UTF-8 cannot hold") from None


def _wrong_kind(flat: list[Any], kinds: tuple[type, ...], what: str, rule: str) -> Exception:
    index, value = next((index, value) for index, value in enumerate(flat) if type(value) not in kinds)
    return bad_input(f"{what}: element {index} is {shown(value)}; {rule}")
