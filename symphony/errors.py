"""Name every way a request or a command can end badly, once.

A `Reason` is the token that clients, logs and metric labels share; it owns its HTTP status. A `SymphonyError`
carries a reason and a message that says the thing, the value, the limit and the remedy. This module knows no
protocol, clock or socket.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Say why a request was not answered well: `value` is the token on the wire, `http_status` its code."""

    BAD_INPUT = ("bad_input", 400)
    UNAUTHORIZED = ("unauthorized", 401)
    FORBIDDEN = ("forbidden", 403)
    UNKNOWN_MODEL = ("unknown_model", 404)
    TOO_LARGE = ("too_large", 413)
    RATE_LIMITED = ("rate_limited", 429)
    CANCELLED = ("cancelled", 499)
    WORKER_FAILED = ("worker_failed", 500)
    QUEUE_FULL = ("queue_full", 503)
    WOULD_MISS = ("would_miss", 503)
    NOT_READY = ("not_ready", 503)
    DRAINING = ("draining", 503)
    NO_GPU = ("no_gpu", 503)
    EXPIRED = ("expired", 504)

    def __init__(self, token: str, http_status: int) -> None:
        self.token = token
        self.http_status = http_status

    @classmethod
    def from_token(cls, token: str) -> Reason:
        """Return the reason whose wire token is `token`; raise KeyError for an unknown one."""
        return _BY_TOKEN[token]


_BY_TOKEN = {reason.token: reason for reason in Reason}


class SymphonyError(Exception):
    """Report a request that did not end good.

    `reason` is the token's enum, `model` the model asked for ("" when none was named), `retry_after_s` a hint in
    seconds (None when trying again cannot help), `earliest_ms` the shortest time-out that the same request, sent now,
    could be expected to meet (None when that is not known or not the trouble).
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        model: str = "",
        retry_after_s: float | None = None,
        earliest_ms: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.model = model
        self.retry_after_s = retry_after_s
        self.earliest_ms = earliest_ms

    def body(self) -> dict[str, str | float]:
        """Return the error body every codec sends: `{"error", "reason", "model"}`, and `earliest_ms` where known."""
        body: dict[str, str | float] = {"error": self.message, "reason": self.reason.token, "model": self.model}
        if self.earliest_ms is not None:
            body["earliest_ms"] = round(self.earliest_ms, 1)
        return body


class ConfigError(Exception):
    """Report a configuration that cannot be used: file, key, value, limit and remedy in one sentence."""
