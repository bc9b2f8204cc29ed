"""A Hugging Face encoder is served from its files alone: text goes in over HTTP, transformers' own answer comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.encoder_files import HIDDEN_SIZE, LABEL_COUNT, read_with_transformers, write_encoder

pytestmark = pytest.mark.sockets

TOKEN_COUNT = 8
TEXTS = ["the train leaves at six", "bread needs time", "", "trains", "a b c d e f g h i j k l", "größer 東京"] * 3

MODEL = """
name = "encoder"
slo_ms = 5000
max_batch_size = 4
format = "python"
entry = "symphony.execution.encoders:TextEncoder"
[[inputs]]
name = "text"
datatype = "BYTES"
shape = [1]
[[outputs]]
name = "{output}"
datatype = "FP32"
shape = [{size}]
{processing}
[parameters]
task = "{task}"
{parameters}
"""

TOKENS_BESIDE = f"""
[processing]
entry = "symphony.execution.tokens:TextTokens"
kind = "{{kind}}"
[[processing.inputs]]
name = "input_ids"
datatype = "INT64"
shape = [{TOKEN_COUNT}]
[[processing.inputs]]
name = "attention_mask"
datatype = "INT64"
shape = [{TOKEN_COUNT}]
"""


def write_model(root: Path, network: str, **values: Any) -> Any:
    """Write the encoder's files and its model.toml; return transformers' network."""
    folder = root / "encoder"
    folder.mkdir(parents=True)
    encoder = write_encoder(folder, network, num_labels=LABEL_COUNT)
    (folder / "model.toml").write_text(MODEL.format(**({"processing": "", "parameters": ""} | values)))
    return encoder


async def ask(node: Any, text: str) -> tuple[int, Any]:
    """Send one text in JSON; return the status and the output's numbers or the error's body."""
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1, 1], "data": [text]}]}
    async with node.session.post(f"{node.url}/v2/models/encoder/infer", json=body) as reply:
        answer = await reply.json()
        return reply.status, answer["outputs"][0]["data"] if reply.status == 200 else answer


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
async def test_text_tokenised_beside_the_event_loop_is_embedded(
    kind: str, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    network = write_model(
        tmp_path / "models",
        "BertModel",
        task="embedding",
        output="embedding",
        size=HIDDEN_SIZE,
        processing=TOKENS_BESIDE.format(kind=kind),
        parameters='pooling = "cls"\nnormalise = false',
    )
    async with run_node("cpu", profile_budget_s=0.2) as node:
        answers = await asyncio.gather(*(ask(node, text) for text in TEXTS))
        assert {status for status, _ in answers} == {200}
        with torch.inference_mode():
            tokens = read_with_transformers(tmp_path / "models" / "encoder", TEXTS, TOKEN_COUNT)
            expected = network(**tokens).last_hidden_state[:, 0].numpy()
        np.testing.assert_allclose([answer for _, answer in answers], expected, atol=1e-5, rtol=1e-5)
        await node.assert_at_rest()


async def test_text_tokenised_in_its_batch_is_classified(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    network = write_model(
        tmp_path / "models",
        "BertForSequenceClassification",
        task="classification",
        output="probabilities",
        size=LABEL_COUNT,
        parameters=f"token_count = {TOKEN_COUNT}",
    )
    async with run_node("cpu", profile_budget_s=0.2) as node:
        answers = await asyncio.gather(*(ask(node, text) for text in TEXTS))
        assert {status for status, _ in answers} == {200}
        with torch.inference_mode():
            tokens = read_with_transformers(tmp_path / "models" / "encoder", TEXTS, TOKEN_COUNT)
            expected = network(**tokens).logits.softmax(-1).numpy()
        np.testing.assert_allclose([answer for _, answer in answers], expected, atol=1e-5, rtol=1e-5)
        await node.assert_at_rest()


async def test_encoder_that_does_not_fit_its_declaration_is_unavailable_with_the_reason(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_model(
        tmp_path / "models",
        "BertModel",
        task="embedding",
        output="embedding",
        size=HIDDEN_SIZE + 1,
        processing=TOKENS_BESIDE.format(kind="threads"),
    )
    async with run_node("cpu", profile_budget_s=0.2) as node:
        status, body = await ask(node, "bread")
        assert status == 503 and "declared FP32[17], but the network's hidden size is 16" in body["error"], body
