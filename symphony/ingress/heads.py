"""Read the head of an infer call: request line and headers, remembering those met before.

A client sends the same head with each call of a model, so most are found in a table, by their bytes; parsing one costs
more than decoding the call's tensors. What is not a plain infer call (`POST /v2/models/.../infer HTTP/1.1` with a
`Content-Length`, neither compressed nor to be answered so, nor expecting 100-continue), or is malformed, is not read
here: aiohttp answers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from symphony.ingress.bodies import reply_coding
from symphony.ingress.replies import wants_msgpack

REMEMBERED_COUNT_MAX = 1024
REMEMBERED_BYTES_MAX = 1024
_NOT_HOT = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))
_PER_CALL = frozenset(("x-request-id", "x-request-timeout-ms", "symphony-slo-ms"))
"""Headers that differ from call to call; a head that has one is not remembered."""
_KEPT = {
    name.encode(): name
    for name in (
        *("content-type", "accept", "inference-header-content-length", "content-length", "connection"),
        *("authorization", "x-api-key"),
    )
} | {name.encode(): name for name in _PER_CALL}


class InferHead(NamedTuple):
    """What a head says.

    `version` None means any. `headers` holds the known ones by lower-case name; do not change it. `is_msgpack`: errors
    are wanted as msgpack. `has_id`: answers must echo an X-Request-Id.
    """

    model: str
    version: str | None
    headers: Mapping[str, str]
    body_bytes: int
    keeps_alive: bool
    is_msgpack: bool
    has_id: bool


class HeadReader:
    """Read heads, one at a time. Remembers at most 1,024 of at most 1 KiB."""

    def __init__(self) -> None:
        self._met: dict[bytes, InferHead] = {}
        self._headers: dict[str, str] = {}
        self._url = b""
        self._is_hot = True

    def read(self, head: bytes) -> InferHead | None:
        """Return what a whole head (up to and with its empty line) says, None when it is not a plain infer call."""
        found = self._met.get(head)
        if found is None:
            found = self._parse(head)
            if found is not None and len(head) <= REMEMBERED_BYTES_MAX and _PER_CALL.isdisjoint(found.headers):
                if len(self._met) >= REMEMBERED_COUNT_MAX:
                    self._met.clear()
                self._met[head] = found
        return found

    def _parse(self, head: bytes) -> InferHead | None:
        self._headers, self._url, self._is_hot = {}, b"", True
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserError:
            return None
        length = self._headers.get("content-length", "")
        if not self._is_hot or not length.isdigit() or parser.get_http_version() != "1.1":
            return None
        target = parse_target(self._url)
        if target is None:
            return None
        get = self._headers.get
        return InferHead(
            *target,
            headers=self._headers,
            body_bytes=int(length),
            keeps_alive=get("connection", "").lower() != "close",
            is_msgpack=wants_msgpack(get("content-type", ""), get("accept", "")),
            has_id="x-request-id" in self._headers,
        )

    def on_url(self, url: bytes) -> None:
        """Take the parser's request target; it may come in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header from the parser. One that counts and comes twice is aiohttp's to judge."""
        name = name.lower()
        known = _KEPT.get(name)
        if known is not None:
            if known in self._headers:
                self._is_hot = False
            self._headers[known] = value.decode("latin-1")
        elif name in _NOT_HOT or (name == b"accept-encoding" and reply_coding(value.decode("latin-1"))):
            self._is_hot = False


def parse_target(path: bytes) -> tuple[str, str | None] | None:
    """Return (model, version) when `path` is an infer route, else None."""
    if b"?" in path or not path.endswith(b"/infer"):
        return None
    parts = path.split(b"/")
    # ["", "v2", "models", name, "infer"] or [..., name, "versions", version, "infer"]
    try:
        if len(parts) == 5:
            return unquote(parts[3].decode("ascii"), errors="strict"), None
        if len(parts) == 7 and parts[4] == b"versions":
            version = unquote(parts[5].decode("ascii"), errors="strict")
            return unquote(parts[3].decode("ascii"), errors="strict"), version
    except UnicodeDecodeError:
        return None
    return None
