"""A request's length: which bucket holds it, how it is padded and cut, what is refused. Pure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.config import TensorSpec
from symphony.config.lengths import LengthError, bucket_for, cut, fits, length_of, padded

IDS = TensorSpec("ids", "INT64", (-1,))
IMAGE = TensorSpec("image", "FP32", (3, -1, 4), pad=0.5)
FIXED = TensorSpec("fixed", "FP32", (2, 3))
BUCKETS = (4, 8, 32)


@given(st.integers(1, 32))
def test_smallest_bucket_that_holds_the_length_is_taken(length: int) -> None:
    place = bucket_for(length, BUCKETS)
    assert BUCKETS[place] >= length and all(bucket < length for bucket in BUCKETS[:place])


@given(st.integers(1, 8))
def test_what_is_padded_and_cut_again_is_as_it_was(length: int) -> None:
    image = np.random.default_rng(length).random((3, length, 4), dtype=np.float32)
    full = padded(image, IMAGE, 8)
    assert full.shape == (3, 8, 4) and full.dtype == np.float32
    assert np.all(full[:, length:] == 0.5)
    assert np.array_equal(cut(full, IMAGE, length), image)


def test_nothing_is_copied_where_nothing_is_missing() -> None:
    image = np.zeros((3, 8, 4), np.float32)
    assert padded(image, IMAGE, 8) is image
    fixed = np.zeros((2, 3), np.float32)
    assert padded(fixed, FIXED, 8) is fixed and cut(fixed, FIXED, 1) is fixed


def test_texts_are_padded_with_empty_ones() -> None:
    words = np.array([b"a", b"b"], dtype=object)
    assert padded(words, TensorSpec("words", "BYTES", (-1,)), 4).tolist() == [b"a", b"b", b"", b""]


@pytest.mark.parametrize(
    ("shape", "is_one"),
    [
        ((3, 1, 4), True),
        ((3, 99, 4), True),
        ((3, 0, 4), False),
        ((2, 5, 4), False),
        ((3, 5), False),
        ((3, -1, 4), False),
    ],
)
def test_a_shape_is_one_requests_if_all_but_the_length_agrees(shape: tuple[int, ...], is_one: bool) -> None:
    assert fits(shape, IMAGE) is is_one


def test_length_is_the_same_in_all_inputs_that_vary() -> None:
    tensors = {"ids": np.zeros(5), "image": np.zeros((3, 5, 4)), "fixed": np.zeros((2, 3))}
    assert length_of(tensors, (IDS, IMAGE, FIXED), 32) == 5
    assert length_of({"fixed": tensors["fixed"]}, (FIXED,), 32) == 0
    with pytest.raises(LengthError, match=r'"ids" 6, "image" 5; give all of them the same'):
        length_of(tensors | {"ids": np.zeros(6)}, (IDS, IMAGE, FIXED), 32)


def test_length_at_the_longest_is_taken_and_above_it_refused() -> None:
    assert length_of({"ids": np.zeros(32)}, (IDS,), 32) == 32
    with pytest.raises(LengthError, match=r'"ids" has length 33, above 32, the longest \(length_buckets\); cut it'):
        length_of({"ids": np.zeros(33)}, (IDS,), 32)
