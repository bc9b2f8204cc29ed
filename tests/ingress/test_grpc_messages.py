"""Whatever a gRPC client sends becomes a valid request or `bad_input`; answers hold what they were given."""

from __future__ import annotations

import random

import numpy as np
import pytest

from symphony.errors import Reason, SymphonyError
from symphony.wire import DEFAULT_LIMITS, InferResponse, WireLimits
from symphony.wire.tensors import BY_NAME

pb = pytest.importorskip("tritonclient.grpc.service_pb2", exc_type=ImportError)
messages = pytest.importorskip("symphony.ingress.grpc.messages", exc_type=ImportError)


def request_of(**fields):
    request = pb.ModelInferRequest(model_name="m", id="r-1", **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(np.array([1.5, -2], "<f4").tobytes())
    request.parameters["timeout"].int64_param = 25_000
    request.parameters["priority"].uint64_param = 2
    request.parameters["share"].double_param = 0.5
    request.outputs.add(name="y").parameters["classification"].int64_param = 3
    return request


def test_request_says_what_a_json_one_would() -> None:
    request = messages.to_request(request_of(), DEFAULT_LIMITS)
    assert request.inputs["x"].tolist() == [1.5, -2] and not request.inputs["x"].flags.writeable
    assert (request.id, request.timeout_ns, request.priority) == ("r-1", 25_000_000, 2)
    assert request.output_names == ("y",) and request.class_counts == {"y": 3}
    assert request.parameters == {"share": 0.5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda request: request.inputs.add(name="x", datatype="FP32", shape=[1]), "raw_input_contents has 1 entries"),
        (lambda request: request.raw_input_contents.pop(), "element"),
        (lambda request: request.inputs[0].shape.append(-1), "dimension -1"),
        (lambda request: request.inputs[0].shape.append(2), "8 bytes of data"),
        (lambda request: setattr(request.inputs[0], "datatype", "OBJECT"), 'unknown datatype "OBJECT"'),
        (lambda request: setattr(request.inputs[0], "name", ""), "empty name"),
        (lambda request: request.parameters["empty"].SetInParent(), "parameter 'empty' has no value"),
        (lambda request: setattr(request.parameters["timeout"], "string_param", "1"), "parameters.timeout"),
        (lambda request: setattr(request.parameters["priority"], "uint64_param", 9), "parameters.priority"),
        (lambda request: setattr(request, "id", "x" * 257), "id_length_max"),
        (
            lambda request: setattr(request.inputs[0].parameters["shared_memory_region"], "string_param", "r"),
            "shared memory",
        ),
    ],
)
def test_fault_is_named(change, words: str) -> None:
    request = request_of()
    change(request)
    with pytest.raises(SymphonyError, match=words.replace("(", r"\(")) as caught:
        messages.to_request(request, DEFAULT_LIMITS)
    assert caught.value.reason is Reason.BAD_INPUT


def test_spoilt_messages_are_taken_or_bad_input() -> None:
    numbers = random.Random(5)
    body = request_of().SerializeToString()
    taken = refused = 0
    for _ in range(5_000):
        spoilt = bytearray(body)
        for _ in range(numbers.randint(1, 3)):
            spoilt[numbers.randrange(len(spoilt))] = numbers.randrange(256)
        request = pb.ModelInferRequest()
        try:
            request.ParseFromString(bytes(spoilt))
        except Exception:  # what gRPC itself answers
            continue
        try:
            messages.to_request(request, WireLimits(element_count_max=1 << 16))
            taken += 1
        except SymphonyError as error:
            assert error.reason is Reason.BAD_INPUT
            refused += 1
    assert taken > 50 and refused > 50


def test_answer_holds_every_datatype_raw() -> None:
    outputs = {
        name: np.array([b"one", b""], object) if name == "BYTES" else np.array([0, 1]).astype(datatype.dtype)
        for name, datatype in BY_NAME.items()
    }
    message = messages.to_message(InferResponse("m", "2", outputs, "r-1", frozenset({"BF16"})))
    assert (message.model_name, message.model_version, message.id) == ("m", "2", "r-1")
    assert [output.datatype for output in message.outputs] == list(BY_NAME)
    assert all(list(output.shape) == [2] for output in message.outputs)
    sizes = [len(raw) for raw in message.raw_output_contents]
    assert sizes == [11 if name == "BYTES" else 2 * datatype.itemsize for name, datatype in BY_NAME.items()]
