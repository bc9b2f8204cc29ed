"""Follow one infer call over gRPC until its handler has the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from symphony.errors import SymphonyError
from symphony.ingress.call import Call
from symphony.ingress.callers import Caller
from symphony.ingress.exchange import InferExchange
from symphony.ingress.grpc.gate import Asker
from symphony.ingress.grpc.messages import to_message, to_request
from symphony.ingress.service import not_ready
from symphony.units import NS_PER_S
from symphony.wire import DEFAULT_LIMITS, InferRequest, InferResponse


class GrpcCall(Call):
    """One call: its outcome is a ModelInferResponse or a SymphonyError."""

    __slots__ = ("_body_bytes", "_exchanges", "_outcome")

    def __init__(self, exchanges: InferExchange, caller: Caller, body_bytes: int, outcome: asyncio.Future[Any]) -> None:
        super().__init__(exchanges.service, caller)
        self._exchanges = exchanges
        self._body_bytes = body_bytes
        self._outcome = outcome

    def answered(self, response: InferResponse, infer: InferRequest) -> None:
        """Set the message."""
        self._set(to_message(response))

    def failed(self, error: SymphonyError) -> None:
        """Set the error."""
        self._set(error)

    def end(self) -> None:
        """Let go of the requests, and of the place among the calls in flight."""
        self._exchanges.release(self._caller, self._body_bytes)
        super().end()

    def _set(self, outcome: Any) -> None:
        self.end()
        if not self._outcome.done():
            self._outcome.set_result(outcome)


async def infer(exchanges: InferExchange, request: Any, asker: Asker, left_s: float | None) -> Any:
    """Return the ModelInferResponse for a ModelInferRequest, or the SymphonyError it ends with.

    `asker`: who calls; what that may do is asked here. `left_s`: seconds until the client no longer waits, None if it
    said nothing; its deadline then is the shorter of that and of parameters.timeout. Cancelled, it cancels the request.
    """
    arrived_ns = exchanges.now_ns()
    body_bytes = request.ByteSize()
    service = exchanges.service
    name, version = request.model_name, request.model_version or None
    try:
        caller = exchanges.check_call(asker.headers, asker.peer, "infer", name)
    except SymphonyError as error:
        service.stats.request_refused(error.reason)
        return error
    try:
        model = service.find(name, version)
    except SymphonyError as error:
        service.stats.request_refused(error.reason)
        return exchanges.seen_by(caller, error, name, version)
    overload = model.refusal(caller) if model.state == "READY" else None
    if overload is not None:
        model.stats.request_rejected(overload.reason)
        return overload
    try:
        refusal = exchanges.refusal(body_bytes, caller)
        if refusal is not None:
            raise refusal
        if model.state != "READY":
            raise not_ready(model)
        wanted = to_request(request, DEFAULT_LIMITS)
    except SymphonyError as error:
        error.model = model.config.name
        model.stats.request_rejected(error.reason)
        return error
    if left_s is not None:
        left_ns = min(max(1, int(left_s * NS_PER_S)), exchanges.timeout_ns_max)
        wanted.timeout_ns = left_ns if wanted.timeout_ns is None else min(left_ns, wanted.timeout_ns)
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    exchanges.take(caller, body_bytes)
    call = GrpcCall(exchanges, caller, body_bytes, outcome)
    exchanges.admit(call, model, wanted, arrived_ns)
    try:
        return await outcome
    finally:
        call.cancel()
