"""Whatever is encoded decodes to the same, for every datatype in every form."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from symphony.wire import (
    FRAMED,
    JSON,
    JSON_BINARY,
    MSGPACK,
    MSGPACK_LISTS,
    MSGPACK_MAP,
    MSGPACK_MAP_LISTS,
    Form,
    FormKind,
    InferRequest,
    InferResponse,
    bf16_to_fp32,
    encode_request,
    encode_response,
)
from symphony.wire.tensors import BY_NAME

EXAMPLES = min(120, int(os.environ.get("SYMPHONY_EXAMPLES", "120")))
FORMS = [FRAMED, JSON, JSON_BINARY, MSGPACK, MSGPACK_LISTS, MSGPACK_MAP, MSGPACK_MAP_LISTS]
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


def form_name(form: Form) -> str:
    return f"{form.kind.name}{'-binary' * form.is_binary}{'-map' * form.is_map}"


def elements(datatype: str, form: Form) -> st.SearchStrategy:
    if datatype != "BYTES":
        return hnp.arrays(BY_NAME[datatype].dtype, SHAPES)
    # JSON texts are UTF-8; everything else carries any bytes.
    each = st.text(max_size=9).map(str.encode) if form == JSON else st.binary(max_size=9)
    return SHAPES.flatmap(lambda shape: hnp.arrays(object, shape, elements=each, fill=st.nothing()))


@st.composite
def tensors(draw: st.DrawFn, form: Form) -> tuple[dict[str, np.ndarray], frozenset[str]]:
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    datatypes = [draw(st.sampled_from(sorted(BY_NAME))) for _ in names]
    arrays = {name: draw(elements(datatype, form)) for name, datatype in zip(names, datatypes, strict=True)}
    return arrays, frozenset(name for name, each in zip(names, datatypes, strict=True) if each == "BF16")


def same(sent: np.ndarray, got: np.ndarray, is_bf16: bool, is_raw: bool) -> bool:
    if sent.shape != got.shape or sent.dtype != got.dtype or got.flags.writeable:
        return False
    if sent.dtype == object:
        return sent.tolist() == got.tolist()
    if is_bf16 and not is_raw:
        sent, got = bf16_to_fp32(sent), bf16_to_fp32(got)
    if is_raw or sent.dtype.kind != "f":
        return sent.tobytes() == got.tobytes()
    # A list keeps that a number is NaN, not its bits.
    return np.array_equal(sent, got, equal_nan=True) and bool(
        np.all((np.signbit(sent) == np.signbit(got)) | np.isnan(sent))
    )


def assert_same(sent, got, form: Form) -> None:
    assert list(sent[0]) == list(got[0])
    assert sent[1] == got[1]
    for name, array in sent[0].items():
        assert same(array, got[0][name], name in sent[1], form.is_binary), (name, array, got[0][name])


@pytest.mark.parametrize("form", FORMS, ids=form_name)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_request_decodes_to_what_was_encoded(form: Form, data: st.DataObject, receive_request) -> None:
    inputs, bf16_names = data.draw(tensors(form))
    sent = InferRequest(
        inputs,
        id=data.draw(st.none() | NAMES),
        output_names=data.draw(st.none() | st.lists(NAMES, unique=True, min_size=1, max_size=3).map(tuple)),
        timeout_ns=data.draw(st.none() | st.integers(1, 10**9).map(lambda us: us * 1000)),
        priority=data.draw(st.integers(0, 8)),
        parameters=data.draw(
            st.dictionaries(
                NAMES.filter(lambda name: name not in ("timeout", "priority", "binary_data_output")),
                st.booleans()
                | st.integers(-(2**63), 2**64 - 1)
                | st.floats(allow_nan=False, allow_infinity=False)
                | NAMES,
                max_size=3,
            )
        ),
        form=form,
        bf16_names=bf16_names,
    )
    got = receive_request(encode_request(sent))
    assert_same((inputs, bf16_names), (got.inputs, got.bf16_names), form)
    assert (got.id, got.output_names, got.timeout_ns, got.priority) == (
        sent.id,
        sent.output_names,
        sent.timeout_ns,
        sent.priority,
    )
    assert dict(got.parameters) == dict(sent.parameters)
    assert got.form.kind is form.kind
    for name in sent.output_names or ():
        assert got.form.is_binary_by_name.get(name, got.form.is_binary) == form.is_binary
    if inputs and sent.output_names is None:
        assert got.form == form


@pytest.mark.parametrize("form", FORMS, ids=form_name)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_response_decodes_to_what_was_encoded(form: Form, data: st.DataObject, receive_response) -> None:
    outputs, bf16_names = data.draw(tensors(form))
    sent = InferResponse(
        data.draw(NAMES), data.draw(NAMES), outputs, id=data.draw(st.none() | NAMES), bf16_names=bf16_names
    )
    for _ in range(2):  # the second time the framed form's header may be remembered
        got = receive_response(encode_response(sent, form))
        assert_same((outputs, bf16_names), (got.outputs, got.bf16_names), form)
        assert (got.model_name, got.model_version, got.id) == (sent.model_name, sent.model_version, sent.id)


@pytest.mark.parametrize("form", FORMS, ids=form_name)
def test_large_tensors_survive_between_small_ones(form: Form, receive_request) -> None:
    rng = np.random.default_rng(1)
    inputs = {
        "a": np.arange(3, dtype="<i2"),
        "b": rng.integers(0, 256, 70_001, np.uint8),
        "c": np.asfortranarray(rng.random((100, 90), np.float32)),
        "d": np.array([b"", b"x" * 70_000 if form != JSON else b"x"], object),
        "e": np.zeros((0, 4), "<f8"),
        "f": np.array(True),
    }
    got = receive_request(encode_request(InferRequest(inputs, form=form)))
    assert_same((inputs, frozenset()), (got.inputs, got.bf16_names), form)


@pytest.mark.parametrize("form", [form for form in FORMS if form.kind is not FormKind.FRAMED], ids=form_name)
def test_outputs_may_be_asked_for_one_by_one(form: Form, receive_request, receive_response) -> None:
    mixed = Form(form.kind, form.is_binary, {"y": not form.is_binary}, form.is_map)
    got = receive_request(encode_request(InferRequest({"x": np.zeros(2)}, output_names=("y", "z"), form=mixed)))
    assert got.form.is_binary_by_name == {"y": not form.is_binary, "z": form.is_binary}
    outputs = {"y": np.arange(3.0), "z": np.arange(4, dtype="<i4")}
    response = receive_response(encode_response(InferResponse("m", "1", outputs), got.form))
    assert_same((outputs, frozenset()), (response.outputs, response.bf16_names), form)
