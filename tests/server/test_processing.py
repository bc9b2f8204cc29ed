"""Processing: it runs beside the event loop, its time counts, and whatever its code does concerns its request alone."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.client import AsyncClient
from symphony.errors import Reason, SymphonyError
from symphony.wire import InferRequest, decode_response, encode_request
from tests.server.conftest import write_echo

pytestmark = pytest.mark.sockets
ROOT = Path(__file__).parents[2]

MODEL = """
name = "words"
slo_ms = {slo_ms}
max_batch_size = {size_max}
format = "emulated"
run_timeout_ms = {run_timeout_ms}
[[inputs]]
name = "text"
datatype = "BYTES"
shape = [1]
[[outputs]]
name = "answer"
datatype = "BYTES"
shape = [1]
[processing]
entry = "words.py:Words"
kind = "{kind}"
worker_count = {worker_count}
[[processing.inputs]]
name = "number"
datatype = "FP32"
shape = [2]
[[processing.outputs]]
name = "echo"
datatype = "FP32"
shape = [2]
[emulated]
alpha_ms = 0.5
beta_ms = 2.0
"""

CODE = """
import os
import time

import numpy as np


class Words:
    def load(self, folder, parameters):
        self.prefix = (folder / "prefix.txt").read_text()

    def preprocess(self, inputs):
        text = inputs["text"][0].decode()
        if text == "bad":
            raise ValueError("bad is no number")
        if text == "broken":
            raise KeyError("no luck")
        if text == "shape":
            return {"number": np.zeros(3, np.float32)}
        if text == "hang":
            time.sleep(3)
        if text == "die":
            os._exit(3)
        if text == "exit":
            raise SystemExit(4)
        if text.startswith("sleep"):
            time.sleep(0.15)
            text = text[5:]
        return {"number": np.array([float(text), 0], np.float32)}

    def postprocess(self, outputs):
        value = float(outputs["echo"][0])
        if value == 13:
            raise RuntimeError("thirteen")
        if value == 14:
            return {}
        return {"answer": np.array([f"{self.prefix}{value:g}".encode()], dtype=object)}
"""


def write_words(root: Path, **values: Any) -> None:
    """Write a model that reads a number from a text and answers with a text."""
    folder = root / "words"
    folder.mkdir(parents=True)
    defaults = {"slo_ms": 500, "run_timeout_ms": 10_000, "kind": "threads", "worker_count": 3, "size_max": 1}
    settings = defaults | values  # a batch of one does not wait for another request
    (folder / "model.toml").write_text(MODEL.format(**settings))
    (folder / "words.py").write_text(CODE)
    (folder / "prefix.txt").write_text("it is ")


async def ask(node: Any, text: str) -> tuple[int, Any]:
    """Return the status and the answer or the error's body."""
    encoded = encode_request(InferRequest(inputs={"text": np.array([text.encode()], dtype=object)}))
    async with node.session.post(
        f"{node.url}/v2/models/words/infer",
        data=b"".join(encoded.parts),
        headers={"Content-Type": encoded.content_type},
    ) as reply:
        body = await reply.read()
        if reply.status != 200:
            return reply.status, body
        return 200, decode_response(body, reply.headers["Content-Type"]).outputs["answer"].reshape(-1)[0]


