"""Convert bfloat16, which numpy does not have: an array of it is its raw bits in uint16."""

from __future__ import annotations

from typing import Final

import numpy as np

from symphony.wire.messages import Array

BF16_MAX: Final = 3.3895313892515355e38
_NAN: Final = np.array(0x7FC0, "<u2")


def bf16_to_fp32(bits: Array) -> Array:
    """Return the numbers (float32, same shape) whose bfloat16 bits (uint16) are given; exact."""
    wide: Array = np.asarray(bits.astype("<u4") << 16)
    return wide.view("<f4")


def fp32_to_bf16(numbers: Array) -> Array:
    """Return the bits (uint16, same shape) of the bfloat16 nearest to each number, by way of float32.

    Ties go to the even one; what is beyond `BF16_MAX` becomes infinite, NaN stays NaN.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.ascontiguousarray(numbers, "<f4").reshape(numbers.shape)
    wide = narrow.view("<u4").astype("<u8")
    rounded = ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype("<u2")
    return np.where(np.isnan(numbers), _NAN, rounded).astype("<u2")
