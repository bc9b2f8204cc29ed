"""The framed form: a msgpack header, then raw tensors at 64-byte boundaries, decoded without copying.

`u32 little-endian header length | header | zeros to 64 | tensor | zeros to 64 | tensor ...`. Both ways the time does
not depend on the size of large tensors (BOOL is read once, BYTES becomes objects). A client sends the same header again
and again: those without an id are checked once and remembered, by their bytes, up to a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, Final, TypeVar

import numpy as np

from symphony.errors import SymphonyError
from symphony.wire.faults import bad_input, quoted, shown
from symphony.wire.framed_head import (
    ALIGNMENT,
    VERSION,
    Head,
    ManyHeads,
    Place,
    check_free_parameters,
    cut_header,
    request_heads_of,
    response_head,
    unpack_header,
)
from symphony.wire.limits import DEFAULT_LIMITS, WireLimits
from symphony.wire.many import read_responses, write_failure
from symphony.wire.messages import (
    FRAMED,
    NO_COUNTS,
    NO_NAMES,
    Array,
    Buffer,
    Encoded,
    Failure,
    FormKind,
    InferRequest,
    InferRequests,
    InferResponse,
)
from symphony.wire.msgpack_form import pack
from symphony.wire.oip import (
    check_priority,
    timeout_to_us,
)
from symphony.wire.tensors import COPY_BYTES_MAX, describe, from_raw, to_raw

_CONTENT_TYPE: Final = FormKind.FRAMED.value
_U32: Final = Struct("<I")
_ZEROS: Final = bytes(ALIGNMENT)
_HEAD_BYTES_MAX: Final = 512
_HEAD_COUNT_MAX: Final = 1024
"""Longest header that is remembered once decoded, and how many."""
_PREFIX_COUNT_MAX: Final = 1024
"""Signatures of replies whose encoded header is remembered."""


_request_heads: dict[bytes, Head | ManyHeads] = {}
_response_heads: dict[bytes, Head] = {}


def decode_call(body: Buffer, limits: WireLimits) -> InferRequest | InferRequests:
    """Return the request in a body, or the many; tensors are read-only views of it. Raises `bad_input` if it is none.

    What is wrong with one of many is said in its place.
    """
    if type(body) is not bytes:
        body = memoryview(body).toreadonly()
    head, data_at = _read_head(body, limits, _request_heads, request_heads_of)
    if isinstance(head, Head):
        return _to_request(body, data_at, head, limits)
    requests: list[InferRequest | Failure] = []
    ends_at = data_at
    for one in head.heads:
        if isinstance(one, Failure):
            requests.append(one)
            continue
        ends_at = max(ends_at, data_at + one.end_of(0))
        try:
            requests.append(_to_request(body, data_at, one, limits, is_last=False))
        except SymphonyError as error:
            requests.append(Failure(bad_input(f"requests[{len(requests)}]: {error.message}"), one.id))
    if not any(isinstance(one, Failure) for one in head.heads):  # of a faulty one nobody knows where its tensors end
        _check_end(len(body), ends_at)
    return InferRequests(requests, FormKind.FRAMED)


def _to_request(
    body: bytes | memoryview, data_at: int, head: Head, limits: WireLimits, is_last: bool = True
) -> InferRequest:
    return InferRequest(
        _read_tensors(body, data_at, head.tensors, "input", limits, is_last),
        head.id,
        head.output_names,
        head.timeout_ns,
        head.priority,
        head.parameters,
        FRAMED,
        head.bf16_names,
        head.model,
        NO_COUNTS,
    )


def decode_response(body: Buffer, limits: WireLimits) -> InferResponse:
    """Return the response in a body, as `decode_call` does the request."""
    if type(body) is not bytes:
        body = memoryview(body).toreadonly()
    head, data_at = _read_head(body, limits, _response_heads, response_head)
    outputs = _read_tensors(body, data_at, head.tensors, "output", limits)
    return InferResponse(head.model or "", head.version, outputs, head.id, head.bf16_names)


def decode_responses(body: Buffer, limits: WireLimits) -> Sequence[InferResponse | Failure]:
    """Return the answers to many requests."""
    if type(body) is not bytes:
        body = memoryview(body).toreadonly()
    header, data_at = _unpack_header(body, limits)
    taken = 0

    def read_one(item: Any) -> InferResponse:
        nonlocal taken
        if type(item) is not dict:
            raise bad_input(f"a response is {shown(item)}, expected a map")
        head = response_head(item, limits, taken)
        taken = head.end_of(taken)
        outputs = _read_tensors(body, data_at, head.tensors, "output", limits, is_last=False)
        return InferResponse(head.model or "", head.version, outputs, head.id, head.bf16_names)

    responses = read_responses(header, read_one, limits)
    _check_end(len(body), data_at + taken)
    return responses


def encode_request(request: InferRequest) -> Encoded:
    """Return the request as a frame. Large tensors are views of the arrays given."""
    raws: list[Buffer] = []
    header, _ = _request_header({"v": VERSION}, request, raws, 0)
    return _join(_prefix(header), raws)


def encode_requests(requests: Sequence[InferRequest]) -> Encoded:
    """Return many requests as a frame."""
    raws: list[Buffer] = []
    items = []
    at = 0
    for request in requests:
        item, at = _request_header({}, request, raws, at)
        items.append(item)
    return _join(_prefix({"v": VERSION, "requests": items}), raws)


def encode_responses(answers: Sequence[InferResponse | Failure]) -> Encoded:
    """Return the answers to many requests as a frame."""
    raws: list[Buffer] = []
    items: list[dict[str, Any]] = []
    at = 0
    for answer in answers:
        if isinstance(answer, Failure):
            items.append(write_failure(answer))
        else:
            item, at = _response_header({}, answer, raws, at)
            items.append(item)
    return _join(_prefix({"v": VERSION, "responses": items}), raws)


def _request_header(
    header: dict[str, Any], request: InferRequest, raws: list[Buffer], at: int
) -> tuple[dict[str, Any], int]:
    """Complete the request's header, add its raw data behind `at` bytes of others; return (header, bytes by then)."""
    if request.model is not None:
        header["model"] = request.model
    if request.id is not None:
        header["id"] = request.id
    if request.timeout_ns is not None:
        header["timeout_us"] = timeout_to_us(request.timeout_ns)
    if request.priority:
        header["priority"] = check_priority(request.priority, "priority")
    if request.parameters:
        header["parameters"] = dict(check_free_parameters(dict(request.parameters), DEFAULT_LIMITS))
    header["inputs"], at = _write_tensors(request.inputs, request.bf16_names, raws, at)
    if request.output_names is not None:
        header["outputs"] = request.output_names
    return header, at