@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
async def test_each_request_is_processed_before_and_after_its_batch(
    kind: str, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_words(tmp_path / "models", kind=kind, slo_ms=20_000, size_max=16)
    async with run_node() as node:
        answers = await asyncio.gather(*(ask(node, str(number)) for number in range(20, 60)))
        assert answers == [(200, f"it is {number}".encode()) for number in range(20, 60)]
        await node.assert_at_rest()


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("bad", 400, b"its inputs cannot be read: bad is no number"),
        ("broken", 500, b"preprocess failed: KeyError: 'no luck'"),
        ("shape", 500, b'preprocess returned \\"number\\" as float32[3]; model.toml declares FP32[2]'),
        ("exit", 500, b"preprocess failed: RuntimeError: SystemExit(4)"),
        ("13", 500, b"postprocess failed: RuntimeError: thirteen"),
        ("14", 500, b'postprocess returned no \\"answer\\"'),
    ],
)
async def test_what_goes_wrong_is_said_to_its_request_alone(
    text: str, status: int, said: bytes, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_words(tmp_path / "models")
    async with run_node() as node:
        for _ in range(4):
            found, body = await ask(node, text)
            assert found == status and said in body, body
            assert await ask(node, "7") == (200, b"it is 7")
        await node.assert_at_rest()


async def test_step_that_hangs_fails_after_its_limit_and_the_pool_goes_on(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """What waited behind it is done by the new workers."""
    write_words(tmp_path / "models", run_timeout_ms=200, worker_count=1, slo_ms=5_000)
    async with run_node() as node:
        hanging = asyncio.create_task(ask(node, "hang"))
        await asyncio.sleep(0.05)
        behind = [asyncio.create_task(ask(node, str(number))) for number in range(5)]
        status, body = await hanging
        assert status == 500 and b"ran longer than run_timeout_ms = 200 ms" in body
        assert [await task for task in behind] == [(200, f"it is {number}".encode()) for number in range(5)]
        await node.assert_at_rest()


@pytest.mark.slow
async def test_process_that_dies_takes_only_its_request_with_it(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_words(tmp_path / "models", kind="processes", slo_ms=30_000, worker_count=1)
    async with run_node() as node:
        assert await ask(node, "1") == (200, b"it is 1")
        status, body = await ask(node, "die")
        assert status == 500 and b"lost its worker 2 times" in body
        assert await ask(node, "2") == (200, b"it is 2")
        await node.assert_at_rest()


@pytest.mark.slow
@pytest.mark.parametrize("worker_count", [1, 2])
async def test_request_that_kills_its_process_does_not_take_others_with_it(
    worker_count: int, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Those that ran beside it or waited behind it, which are more than the pool is given at once, are answered."""
    write_words(tmp_path / "models", kind="processes", slo_ms=30_000, worker_count=worker_count)
    async with run_node() as node:
        texts = ["20", "21", "die", *(f"{number}" for number in range(22, 30)), "die", "30"]
        answers = await asyncio.gather(*(ask(node, text) for text in texts))
        for text, (status, answer) in zip(texts, answers, strict=True):
            if text == "die":
                assert status == 500 and b"preprocess lost its worker 2 times" in answer
            else:
                assert (status, answer) == (200, f"it is {text}".encode())
        await node.assert_at_rest()


@pytest.mark.slow
async def test_killed_process_loses_no_request_and_the_pool_recovers(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """`kill -9` of one of two while both work and others wait: each is answered once, and two processes are left."""
    write_words(tmp_path / "models", kind="processes", slo_ms=30_000, worker_count=2)
    async with run_node() as node:
        assert await ask(node, "1") == (200, b"it is 1")
        for round_ in range(2):
            texts = [f"{20 + 12 * round_ + number}" for number in range(12)]
            asked = [asyncio.create_task(ask(node, f"sleep{text}")) for text in texts]
            await asyncio.sleep(0.25)
            assert not all(task.done() for task in asked)
            victim = multiprocessing.active_children()[0]
            assert victim.pid is not None
            os.kill(victim.pid, signal.SIGKILL)
            answers = await asyncio.gather(*asked)
            assert answers == [(200, f"it is {text}".encode()) for text in texts]
            victim.join(5)
            assert victim.exitcode == -signal.SIGKILL
        metrics = await node.metrics()
        assert metrics["symphony_requests_total{model=words,outcome=good,reason=,version=1}"] == 25
        await node.assert_at_rest()
        assert await ask(node, "2") == (200, b"it is 2")
        await until_count(multiprocessing.active_children, 2)
    await until_count(multiprocessing.active_children, 0)


async def until_count(things: Callable[[], list[Any]], count: int) -> None:
    """Wait until there are so many of them, five seconds at most."""
    end = asyncio.get_running_loop().time() + 5
    while len(things()) != count:
        assert asyncio.get_running_loop().time() < end, f"{things()}: there should be {count}"
        await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_process_killed_again_and_again_ends_each_request_with_the_reason(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Who lost two workers is told so; nobody is left without an answer; afterwards the pool serves."""
    write_words(tmp_path / "models", kind="processes", slo_ms=30_000, worker_count=2)
    async with run_node() as node:
        assert await ask(node, "1") == (200, b"it is 1")
        asked = [asyncio.create_task(ask(node, f"sleep{number}")) for number in range(20, 30)]
        killed = 0
        while not all(task.done() for task in asked):
            await asyncio.sleep(0.3)
            for victim in multiprocessing.active_children()[:1] if killed < 6 else []:
                assert victim.pid is not None
                os.kill(victim.pid, signal.SIGKILL)
                killed += 1
        answers = [task.result() for task in asked]
        lost = [body for status, body in answers if status == 500]
        assert lost and all(b"lost its worker 2 times" in body for body in lost)
        for number, answer in enumerate(answers, 20):
            assert answer[0] == 500 or answer == (200, f"it is {number}".encode())
        assert await ask(node, "2") == (200, b"it is 2")
        await node.assert_at_rest()


async def test_deadline_that_passes_before_a_worker_is_free_is_said(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_words(tmp_path / "models", slo_ms=60, worker_count=1)
    async with run_node() as node:
        answers = await asyncio.gather(*(ask(node, f"sleep{number}") for number in range(4)))
        statuses = [status for status, _ in answers]
        assert 504 in statuses and 200 not in statuses[1:]
        assert any(b"the deadline passed before preprocess began" in body for status, body in answers if status == 504)
        await node.assert_at_rest()


async def test_requests_that_hang_one_after_another_do_not_fail_what_waits_behind_them(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """The workers are given up three times before those behind begin; that is not held against them."""
    write_words(tmp_path / "models", run_timeout_ms=60, worker_count=1, slo_ms=5_000)
    async with run_node() as node:
        texts = ["hang"] * 3 + [f"{number}" for number in range(20, 26)]
        answers = await asyncio.gather(*(ask(node, text) for text in texts))
        assert [status for status, _ in answers] == [500] * 3 + [200] * 6
        await node.assert_at_rest()


async def test_other_models_are_answered_while_one_is_processed(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_words(tmp_path / "models", slo_ms=5_000)
    write_echo(tmp_path / "models", slo_ms=1_000)
    async with run_node() as node:
        slow = [asyncio.create_task(ask(node, f"sleep{number}")) for number in range(6)]
        for number in range(4):
            assert (await node.infer(number))[0] == 200
        assert not any(task.done() for task in slow[3:])
        assert [status for status, _ in await asyncio.gather(*slow)] == [200] * 6


async def test_client_that_goes_away_during_processing_leaves_nothing(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_words(tmp_path / "models", slo_ms=5_000, worker_count=2)
    async with run_node() as node:
        tasks = [asyncio.create_task(ask(node, f"sleep{number}")) for number in range(8)]
        await asyncio.sleep(0.08)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.8)
        await node.assert_at_rest()
        assert (await ask(node, "3")) == (200, b"it is 3")


async def test_code_that_cannot_be_used_leaves_the_model_unavailable_with_the_reason(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_words(tmp_path / "models")
    (tmp_path / "models" / "words" / "words.py").write_text("class Words: pass")
    async with run_node() as node:
        status, body = await ask(node, "1")
        assert status == 503 and b"has neither preprocess nor postprocess" in body


async def test_model_metadata_shows_what_clients_send(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Not what the network takes."""
    write_words(tmp_path / "models")
    async with run_node() as node, node.session.get(f"{node.url}/v2/models/words") as reply:
        found = await reply.json()
        assert [tensor["name"] for tensor in found["inputs"] + found["outputs"]] == ["text", "answer"]


async def test_pictures_are_read(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """The example: PNG and JPEG files of held-out digits, enlarged, and a file that is none."""
    image = pytest.importorskip("PIL.Image")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    shutil.copytree(ROOT / "examples" / "models" / "digits_png", tmp_path / "models" / "digits_png")
    async with run_node("cpu", profile_budget_s=0.2) as node, AsyncClient(node.url) as client:

        async def read(number: int) -> bool:
            pixels = np.asarray(digits.images[number] * 255 / 16).astype(np.uint8)
            file = io.BytesIO()
            picture = image.fromarray(pixels).resize((64, 64), image.Resampling.NEAREST)
            picture.save(file, "PNG" if number % 2 else "JPEG", **({} if number % 2 else {"quality": 95}))
            outputs = (await client.infer("digits_png", picture_of(file.getvalue()), timeout_ms=5000)).outputs
            assert 0.1 <= float(outputs["confidence"].reshape(-1)[0]) <= 1.0
            return bool(int(outputs["digit"].reshape(-1)[0]) == digits.target[number])

        # Together: a lone request may wait for company until its deadline.
        assert sum(await asyncio.gather(*(read(number) for number in range(40)))) >= 38
        with pytest.raises(SymphonyError, match="file is no PNG or JPEG picture") as caught:
            await client.infer("digits_png", picture_of(b"no picture"), timeout_ms=5000)
        assert caught.value.reason is Reason.BAD_INPUT
        await node.assert_at_rest()


def picture_of(data: bytes) -> dict[str, np.ndarray]:
    return {"file": np.array([data], dtype=object)}
