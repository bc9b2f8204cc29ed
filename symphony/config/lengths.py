"""Say how long a request is along the dimension that its model lets vary, and what it is padded to. Pure values.

A dimension of -1 in model.toml is the request's *length*: one number, the same in all tensors that have such a
dimension. `length_buckets` are the lengths that batches run at; a request is padded to the smallest that holds it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from symphony.config.model import TensorSpec

VARIES = -1


class LengthError(ValueError):
    """Report a request's length as wrong; the message says the tensor, the value and the limit."""


def varying_axis(shape: Sequence[int]) -> int | None:
    """Return the dimension that varies, counted from 0; None when all are fixed."""
    return next((axis for axis, size in enumerate(shape) if size == VARIES), None)


def fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Return whether a tensor of this shape is one request's, of whatever length."""
    if shape == spec.shape:
        return VARIES not in shape
    return len(shape) == len(spec.shape) and all(
        size == wanted or (wanted == VARIES and size > 0) for size, wanted in zip(shape, spec.shape, strict=True)
    )


def length_of(tensors: Mapping[str, np.ndarray[Any, Any]], specs: Sequence[TensorSpec], longest: int) -> int:
    """Return the request's length; 0 when no dimension varies.

    Raise LengthError where its tensors disagree, or where it is longer than `longest`.
    """
    found: dict[str, int] = {}
    for spec in specs:
        axis = varying_axis(spec.shape)
        if axis is not None:
            found[spec.name] = tensors[spec.name].shape[axis]
    lengths = set(found.values())
    if len(lengths) > 1:
        shown = ", ".join(f'"{name}" {length}' for name, length in found.items())
        raise LengthError(f"inputs differ in length: {shown}; give all of them the same")
    length = next(iter(lengths), 0)
    if length > longest:
        name = next(iter(found))
        raise LengthError(f'input "{name}" has length {length}, above {longest}, the longest (length_buckets); cut it')
    return length


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """Return the place of the smallest bucket that holds the length, which must not be above the last."""
    return bisect_left(buckets, length)


def padded(array: np.ndarray[Any, Any], spec: TensorSpec, length: int) -> np.ndarray[Any, Any]:
    """Return the tensor filled up with `spec.pad` to `length`; itself if it is that long."""
    axis = varying_axis(spec.shape)
    if axis is None or array.shape[axis] == length:
        return array
    shape = (*array.shape[:axis], length, *array.shape[axis + 1 :])
    filled = np.full(shape, b"" if array.dtype == object else spec.pad, dtype=array.dtype)
    filled[(*[slice(None)] * axis, slice(array.shape[axis]))] = array
    return filled


def cut(array: np.ndarray[Any, Any], spec: TensorSpec, length: int) -> np.ndarray[Any, Any]:
    """Return a view of the first `length` of what was computed for the padded request."""
    axis = varying_axis(spec.shape)
    return array if axis is None else array[(*[slice(None)] * axis, slice(length))]
