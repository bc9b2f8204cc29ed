"""Texts become the tokens that transformers' tokenizer gives, beside the event loop, whatever their bytes are."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.config import ModelConfig, TensorSpec
from symphony.config.model import ProcessingSpec
from symphony.execution.processing import ProcessingPool
from symphony.execution.tokens import TEXT_BYTES_PER_TOKEN, TextTokens
from symphony.execution.trouble import ModelLoadError
from tests.encoder_files import VOCABULARY, read_with_transformers, write_tokenizer

TOKEN_COUNT = 8
TEXTS = ["the train leaves at six", "", "Trains", "a b c d e f g h i j k l", "größer 東京 [SEP]", "six " * 3000]
PAIRS = [("the train leaves", "at six"), ("bread", "needs time and time and time and time"), ("", "")]
TOKENS = tuple(TensorSpec(name, "INT64", (TOKEN_COUNT,)) for name in ("input_ids", "attention_mask", "token_type_ids"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def processing(tokens: tuple[TensorSpec, ...]) -> ProcessingSpec:
    return ProcessingSpec("symphony.execution.tokens:TextTokens", inputs=tokens)


def make_config(shape: tuple[int, ...] = (1,), tokens: tuple[TensorSpec, ...] = TOKENS, **changes: Any) -> ModelConfig:
    """Return a model of another format, whose network takes token ids."""
    return ModelConfig(
        **{
            "name": "m",
            "version": "1",
            "slo_ms": 50.0,
            "batch_size_max": 8,
            "inputs": (TensorSpec("sentence", "BYTES", shape),),
            "outputs": (TensorSpec("embedding", "FP32", (16,)),),
            "format": "torch_export",
            "entry": "model.pt2",
            "device_kinds": ("cpu",),
            "processing": processing(tokens),
            **changes,
        }
    )


def tokens_of(folder: Path, request: np.ndarray, **changes: Any) -> dict[str, np.ndarray]:
    """Return one request's tokens as the pool makes and checks them."""
    pool = ProcessingPool(make_config(request.shape, **changes), folder)
    try:
        return pool.submit("preprocess", {"sentence": request}).result(timeout=30)
    finally:
        pool.close()


def fault(folder: Path, **changes: Any) -> str:
    """Return why the processing cannot be loaded."""
    with pytest.raises(ModelLoadError) as caught:
        ProcessingPool(make_config(**changes), folder)
    assert str(caught.value).startswith('model "m": ')
    return str(caught.value)


def loaded(folder: Path) -> TextTokens:
    made = TextTokens()
    made.configure(make_config())
    made.load(folder, {})
    return made


def one(*texts: bytes) -> np.ndarray:
    request = np.empty(len(texts), dtype=object)
    request[:] = texts
    return request


@pytest.mark.parametrize("text", [*TEXTS, *PAIRS])
def test_tokens_are_those_of_transformers(text: Any, folder: Path) -> None:
    expected = read_with_transformers(folder, [text], TOKEN_COUNT)
    parts = [text] if isinstance(text, str) else text
    found = tokens_of(folder, one(*(part.encode() for part in parts)))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        name: rows[0].tolist() for name, rows in expected.items()
    }


def test_only_what_the_network_takes_is_handed_on(folder: Path) -> None:
    assert tokens_of(folder, one(b"bread"), tokens=TOKENS[:2]).keys() == {"input_ids", "attention_mask"}


def test_text_without_a_dimension_is_read(folder: Path) -> None:
    request = np.array(None, dtype=object)
    request[()] = b"bread"
    assert tokens_of(folder, request)["input_ids"].tolist()[:3] == [2, VOCABULARY["bread"], 3]


def test_bytes_that_are_no_text_are_replaced(folder: Path) -> None:
    for data in (b"\xff\xfe\x00", bytes(range(256)) * 100, "é".encode()[:1]):
        found = tokens_of(folder, one(data))
        assert found["input_ids"][0] == 2 and (found["input_ids"] < len(VOCABULARY)).all()


def test_of_a_long_text_only_the_beginning_is_read(folder: Path) -> None:
    """It bounds the work; up to the limit every byte counts."""
    limit = TOKEN_COUNT * TEXT_BYTES_PER_TOKEN
    at_limit = tokens_of(folder, one(b" " * (limit - 1) + b"a"))["input_ids"].tolist()
    beyond = tokens_of(folder, one(b" " * limit + b"a"))["input_ids"].tolist()
    assert at_limit[:3] == [2, VOCABULARY["a"], 3]
    assert beyond[:3] == [2, 3, 0]


