"""bfloat16 bits and numbers, against an obvious twin."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.wire import bf16_to_fp32, fp32_to_bf16
from symphony.wire.bf16 import BF16_MAX

ALL = np.arange(1 << 16, dtype="<u2")


def test_every_number_survives_the_way_there_and_back() -> None:
    numbers = bf16_to_fp32(ALL)
    back = fp32_to_bf16(numbers)
    is_nan = np.isnan(numbers)
    assert np.array_equal(back[~is_nan], ALL[~is_nan])
    assert np.isnan(bf16_to_fp32(back[is_nan])).all()


def test_rounding_takes_the_nearest_and_ties_to_even() -> None:
    # The twin: between two neighbours, take the nearer one, of two equally near the one with an even last bit.
    rng = np.random.default_rng(7)
    for bits in rng.integers(0, 0x7F7F, 500):
        low, high = (float(bf16_to_fp32(np.array([each], "<u2"))[0]) for each in (bits, bits + 1))
        for number in (low, high, (low + high) / 2, low * 0.75 + high * 0.25, low * 0.25 + high * 0.75):
            exact = float(np.float32(number))
            nearer = bits if exact - low < high - exact else bits + 1
            if exact - low == high - exact:
                nearer = bits + (bits & 1)
            assert fp32_to_bf16(np.array([number])).tolist() == [nearer], number


def test_largest_number_is_named_right() -> None:
    assert bf16_to_fp32(np.array([0x7F7F], "<u2"))[0] == BF16_MAX
    assert fp32_to_bf16(np.array([BF16_MAX, 3.4e38, 1e300, -np.inf])).tolist() == [0x7F7F, 0x7F80, 0x7F80, 0xFF80]


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)])
def test_shape_is_kept(shape: tuple[int, ...]) -> None:
    bits = fp32_to_bf16(np.ones(shape, "<f4"))
    assert bits.shape == shape
    assert bits.dtype == np.dtype("<u2")
    numbers = bf16_to_fp32(bits)
    assert numbers.shape == shape
    assert numbers.dtype == np.dtype("<f4")
    assert (numbers == 1).all()
