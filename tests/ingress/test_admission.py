import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.config import ModelConfig, TensorSpec
from symphony.errors import Reason, SymphonyError
from symphony.ingress.admission import Admission, has_nonfinite

MS = 1_000_000
MAX_NS = 600_000 * MS


def admission(*inputs: TensorSpec, batch_size_max: int = 8, slo_ms: float = 50.0) -> Admission:
    return Admission(
        ModelConfig(
            name="m",
            version="1",
            slo_ms=slo_ms,
            batch_size_max=batch_size_max,
            inputs=inputs or (TensorSpec("x", "FP32", (4,)),),
            outputs=(TensorSpec("y", "FP32", (2,)), TensorSpec("z", "FP32", ())),
            format="emulated",
            entry="",
            device_kinds=("emulated",),
        )
    )


def refusal(checked: Admission, inputs) -> str:
    with pytest.raises(SymphonyError) as caught:
        checked.rows(inputs)
    assert caught.value.reason is Reason.BAD_INPUT
    assert caught.value.model == "m"
    assert caught.value.message.startswith('model "m": ')
    return caught.value.message


def test_exact_shape_is_one_request_without_a_copy():
    inputs = {"x": np.arange(4, dtype=np.float32)}
    rows, is_group = admission().rows(inputs)
    assert not is_group
    assert len(rows) == 1
    assert rows[0]["x"] is inputs["x"]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_leading_dimension_is_that_many_requests_in_order_as_views(count):
    x = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    rows, is_group = admission().rows({"x": x})
    assert is_group
    assert len(rows) == count
    for index, row in enumerate(rows):
        assert row["x"].shape == (4,)
        assert np.shares_memory(row["x"], x)
        assert (row["x"] == x[index]).all()


@pytest.mark.parametrize("count", [0, 9])
def test_rows_outside_one_to_max_batch_size_are_refused(count):
    message = refusal(admission(), {"x": np.zeros((count, 4), np.float32)})
    assert f'input "x" holds {count} requests, allowed are 1 to 8 (max_batch_size)' in message


@pytest.mark.parametrize("shape", [(), (5,), (3,), (4, 1), (1, 1, 4), (2, 5)])
def test_other_shapes_are_refused_with_the_expected_one(shape):
    message = refusal(admission(), {"x": np.zeros(shape, np.float32)})
    assert f"has shape {list(shape)}, expected [4] or, for n requests, [n, 4] with n from 1 to 8" in message


def test_scalar_inputs_stay_arrays():
    rows, is_group = admission(TensorSpec("x", "INT64", ())).rows({"x": np.arange(3)})
    assert is_group
    assert [row["x"].shape for row in rows] == [(), (), ()]
    assert all(isinstance(row["x"], np.ndarray) for row in rows)


def test_wrong_datatype_is_refused_with_the_expected_one():
    message = refusal(admission(), {"x": np.zeros(4, np.int64)})
    assert 'input "x" has datatype INT64, expected FP32[4]' in message


def test_unknown_input_is_refused_with_the_known_ones():
    message = refusal(admission(), {"pixels": np.zeros(4, np.float32)})
    assert 'no input "pixels"; inputs: "x"' in message


def test_long_names_are_shortened_in_messages():
    assert len(refusal(admission(), {"p" * 10_000: np.zeros(4, np.float32)})) < 200


def test_missing_input_is_refused():
    assert 'input "x" is missing; expected FP32[4]' in refusal(admission(), {})


def test_second_unknown_input_is_refused_though_the_first_fits():
    message = refusal(admission(), {"x": np.zeros(4, np.float32), "more": np.zeros(4, np.float32)})
    assert 'no input "more"' in message