@pytest.mark.parametrize("source", ["tokenizer.json", "config.json", "vocabulary"])
def test_padding_is_the_checkpoints_own(source: str, folder: Path) -> None:
    """The tokenizer's file comes first, then config.json, then a token that is called so."""
    if source == "tokenizer.json":
        read = json.loads((folder / "tokenizer.json").read_text())
        padding = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None}
        read["padding"] = padding | {"pad_id": 7, "pad_type_id": 0, "pad_token": "at"}
        (folder / "tokenizer.json").write_text(json.dumps(read))
    if source != "vocabulary":
        (folder / "config.json").write_text(json.dumps({"pad_token_id": 5}))
    pad_id = {"tokenizer.json": 7, "config.json": 5, "vocabulary": 0}[source]
    assert tokens_of(folder, one(b"bread"))["input_ids"].tolist() == [2, VOCABULARY["bread"], 3, *[pad_id] * 5]


def test_tokenizer_without_padding_is_refused(folder: Path) -> None:
    write_tokenizer(folder, {("[no]" if word == "[PAD]" else word): number for word, number in VOCABULARY.items()})
    (folder / "config.json").write_text(json.dumps({"pad_token_id": None}))
    assert "says which token pads short texts; set pad_token_id in the second" in fault(folder)


@pytest.mark.parametrize(("shape", "least"), [((1,), 3), ((2,), 4)])
def test_room_for_more_than_special_tokens_is_needed(shape: tuple[int, ...], least: int, folder: Path) -> None:
    for count in (least - 1, least):
        tokens = tuple(TensorSpec(spec.name, "INT64", (count,)) for spec in TOKENS)
        if count < least:
            said = fault(folder, shape=shape, tokens=tokens)
            assert f"token_count is {count}, and this tokenizer adds {count} tokens to each request" in said
        else:
            assert len(tokens_of(folder, one(*[b"a"] * shape[0]), tokens=tokens)["input_ids"]) == least


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": (TensorSpec("x", "FP32", (1,)),)}, "takes one input of texts, and model.toml declares ['x']"),
        ({"shape": (3,)}, "declare one with datatype BYTES and shape [1]"),
        ({"tokens": ()}, "its network takes ['sentence']; token ids go in as"),
        ({"tokens": TOKENS[1:]}, "declare those, INT64 of one shape [token_count]"),
        ({"tokens": (TensorSpec("input_ids", "INT32", (8,)), *TOKENS[1:])}, '"input_ids" is declared INT32[8]'),
        ({"parameters": {"token_count": 9}}, 'token_count is 9, and "input_ids" is declared with 8; leave'),
        ({"parameters": {"package": "no_such_package"}}, "is no installed package"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], said: str, folder: Path) -> None:
    assert said in fault(folder, **changes)


def test_other_threads_go_on_while_a_long_text_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer lets go of the GIL: the event loop is not held up."""
    monkeypatch.setattr("symphony.execution.tokens.TEXT_BYTES_PER_TOKEN", 1 << 19)
    made = loaded(folder)
    text = one(b"train six bread " * (1 << 18))
    gaps = []
    is_done = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not is_done.is_set():
            time.sleep(0.001)
            gaps.append(time.perf_counter() - last)
            last += gaps[-1]

    ticking = threading.Thread(target=tick)
    ticking.start()
    began = time.perf_counter()
    made.preprocess({"sentence": text})
    took = time.perf_counter() - began
    is_done.set()
    ticking.join()
    assert max(gaps) < took / 2 and len(gaps) > 20


def test_processes_that_only_tokenise_need_no_torch(folder: Path) -> None:
    """They start in a moment."""
    source = "import sys; import symphony.execution.tokens; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=60).returncode == 0


VARYING = tuple(TensorSpec(spec.name, "INT64", (-1,)) for spec in TOKENS)


def test_as_many_tokens_as_the_text_has_where_their_number_varies(folder: Path) -> None:
    """And no more than the longest bucket holds; padding is left to the node."""
    fixed = tokens_of(folder, np.array([b"the train leaves"], dtype=object))
    varying = tokens_of(
        folder, np.array([b"the train leaves"], dtype=object), processing=processing(VARYING), length_buckets=(4, 8)
    )
    count = int(fixed["attention_mask"].sum())
    assert {len(row) for row in varying.values()} == {count}
    assert all(np.array_equal(varying[name], fixed[name][:count]) for name in varying)
    long = tokens_of(
        folder, np.array([b"six " * 300], dtype=object), processing=processing(VARYING), length_buckets=(4, 8)
    )
    assert {len(row) for row in long.values()} == {8}


def test_padding_of_the_node_must_be_the_tokenizers(folder: Path) -> None:
    wrong = tuple(TensorSpec(spec.name, "INT64", (-1,), pad=3.0) for spec in TOKENS)
    said = fault(folder, processing=processing(wrong), length_buckets=(4, 8))
    assert '"input_ids" is padded with 3, and this tokenizer pads with' in said and "set pad = " in said
