"""Turn the protocol's gRPC messages into infer requests, and answers into messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tritonclient.grpc import service_pb2 as pb

from symphony.wire import InferRequest, InferResponse, WireLimits
from symphony.wire.elements import from_list
from symphony.wire.faults import bad_input
from symphony.wire.messages import Array, FormKind
from symphony.wire.oip import read_request, tensor_parameters
from symphony.wire.tensors import Datatype, describe, from_raw, to_raw

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""In which list of InferTensorContents elements are; FP16 and BF16 have none and come raw."""
FINAL_RESPONSE_ASKED = "triton_enable_empty_final_response"


class _Reader:
    """Take the tensors of a ModelInferRequest one after the other: all raw, or all from their lists."""

    is_binary = True

    def __init__(self, request: Any, limits: WireLimits) -> None:
        self._inputs = request.inputs
        self._raws = request.raw_input_contents
        self._limits = limits
        self._place = 0
        if self._raws and len(self._raws) != len(self._inputs):
            raise bad_input(
                f"raw_input_contents has {len(self._raws)} entries for {len(self._inputs)} inputs; "
                "give one for each, or none"
            )

    def take(self, item: dict[str, Any], datatype: Datatype, shape: Any, count: int, what: str) -> Array:
        """Return the next tensor's array; raw ones are views of the bytes that protobuf hands out."""
        tensor_parameters(item, what)
        place, self._place = self._place, self._place + 1
        contents = self._inputs[place].contents
        if self._raws:
            if contents.ByteSize():
                raise bad_input(f"{what}: both contents and raw_input_contents are given; give one")
            raw = self._raws[place]
            return from_raw(raw, 0, len(raw), datatype, shape, count, what, self._limits)
        field = _CONTENTS.get(datatype.name)
        if field is None:
            raise bad_input(f"{what}: {datatype.name} has no list in contents; send it in raw_input_contents")
        return from_list(list(getattr(contents, field)), datatype, shape, what, self._limits)


def to_request(message: Any, limits: WireLimits) -> InferRequest:
    """Return what a ModelInferRequest asks for; raise SymphonyError `bad_input` saying what is wrong with it."""
    fields: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                "parameters": _parameters(tensor.parameters),
            }
            for tensor in message.inputs
        ],
        "outputs": [{"name": each.name, "parameters": _parameters(each.parameters)} for each in message.outputs],
        "parameters": _parameters(message.parameters),
    }
    if message.id:
        fields["id"] = message.id
    return read_request(fields, FormKind.MSGPACK, _Reader(message, limits), limits)


def to_message(response: InferResponse) -> Any:
    """Return the ModelInferResponse: its tensors raw, in the order of `outputs`."""
    message = pb.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id or ""
    )
    for name, array in response.outputs.items():
        datatype = describe(name, array, response.bf16_names)
        message.outputs.add(name=name, datatype=datatype.name, shape=array.shape)
        message.raw_output_contents.append(bytes(to_raw(array, datatype, name)))
    return message


def asks_for_final_response(message: Any) -> bool:
    """Say whether a request on a stream wants its last response to be marked (here: the only one)."""
    return FINAL_RESPONSE_ASKED in message.parameters and message.parameters[FINAL_RESPONSE_ASKED].bool_param


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return InferParameters by name as plain values; raise `bad_input` for one that holds none."""
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise bad_input(f"parameter {name!r:.64} has no value")
        values[name] = getattr(parameter, choice)
    return values
