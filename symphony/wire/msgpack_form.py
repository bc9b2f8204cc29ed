"""The msgpack form: the structure of the JSON form in msgpack, tensor data as raw `bin` or as lists.

Tensors may also be a map name -> {dtype, shape, data}, which takes one call of any msgpack library; the reply then has
the same shape, with the codes of the framed form for datatypes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import msgpack

from symphony.wire.elements import from_list, to_list
from symphony.wire.faults import bad_input
from symphony.wire.limits import WireLimits
from symphony.wire.many import holds_many, read_requests, read_responses, write_failure
from symphony.wire.messages import (
    Array,
    Buffer,
    Encoded,
    Failure,
    Form,
    FormKind,
    InferRequest,
    InferRequests,
    InferResponse,
)
from symphony.wire.msgpack_scan import check_tokens
from symphony.wire.oip import (
    read_request,
    read_response,
    tensor_parameters,
    unique_keys,
    wants_binary,
    write_outputs_wanted,
    write_parameters,
)
from symphony.wire.tensors import Datatype, describe, from_raw, to_raw


class _Reader:
    """Take tensors' data, and remember whether any came as raw bytes."""

    __slots__ = ("_limits", "is_binary")

    def __init__(self, limits: WireLimits) -> None:
        self._limits = limits
        self.is_binary = False

    def take(self, item: dict[str, Any], datatype: Datatype, shape: Any, count: int, what: str) -> Array:
        """Return a tensor's array from its `data`."""
        tensor_parameters(item, what)
        if "data" not in item:
            raise bad_input(f"{what}: no data is given")
        data = item["data"]
        if type(data) is bytes:
            self.is_binary = True
            return from_raw(data, 0, len(data), datatype, shape, count, what, self._limits)
        return from_list(data, datatype, shape, what, self._limits)


def unpack(body: Buffer, limits: WireLimits) -> Any:
    """Return the value of a msgpack body; raise `bad_input` if it is none, or would become far larger than it is."""
    if len(body) > limits.list_body_bytes_max:
        check_tokens(memoryview(body), limits)
    try:
        return msgpack.unpackb(body, object_pairs_hook=unique_keys)
    except Exception as error:  # the library has many; each means that the text is at fault
        raise bad_input(f"the body is not valid msgpack: {error or type(error).__name__}") from None


def decode_call(body: Buffer, limits: WireLimits) -> InferRequest | InferRequests:
    """Return the request in a body, or the many; tensors carried raw are read-only. Raises `bad_input` if it is none.

    Unless a request says otherwise, its outputs are raw when any of its inputs was.
    """
    message = unpack(body, limits)

    def read_one(item: Any) -> InferRequest:
        return read_request(item, FormKind.MSGPACK, _Reader(limits), limits)

    if holds_many(message):
        return InferRequests(read_requests(message, read_one, limits), FormKind.MSGPACK)
    if _is_bare(message):
        request = read_one({"inputs": message})
        request.form = replace(request.form, is_bare=True)
        return request
    return read_one(message)


def _is_bare(message: Any) -> bool:
    """Say whether a message is a map of tensors and nothing else, of which none is called "inputs"."""
    return (
        type(message) is dict
        and len(message) > 0
        and "inputs" not in message
        and all(type(item) is dict and "data" in item for item in message.values())
    )


def decode_response(body: Buffer, limits: WireLimits) -> InferResponse:
    """Return the response in a body, as `decode_request` does the request."""
    return read_response(unpack(body, limits), _Reader(limits), limits)


def decode_responses(body: Buffer, limits: WireLimits) -> Sequence[InferResponse | Failure]:
    """Return the answers to many requests."""
    return read_responses(unpack(body, limits), lambda item: read_response(item, _Reader(limits), limits), limits)


def encode_request(request: InferRequest) -> Encoded:
    """Return the request in msgpack: tensors as `bin` if its form is binary, else as lists."""
    return _encoded(_request_map(request))


def encode_requests(requests: Sequence[InferRequest]) -> Encoded:
    """Return many requests in one body."""
    return _encoded({"requests": [_request_map(request) for request in requests]})


def _request_map(request: InferRequest) -> dict[str, Any]:
    form = request.form
    message: dict[str, Any] = {}
    if request.id is not None:
        message["id"] = request.id
    message["inputs"] = _write_tensors(request.inputs, request.bf16_names, Form(form.kind, form.is_binary), form.is_map)
    if request.output_names is not None:
        message["outputs"] = write_outputs_wanted(request)
    parameters = write_parameters(request)
    if parameters:
        message["parameters"] = parameters
    return message


def encode_response(response: InferResponse, form: Form) -> Encoded:
    """Return the response in msgpack, its tensors as `form` has them."""
    if form.is_bare:
        return _encoded(_write_tensors(response.outputs, response.bf16_names, form, is_map=True))
    return _encoded(_response_map(response, form))


def encode_responses(answers: Sequence[InferResponse | Failure], forms: Sequence[Form]) -> Encoded:
    """Return the answers to many requests in one body."""
    return _encoded(
        {
            "responses": [
                write_failure(answer) if isinstance(answer, Failure) else _response_map(answer, form)
                for answer, form in zip(answers, forms, strict=True)
            ]
        }
    )


def _response_map(response: InferResponse, form: Form) -> dict[str, Any]:
    message: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        message["id"] = response.id
    message["outputs"] = _write_tensors(response.outputs, response.bf16_names, form, form.is_map)
    return message


def _write_tensors(arrays: Mapping[str, Array], bf16_names: frozenset[str], form: Form, is_map: bool) -> Any:
    written: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        datatype = describe(name, array, bf16_names)
        data = to_raw(array, datatype, name) if wants_binary(form, name) else to_list(array, datatype, name)
        shape = list(array.shape)
        if is_map:
            written[name] = {"dtype": datatype.code, "shape": shape, "data": data}
        else:
            written[name] = {"name": name, "datatype": datatype.name, "shape": shape, "data": data}
    return written if is_map else list(written.values())


def _encoded(message: dict[str, Any]) -> Encoded:
    return Encoded([pack(message)], FormKind.MSGPACK.value, {})


def pack(message: dict[str, Any]) -> bytes:
    """Return a message in msgpack; raise `bad_input` if it holds what msgpack cannot."""
    try:
        return cast("bytes", msgpack.packb(message))
    except (OverflowError, UnicodeEncodeError, ValueError, TypeError) as error:
        raise bad_input(f"the message cannot be written in msgpack: {error}") from None
