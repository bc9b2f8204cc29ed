"""Say what nodes tell one another through the coordinator, and how it is written: JSON that people can read.

Keys are sorted and no space is wasted, so equal records are equal bytes. Whatever is read back is checked like input
from outside: others can write into the store, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from symphony.cluster.faults import RecordError
from symphony.cluster.limits import (
    ADDRESS_CHARS_MAX,
    DOCUMENT_BYTES_MAX,
    DOCUMENT_NAME_CHARS_MAX,
    ENTRY_BYTES_MAX,
    FACTS_BYTES_MAX,
    NODE_ID_CHARS_MAX,
)

_NODE_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:-]{{0,{NODE_ID_CHARS_MAX - 1}}}")
_ADDRESS = re.compile(rf"[\x21-\x7e]{{1,{ADDRESS_CHARS_MAX}}}")
_DOCUMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}/[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node as the others see it.

    `id` is unique to the process (a restarted node has a new one, so that it need not wait for its old lease),
    `address` where others reach it, `facts` whatever they must know (JSON values, at most 16 KiB written).
    Raise RecordError for values outside the limits.
    """

    id: str
    address: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not _NODE_ID.fullmatch(self.id):
            raise RecordError(
                f"node id {_shown(self.id)}: it must be 1 to {NODE_ID_CHARS_MAX} letters, digits and . _ : -, "
                "beginning with a letter or digit; choose another"
            )
        if not isinstance(self.address, str) or not _ADDRESS.fullmatch(self.address):
            raise RecordError(
                f"node {self.id}: address {_shown(self.address)} must be 1 to {ADDRESS_CHARS_MAX} printable ASCII "
                "characters; give host:port"
            )
        _written(self.facts, f"node {self.id}: its facts", FACTS_BYTES_MAX)

    def encode(self) -> bytes:
        """Return the record as JSON."""
        return _json({"id": self.id, "address": self.address, "facts": self.facts})

    @classmethod
    def decode(cls, value: bytes) -> NodeRecord:
        """Return the record written in `value`; raise RecordError if it is none."""
        fields = _object(value, {"id", "address", "facts"}, "a node record")
        return cls(fields["id"], fields["address"], fields["facts"])


@dataclass(frozen=True, slots=True)
class Leader:
    """The leader as the others see it. `term` grows strictly from each win to the next, whoever wins."""

    id: str
    address: str
    term: int


@dataclass(frozen=True, slots=True)
class Document:
    """What is kept of one version of a model. `revision` is opaque: compare it for equality only."""

    name: str
    content: Mapping[str, Any]
    revision: str


def model_document_name(model: str, version: str) -> str:
    """Return the name under which a version of a model is kept: `model/version`."""
    return checked_document_name(f"{model}/{version}")


def checked_document_name(name: str) -> str:
    """Return `name`; raise RecordError if it is not `model/version` with the characters these may have."""
    if isinstance(name, str) and len(name) <= DOCUMENT_NAME_CHARS_MAX and _DOCUMENT_NAME.fullmatch(name):
        return name
    raise RecordError(
        f"document name {_shown(name)}: it must be MODEL/VERSION, each 1 to 128 letters, digits and . _ -, "
        "beginning with a letter or digit; choose another"
    )


def encode_document(name: str, content: Mapping[str, Any], write_id: str) -> bytes:
    """Return a document as stored: its content, and which write made it so that a repeated write knows itself."""
    written = _written(content, f"document {name}", DOCUMENT_BYTES_MAX)
    return b'{"document":%b,"write":%b}' % (written, _json(write_id))


def decode_document(value: bytes) -> tuple[Mapping[str, Any], str]:
    """Return (content, write id) of a stored document; raise RecordError if it is none."""
    fields = _object(value, {"document", "write"}, "a document")
    if not isinstance(fields["document"], dict) or not isinstance(fields["write"], str):
        raise RecordError("a document's content must be an object and its write id text; write it anew")
    return fields["document"], fields["write"]


def _object(value: bytes, keys: set[str], what: str) -> dict[str, Any]:
    if len(value) > ENTRY_BYTES_MAX:
        raise RecordError(f"{what} of {len(value)} bytes; the limit is {ENTRY_BYTES_MAX}; remove it")
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{what} is not JSON: {error}; remove it") from None
    if not isinstance(fields, dict) or fields.keys() != keys:
        raise RecordError(f"{what} must be an object with the keys {', '.join(sorted(keys))}; remove it")
    return fields


def _written(content: Mapping[str, Any], what: str, bytes_max: int) -> bytes:
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise RecordError(f"{what}: {_shown(content)} must be a table of keys and values")
    try:
        written = _json(dict(content))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{what} cannot be written as JSON: {error}; use numbers, text, lists and tables") from None
    if len(written) > bytes_max:
        raise RecordError(f"{what} takes {len(written)} bytes as JSON; the limit is {bytes_max}; say less")
    return written


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