_prefixes: dict[tuple[Any, ...], bytes] = {}


def encode_response(response: InferResponse) -> Encoded:
    """Return the response as a frame. Large tensors are views of the arrays given.

    Without an id, the header depends only on model, version, names, dtypes and shapes; those met before are remembered.
    """
    outputs = response.outputs
    if response.id is None and not response.bf16_names and len(outputs) == 1:
        ((name, array),) = outputs.items()
        dtype = array.dtype
        if dtype.char != "O":
            signature = (response.model_name, response.model_version, name, dtype, array.shape)
            prefix = _prefixes.get(signature)
            if prefix is None:
                raws: list[Buffer] = []
                header, _ = _response_header({"v": VERSION}, response, raws, 0)
                prefix = _prefix(header)
                if len(_prefixes) >= _PREFIX_COUNT_MAX:
                    _prefixes.clear()
                # Only a dtype that goes out as it is makes a signature.
                if dtype == describe(name, array, NO_NAMES).dtype:
                    _prefixes[signature] = prefix
                return _join(prefix, raws)
            if array.nbytes <= COPY_BYTES_MAX:
                return Encoded([prefix + array.tobytes()], _CONTENT_TYPE, {})
            return Encoded([prefix, to_raw(array, describe(name, array, NO_NAMES), name)], _CONTENT_TYPE, {})
    raws = []
    header, _ = _response_header({"v": VERSION}, response, raws, 0)
    return _join(_prefix(header), raws)


