"""Build the calls both clients make and read their answers: everything but the waiting."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from symphony.client.http import Address, Response, TransportError, join, write_head
from symphony.errors import SymphonyError
from symphony.units import ms_to_ns
from symphony.wire import (
    DEFAULT_LIMITS,
    FRAMED,
    JSON,
    MSGPACK,
    Encoded,
    Failure,
    Form,
    InferRequest,
    InferResponse,
    decode_error,
    decode_response,
    decode_responses,
    encode_request,
    encode_requests,
)
from symphony.wire.messages import Buffer

_Decoded = TypeVar("_Decoded")

FORMS: dict[str, Form] = {"framed": FRAMED, "msgpack": MSGPACK, "json": JSON}
PRIORITY_MAX = 8
TIMEOUT_MS_MAX = 86_400_000.0
_NS_PER_US = 1000  # the wire counts time-outs in microseconds


class InferResult(Mapping[str, np.ndarray[Any, Any]]):
    """An answer: a mapping from output names to arrays, with `model`, `version`, `id` and the response's `headers`.

    Arrays may be read-only views of the received bytes. BYTES is an object array of bytes; BF16 is its raw bits in
    uint16, and `bf16_names` says which outputs are (`symphony.wire.bf16_to_fp32` converts).
    """

    def __init__(self, response: InferResponse, headers: Mapping[str, str]) -> None:
        self.outputs: Mapping[str, np.ndarray[Any, Any]] = response.outputs
        self.model = response.model_name
        self.version = response.model_version
        self.id = response.id
        self.bf16_names = response.bf16_names
        self.headers = headers

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        """Return one output."""
        return self.outputs[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over output names."""
        return iter(self.outputs)

    def __len__(self) -> int:
        """Return how many outputs there are."""
        return len(self.outputs)

    def __repr__(self) -> str:
        """Return the model and the outputs' shapes."""
        shapes = ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in self.outputs.items())
        return f"InferResult({self.model} version {self.version}; {shapes})"


@dataclass(frozen=True, slots=True)
class Ask:
    """One of many requests for a model; what is left out is as in `AsyncClient.infer`."""

    inputs: Mapping[str, Any]
    timeout_ms: float | None = None
    priority: int | None = None
    outputs: Sequence[str] | None = None
    request_id: str | None = None
    parameters: Mapping[str, Any] | None = None
    bf16_names: Collection[str] = ()


