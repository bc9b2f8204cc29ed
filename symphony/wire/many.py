"""Read and write bodies that hold many requests, or their answers: `{"requests": [...]}`, `{"responses": [...]}`.

Each request is as it would be alone, and is answered by a response as it would be alone, or by its error as a map
`{error, reason, model, id?}`. What is wrong inside one request is that request's answer; the others are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from symphony.errors import Reason, SymphonyError
from symphony.wire.faults import bad_input, earliest_ms_of, shown
from symphony.wire.limits import WireLimits
from symphony.wire.messages import Failure, InferResponse

ERROR_TEXT_LENGTH_MAX = 4096

_Read = TypeVar("_Read")


def holds_many(message: Any) -> bool:
    """Say whether a decoded message (or header) is of many requests."""
    return type(message) is dict and "requests" in message and "inputs" not in message


def read_requests(
    message: Mapping[str, Any], read_one: Callable[[Any], _Read], limits: WireLimits, is_faulty_alone: bool = True
) -> list[_Read | Failure]:
    """Return what `read_one` makes of each request of a message, in their order.

    A request that `read_one` refuses becomes a `Failure`; unless `is_faulty_alone`, because those behind it could not
    be found, the whole message is refused. Raises `bad_input` for that, and for none or too many of them.
    """
    items = message["requests"]
    if type(items) is not list and type(items) is not tuple:
        raise bad_input(f"requests is {shown(items)}, expected a list of requests")
    if not 1 <= len(items) <= limits.request_count_max:
        raise bad_input(f"{len(items)} requests, allowed are 1 to {limits.request_count_max} (request_count_max)")
    found: list[_Read | Failure] = []
    for place, item in enumerate(items):
        try:
            found.append(read_one(item))
        except SymphonyError as error:
            fault = bad_input(f"requests[{place}]: {error.message}")
            if not is_faulty_alone:
                raise fault from None
            found.append(Failure(fault, _id_of(item, limits)))
    return found


def write_failure(failure: Failure) -> dict[str, Any]:
    """Return the map of a request that got no outputs."""
    fields: dict[str, Any] = dict(failure.error.body())
    if failure.id is not None:
        fields["id"] = failure.id
    return fields


def read_responses(
    message: Any, read_one: Callable[[Any], InferResponse], limits: WireLimits
) -> Sequence[InferResponse | Failure]:
    """Return the answers of a message, in the order of the requests; raise `bad_input` for anything else."""
    items = message.get("responses") if type(message) is dict else None
    if type(items) is not list and type(items) is not tuple:
        raise bad_input(f"responses is {shown(items)}, expected a list of answers")
    if len(items) > limits.request_count_max:
        raise bad_input(f"{len(items)} responses, allowed are {limits.request_count_max} (request_count_max)")
    return [_failure(item, limits) if type(item) is dict and "error" in item else read_one(item) for item in items]


def _failure(item: dict[str, Any], limits: WireLimits) -> Failure:
    text, model = item["error"], item.get("model")
    if type(text) is not str:
        raise bad_input(f"error is {shown(text)}, expected a text")
    try:
        reason = Reason.from_token(item["reason"])
    except (KeyError, TypeError):
        reason = Reason.WORKER_FAILED
    model = model if type(model) is str else ""
    error = SymphonyError(reason, text[:ERROR_TEXT_LENGTH_MAX], model=model, earliest_ms=earliest_ms_of(item))
    return Failure(error, _id_of(item, limits))


def _id_of(item: Any, limits: WireLimits) -> str | None:
    """Return the id of a request or failure if it has a valid one."""
    found = item.get("id") if type(item) is dict else None
    return found if type(found) is str and len(found) <= limits.id_length_max and _is_utf8(found) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
