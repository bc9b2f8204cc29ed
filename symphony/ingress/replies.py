"""Encode answers and errors without knowing a transport."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import msgpack

from symphony.errors import Reason, SymphonyError
from symphony.wire import FormKind, reply_kind

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/msgpack"
RETRY_AFTER_S = 1
"""Seconds said in `Retry-After` when the error itself does not know better."""


@dataclass(slots=True)
class EncodedReply:
    """An answer ready to be written: status, content type, further headers, and the body in parts to write in order."""

    status: int
    content_type: str
    headers: list[tuple[str, str]]
    parts: list[bytes | bytearray | memoryview]

    def body(self) -> bytes:
        """Return the parts joined (a copy unless there is one part of bytes)."""
        if len(self.parts) == 1 and isinstance(self.parts[0], bytes):
            return self.parts[0]
        return b"".join(self.parts)

    @property
    def body_bytes(self) -> int:
        """Return the length of the body in bytes."""
        count = 0
        for part in self.parts:
            count += part.nbytes if type(part) is memoryview else len(part)
        return count


def wants_msgpack(content_type: str, accept: str) -> bool:
    """Say whether what is no infer reply should be msgpack: as `Accept` likes best, or else as the request was."""
    own = FormKind.MSGPACK if "msgpack" in content_type else FormKind.JSON
    return reply_kind(accept, own) is not FormKind.JSON


def error_reply(error: SymphonyError, is_msgpack: bool, *, status: int | None = None) -> EncodedReply:
    """Return the reply for `error`: its body, and `Retry-After` (whole seconds) on 429 and 503.

    `status` replaces the reason's own, for routes (405) rather than requests.
    """
    body = error.body()
    encoded = msgpack.packb(body, unicode_errors="replace") if is_msgpack else json.dumps(body).encode()
    status = error.reason.http_status if status is None else status
    headers = []
    if status == Reason.UNAUTHORIZED.http_status:
        headers.append(("WWW-Authenticate", "Bearer"))
    if status in (429, 503):
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else max(1, math.ceil(error.retry_after_s))
        headers.append(("Retry-After", str(wait_s)))
    return EncodedReply(status, MSGPACK_TYPE if is_msgpack else JSON_TYPE, headers, [encoded])


def internal_error() -> SymphonyError:
    """Return what a client is told when the server itself broke; the log has the rest."""
    return SymphonyError(
        Reason.WORKER_FAILED,
        "the server failed while handling this request; its log says why, and trying again may help",
    )
