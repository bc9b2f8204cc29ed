"""Turn received bytes into infer calls, and answers into bytes: three forms, one meaning (docs/wire.md).

Pure: no clock, socket or thread. Whatever a client sends becomes an `InferRequest` or a SymphonyError `bad_input`;
nothing is ever unpickled.
"""

from symphony.wire.accept import replied_in, reply_kind
from symphony.wire.bf16 import bf16_to_fp32, fp32_to_bf16
from symphony.wire.codec import (
    decode_call,
    decode_error,
    decode_request,
    decode_response,
    decode_responses,
    encode_error,
    encode_request,
    encode_requests,
    encode_response,
    encode_responses,
    kind_of,
)
from symphony.wire.limits import DEFAULT_LIMITS, WireLimits
from symphony.wire.messages import (
    FRAMED,
    JSON,
    JSON_BINARY,
    MSGPACK,
    MSGPACK_LISTS,
    MSGPACK_MAP,
    MSGPACK_MAP_LISTS,
    Encoded,
    Failure,
    Form,
    FormKind,
    InferRequest,
    InferRequests,
    InferResponse,
)
from symphony.wire.tensors import datatype_of, dtype_of

__all__ = [
    "DEFAULT_LIMITS",
    "FRAMED",
    "JSON",
    "JSON_BINARY",
    "MSGPACK",
    "MSGPACK_LISTS",
    "MSGPACK_MAP",
    "MSGPACK_MAP_LISTS",
    "Encoded",
    "Failure",
    "Form",
    "FormKind",
    "InferRequest",
    "InferRequests",
    "InferResponse",
    "WireLimits",
    "bf16_to_fp32",
    "datatype_of",
    "decode_call",
    "decode_error",
    "decode_request",
    "decode_response",
    "decode_responses",
    "dtype_of",
    "encode_error",
    "encode_request",
    "encode_requests",
    "encode_response",
    "encode_responses",
    "fp32_to_bf16",
    "kind_of",
    "replied_in",
    "reply_kind",
]