class Calls:
    """Make the bytes of calls to one server in one form, and read what comes back."""

    def __init__(self, address: Address, form: str, api_key: str | None = None) -> None:
        if form not in FORMS:
            raise ValueError(f"form is {form!r}: choose one of {', '.join(FORMS)}")
        self.address = address
        self._host = str(address)
        self._form = FORMS[form]
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any],
        version: str | None,
        timeout_ms: float | None,
        priority: int | None,
        outputs: Sequence[str] | None,
        request_id: str | None,
        parameters: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        bf16_names: Collection[str] = (),
    ) -> bytes:
        """Return a whole infer request; raise ValueError or TypeError for arguments that cannot be sent."""
        ask = Ask(inputs, timeout_ms, priority, outputs, request_id, parameters, bf16_names)
        return self._infer_call(model, version, headers, encode_request(self._request(ask)))

    def infer_many(
        self, model: str, asks: Sequence[Ask], version: str | None, headers: Mapping[str, str] | None
    ) -> bytes:
        """Return a whole call of many requests; raise ValueError or TypeError for arguments that cannot be sent."""
        if not 1 <= len(asks) <= DEFAULT_LIMITS.request_count_max:
            raise ValueError(
                f"{len(asks)} requests: a call takes 1 to {DEFAULT_LIMITS.request_count_max}; send the rest in another"
            )
        return self._infer_call(model, version, headers, encode_requests([self._request(ask) for ask in asks]))

    def _request(self, ask: Ask) -> InferRequest:
        timeout_ms, priority = ask.timeout_ms, ask.priority
        if timeout_ms is not None and not 0 < timeout_ms <= TIMEOUT_MS_MAX:
            raise ValueError(
                f"timeout_ms is {timeout_ms}: it must be above 0 and at most {TIMEOUT_MS_MAX:g}; "
                "leave it out to use the model's SLO"
            )
        if priority is not None and not 1 <= priority <= PRIORITY_MAX:
            raise ValueError(f"priority is {priority}: it must be from 1 (highest) to {PRIORITY_MAX}")
        request = InferRequest(
            inputs={name: as_tensor(value, name) for name, value in ask.inputs.items()},
            id=ask.request_id,
            output_names=None if ask.outputs is None else tuple(ask.outputs),
            timeout_ns=None if timeout_ms is None else max(_NS_PER_US, ms_to_ns(timeout_ms)),
            priority=priority or 0,
            form=self._form,
        )
        if ask.bf16_names:
            request.bf16_names = frozenset(ask.bf16_names)
        if ask.parameters:
            request.parameters = dict(ask.parameters)
        return request

    def _infer_call(
        self, model: str, version: str | None, headers: Mapping[str, str] | None, encoded: Encoded
    ) -> bytes:
        size = sum(memoryview(part).nbytes for part in encoded.parts)
        head = write_head(
            "POST",
            f"{model_path(model, version)}/infer",
            self._host,
            size,
            encoded.content_type,
            {**encoded.headers, **self._headers, **(headers or {})},
        )
        return join(head, encoded.parts)

    def other(self, method: str, path: str, body: Any = None) -> bytes:
        """Return a whole request for a route with a JSON body or none."""
        data = b"" if body is None else json.dumps(body).encode()
        kind = "application/json" if data else ""
        return write_head(method, path, self._host, len(data), kind, self._headers) + data

    def read_infer(self, response: Response) -> InferResult:
        """Return the answer to an infer call; raise the SymphonyError it carries."""
        return InferResult(self._decoded(response, decode_response), response.headers)

    def read_infer_many(self, response: Response, count: int) -> list[InferResult | SymphonyError]:
        """Return the answers to `count` requests; raise the SymphonyError that all share."""
        answers = self._decoded(response, decode_responses)
        if len(answers) != count:
            raise self._unreadable(ValueError(f"{len(answers)} answers came to {count} requests"))
        return [
            answer.error if isinstance(answer, Failure) else InferResult(answer, response.headers) for answer in answers
        ]

    def _decoded(self, response: Response, decode: Callable[[Buffer, str, int | None], _Decoded]) -> _Decoded:
        headers = response.headers
        content_type = headers.get("content-type", "")
        if response.status != 200:
            raise decode_error(response.status, response.body, content_type, headers.get("retry-after"))
        length = headers.get("inference-header-content-length")
        try:
            return decode(response.body, content_type, int(length) if length else None)
        except (SymphonyError, ValueError) as error:
            raise self._unreadable(error) from error

    def read_other(self, response: Response) -> Any:
        """Return the JSON of an answer (None when empty); raise the SymphonyError it carries."""
        if response.status != 200:
            content_type = response.headers.get("content-type", "")
            raise decode_error(response.status, response.body, content_type, response.headers.get("retry-after"))
        if not response.body.strip():
            return None
        try:
            return json.loads(response.body)
        except (ValueError, RecursionError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> TransportError:
        return TransportError(
            f"the answer of {self.address} cannot be read: {error}; is this a Symphony server, and of this version?"
        )


def load_path(model: str, verb: str) -> str:
    """Return the path that loads, unloads or profiles a model."""
    return f"/v2/repository/models/{quote(model, safe='')}/{verb}"


def model_path(model: str, version: str | None) -> str:
    """Return the path of a model, or of one version of it."""
    path = f"/v2/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(str(version), safe='')}"


def as_tensor(value: Any, name: str) -> np.ndarray[Any, Any]:
    """Return `value` as an array that can be sent: text becomes BYTES (UTF-8); raise TypeError for other objects."""
    array = np.asarray(value)
    kind = array.dtype.kind
    if kind in "US" and not isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value, dtype=object)  # numpy's own text arrays drop zero bytes at the end
    if kind in "USO":
        texts = np.empty(array.shape, dtype=object)
        for at in np.ndindex(array.shape):
            item = array[at]
            if isinstance(item, str):
                item = item.encode()
            if not isinstance(item, bytes):
                raise TypeError(
                    f"input {name!r} holds {type(item).__name__}: only numbers, booleans, str and bytes can be sent"
                )
            texts[at] = bytes(item)
        return texts
    if kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"input {name!r} has dtype {array.dtype}: only numbers, booleans, str and bytes can be sent")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).reshape(array.shape)
