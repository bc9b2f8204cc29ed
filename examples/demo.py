"""Send real sentences and images to a node over the wire and check every answer.

Starts a node on a free port unless `--url` names one, and stops it again. Ends with exit code 1 if an answer is wrong.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiohttp
import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sentences import SENTENCES, TOPIC_OF
from train_digits import MODELS, example_model, split_digits

import symphony
from symphony.config.lengths import padded
from symphony.execution.formats import load_callable
from symphony.execution.repository import read_model_config
from symphony.execution.tokens import TextTokens

READY_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
ACCURACY_MIN = 0.97
EMBEDDING_ERROR_MAX = 1e-5
LOGIT_ERROR_MAX = 1e-4
IN_FLIGHT_MAX = 24
TRY_COUNT_MAX = 20

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Check:
    """One line of the report: what was looked at, what was seen, and whether that is right."""

    what: str
    seen: str
    is_right: bool


class Sender:
    """Send requests concurrently, at most `IN_FLIGHT_MAX` at once; count them and time the answered ones."""

    def __init__(self, client: symphony.AsyncClient) -> None:
        self.client = client
        self.latencies_ms: list[float] = []
        self.refused_count = 0
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def ask(self, model: str, name: str, tensor: np.ndarray, output: str) -> np.ndarray:
        """Return one output of one request; a request refused for lack of time is sent again when the node says so."""
        async with self._slots:
            for _ in range(TRY_COUNT_MAX):
                started = time.perf_counter()
                try:
                    result = await self.client.infer(model, {name: tensor})
                except symphony.SymphonyError as error:
                    if error.retry_after_s is None:
                        raise
                    self.refused_count += 1
                    await asyncio.sleep(error.retry_after_s)
                    continue
                self.latencies_ms.append((time.perf_counter() - started) * 1e3)
                return result[output]
        raise RuntimeError(f"{model}: refused {TRY_COUNT_MAX} times in a row; is the machine busy?")


async def check_sentences(sender: Sender) -> list[Check]:
    """Embed every sentence over the wire and compare with the model called directly, and with common sense."""
    texts = [np.array([sentence.encode()], dtype=object) for sentence in SENTENCES]
    served = np.stack(await asyncio.gather(*(sender.ask("minilm", "text", text, "embedding") for text in texts)))
    worst = float(np.abs(served - embedded_directly(texts)).max())
    similarity = served @ served.T
    np.fill_diagonal(similarity, -1.0)
    nearest = [TOPIC_OF[index] for index in similarity.argmax(axis=1)]
    right_count = sum(near == own for near, own in zip(nearest, TOPIC_OF, strict=True))
    return [
        Check("embeddings equal a direct call", f"largest difference {worst:.1e}", worst <= EMBEDDING_ERROR_MAX),
        Check(
            "the nearest sentence says the same in other words",
            f"{right_count} of {len(SENTENCES)}",
            right_count == len(SENTENCES),
        ),
    ]


def embedded_directly(texts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the embeddings, float32[len(texts), 384], that the model gives without a node, all in one batch."""
    folder = MODELS / "minilm"
    config = read_model_config(folder, MODELS)
    tokens = TextTokens()
    tokens.configure(config)
    tokens.load(folder, config.parameters)
    rows = [tokens.preprocess({"text": text}) for text in texts]
    network, longest = config.network, config.length_buckets[-1]
    batch = {
        spec.name: torch.from_numpy(np.stack([padded(row[spec.name], spec, longest) for row in rows]))
        for spec in network.inputs
    }
    with torch.inference_mode():
        return load_callable(network.at_length(longest), folder, "cpu")(batch)["embedding"].numpy()


