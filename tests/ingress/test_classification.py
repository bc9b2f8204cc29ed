"""Classes of an output: the highest elements, in the words of Triton's extension."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.config import TensorSpec
from symphony.errors import SymphonyError
from symphony.ingress.admission import Admission
from symphony.ingress.classification import classify
from symphony.wire import fp32_to_bf16
from tests.ingress.conftest import make_config


def texts(array: np.ndarray) -> list:
    return np.vectorize(bytes.decode, otypes=[object])(array).tolist()


def test_highest_come_first_and_equal_ones_in_order() -> None:
    scores = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    assert texts(classify(scores, 3, False, False)) == ["3.000000:1", "3.000000:2", "2.000000:3"]


def test_more_classes_than_elements_are_all_elements() -> None:
    assert classify(np.zeros(4, np.float32), 1_000_000_000, False, False).shape == (4,)
    assert classify(np.zeros((), np.float32), 5, False, False).shape == (1,)


def test_each_request_of_a_batch_has_its_own() -> None:
    found = classify(np.array([[1, 2], [4, 3]], np.int32), 1, True, False)
    assert texts(found) == [["2:1"], ["4:0"]]


def test_dimensions_are_taken_as_one() -> None:
    assert texts(classify(np.array([[1, 2], [4, 3]], np.uint8), 2, False, False)) == ["4:2", "3:3"]


@pytest.mark.parametrize("dtype", ["uint8", "uint64", "int8", "int64", "float16", "float32", "float64"])
def test_extremes_of_a_datatype_are_in_order(dtype: str) -> None:
    info = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    found = texts(classify(np.array([info.min, 1, info.max], dtype), 3, False, False))
    places = [2, 1, 0]
    assert [int(text.rpartition(":")[2]) for text in found] == places
    assert [float(text.rpartition(":")[0]) for text in found] == [float(info.max), 1.0, float(info.min)]


def test_nan_ranks_as_minus_infinity_and_bf16_is_read_as_numbers() -> None:
    assert texts(classify(np.array([np.nan, 1, -np.inf]), 3, False, False)) == ["1.000000:1", "nan:0", "-inf:2"]
    assert texts(classify(fp32_to_bf16(np.array([-1.5, 2.5], np.float32)), 1, False, True)) == ["2.500000:1"]


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_what_has_no_order_is_refused(datatype: str) -> None:
    admission = Admission(make_config(outputs=(TensorSpec("y", datatype, (2,)),)))
    with pytest.raises(SymphonyError, match=f'output "y" is {datatype}'):
        admission.check_class_counts({"y": 1})
