"""The JSON form: Open Inference Protocol v2 with the binary tensor extension.

With the extension a body is the JSON text, as long as the header Inference-Header-Content-Length says, followed by
the raw tensors in the order of the maps that carry `binary_data_size`, without padding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from symphony.errors import SymphonyError
from symphony.wire.elements import from_list, to_list
from symphony.wire.faults import bad_input, shown
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
from symphony.wire.oip import (
    read_request,
    read_response,
    tensor_parameters,
    unique_keys,
    wants_binary,
    write_outputs_wanted,
    write_parameters,
)
from symphony.wire.tensors import COPY_BYTES_MAX, Datatype, describe, from_raw, to_raw

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
OCTET_TYPE: Final = "application/octet-stream"


_DECODER: Final = json.JSONDecoder(object_pairs_hook=unique_keys)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"))


class _Body:
    """A received body: its JSON text decoded, and its raw tensors taken one after the other."""

    __slots__ = ("_at", "_body", "_limits", "is_binary", "message")

    def __init__(self, body: Buffer, header_length: int | None, limits: WireLimits) -> None:
        size = len(body)
        if header_length is None:
            header_length = size
        elif not 0 <= header_length <= size:
            raise bad_input(f"{LENGTH_HEADER} is {header_length}, but the body has {size} bytes")
        if header_length > limits.json_bytes_max:
            raise bad_input(
                f"the JSON text has {header_length} bytes, allowed are {limits.json_bytes_max} (json_bytes_max); "
                "send the tensors' data as raw bytes: by the binary tensor extension, or in the framed form"
            )
        self.message = decode_json(body if header_length == size else memoryview(body)[:header_length])
        self.is_binary = False
        # Tensors are views of it and must not be written to.
        self._body = body if type(body) is bytes else memoryview(body).toreadonly()
        self._at = header_length
        self._limits = limits

    def take(self, item: dict[str, Any], datatype: Datatype, shape: Any, count: int, what: str) -> Array:
        """Return a tensor's array, from its `data` or from the raw bytes next in line."""
        parameters = tensor_parameters(item, what)
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in item:
                raise bad_input(f"{what}: neither data nor parameters.binary_data_size is given")
            return from_list(item["data"], datatype, shape, what, self._limits)
        if "data" in item:
            raise bad_input(f"{what}: both data and parameters.binary_data_size are given; give one")
        if type(size) is not int or size < 0:
            raise bad_input(f"{what}: binary_data_size is {shown(size)}, expected a number of bytes")
        start = self._at
        if size > len(self._body) - start:
            raise bad_input(
                f"{what}: binary_data_size is {shown(size)}, but {len(self._body) - start} bytes are left behind the "
                f"JSON text (is {LENGTH_HEADER} set?)"
            )
        self._at = start + size
        return from_raw(self._body, start, size, datatype, shape, count, what, self._limits)

    def finish(self) -> None:
        """Raise `bad_input` unless every raw byte was taken."""
        left = len(self._body) - self._at
        if left:
            raise bad_input(f"{left} bytes are left behind the last tensor; {LENGTH_HEADER} or a size is wrong")