async def check_digits(sender: Sender) -> list[Check]:
    """Read the held-out images with both forms of the network; compare with the labels and with a direct call."""
    _, images, _, labels = split_digits()
    model = example_model("digits").Digits()
    model.load(MODELS / "digits", "cpu", {})
    direct = model.predict({"image": images})["logits"].numpy()
    checks = []
    for name in ("digits", "digits_export"):
        served = np.stack(await asyncio.gather(*(sender.ask(name, "image", image, "logits") for image in images)))
        accuracy = float((served.argmax(axis=1) == labels).mean())
        worst = float(np.abs(served - direct).max())
        checks += [
            Check(f"{name}: held-out images read", f"{accuracy:.1%} of {len(labels)}", accuracy >= ACCURACY_MIN),
            Check(f"{name}: logits equal a direct call", f"largest difference {worst:.1e}", worst <= LOGIT_ERROR_MAX),
        ]
    return checks


async def check_node(url: str, console: Console) -> list[Check]:
    """Run all checks against the node at `url`, and say how they went."""
    async with symphony.AsyncClient(url) as client:
        checks = []
        for title, check in (("the sentences", check_sentences), ("the images, twice", check_digits)):
            sender = Sender(client)
            checks += await timed(title, sender, check, console)
    return checks


async def timed(title: str, sender: Sender, check: Callable[[Sender], Awaitable[Answer]], console: Console) -> Answer:
    """Run one group of checks and print its latencies."""
    answer = await check(sender)
    median, p99 = np.percentile(sender.latencies_ms, [50, 99])
    console.print(f"{title}: median {median:.0f} ms, p99 {p99:.0f} ms, {sender.refused_count} refused and sent again")
    return answer


@asynccontextmanager
async def running_node(console: Console) -> AsyncIterator[tuple[str, list[Check]]]:
    """Start a node with the example models on a free port; yield its address and a list that its own check joins."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = ["serve", "--repository", str(MODELS), "--devices", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    checks: list[Check] = []
    with tempfile.TemporaryFile() as log:
        node = await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("symphony"), *arguments, stdout=log, stderr=log
        )
        try:
            with console.status("starting a node: loading, warming up and profiling the models"):
                await wait_until_ready(url, node)
            yield url, checks
        except BaseException:
            log.seek(0)
            console.print(log.read().decode(errors="replace")[-4000:], markup=False, highlight=False)
            raise
        finally:
            code = await stop(node)
        checks.append(Check("the node stops when told to", f"exit code {code}", code == 0))


async def wait_until_ready(url: str, node: asyncio.subprocess.Process) -> None:
    """Return when the node answers that it is ready; raise when it ends before that or takes too long."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            if node.returncode is not None:
                raise RuntimeError(f"the node ended with exit code {node.returncode} before it was ready")
            try:
                async with session.get(f"{url}/v2/health/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    raise TimeoutError(f"the node was not ready after {READY_TIMEOUT_S:.0f} s")


async def stop(node: asyncio.subprocess.Process) -> int:
    """Ask the node to stop, insist if it does not, and return its exit code."""
    if node.returncode is None:
        node.send_signal(signal.SIGTERM)
    try:
        return await asyncio.wait_for(node.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        node.kill()
        return await node.wait()


def report(checks: Sequence[Check], console: Console) -> None:
    """Print one line per check."""
    table = Table("check", "seen", "")
    for check in checks:
        table.add_row(check.what, check.seen, "[green]right[/]" if check.is_right else "[red]WRONG[/]")
    console.print(table)


async def run(url: str | None, console: Console) -> list[Check]:
    """Run the demo against the node at `url`, or one of its own."""
    if url is not None:
        return await check_node(url, console)
    async with running_node(console) as (own_url, own_checks):
        checks = await check_node(own_url, console)
    return checks + own_checks


@click.command()
@click.option("--url", default=None, help="A node that serves examples/models; without it the demo starts its own.")
def main(url: str | None) -> None:
    """Send real sentences and images to a node and check every answer."""
    torch.set_num_threads(1)  # the node has the other cores
    console = Console()
    checks = asyncio.run(run(url, console))
    report(checks, console)
    sys.exit(0 if all(check.is_right for check in checks) else 1)


if __name__ == "__main__":
    main()
