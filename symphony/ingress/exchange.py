"""Carry one infer call from received bytes to an encoded reply, whatever the transport.

Everything happens on the asyncio thread, by callback: no task or future is made for a request. A transport calls
`InferExchange.start` with the whole body and gets `on_reply(reply)` exactly once, perhaps before `start` returns,
unless it calls `Exchange.cancel` first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from symphony.driver.requests import PendingRequest
from symphony.errors import Reason, SymphonyError
from symphony.ingress.admission import Admission, Inputs
from symphony.ingress.callers import NOBODY, Caller, Callers, Headers
from symphony.ingress.connections import Connections
from symphony.ingress.limits import IngressLimits
from symphony.ingress.replies import EncodedReply, error_reply, internal_error, wants_msgpack
from symphony.ingress.service import ServedModel, Service, not_ready, unknown_model
from symphony.units import ms_to_ns
from symphony.wire import DEFAULT_LIMITS, InferRequest, InferResponse, WireLimits, decode_request, encode_response

_log = logging.getLogger(__name__)

_HEADER_LENGTH_DIGITS_MAX = 12

OTHERS_PART = 8
"""One part in so many, of calls in flight and bytes of bodies, no caller can take from the others."""

OnReply = Callable[[EncodedReply], None]


class Exchange:
    """One infer call under way: one request, or n that share a deadline and are answered together.

    Requests point at their exchange and it at them; it lets go of them as soon as it is done, so that bodies are freed
    at once and not at the next garbage collection.
    """

    __slots__ = (
        "_body_bytes",
        "_caller",
        "_infer",
        "_is_group",
        "_is_msgpack",
        "_model",
        "_on_reply",
        "_owner",
        "_request_id",
        "_requests",
        "_submitted",
        "_waiting",
        "is_done",
    )

    def __init__(
        self,
        owner: InferExchange,
        caller: Caller,
        body_bytes: int,
        is_msgpack: bool,
        request_id: str | None,
        on_reply: OnReply,
    ) -> None:
        self._owner = owner
        self._caller = caller
        self._body_bytes = body_bytes
        self._is_msgpack = is_msgpack
        self._request_id = request_id
        self._on_reply: OnReply | None = on_reply
        self._model: ServedModel | None = None
        self._infer: InferRequest | None = None
        self._is_group = False
        self._requests: Sequence[PendingRequest] = ()
        self._submitted = 0
        self._waiting = 0
        self.is_done = False

    def cancel(self) -> None:
        """Give up because the client is gone: its requests are cancelled and nothing is answered.

        Does nothing once answered.
        """
        if not self.is_done:
            self._end()

    def submit(
        self,
        model: ServedModel,
        infer: InferRequest,
        rows: list[Inputs],
        is_group: bool,
        arrived_ns: int,
        deadline_ns: int,
        priority: int,
    ) -> None:
        """Hand the admitted rows to the service. For `InferExchange` only."""
        self._model = model
        self._infer = infer
        self._is_group = is_group
        self._waiting = len(rows)
        index = model.index
        self._caller.charge(len(rows) - 1)
        priority = model.enter(self._caller, len(rows), priority)
        on_done = self._request_done
        requests = [PendingRequest(index, row, arrived_ns, deadline_ns, priority, on_done) for row in rows]
        self._requests = requests
        service = self._owner.service
        for request in requests:
            try:
                service.submit(request)
            except SymphonyError as error:
                model.stats.request_rejected(error.reason, len(requests) - self._submitted)
                self.fail(error)
                return
            if self.is_done:
                # Answered from inside submit: by this request, or by an earlier one that failed meanwhile.
                if not _is_ended(request):
                    service.cancel(request)
                return
            self._submitted += 1

    def fail(self, error: SymphonyError) -> None:
        """Reply with the error, and cancel what is still under way. Does nothing once answered."""
        if self.is_done:
            return
        if not error.model and self._model is not None:
            error.model = self._model.config.name
        self._reply(error_reply(error, self._is_msgpack))

    def _request_done(self, request: PendingRequest) -> None:
        if self.is_done:
            return
        if request.error is not None:
            self.fail(request.error)
            return
        self._waiting -= 1
        if self._waiting == 0:
            self._answer()

    def _answer(self) -> None:
        model, infer = self._model, self._infer
        assert model is not None and infer is not None
        try:
            outputs = self._outputs(infer.output_names)
            config = model.config
            bf16_names = self._owner.admission(model).bf16_output_names
            response = InferResponse(config.name, config.version, outputs, infer.id, bf16_names)
            parts, content_type, extra = encode_response(response, infer.form)
        except SymphonyError as error:
            # The outputs cannot be said in the form asked for, such as bytes that are not text in JSON.
            self.fail(error)
            return
        except Exception:
            _log.exception('model "%s": cannot encode the outputs', model.config.name)
            self.fail(internal_error())
            return
        self._reply(EncodedReply(200, content_type, list(extra.items()), parts))

    def _outputs(self, names: tuple[str, ...] | None) -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs asked for (all when None), those of a group behind a leading batch dimension."""
        first = self._requests[0].outputs
        assert first is not None
        if names is None:
            names = tuple(first)
        if not self._is_group:
            return {name: first[name] for name in names}
        rows = [request.outputs for request in self._requests if request.outputs is not None]
        return {name: np.stack([row[name] for row in rows]) for name in names}

    def _reply(self, reply: EncodedReply) -> None:
        on_reply = self._on_reply
        assert on_reply is not None
        self._end()
        if self._request_id is not None:
            reply.headers.append(("X-Request-Id", self._request_id))
        on_reply(reply)

    def _end(self) -> None:
        self.is_done = True
        self._on_reply = None
        self._infer = None
        self._owner.release(self._caller, self._body_bytes)
        requests, self._requests = self._requests, ()
        if requests:
            assert self._model is not None
            self._model.leave(self._caller, len(requests))
        for request in requests[: self._submitted]:
            if not _is_ended(request):
                self._owner.service.cancel(request)


