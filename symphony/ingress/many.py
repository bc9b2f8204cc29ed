"""Follow many requests that came in one body: each a call of its own, answered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from symphony.errors import SymphonyError
from symphony.ingress.call import Call
from symphony.ingress.callers import Caller
from symphony.ingress.service import ServedModel, Service
from symphony.wire import JSON, Failure, Form, FormKind, InferRequest, InferResponse


class ManyAnswered(Protocol):
    """What waits for the answers."""

    def many_answered(self, answers: Sequence[InferResponse | Failure], forms: Sequence[Form], kind: FormKind) -> None:
        """Take the answers, in the order of the requests; called once."""


class Many:
    """The requests of one body, and their answers as far as they are there."""

    def __init__(
        self,
        owner: ManyAnswered,
        service: Service,
        caller: Caller,
        model: ServedModel,
        requests: Sequence[InferRequest | Failure],
        kind: FormKind,
    ) -> None:
        self._owner: ManyAnswered | None = owner
        self._service = service
        self._caller = caller
        self._kind = kind
        self._requests = requests
        self._answers: list[InferResponse | Failure | None] = [
            _refused(one, model) if isinstance(one, Failure) else None for one in requests
        ]
        self._forms = [JSON] * len(requests)
        self._parts: list[Part] = []
        self._waiting_count = len(requests)

    def calls(self) -> Iterator[tuple[Part, InferRequest]]:
        """Yield the call of each request, to be admitted before the next is asked for; then the faulty ones count.

        Ends early when the client leaves meanwhile.
        """
        faulty_count = 0
        for place, request in enumerate(self._requests):
            if isinstance(request, Failure):
                faulty_count += 1
                continue
            part = Part(self, self._service, self._caller, place, request.id)
            self._parts.append(part)
            yield part, request
            if self._owner is None:
                return
        self._requests = ()
        self._count_down(faulty_count)

    def ended(self, place: int, answer: InferResponse | Failure, form: Form) -> None:
        """Take the answer to one request. For `Part` only."""
        self._answers[place] = answer
        self._forms[place] = form
        self._count_down(1)

    def cancel(self) -> None:
        """Cancel what is still under way; nothing is answered any more."""
        self._owner = None
        for part in self._parts:
            part.cancel()
        self._parts = []

    def _count_down(self, count: int) -> None:
        self._waiting_count -= count
        owner = self._owner
        if self._waiting_count or owner is None:
            return
        answers = [answer for answer in self._answers if answer is not None]
        owner.many_answered(answers, self._forms, self._kind)


class Part(Call):
    """One of many requests."""

    __slots__ = ("_id", "_many", "_place")

    def __init__(self, many: Many, service: Service, caller: Caller, place: int, request_id: str | None) -> None:
        super().__init__(service, caller)
        self._many = many
        self._place = place
        self._id = request_id

    def answered(self, response: InferResponse, infer: InferRequest) -> None:
        """Hand the outputs over."""
        self.end()
        self._many.ended(self._place, response, infer.form)

    def failed(self, error: SymphonyError) -> None:
        """Hand the error over."""
        self.end()
        self._many.ended(self._place, Failure(error, self._id), JSON)


def _refused(failure: Failure, model: ServedModel) -> Failure:
    """Count a request that could not be read; return its failure with the model's name (the given one is shared)."""
    error = failure.error
    model.stats.request_rejected(error.reason)
    return Failure(SymphonyError(error.reason, error.message, model=model.config.name), failure.id)
