"""Follow the requests of one infer call, whatever brought it and however it is answered.

A call is one request, or n that share a deadline and are answered together (a leading batch dimension).
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from symphony.driver.requests import PendingRequest
from symphony.errors import SymphonyError
from symphony.ingress.admission import Admission, Inputs
from symphony.ingress.callers import Caller
from symphony.ingress.classification import classify
from symphony.ingress.replies import internal_error
from symphony.ingress.service import ServedModel, Service
from symphony.wire import InferRequest, InferResponse

_log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]


class Call(ABC):
    """One infer call under way; it ends once: answered, failed or cancelled.

    Requests point at their call and it at them; it lets go of them as soon as it is done, so that bodies are freed at
    once and not at the next garbage collection.
    """

    __slots__ = (
        "_admission",
        "_caller",
        "_infer",
        "_is_group",
        "_model",
        "_requests",
        "_service",
        "_submitted",
        "_waiting",
        "is_done",
    )

    def __init__(self, service: Service, caller: Caller) -> None:
        self._service = service
        self._caller = caller
        self._model: ServedModel | None = None
        self._admission: Admission | None = None
        self._infer: InferRequest | None = None
        self._is_group = False
        self._requests: Sequence[PendingRequest] = ()
        self._submitted = 0
        self._waiting = 0
        self.is_done = False

    @abstractmethod
    def answered(self, response: InferResponse, infer: InferRequest) -> None:
        """Take the outputs; raise SymphonyError if they cannot be said in the form asked for. Calls `end`."""

    @abstractmethod
    def failed(self, error: SymphonyError) -> None:
        """Take the error that all of the call shares. Calls `end`."""

    def cancel(self) -> None:
        """Give up because the client is gone: its requests are cancelled and nothing is answered.

        Does nothing once answered.
        """
        if not self.is_done:
            self.end()

    def submit(
        self,
        model: ServedModel,
        admission: Admission,
        infer: InferRequest,
        rows: list[Inputs],
        is_group: bool,
        arrived_ns: int,
        deadline_ns: int,
        priority: int,
    ) -> None:
        """Hand the admitted rows to the service. For `InferExchange` only."""
        self._model = model
        self._admission = admission
        self._infer = infer
        self._is_group = is_group
        self._waiting = len(rows)
        index = model.index
        self._caller.charge(len(rows) - 1)
        priority = model.enter(self._caller, len(rows), priority)
        on_done = self._request_done
        requests = [PendingRequest(index, row, arrived_ns, deadline_ns, priority, on_done) for row in rows]
        self._requests = requests
        service = self._service
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
        """Answer with the error, and cancel what is still under way. Does nothing once answered."""
        if self.is_done:
            return
        if not error.model and self._model is not None:
            error.model = self._model.config.name
        self.failed(error)

    def end(self) -> None:
        """Let go of the requests, and cancel those still under way. For subclasses, once."""
        self.is_done = True
        self._infer = None
        requests, self._requests = self._requests, ()
        if requests:
            assert self._model is not None
            self._model.leave(self._caller, len(requests))
        for request in requests[: self._submitted]:
            if not _is_ended(request):
                self._service.cancel(request)
        if len(requests) > 1 and self._model is not None:
            unanswered_count = sum(request.outputs is None for request in requests)
            if unanswered_count > 1:
                self._model.stats.rows_joined(unanswered_count - 1)

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
        model, infer, admission = self._model, self._infer, self._admission
        assert model is not None and infer is not None and admission is not None
        requests = self._requests
        last = requests[0] if len(requests) == 1 else max(requests, key=_finished_ns)
        try:
            outputs = self._outputs(infer.output_names)
            bf16_names = admission.bf16_output_names
            if infer.class_counts:
                outputs, bf16_names = self._classified(outputs, infer, bf16_names)
            config = model.config
            self.answered(InferResponse(config.name, config.version, outputs, infer.id, bf16_names), infer)
        except SymphonyError as error:
            # The outputs cannot be said in the form asked for, such as bytes that are not text in JSON.
            model.stats.rows_joined(-1)
            self.fail(error)
        except Exception:
            _log.exception('model "%s": cannot encode the outputs', model.config.name)
            model.stats.rows_joined(-1)
            self.fail(internal_error())
        else:
            arrived_ns = last.arrived_ns
            model.stats.call_answered(
                time.monotonic_ns() - arrived_ns,
                last.started_ns - arrived_ns,
                last.copying_ns[0],
                last.infer_ns,
                last.copying_ns[1],
            )

    def _outputs(self, names: tuple[str, ...] | None) -> dict[str, Array]:
        """Return the outputs asked for (all when None), those of a group behind a leading batch dimension."""
        first = self._requests[0].outputs
        assert first is not None
        if names is None:
            names = tuple(first)
        if not self._is_group:
            return {name: first[name] for name in names}
        rows = [request.outputs for request in self._requests if request.outputs is not None]
        return {name: np.stack([row[name] for row in rows]) for name in names}

    def _classified(
        self, outputs: dict[str, Array], infer: InferRequest, bf16_names: frozenset[str]
    ) -> tuple[dict[str, Array], frozenset[str]]:
        """Return the outputs with those that are wanted as classes in that form, and the BF16 ones that remain."""
        counts = infer.class_counts
        for name, count in counts.items():
            outputs[name] = classify(outputs[name], count, self._is_group, name in bf16_names)
        return outputs, bf16_names - counts.keys()


def _is_ended(request: PendingRequest) -> bool:
    return request.outputs is not None or request.error is not None


def _finished_ns(request: PendingRequest) -> int:
    return request.finished_ns
