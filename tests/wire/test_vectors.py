"""The page docs/wire.md tells the truth: its test vectors, byte for byte, its table of limits, its datatypes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony import wire
from symphony.wire import (
    Encoded,
    Failure,
    InferRequest,
    InferRequests,
    InferResponse,
    WireLimits,
    decode_call,
    decode_request,
    decode_response,
    decode_responses,
    encode_request,
    encode_requests,
    encode_response,
    encode_responses,
)
from symphony.wire.elements import from_list, to_list
from symphony.wire.tensors import BY_NAME, DATATYPES

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
LENGTH_HEADER = "Inference-Header-Content-Length"


@dataclass
class Vector:
    """One block of the page."""

    title: str
    kind: str
    form: str
    means: Any
    headers: dict[str, str]
    body: bytes

    @property
    def arguments(self) -> tuple[bytes, str, int | None]:
        length = self.headers.get(LENGTH_HEADER)
        return self.body, self.headers["Content-Type"], None if length is None else int(length)

    def tensors(self, key: str) -> tuple[dict[str, np.ndarray], frozenset[str]]:
        arrays = {
            name: from_list(elements, BY_NAME[datatype], shape, name, WireLimits())
            for name, (datatype, shape, elements) in self.means[key].items()
        }
        return arrays, frozenset(name for name, (datatype, _, _) in self.means[key].items() if datatype == "BF16")


def read_vectors() -> list[Vector]:
    vectors = []
    for title, text in re.findall(r"^### ([^\n]+)\n\n```vector\n(.*?)```$", PAGE, re.MULTILINE | re.DOTALL):
        head, _, body = text.partition("body:\n")
        lines = dict(line.split(": ", 1) for line in head.splitlines())
        kind, form, means = lines.pop("kind"), lines.pop("form"), json.loads(lines.pop("means"))
        vectors.append(Vector(title, kind, form, means, lines, bytes.fromhex(body)))
    return vectors


VECTORS = read_vectors()


def meaning(arrays: dict[str, np.ndarray], bf16_names: frozenset[str]) -> dict[str, list]:
    found = {}
    for name, array in arrays.items():
        datatype = wire.datatype_of(array.dtype, name in bf16_names)
        elements = to_list(array, BY_NAME[datatype], "x")
        found[name] = [datatype, list(array.shape), [e.decode() if isinstance(e, bytes) else e for e in elements]]
    return found


def test_page_has_vectors_of_every_form() -> None:
    assert {vector.form for vector in VECTORS} >= {"FRAMED", "JSON", "JSON_BINARY", "MSGPACK", "MSGPACK_MAP"}
    assert len(VECTORS) == PAGE.count("```vector")


ONE = [vector for vector in VECTORS if vector.kind.split()[0] in ("request", "response")]
MANY = [vector for vector in VECTORS if vector not in ONE]


@pytest.mark.parametrize("vector", ONE, ids=lambda vector: vector.title)
def test_vector_decodes_to_its_meaning(vector: Vector) -> None:
    means = vector.means
    if vector.kind.startswith("request"):
        request = decode_request(*vector.arguments)
        assert meaning(request.inputs, request.bf16_names) == means["inputs"]
        assert request.id == means.get("id")
        assert request.output_names == (tuple(means["outputs"]) if "outputs" in means else None)
        assert request.timeout_ns == (means["timeout_us"] * 1000 if "timeout_us" in means else None)
        assert request.priority == means.get("priority", 0)
        assert request.parameters == means.get("parameters", {})
        assert request.form == getattr(wire, vector.form)
    else:
        response = decode_response(*vector.arguments)
        assert meaning(response.outputs, response.bf16_names) == means["outputs"]
        assert (response.model_name, response.model_version, response.id) == (
            means["model"],
            means["version"],
            means.get("id"),
        )


@pytest.mark.parametrize(
    "vector", [vector for vector in ONE if "decode only" not in vector.kind], ids=lambda vector: vector.title
)
def test_vector_is_what_we_encode(vector: Vector) -> None:
    means, form = vector.means, getattr(wire, vector.form)
    encoded: Encoded
    if vector.kind == "request":
        inputs, bf16_names = vector.tensors("inputs")
        encoded = encode_request(
            InferRequest(
                inputs,
                id=means.get("id"),
                output_names=tuple(means["outputs"]) if "outputs" in means else None,
                timeout_ns=means["timeout_us"] * 1000 if "timeout_us" in means else None,
                priority=means.get("priority", 0),
                parameters=means.get("parameters", {}),
                form=form,
                bf16_names=bf16_names,
            )
        )
    else:
        outputs, bf16_names = vector.tensors("outputs")
        encoded = encode_response(
            InferResponse(means["model"], means["version"], outputs, means.get("id"), bf16_names), form
        )
    assert encoded.body().hex() == vector.body.hex()
    assert {"Content-Type": encoded.content_type, **encoded.headers} == vector.headers


def test_every_form_has_vectors_of_many() -> None:
    assert {(vector.form, vector.kind) for vector in MANY} == {
        (form, kind) for form in ("FRAMED", "MSGPACK", "JSON") for kind in ("requests", "responses")
    }


@pytest.mark.parametrize("vector", MANY, ids=lambda vector: vector.title)
def test_vector_of_many_decodes_to_its_meaning_and_is_what_we_encode(vector: Vector) -> None:
    form = getattr(wire, vector.form)
    if vector.kind == "requests":
        call = decode_call(*vector.arguments)
        assert isinstance(call, InferRequests)
        for request, means in zip(call.requests, vector.means, strict=True):
            assert isinstance(request, InferRequest)
            assert meaning(request.inputs, request.bf16_names) == means["inputs"]
            assert request.id == means["id"]
            assert request.timeout_ns == (means["timeout_us"] * 1000 if "timeout_us" in means else None)
        encoded = encode_requests(call.requests)
    else:
        answers = decode_responses(*vector.arguments)
        for answer, means in zip(answers, vector.means, strict=True):
            assert answer.id == means["id"]
            if isinstance(answer, Failure):
                assert (answer.error.reason.token, answer.error.message) == (means["reason"], means["error"])
            else:
                assert meaning(answer.outputs, answer.bf16_names) == means["outputs"]
                assert (answer.model_name, answer.model_version) == (means["model"], means["version"])
        encoded = encode_responses(answers, [form] * len(answers), form.kind)
    assert encoded.body().hex() == vector.body.hex()
    assert {"Content-Type": encoded.content_type, **encoded.headers} == vector.headers


def test_table_of_limits_is_complete_and_right() -> None:
    table = dict(re.findall(r"^\| `(\w+_max)` \| (\d+) \|", PAGE, re.MULTILINE))
    assert table == {each.name: str(each.default) for each in fields(WireLimits) if each.init}


def test_table_of_datatypes_is_complete_and_right() -> None:
    rows = re.findall(r"^\| ((?:`[A-Z0-9]+` ?)+) \| ((?:`[^`]+` ?)+) \|", PAGE, re.MULTILINE)
    words = [
        (name, code.replace("\\|", "|"))
        for names, codes in rows
        for name, code in zip(re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", codes), strict=True)
    ]
    assert words == [(each.name, each.code) for each in DATATYPES]