def decode_json(body: Buffer) -> Any:
    """Return the value of a JSON text in UTF-8; raise `bad_input` if it is none, nests too deeply or repeats a key."""
    try:
        return _DECODER.decode(str(body, "utf-8"))
    except ValueError as error:
        # Also numbers of more digits than the interpreter converts.
        raise bad_input(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise bad_input("the body is not valid JSON: it nests too deeply") from None


def decode_call(body: Buffer, header_length: int | None, limits: WireLimits) -> InferRequest | InferRequests:
    """Return the request in a body, or the many; `header_length` is the JSON text's length, None for the whole body.

    Tensors carried raw are read-only views of `body`. Raises `bad_input` saying what is wrong.
    """
    parts = _Body(body, header_length, limits)

    def read_one(item: Any) -> InferRequest:
        return read_request(item, FormKind.JSON, parts, limits)

    call: InferRequest | InferRequests
    if holds_many(parts.message):
        # With raw tensors, where one lies is known only once all before it are.
        is_faulty_alone = header_length is None
        call = InferRequests(read_requests(parts.message, read_one, limits, is_faulty_alone), FormKind.JSON)
    else:
        call = read_one(parts.message)
    parts.finish()
    return call


def decode_response(body: Buffer, header_length: int | None, limits: WireLimits) -> InferResponse:
    """Return the response in a body, as `decode_request` does the request."""
    parts = _Body(body, header_length, limits)
    response = read_response(parts.message, parts, limits)
    parts.finish()
    return response


def decode_responses(body: Buffer, header_length: int | None, limits: WireLimits) -> Sequence[InferResponse | Failure]:
    """Return the answers to many requests."""
    parts = _Body(body, header_length, limits)
    responses = read_responses(parts.message, lambda item: read_response(item, parts, limits), limits)
    parts.finish()
    return responses


def encode_request(request: InferRequest) -> Encoded:
    """Return the request as JSON: tensors raw and outputs asked for raw if its form is binary, else listed."""
    raws: list[bytes | memoryview] = []
    return _join(_request_map(request, raws), raws)


def encode_requests(requests: Sequence[InferRequest]) -> Encoded:
    """Return many requests in one body."""
    raws: list[bytes | memoryview] = []
    return _join({"requests": [_request_map(request, raws) for request in requests]}, raws)


def _request_map(request: InferRequest, raws: list[bytes | memoryview]) -> dict[str, Any]:
    form = request.form
    parameters = write_parameters(request)
    message: dict[str, Any] = {}
    if request.id is not None:
        message["id"] = request.id
    message["inputs"] = [
        _write(name, array, describe(name, array, request.bf16_names), form.is_binary, raws, "input")
        for name, array in request.inputs.items()
    ]
    if request.output_names is not None:
        message["outputs"] = write_outputs_wanted(request)
    elif form.is_binary:
        parameters["binary_data_output"] = True
    if parameters:
        message["parameters"] = parameters
    return message


def encode_response(response: InferResponse, form: Form) -> Encoded:
    """Return the response as JSON, each output raw or listed as `form` has it."""
    raws: list[bytes | memoryview] = []
    return _join(_response_map(response, form, raws), raws)


def encode_responses(answers: Sequence[InferResponse | Failure], forms: Sequence[Form]) -> Encoded:
    """Return the answers to many requests in one body; one whose outputs JSON cannot carry becomes a failure."""
    raws: list[bytes | memoryview] = []
    items = []
    for answer, form in zip(answers, forms, strict=True):
        mark = len(raws)
        try:
            items.append(write_failure(answer) if isinstance(answer, Failure) else _response_map(answer, form, raws))
        except SymphonyError as error:
            assert isinstance(answer, InferResponse)
            del raws[mark:]
            error.model = answer.model_name
            items.append(write_failure(Failure(error, answer.id)))
    return _join({"responses": items}, raws)


def _response_map(response: InferResponse, form: Form, raws: list[bytes | memoryview]) -> dict[str, Any]:
    message: dict[str, Any] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id is not None:
        message["id"] = response.id
    message["outputs"] = [
        _write(name, array, describe(name, array, response.bf16_names), wants_binary(form, name), raws, "output")
        for name, array in response.outputs.items()
    ]
    return message


def _write(
    name: str, array: Array, datatype: Datatype, as_raw: bool, raws: list[bytes | memoryview], role: str
) -> dict[str, Any]:
    item: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype.name}
    if as_raw:
        raw = to_raw(array, datatype, name)
        raws.append(raw)
        item["parameters"] = {"binary_data_size": len(raw)}
        return item
    data = to_list(array, datatype, name)
    if datatype.name == "BYTES":
        try:
            data = [element.decode() for element in data]
        except UnicodeDecodeError:
            raise bad_input(
                f'{role} "{name}" holds bytes that are no UTF-8 text, which JSON cannot carry; '
                "ask for it with binary_data true, or use the msgpack or the framed form"
            ) from None
    item["data"] = data
    return item


def _join(message: dict[str, Any], raws: list[bytes | memoryview]) -> Encoded:
    text = _ENCODER.encode(message).encode()
    if not raws:
        return Encoded([text], FormKind.JSON.value, {})
    headers = {LENGTH_HEADER: str(len(text))}
    if sum(map(len, raws)) <= COPY_BYTES_MAX:
        return Encoded([b"".join([text, *raws])], OCTET_TYPE, headers)
    return Encoded([text, *raws], OCTET_TYPE, headers)