class InferExchange:
    """Start infer calls against a `Service`, within limits."""

    def __init__(
        self,
        service: Service,
        limits: IngressLimits,
        wire_limits: WireLimits = DEFAULT_LIMITS,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        callers: Callers | None = None,
    ) -> None:
        self.service = service
        self.limits = limits
        self.callers = Callers() if callers is None else callers
        self.connections = Connections(limits, service.stats)
        self.in_flight = 0
        """Infer calls started and not answered."""
        self.body_bytes = 0
        """Bytes of bodies held: being read (see `reserve`) or in flight."""
        self._wire_limits = wire_limits
        self._timeout_ns_max = ms_to_ns(limits.timeout_ms_max)
        self._clock_ns = clock_ns
        self._admissions: dict[int, Admission] = {}

    def check_call(self, headers: Headers, peer: Caller | None, scope: str, model_name: str | None = None) -> Caller:
        """Return who calls, and count the call against the caller's rate. Ask once for each call, before its body.

        `peer` is who is at the other end of the connection, `scope` what the call is for ("infer", "manage" or
        "metrics"). Raises SymphonyError `unauthorized`, `forbidden` or `rate_limited`.
        """
        caller = self.callers.identify(headers, peer)
        if caller.key is not None:
            caller.check(scope, model_name, time.monotonic_ns())
        return caller

    def refuse(self, error: SymphonyError, model_name: str, headers: Headers, is_msgpack: bool) -> EncodedReply:
        """Count a call that ends before its body is read, and return its answer."""
        self.service.stats.request_refused(error.reason)
        error.model = error.model or model_name
        reply = error_reply(error, is_msgpack)
        request_id = headers.get("x-request-id")
        if request_id is not None and self._is_echoed(request_id):
            reply.headers.append(("X-Request-Id", request_id))
        return reply

    def refusal(self, body_bytes: int, caller: Caller | None = None) -> SymphonyError | None:
        """Return why a body of this many bytes would not be taken now, None when it would. Ask before reading it."""
        limits = self.limits
        if body_bytes > limits.body_bytes_max:
            return SymphonyError(
                Reason.TOO_LARGE,
                f"the body has {body_bytes} bytes, allowed are {limits.body_bytes_max} (body_bytes_max); "
                "send fewer rows in a call, or raise the limit",
            )
        if self.in_flight >= limits.in_flight_max:
            return SymphonyError(
                Reason.QUEUE_FULL,
                f"{self.in_flight} calls are in flight, allowed are {limits.in_flight_max} (in_flight_max); "
                "try again later",
            )
        if self.body_bytes + body_bytes > limits.body_bytes_total_max:
            return SymphonyError(
                Reason.QUEUE_FULL,
                f"bodies of {self.body_bytes} bytes are held, with {body_bytes} more they would exceed "
                f"{limits.body_bytes_total_max} (body_bytes_total_max); try again later",
            )
        return None if caller is None or caller is NOBODY else self._share_refusal(caller, body_bytes)

    def _share_refusal(self, caller: Caller, body_bytes: int) -> SymphonyError | None:
        """Return why this caller may not have one more call under way; an eighth of all room is for the others."""
        over = caller.refusal()
        if over is not None:
            return over
        limits = self.limits
        in_flight_max = limits.in_flight_max - limits.in_flight_max // OTHERS_PART
        if caller.in_flight >= in_flight_max:
            return SymphonyError(
                Reason.QUEUE_FULL,
                f"{caller.in_flight} calls of yours are in flight, all that one caller may have of "
                f"{limits.in_flight_max} (in_flight_max); wait for their answers",
            )
        bytes_max = limits.body_bytes_total_max - limits.body_bytes_total_max // OTHERS_PART
        if caller.body_bytes and caller.body_bytes + body_bytes > bytes_max:
            return SymphonyError(
                Reason.QUEUE_FULL,
                f"your bodies of {caller.body_bytes} bytes are held, with {body_bytes} more they would exceed what one "
                f"caller may have of {limits.body_bytes_total_max} (body_bytes_total_max); wait for their answers",
            )
        return None

    def refusal_unread(
        self, caller: Caller, model_name: str, version: str | None, is_msgpack: bool
    ) -> EncodedReply | None:
        """Return the answer to a call that is refused for overload before its body is looked at, None for most calls.

        Ask once for each call, and tell `start`. The answer is shared: do not change it.
        """
        try:
            model = self.service.find(model_name, version)
        except SymphonyError:
            return None
        error = model.refusal(caller) if model.state == "READY" else None
        if error is None:
            return None
        model.stats.request_rejected(error.reason)
        return _shared_reply(error, is_msgpack)

    def reserve(self, body_bytes: int, caller: Caller) -> None:
        """Count bytes of a body that is being read; take them back with a negative count before `start`."""
        self.body_bytes += body_bytes
        caller.body_bytes += body_bytes

    def release(self, caller: Caller, body_bytes: int) -> None:
        """Count an exchange as over. For `Exchange` only."""
        self.in_flight -= 1
        self.body_bytes -= body_bytes
        caller.in_flight -= 1
        caller.body_bytes -= body_bytes

    def start(
        self,
        model_name: str,
        version: str | None,
        headers: Headers,
        body: bytes | bytearray | memoryview,
        on_reply: OnReply,
        is_let_in: bool = False,
        caller: Caller | None = None,
    ) -> Exchange:
        """Decode, check and submit one call; `on_reply` gets the answer, good or not.

        `body` is whole and not compressed, and must not change afterwards: tensors may be views of it. `version` None
        means any. `is_let_in`: `refusal_unread` was asked already. `caller`: what `check_call` returned; None for a
        transport that did not ask: it is asked here. Never raises, whatever a client sent.
        """
        arrived_ns = self._clock_ns()
        content_type = headers.get("content-type") or ""
        request_id = headers.get("x-request-id")
        if request_id is not None and not self._is_echoed(request_id):
            request_id = None
        body_bytes = len(body)
        fault = None
        if caller is None:
            try:
                caller = self.check_call(headers, None, "infer", model_name)
            except SymphonyError as error:
                caller, fault = NOBODY, error
        refusal = self.refusal(body_bytes, caller)
        is_msgpack = wants_msgpack(content_type, headers.get("accept") or "")
        exchange = Exchange(self, caller, body_bytes, is_msgpack, request_id, on_reply)
        self.in_flight += 1
        self.body_bytes += body_bytes
        caller.in_flight += 1
        caller.body_bytes += body_bytes
        model = None
        try:
            if fault is not None:
                raise fault
            model = self.service.find(model_name, version)
            if refusal is not None:
                raise refusal
            if model.state != "READY":
                raise not_ready(model)
            overload = None if is_let_in else model.refusal(caller)
            if overload is not None:
                # Not raised: the error is shared, and each raise would add to its traceback and keep the frames alive.
                model.stats.request_rejected(overload.reason)
                exchange.fail(overload)
                return exchange
            admission = self.admission(model)
            infer = decode_request(body, content_type, _header_length(headers), self._wire_limits)
            rows, is_group = admission.rows(infer.inputs, infer.bf16_names)
            if infer.output_names is not None:
                admission.check_output_names(infer.output_names)
            deadline_ns = admission.deadline_ns(
                arrived_ns,
                infer.timeout_ns,
                headers.get("x-request-timeout-ms"),
                headers.get("symphony-slo-ms"),
                self._timeout_ns_max,
            )
            priority = admission.priority(infer.priority)
            exchange.submit(model, infer, rows, is_group, arrived_ns, deadline_ns, priority)
        except SymphonyError as error:
            if model is None:
                self.service.stats.request_refused(error.reason)
            else:
                model.stats.request_rejected(error.reason)
            if error.reason is Reason.UNKNOWN_MODEL and caller.key is not None:
                error = self.unknown_to(caller, model_name, version)
            error.model = error.model or model_name
            exchange.fail(error)
        except Exception:
            _log.exception('model "%s": cannot admit a request', model_name)
            exchange.fail(internal_error())
        return exchange

    def unknown_to(self, caller: Caller, model_name: str, version: str | None) -> SymphonyError:
        """Return the error for a model that is not served; it names no model that the caller may not use."""
        names = (model.config.name for model in self.service.models())
        return unknown_model(model_name, version, filter(caller.may_use, names))

    def admission(self, model: ServedModel) -> Admission:
        """Return what admits requests to the model. For `Exchange` only."""
        admission = self._admissions.get(model.index)
        if admission is None or admission.config is not model.config:
            admission = self._admissions[model.index] = Admission(model.config)
        return admission

    def _is_echoed(self, request_id: str) -> bool:
        return len(request_id) <= self.limits.request_id_chars_max and request_id.isascii() and request_id.isprintable()


@lru_cache(maxsize=256)
def _shared_reply(error: SymphonyError, is_msgpack: bool) -> EncodedReply:
    return error_reply(error, is_msgpack)


def _header_length(headers: Headers) -> int | None:
    """Return the length of the JSON part that Triton's binary extension announces, None when it does not."""
    text = headers.get("inference-header-content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _HEADER_LENGTH_DIGITS_MAX):
        raise SymphonyError(
            Reason.BAD_INPUT,
            f"header Inference-Header-Content-Length is {text[:32]!r}, expected the length in bytes of the JSON part",
        )
    return int(text)


def _is_ended(request: PendingRequest) -> bool:
    return request.outputs is not None or request.error is not None
