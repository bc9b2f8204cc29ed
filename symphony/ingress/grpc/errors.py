"""Say a SymphonyError as gRPC does: a status code, the text, and trailers."""

from __future__ import annotations

from typing import Any

import grpc

from symphony.errors import Reason, SymphonyError
from symphony.ingress.replies import RETRY_AFTER_S

_CODES = {
    Reason.BAD_INPUT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Reason.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.WORKER_FAILED: grpc.StatusCode.INTERNAL,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.EXPIRED: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""Those that are not here are UNAVAILABLE: trying again later may help."""


async def abort(context: Any, error: SymphonyError) -> None:
    """End the call with the error's code, text and token; raises."""
    code = _CODES.get(error.reason, grpc.StatusCode.UNAVAILABLE)
    trailers = [("symphony-reason", error.reason.token)]
    if error.reason.http_status in (429, 503):
        wait_s = RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
        trailers.append(("retry-after-ms", str(max(1, round(wait_s * 1000)))))
    if error.earliest_ms is not None:
        trailers.append(("earliest-ms", f"{error.earliest_ms:.1f}"))
    await context.abort(code, error.message, tuple(trailers))
