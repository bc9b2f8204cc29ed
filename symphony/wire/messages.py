"""Say what a message means, whichever form carried it: plain values between the codecs and the rest of a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from symphony.errors import SymphonyError

Array = np.ndarray[Any, Any]
Buffer = bytes | bytearray | memoryview
Scalar = str | int | float | bool

NO_PARAMETERS: Final[Mapping[str, Scalar]] = MappingProxyType({})
NO_CHOICES: Final[Mapping[str, bool]] = MappingProxyType({})
NO_COUNTS: Final[Mapping[str, int]] = MappingProxyType({})
NO_NAMES: Final[frozenset[str]] = frozenset()


class FormKind(Enum):
    """The three ways a message is written; `value` is its content type."""

    JSON = "application/json"
    MSGPACK = "application/msgpack"
    FRAMED = "application/x-symphony-msgpack"


@dataclass(frozen=True, slots=True)
class Form:
    """How tensors are written: in a request by a client, in the reply by a node (the request decides it).

    `is_binary`: raw bytes rather than lists (JSON: the binary tensor extension; msgpack: `bin`; framed: always raw).
    `is_binary_by_name`: outputs that were asked for otherwise. `is_map`: msgpack only, tensors as a map
    name -> {dtype, shape, data} instead of the OIP list. `is_bare`: that map is the whole message, which then has no
    id, model or parameters.
    """

    kind: FormKind
    is_binary: bool = False
    is_binary_by_name: Mapping[str, bool] = field(default_factory=lambda: NO_CHOICES)
    is_map: bool = False
    is_bare: bool = False


JSON: Final = Form(FormKind.JSON)
JSON_BINARY: Final = Form(FormKind.JSON, is_binary=True)
MSGPACK: Final = Form(FormKind.MSGPACK, is_binary=True)
MSGPACK_LISTS: Final = Form(FormKind.MSGPACK)
MSGPACK_MAP: Final = Form(FormKind.MSGPACK, is_binary=True, is_map=True)
MSGPACK_MAP_LISTS: Final = Form(FormKind.MSGPACK, is_map=True)
FRAMED: Final = Form(FormKind.FRAMED, is_binary=True)


@dataclass(slots=True, eq=False)
class InferRequest:
    """One infer call: named tensors and what is wanted.

    `inputs`: in the order sent; decoded arrays are read-only, little-endian, and views of the body where the form
    allows (then perhaps not aligned). BYTES is an object array of bytes. BF16 has no numpy dtype: its raw bits are
    carried as uint16 and `bf16_names` tells such tensors from UINT16. `output_names` None means all.
    `timeout_ns`: from arrival to answer, None for the model's SLO. `priority`: 1 (highest) to 8, 0 for the model's
    default. `parameters`: what is left of the message's parameters once those with a field here are taken out.
    `form`: how the reply is to be written (for a client: how the request is written). `model`: the name inside a
    framed header, None elsewhere; the URL decides. `class_counts`: outputs wanted as their so many highest elements
    (the classification extension).
    """

    inputs: dict[str, Array]
    id: str | None = None
    output_names: tuple[str, ...] | None = None
    timeout_ns: int | None = None
    priority: int = 0
    parameters: Mapping[str, Scalar] = field(default_factory=lambda: NO_PARAMETERS)
    form: Form = JSON
    bf16_names: frozenset[str] = NO_NAMES
    model: str | None = None
    class_counts: Mapping[str, int] = field(default_factory=lambda: NO_COUNTS)


@dataclass(slots=True, eq=False)
class Failure:
    """What became of one of many requests in a body that got no outputs: why, and its id if that is known."""

    error: SymphonyError
    id: str | None = None


@dataclass(slots=True, eq=False)
class InferRequests:
    """Many requests for one model in one body, each with its own deadline and answer; `kind` is the reply's."""

    requests: Sequence[InferRequest | Failure]
    kind: FormKind


@dataclass(slots=True, eq=False)
class InferResponse:
    """The answer to an infer call; `outputs` and `bf16_names` as in `InferRequest`."""

    model_name: str
    model_version: str
    outputs: Mapping[str, Array]
    id: str | None = None
    bf16_names: frozenset[str] = NO_NAMES


class Encoded(NamedTuple):
    """A message ready to be sent: body parts to write in order, its content type, and further headers.

    Large tensors are memoryviews of the arrays given: do not write to those until the message is sent.
    """

    parts: list[Buffer]
    content_type: str
    headers: dict[str, str]

    def body(self) -> bytes:
        """Return the parts joined: a copy unless there is a single part of bytes."""
        parts = self.parts
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)
