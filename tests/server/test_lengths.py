"""Requests of different lengths: answers are cut to their own, and a short one does not pay for a long one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.wire import InferRequest, decode_response, encode_request
from tests.server.conftest import Running

pytestmark = pytest.mark.sockets

ENCODER = """
name = "encoder"
slo_ms = {slo_ms}
max_batch_size = 16
length_buckets = [8, 32, 128]
{extra}
[[inputs]]
name = "ids"
datatype = "INT64"
shape = [-1]
pad = 7

[[inputs]]
name = "mask"
datatype = "INT64"
shape = [-1]

[[outputs]]
name = "tokens"
datatype = "INT64"
shape = [-1, 2]

[[outputs]]
name = "sum"
datatype = "INT64"
shape = []
"""
PYTHON = """
format = "python"
entry = "model.py:Encoder"
devices = ["cpu"]
warmup_count = 1
"""
CODE = """
import torch


class Encoder:
    def predict(self, batch):
        ids, mask = batch["ids"], batch["mask"]
        assert ids.shape == mask.shape and ids.shape[1] in (8, 32, 128), ids.shape
        own = ids * mask + (ids - 7) * (1 - mask)
        return {"tokens": torch.stack((ids, ids + ids.shape[1]), 2), "sum": own.sum(1)}
"""
EMULATED = """
format = "emulated"
[emulated]
alpha_ms = 4.0
beta_ms = 1.0
"""


def write_encoder(root: Path, extra: str = PYTHON, slo_ms: int = 300) -> None:
    folder = root / "encoder"
    folder.mkdir(parents=True)
    top, _, table = extra.partition("[emulated]")
    (folder / "model.toml").write_text(
        ENCODER.format(slo_ms=slo_ms, extra=top) + (f"\n[emulated]{table}" if table else "")
    )
    if extra == PYTHON:
        (folder / "model.py").write_text(CODE)


async def ask(node: Running, ids: list[int], mask: list[int] | None = None) -> tuple[int, Any]:
    inputs = {"ids": np.array(ids, np.int64), "mask": np.array([1] * len(ids) if mask is None else mask, np.int64)}
    encoded = encode_request(InferRequest(inputs=inputs))
    headers = {"Content-Type": encoded.content_type}
    url = f"{node.url}/v2/models/encoder/infer"
    async with node.session.post(url, data=b"".join(encoded.parts), headers=headers) as reply:
        data = await reply.read()
        if reply.status == 200:
            return 200, decode_response(data, reply.headers["Content-Type"]).outputs
        return reply.status, data.decode()


async def test_each_answer_is_as_long_as_its_request(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_encoder(tmp_path / "models")
    async with run_node("1xcpu") as node:
        dice = random.Random(2)

        async def check(length: int) -> None:
            ids = [dice.randrange(100, 200) for _ in range(length)]
            status, outputs = await ask(node, ids)
            assert status == 200, outputs
            bucket = next(one for one in (8, 32, 128) if one >= length)
            assert outputs["sum"] == sum(ids)
            assert outputs["tokens"].tolist() == [[one, one + bucket] for one in ids]

        await asyncio.gather(*(check(length) for length in (1, 7, 8, 9, 31, 32, 33, 127, 128)))
        await asyncio.gather(*(check(dice.randint(1, 128)) for _ in range(60)))
        await node.assert_at_rest()


@pytest.mark.parametrize(
    ("ids", "mask", "text"),
    [
        ([1] * 129, None, 'input "ids" has length 129, above 128, the longest (length_buckets); cut it'),
        ([1] * 5, [1] * 6, 'inputs differ in length: "ids" 5, "mask" 6'),
        ([], [], "has shape [0], expected [-1]"),
    ],
)
async def test_a_length_that_cannot_be_is_refused(
    ids: list[int], mask: list[int] | None, text: str, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_encoder(tmp_path / "models", EMULATED)
    async with run_node() as node:
        status, body = await ask(node, ids, mask)
        assert status == 400 and text in body.replace('\\"', '"'), body
        await node.assert_at_rest()


async def test_a_short_request_does_not_pay_for_long_ones(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """A batch holds one bucket's requests: short ones take what short ones take, whatever else is asked."""
    write_encoder(tmp_path / "models", EMULATED, slo_ms=400)
    async with run_node("2xemulated") as node:
        sizes: list[int] = []
        durations: dict[int, list[float]] = {8: [], 128: []}
        answer = node.node._answers.answer

        def watched(batch: Any) -> None:
            lengths = {request.length for request in batch.requests}
            bucket = 8 if max(lengths) <= 8 else 128
            assert all((length <= 8) == (bucket == 8) for length in lengths), f"lengths were mixed: {lengths}"
            sizes.append(len(batch.requests))
            durations[bucket].append((batch.finished_ns - batch.started_ns) / 1e6 / len(batch.requests))
            answer(batch)

        node.node._answers.answer = watched  # type: ignore[method-assign]
        asked = [ask(node, [1] * length) for length in [4] * 40 + [100] * 40]
        statuses = [status for status, _ in await asyncio.gather(*asked)]
        assert statuses.count(200) >= 60, statuses
        # alpha is 4 ms at the longest bucket, 0.25 ms at the shortest, and beta 1 ms for the batch.
        assert max(durations[8]) <= 1.5 < min(durations[128])
        await node.assert_at_rest()


async def test_metadata_says_what_varies(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_encoder(tmp_path / "models", EMULATED)
    async with run_node() as node, node.session.get(f"{node.url}/v2/models/encoder") as reply:
        found = await reply.json()
        assert found["inputs"][0]["shape"] == [-1, -1]
        assert found["outputs"][0]["shape"] == [-1, -1, 2]


async def test_the_model_is_unloaded_and_loaded_with_all_its_lanes(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_encoder(tmp_path / "models", EMULATED)
    async with run_node() as node:
        free = node.node._catalog.free_count
        for _ in range(3):
            for action in ("load", "unload", "load"):
                url = f"{node.url}/v2/repository/models/encoder/{action}"
                async with node.session.post(url, json={}) as reply:
                    assert reply.status == 200, await reply.text()
            assert [(await ask(node, [1] * length))[0] for length in (3, 20, 100)] == [200] * 3
        assert node.node._catalog.free_count == free
        await node.assert_at_rest()


async def test_a_device_that_hangs_comes_back_with_every_lane(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_encoder(tmp_path / "models", "run_timeout_ms = 60\n" + EMULATED + "hang_every = 4\n")
    async with run_node() as node:
        statuses = [(await ask(node, [1] * length))[0] for length in (3, 3, 3, 3, 100, 20, 3)]
        assert statuses.count(500) == 1 and statuses.count(200) == 6, statuses
        await node.assert_at_rest()
