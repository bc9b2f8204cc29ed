"""`symphony top` shows what the stream says, once or until it is ended, and says what is wrong when it cannot."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from symphony.cli.top import draw, messages
from symphony.dashboard import View
from symphony.dashboard.sampler import NODE_FIELDS, ROW_FIELDS
from symphony.errors import ConfigError
from tests.server.conftest import write_echo

HELLO = {
    "hello": {"version": "0.1.0", "policy": "deferred"},
    "t": 0,
    "fields": {"rows": ROW_FIELDS, "node": NODE_FIELDS},
    "gpu_names": ["cuda:0", "cuda:1"],
    "models": [[1, "resnet", "1", 50.0, 16, "READY", ""], [2, "bert", "1", 90.0, 16, "LOADING", "profiling"]],
    "rows": [[1, *[0] * 12]],
}
NEWS = {
    "t": 1_000_000,
    "health": "",
    "node": [2, 1, 0, 1, 2.5, 1.0, 4, 100],
    "gpus": [1_000, 1, 2, 0, 3, 0],
    "rows": [[1, 90, 0, 10, 0, 0, 0, 7, 9, 10, 90, 500_000, 42_000]],
    "reasons": [[1, "dropped", "would_miss", 10]],
    "events": [[900_000, "gpu", "lost", 0, 1]],
}


def drawn(*said: dict[str, Any], width: int = 140) -> str:
    view = View()
    for message in said:
        view.apply(message)
    console = Console(width=width, record=True, file=Path("/dev/null").open("w"), color_system=None)  # noqa: SIM115
    console.print(draw(view))
    return console.export_text()


def test_screen_says_which_gpus_work_which_model_hurts_and_why() -> None:
    text = drawn(HELLO, NEWS)
    assert "goodput 90/s of 100/s   bad 10.0%   GPUs 1 in use of 2, load needs 2.5   queue 7" in text
    assert "cuda:0 ███ 100%" in text and "cuda:1 ✕✕✕" in text
    (row,) = [line for line in text.splitlines() if line.startswith("resnet v1")]
    assert row.split() == ["resnet", "v1", "50", "42.0", "100", "90", "10.0%", "7", "9.0", "0.50", "would_miss"]
    assert "loading: profiling" in text
    assert "cuda:1  lost" in text


def test_unknown_parts_of_a_message_are_ignored() -> None:
    assert "resnet" in drawn(HELLO, NEWS | {"later": 1, "node": [*NEWS["node"], 99]})


@pytest.mark.parametrize("url", ["ftp://a", "http://"])
def test_url_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ConfigError, match="expected something like"):
        next(messages(url))


@pytest.mark.sockets
def test_node_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot watch http://127\.0\.0\.1:1: .*is a node running"):
        next(messages("http://127.0.0.1:1"))


@pytest.mark.sockets
@pytest.mark.slow
async def test_top_once_prints_a_running_node(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_echo(tmp_path / "models")
    async with run_node("2xemulated") as node:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "symphony.cli.main",
            "top",
            "--once",
            "--url",
            node.url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printing = asyncio.create_task(process.communicate())
        while not printing.done():
            await asyncio.gather(*(node.infer(number) for number in range(4)))
            await asyncio.sleep(0.05)
        text = (await printing)[0].decode()
        assert process.returncode == 0, text
        assert "echo v1" in text and "emulated:1" in text and "goodput 0/s" not in text