def _response_header(
    header: dict[str, Any], response: InferResponse, raws: list[Buffer], at: int
) -> tuple[dict[str, Any], int]:
    header |= {"model": response.model_name, "version": response.model_version}
    if response.id is not None:
        header["id"] = response.id
    header["outputs"], at = _write_tensors(response.outputs, response.bf16_names, raws, at)
    return header, at


_AnyHead = TypeVar("_AnyHead", bound=Head | ManyHeads)


def _read_head(
    body: bytes | memoryview,
    limits: WireLimits,
    known: dict[bytes, _AnyHead],
    check: Callable[[dict[str, Any], WireLimits], _AnyHead],
) -> tuple[_AnyHead, int]:
    """Return the checked header and the offset at which tensors start. Headers without an id are remembered."""
    packed, data_at = cut_header(body, limits)
    is_short = len(packed) <= _HEAD_BYTES_MAX and limits is DEFAULT_LIMITS
    if is_short:
        found = known.get(packed)
        if found is not None:
            return found, data_at
    head = check(unpack_header(packed, limits), limits)
    if is_short and head.id is None:
        if len(known) >= _HEAD_COUNT_MAX:
            known.clear()
        known[packed] = head
    return head, data_at


def _unpack_header(body: bytes | memoryview, limits: WireLimits) -> tuple[dict[str, Any], int]:
    packed, data_at = cut_header(body, limits)
    return unpack_header(packed, limits), data_at


def _read_tensors(
    body: bytes | memoryview,
    data_at: int,
    tensors: tuple[Place, ...],
    role: str,
    limits: WireLimits,
    is_last: bool = True,
) -> dict[str, Array]:
    """Return the tensors as views of `body`; unless `is_last`, more of them may follow."""
    size = len(body)
    taken = data_at
    arrays: dict[str, Array] = {}
    for name, datatype, shape, count, offset, length, is_view in tensors:
        start = data_at + offset
        taken = start + length
        if length and taken > size:
            raise bad_input(
                f"{role} {quoted(name)}: its data ends at byte {shown(taken)} of the frame, which has {size} bytes"
            )
        if is_view:
            arrays[name] = np.ndarray(shape, datatype.dtype, body, start)
        else:
            arrays[name] = from_raw(body, start, length, datatype, shape, count, f"{role} {quoted(name)}", limits)
    if is_last and size - taken >= ALIGNMENT:
        _check_end(size, taken)
    return arrays


def _check_end(size: int, taken: int) -> None:
    if size - taken >= ALIGNMENT:
        raise bad_input(f"{size - taken} bytes are left behind the last tensor of the frame")


def _write_tensors(
    arrays: Mapping[str, Array], bf16_names: frozenset[str], raws: list[Buffer], at: int
) -> tuple[list[dict[str, Any]], int]:
    """Return the header's maps of the tensors and where their data end; add these to `raws`, with zeros before them.

    `at`: bytes of data that are there already.
    """
    items: list[dict[str, Any]] = []
    for name, array in arrays.items():
        datatype = describe(name, array, bf16_names)
        raw = to_raw(array, datatype, name)
        pad = -at % ALIGNMENT
        if pad:
            raws.append(_ZEROS[:pad])
            at += pad
        length = len(raw)
        items.append({"name": name, "dtype": datatype.code, "shape": array.shape, "off": at, "n": length})
        raws.append(raw)
        at += length
    return items, at


def _prefix(header: dict[str, Any]) -> bytes:
    packed = pack(header)
    return b"".join((_U32.pack(len(packed)), packed, _ZEROS[: -(4 + len(packed)) % ALIGNMENT]))


def _join(prefix: bytes, raws: list[Buffer]) -> Encoded:
    if sum(map(len, raws)) <= COPY_BYTES_MAX:
        return Encoded([b"".join([prefix, *raws])], _CONTENT_TYPE, {})
    return Encoded([prefix, *raws], _CONTENT_TYPE, {})
