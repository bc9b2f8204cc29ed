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

from symphony.errors import Reason, SymphonyError
from symphony.ingress.admission import Admission
from symphony.ingress.call import Call
from symphony.ingress.callers import NOBODY, Caller, Callers, Headers
from symphony.ingress.connections import Connections
from symphony.ingress.limits import IngressLimits
from symphony.ingress.many import Many
from symphony.ingress.replies import EncodedReply, error_reply, internal_error, wants_msgpack
from symphony.ingress.service import ServedModel, Service, not_ready, unknown_model
from symphony.units import ms_to_ns
from symphony.wire import (
    DEFAULT_LIMITS,
    Failure,
    Form,
    FormKind,
    InferRequest,
    InferRequests,
    InferResponse,
    WireLimits,
    decode_call,
    encode_response,
    encode_responses,
    replied_in,
    reply_kind,
)

_log = logging.getLogger(__name__)

_HEADER_LENGTH_DIGITS_MAX = 12

OTHERS_PART = 8
"""One part in so many, of calls in flight and bytes of bodies, no caller can take from the others."""

OnReply = Callable[[EncodedReply], None]


class Exchange(Call):
    """One call over HTTP: of one request, or of many in a body, each then a call of its own (`Part`)."""

    __slots__ = ("_body_bytes", "_is_msgpack", "_many", "_on_reply", "_owner", "_request_id")

    def __init__(
        self,
        owner: InferExchange,
        caller: Caller,
        body_bytes: int,
        is_msgpack: bool,
        request_id: str | None,
        on_reply: OnReply,
    ) -> None:
        super().__init__(owner.service, caller)
        self._owner = owner
        self._body_bytes = body_bytes
        self._is_msgpack = is_msgpack
        self._request_id = request_id
        self._on_reply: OnReply | None = on_reply
        self._many: Many | None = None

    def answered(self, response: InferResponse, infer: InferRequest) -> None:
        """Reply with the outputs."""
        parts, content_type, extra = encode_response(response, infer.form)
        self._reply(EncodedReply(200, content_type, list(extra.items()), parts))

    def failed(self, error: SymphonyError) -> None:
        """Reply with the error."""
        self._reply(error_reply(error, self._is_msgpack))

    def start_many(self, many: Many) -> None:
        """Wait for the answers to many requests. For `InferExchange` only."""
        self._many = many

    def many_answered(self, answers: Sequence[InferResponse | Failure], forms: Sequence[Form], kind: FormKind) -> None:
        """Reply with the answers to many requests."""
        try:
            encoded = encode_responses(answers, forms, kind)
        except SymphonyError as error:
            self.fail(error)
        except Exception:
            _log.exception("cannot encode the answers to %d requests", len(answers))
            self.fail(internal_error())
        else:
            self._reply(EncodedReply(200, encoded.content_type, list(encoded.headers.items()), encoded.parts))

    def end(self) -> None:
        """Let go of everything, and cancel what is still under way."""
        self._on_reply = None
        self._owner.release(self._caller, self._body_bytes)
        many, self._many = self._many, None
        Call.end(self)  # cheaper than super(), once for each call
        if many is not None:
            many.cancel()

    def _reply(self, reply: EncodedReply) -> None:
        on_reply = self._on_reply
        assert on_reply is not None
        self.end()
        if self._request_id is not None:
            reply.headers.append(("X-Request-Id", self._request_id))
        on_reply(reply)


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
        self.timeout_ns_max = ms_to_ns(limits.timeout_ms_max)
        self.now_ns = clock_ns
        """The clock of arrivals: monotonic nanoseconds."""
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

    def take(self, caller: Caller, body_bytes: int) -> None:
        """Count a call as in flight, with a body of so many bytes, until `release`."""
        self.in_flight += 1
        self.body_bytes += body_bytes
        caller.in_flight += 1
        caller.body_bytes += body_bytes

    def release(self, caller: Caller, body_bytes: int) -> None:
        """Count a call as over. For calls only."""
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
        arrived_ns = self.now_ns()
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
        is_msgpack = wants_msgpack(content_type, headers.get("accept") or "")
        exchange = Exchange(self, caller, body_bytes, is_msgpack, request_id, on_reply)
        refusal = self.refusal(body_bytes, caller)
        self.take(caller, body_bytes)
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
            call = decode_call(body, content_type, _header_length(headers), self._wire_limits)
            timeout_ms, slo_ms = headers.get("x-request-timeout-ms"), headers.get("symphony-slo-ms")
            accept = headers.get("accept")
            if isinstance(call, InferRequests):
                # The first of them was let in with the call; each of the others is asked for by itself.
                is_asked_for = True
                kind = reply_kind(accept, call.kind) if accept else call.kind
                caller.charge(len(call.requests) - 1)
                many = Many(exchange, self.service, caller, model, call.requests, kind)
                exchange.start_many(many)
                for part, infer in many.calls():
                    overload = None if is_asked_for else model.refusal(caller)
                    is_asked_for = False
                    if overload is not None:
                        model.stats.request_rejected(overload.reason)
                        part.fail(overload)
                        continue
                    infer.form = replied_in(infer.form, kind)
                    self.admit(part, model, infer, arrived_ns, timeout_ms, slo_ms)
                return exchange
            if accept and accept != "*/*":
                call.form = replied_in(call.form, reply_kind(accept, call.form.kind))
            self.admit(exchange, model, call, arrived_ns, timeout_ms, slo_ms)
        except SymphonyError as error:
            if model is None:
                self.service.stats.request_refused(error.reason)
            else:
                model.stats.request_rejected(error.reason)
            error = self.seen_by(caller, error, model_name, version)
            error.model = error.model or model_name
            exchange.fail(error)
        except Exception:
            _log.exception('model "%s": cannot admit a request', model_name)
            exchange.fail(internal_error())
        return exchange

    def admit(
        self,
        call: Call,
        model: ServedModel,
        infer: InferRequest,
        arrived_ns: int,
        timeout_ms: str | None = None,
        slo_ms: str | None = None,
    ) -> None:
        """Check a decoded request against the model and submit it; whatever is wrong becomes the call's answer.

        `timeout_ms`, `slo_ms`: what the transport says about time, beside the request itself.
        """
        try:
            admission = self.admission(model)
            rows, is_group = admission.rows(infer.inputs, infer.bf16_names)
            if infer.output_names is not None:
                admission.check_output_names(infer.output_names)
                if infer.class_counts:
                    admission.check_class_counts(infer.class_counts)
            deadline_ns = admission.deadline_ns(arrived_ns, infer.timeout_ns, timeout_ms, slo_ms, self.timeout_ns_max)
            priority = admission.priority(infer.priority)
            call.submit(model, admission, infer, rows, is_group, arrived_ns, deadline_ns, priority)
        except SymphonyError as error:
            model.stats.request_rejected(error.reason)
            error.model = error.model or model.config.name
            call.fail(error)
        except Exception:
            _log.exception('model "%s": cannot admit a request', model.config.name)
            call.fail(internal_error())

    def seen_by(self, caller: Caller, error: SymphonyError, model_name: str, version: str | None) -> SymphonyError:
        """Return the error as this caller may see it: one for an unknown model names none that it may not use."""
        if error.reason is not Reason.UNKNOWN_MODEL or caller.key is None:
            return error
        names = (model.config.name for model in self.service.models())
        return unknown_model(model_name, version, filter(caller.may_use, names))

    def admission(self, model: ServedModel) -> Admission:
        """Return what admits requests to the model."""
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