def test_inputs_must_agree_on_the_leading_dimension():
    checked = admission(TensorSpec("a", "FP32", (4,)), TensorSpec("b", "BYTES", ()))
    words = np.array([b"one", b"two"], object)
    rows, is_group = checked.rows({"a": np.zeros((2, 4), np.float32), "b": words})
    assert is_group
    assert [row["b"].item() for row in rows] == [b"one", b"two"]
    message = refusal(checked, {"a": np.zeros((3, 4), np.float32), "b": words})
    assert 'inputs disagree on the leading batch dimension: "a" has 3, "b" has 2' in message
    message = refusal(checked, {"a": np.zeros(4, np.float32), "b": words})
    assert '"a" has none, "b" has 2' in message


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("datatype", "dtype"), [("FP16", np.float16), ("FP32", np.float32), ("FP64", np.float64)])
def test_nan_and_infinities_are_refused_where_the_model_says_so(datatype, dtype, number):
    checked = admission(TensorSpec("x", datatype, (4,), allow_nan=False))
    good = np.array([1, -1, np.finfo(dtype).max, np.finfo(dtype).max], dtype)  # whose sum is infinite
    assert checked.rows({"x": good})[0][0]["x"] is good
    bad = good.copy()
    bad[3] = number
    assert 'input "x" holds NaN or infinities' in refusal(checked, {"x": bad})
    assert 'input "x" holds NaN or infinities' in refusal(checked, {"x": np.stack([good, bad])})


def test_nan_passes_where_allowed_and_where_there_is_none_to_have():
    nan = np.full(4, np.nan, np.float32)
    assert admission().rows({"x": nan})[0][0]["x"] is nan
    whole = admission(TensorSpec("x", "INT64", (4,), allow_nan=False))
    assert len(whole.rows({"x": np.zeros(4, np.int64)})[0]) == 1


@given(st.lists(st.floats(width=32), max_size=20))
def test_has_nonfinite_is_what_isfinite_says(values):
    array = np.array(values, np.float32)
    assert has_nonfinite(array) is not bool(np.isfinite(array).all())


def test_deadline_is_the_slo_unless_the_request_says_otherwise():
    checked = admission(slo_ms=50)
    assert checked.deadline_ns(1_000, None, None, None, MAX_NS) == 1_000 + 50 * MS
    assert checked.deadline_ns(1_000, 20 * MS, None, None, MAX_NS) == 1_000 + 20 * MS
    assert checked.deadline_ns(1_000, 900 * MS, None, None, MAX_NS) == 1_000 + 900 * MS
    assert checked.deadline_ns(1_000, None, "30", None, MAX_NS) == 1_000 + 30 * MS
    assert checked.deadline_ns(1_000, None, None, "40", MAX_NS) == 1_000 + 40 * MS


def test_deadline_is_the_shortest_of_several():
    checked = admission()
    assert checked.deadline_ns(0, 20 * MS, "30", "40", MAX_NS) == 20 * MS
    assert checked.deadline_ns(0, 90 * MS, "80", "70", MAX_NS) == 70 * MS


@pytest.mark.parametrize(
    ("timeout_ns", "timeout_ms", "slo_ms"),
    [(0, None, None), (-1, None, None), (MAX_NS + 1, None, None), (MS, "-1", None), (MS, None, "x"), (-1, "1", "1")],
)
def test_deadline_refuses_each_bad_source_even_beside_good_ones(timeout_ns, timeout_ms, slo_ms):
    with pytest.raises(SymphonyError) as caught:
        admission().deadline_ns(0, timeout_ns, timeout_ms, slo_ms, MAX_NS)
    assert caught.value.reason is Reason.BAD_INPUT


def test_priority_zero_is_the_default_and_one_to_eight_are_kept():
    assert [admission().priority(value) for value in range(9)] == [4, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("value", [-1, 9, 10**30])
def test_priority_outside_its_range_is_refused(value):
    with pytest.raises(SymphonyError, match=r"expected 1 \(highest\) to 8"):
        admission().priority(value)


def test_output_names_must_be_known():
    admission().check_output_names(("z", "y"))
    with pytest.raises(SymphonyError, match='no output "w"; outputs: "y", "z"'):
        admission().check_output_names(("y", "w"))
