"""`symphony top`: watch a node in a terminal."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from symphony.dashboard import View
from symphony.errors import ConfigError

LINE_BYTES_MAX = 16 << 20
CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 10.0
"""A node that says nothing for so long is gone."""
RETRY_EVERY_S = 1.0
GPU_COUNT_SHOWN_MAX = 64
EVENT_COUNT_SHOWN = 8
ONCE_FRAMES = 8
"""With --once: so many messages are awaited, for rates over some two seconds."""
BLOCKS = " ▁▂▃▄▅▆▇█"
GPU_STYLES = {"idle": "dim", "busy": "green", "slow": "yellow", "quarantined": "red reverse"}
EVENT_STYLES = {"drop": "yellow", "fault": "red", "gpu": "red", "leader": "magenta", "load": "cyan", "model": "blue"}


@click.command("top")
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="The node.")
@click.option("--once", is_flag=True, help="Print the figures of the next two seconds, and end.")
def top_command(url: str, once: bool) -> None:
    """Show the essentials of a running node: which GPUs work, which model hurts, and why. Ctrl-C ends it."""
    console = Console()
    if once:
        view = View()
        for count, message in enumerate(messages(url), 1):
            view.apply(message)
            if count >= ONCE_FRAMES:
                break
        console.print(draw(view))
        return
    try:
        with Live(console=console, screen=console.is_terminal, refresh_per_second=4) as live:
            watch(url, live)
    except KeyboardInterrupt:
        sys.exit(0)


def watch(url: str, live: Live) -> None:
    """Draw each message; connect again when the node goes away. Raise ConfigError if it was never there."""
    was_there = False
    while True:
        view = View()
        try:
            for message in messages(url):
                view.apply(message)
                was_there = True
                live.update(draw(view))
        except ConfigError as error:
            if not was_there:
                raise
            live.update(Group(draw(view), Text(f"{error}; trying again", style="red")))
        time.sleep(RETRY_EVERY_S)


def messages(url: str) -> Iterator[dict[str, Any]]:
    """Yield the messages of the node's stream until it ends; raise ConfigError when it cannot be had."""
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url is {url!r}, expected something like http://127.0.0.1:8000")
    make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = make(parts.hostname, parts.port, timeout=CONNECT_TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/dashboard/stream", headers={"Accept": "text/event-stream"})
        if connection.sock is not None:
            connection.sock.settimeout(SILENCE_S)
        reply = connection.getresponse()
        if reply.status != 200:
            raise ConfigError(f"{url} answered {reply.status}: {reply.read(512).decode(errors='replace')}")
        while line := reply.readline(LINE_BYTES_MAX):
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConfigError(f"cannot watch {url}: {error or type(error).__name__}; is a node running there?") from error
    finally:
        connection.close()


def draw(view: View) -> RenderableType:
    """Return the screen."""
    return Group(_head(view), Text(), _gpus(view), Text(), _models(view), Text(), _events(view))


def _head(view: View) -> Text:
    node = view.node
    needed = node.get("gpus_needed")
    good = sum(model.good_rate for model in view.models)
    offered = sum(model.offered_rate for model in view.models)
    text = Text.assemble(
        ("symphony ", "bold"),
        f"{view.about.get('version', '')} {view.about.get('policy', '')}   ",
        (view.health or "ready", "yellow" if view.health else "green"),
        f"   goodput {good:,.0f}/s of {offered:,.0f}/s",
    )
    bad = 1 - good / offered if offered else 0.0
    text.append(f"   bad {bad:.1%}", "red bold" if bad > 0.01 else "green")
    text.append(f"   GPUs {node.get('gpus_in_use') or 0:.0f} in use of {node.get('gpu_count') or 0:.0f}")
    if needed is not None:
        text.append(f", load needs {needed:.1f}", "red" if needed > (node.get("gpu_count") or 0) else "")
    text.append(f"   queue {sum(model.queued for model in view.models):,}")
    return text


def _gpus(view: View) -> Text:
    text = Text("GPUs  ")
    rows = list(zip(view.gpu_names, view.gpu_busy, view.gpu_states, strict=False))
    for name, busy, state in rows[:GPU_COUNT_SHOWN_MAX]:
        block = "✕" if state == "quarantined" else BLOCKS[min(8, round(busy * 8))]
        style = GPU_STYLES["idle" if state in ("idle", "busy") and not busy else state if state != "idle" else "busy"]
        if len(rows) <= 8:
            text.append(f"{name} ", "dim").append(block * 3, style).append(f" {busy:4.0%}   ")
        else:
            text.append(block, style)
    if len(rows) > GPU_COUNT_SHOWN_MAX:
        text.append(f" and {len(rows) - GPU_COUNT_SHOWN_MAX} more", "dim")
    return text


def _models(view: View) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model")
    for title in ("SLO ms", "p99 ms", "offered/s", "good/s", "bad", "queue", "batch", "GPUs"):
        table.add_column(title, justify="right")
    table.add_column("why")
    for model in view.models:
        is_bad = model.bad_rate is not None and model.bad_rate > 0.01
        is_slow = model.p99_ms > model.slo_ms
        table.add_row(
            Text(f"{model.name} v{model.version}", "bold" if is_bad else ""),
            f"{model.slo_ms:g}",
            Text(f"{model.p99_ms:.1f}", "red" if is_slow else ""),
            f"{model.offered_rate:,.0f}",
            f"{model.good_rate:,.0f}",
            Text("-" if model.bad_rate is None else f"{model.bad_rate:.1%}", "red bold" if is_bad else ""),
            f"{model.queued:,}",
            f"{model.batch_size:.1f}",
            f"{model.gpu_share:.2f}",
            Text(model.worst if model.state == "READY" else f"{model.state.lower()}: {model.reason}", "yellow"),
        )
    return table


def _events(view: View) -> Text:
    text = Text()
    for at_us, kind, words, about in list(view.events)[-EVENT_COUNT_SHOWN:]:
        ago_s = max(0.0, (view.at_us - at_us) / 1e6)
        text.append(f"{ago_s:6.0f} s ago  ", "dim").append(f"{kind:7}", EVENT_STYLES.get(kind, ""))
        text.append(f" {about}  {words}\n")
    return text
