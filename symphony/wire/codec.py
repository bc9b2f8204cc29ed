"""One door to every form: choose the codec by content type (decoding) or by form (encoding).

A node uses `decode_request`, `encode_response` and `encode_error`; a client the other three.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from symphony.errors import Reason, SymphonyError
from symphony.wire import framed, msgpack_form, oip_json
from symphony.wire.faults import bad_input, earliest_ms_of, quoted
from symphony.wire.limits import DEFAULT_LIMITS, WireLimits
from symphony.wire.messages import (
    Buffer,
    Encoded,
    Failure,
    Form,
    FormKind,
    InferRequest,
    InferRequests,
    InferResponse,
)

_FRAMED_TYPE: Final = FormKind.FRAMED.value
_KINDS: Final = {
    # Triton's clients send no type or octet-stream; curl -d sends the last two.
    "": FormKind.JSON,
    "application/json": FormKind.JSON,
    "application/octet-stream": FormKind.JSON,
    "application/x-www-form-urlencoded": FormKind.JSON,
    "text/plain": FormKind.JSON,
    "application/msgpack": FormKind.MSGPACK,
    "application/x-msgpack": FormKind.MSGPACK,
    "application/vnd.msgpack": FormKind.MSGPACK,
    _FRAMED_TYPE: FormKind.FRAMED,
}
_REASON_BY_STATUS: Final = {
    400: Reason.BAD_INPUT,
    404: Reason.UNKNOWN_MODEL,
    413: Reason.TOO_LARGE,
    429: Reason.RATE_LIMITED,
    499: Reason.CANCELLED,
    503: Reason.NOT_READY,
    504: Reason.EXPIRED,
}
_ERROR_TEXT_LENGTH_MAX: Final = 4096


def kind_of(content_type: str) -> FormKind:
    """Return the form that a content type names (JSON when empty); raise `bad_input` for an unknown one."""
    kind = _KINDS.get(content_type)
    if kind is None:
        kind = _KINDS.get(content_type.partition(";")[0].strip().lower())
        if kind is None:
            raise bad_input(
                f"content type {quoted(content_type)} is unknown; send {', '.join(each.value for each in FormKind)}, "
                "or none for JSON"
            )
    return kind


def decode_request(
    body: Buffer, content_type: str = "", header_length: int | None = None, limits: WireLimits = DEFAULT_LIMITS
) -> InferRequest:
    """Return the request in a body that holds one; see `decode_call`."""
    call = decode_call(body, content_type, header_length, limits)
    if isinstance(call, InferRequests):
        raise bad_input(f"the body holds {len(call.requests)} requests, expected one")
    return call


def decode_call(
    body: Buffer, content_type: str = "", header_length: int | None = None, limits: WireLimits = DEFAULT_LIMITS
) -> InferRequest | InferRequests:
    """Return the request in a body, or the many requests.

    `header_length` is the value of the header Inference-Header-Content-Length, None when there was none. Raises
    SymphonyError `bad_input`, and nothing else, for whatever is not a request.
    """
    if content_type == _FRAMED_TYPE and header_length is None:
        return framed.decode_call(body, limits)
    kind = _kind_with(content_type, header_length)
    if kind is FormKind.JSON:
        return oip_json.decode_call(body, header_length, limits)
    if kind is FormKind.MSGPACK:
        return msgpack_form.decode_call(body, limits)
    return framed.decode_call(body, limits)


def decode_response(
    body: Buffer, content_type: str = "", header_length: int | None = None, limits: WireLimits = DEFAULT_LIMITS
) -> InferResponse:
    """Return the response in a body (status 200); arguments and errors as for `decode_request`."""
    kind = _kind_with(content_type, header_length)
    if kind is FormKind.FRAMED:
        return framed.decode_response(body, limits)
    if kind is FormKind.MSGPACK:
        return msgpack_form.decode_response(body, limits)
    return oip_json.decode_response(body, header_length, limits)


def decode_responses(
    body: Buffer, content_type: str = "", header_length: int | None = None, limits: WireLimits = DEFAULT_LIMITS
) -> Sequence[InferResponse | Failure]:
    """Return the answers to many requests, in their order (status 200); arguments and errors as for `decode_call`."""
    kind = _kind_with(content_type, header_length)
    if kind is FormKind.FRAMED:
        return framed.decode_responses(body, limits)
    if kind is FormKind.MSGPACK:
        return msgpack_form.decode_responses(body, limits)
    return oip_json.decode_responses(body, header_length, limits)


def encode_responses(answers: Sequence[InferResponse | Failure], forms: Sequence[Form], kind: FormKind) -> Encoded:
    """Return the answers to many requests, in their order: as `kind`, each as its form (of the same kind) has it."""
    if kind is FormKind.FRAMED:
        return framed.encode_responses(answers)
    if kind is FormKind.MSGPACK:
        return msgpack_form.encode_responses(answers, forms)
    return oip_json.encode_responses(answers, forms)


def encode_requests(requests: Sequence[InferRequest]) -> Encoded:
    """Return requests in one body; they have forms of one kind. Errors as for `encode_response`."""
    kinds = {request.form.kind for request in requests}
    if len(kinds) != 1:
        raise bad_input(f"{len(kinds)} kinds of forms, expected requests of one kind")
    (kind,) = kinds
    if kind is FormKind.FRAMED:
        return framed.encode_requests(requests)
    if kind is FormKind.MSGPACK:
        return msgpack_form.encode_requests(requests)
    return oip_json.encode_requests(requests)


def encode_response(response: InferResponse, form: Form) -> Encoded:
    """Return the response in the form its request asked for.

    Raises SymphonyError `bad_input` for outputs that the form cannot carry: bytes that are not UTF-8 in JSON, or a
    dtype without a datatype.
    """
    kind = form.kind
    if kind is FormKind.FRAMED:
        return framed.encode_response(response)
    if kind is FormKind.MSGPACK:
        return msgpack_form.encode_response(response, form)
    return oip_json.encode_response(response, form)


def encode_request(request: InferRequest) -> Encoded:
    """Return the request in its own form (`request.form`); errors as for `encode_response`."""
    kind = request.form.kind
    if kind is FormKind.FRAMED:
        return framed.encode_request(request)
    if kind is FormKind.MSGPACK:
        return msgpack_form.encode_request(request)
    return oip_json.encode_request(request)


def encode_error(error: SymphonyError, kind: FormKind = FormKind.JSON) -> Encoded:
    """Return the body for an error, JSON for JSON requests and msgpack for the others; never raises.

    `Retry-After` (whole seconds, at least 1) is among the headers when the error knows it.
    """
    body = error.body()
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if kind is FormKind.JSON:
        return Encoded([json.dumps(body).encode()], FormKind.JSON.value, headers)
    return Encoded([msgpack.packb(body, unicode_errors="replace")], FormKind.MSGPACK.value, headers)


def decode_error(status: int, body: Buffer, content_type: str = "", retry_after: str | None = None) -> SymphonyError:
    """Return the error that a reply of any other status than 200 means, whatever server sent it; never raises.

    The reason is the body's token, or else follows from the status. `retry_after` is the header of that name.
    """
    found: Any = None
    try:
        if kind_of(content_type) is FormKind.JSON:
            found = oip_json.decode_json(body)
        else:
            found = msgpack_form.unpack(body, DEFAULT_LIMITS)
    except SymphonyError:
        pass
    fields = found if type(found) is dict else {}
    message = fields.get("error")
    if type(message) is not str or not message:
        text = bytes(body[:_ERROR_TEXT_LENGTH_MAX]).decode(errors="replace").strip()
        message = f"HTTP status {status}" + (f": {text}" if text else "")
    model = fields.get("model")
    return SymphonyError(
        _reason_of(fields.get("reason"), status),
        message[:_ERROR_TEXT_LENGTH_MAX],
        model=model if type(model) is str else "",
        retry_after_s=_seconds(retry_after),
        earliest_ms=earliest_ms_of(fields),
    )


def _kind_with(content_type: str, header_length: int | None) -> FormKind:
    kind = kind_of(content_type)
    if header_length is not None and kind is not FormKind.JSON:
        raise bad_input(
            f"{oip_json.LENGTH_HEADER} belongs to the JSON form, but the content type is {quoted(content_type)}; "
            "drop one of them"
        )
    return kind


def _reason_of(token: Any, status: int) -> Reason:
    try:
        return Reason.from_token(token)
    except (KeyError, TypeError):
        return _REASON_BY_STATUS.get(status, Reason.BAD_INPUT if status < 500 else Reason.WORKER_FAILED)


def _seconds(text: str | None) -> float | None:
    """Return the seconds in a Retry-After header, None for a date or nonsense."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
