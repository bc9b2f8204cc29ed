"""The page in a real browser: it loads, streams, pauses, zooms, exports, reads in light and dark and on a phone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.dashboard.chromium import Page, browser, find_chromium
from tests.server.conftest import Running, write_echo

HOUR = (Path(__file__).parent / "hour.js").read_text()
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
MISSING = Path(__file__).parents[2] / ".tools" / "chromium" / "missing"
pytestmark = [
    pytest.mark.sockets,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_chromium() is None,
        reason=MISSING.read_text().strip() if MISSING.exists() else "no Chromium: tests/tools/fetch_chromium.sh",
    ),
]


@pytest_asyncio.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """Return a tab; the console must have stayed clean at the end."""
    async with browser(tmp_path / "browser") as page:
        yield page
        assert page.errors == []


async def load(node: Running, stop: asyncio.Event) -> None:
    """Ask both models for something until told to stop."""
    number = 0
    while not stop.is_set():
        await asyncio.gather(*(node.infer(number, model) for model in ("echo", "other") for _ in range(4)))
        number += 1
        await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def node(tmp_path: Path, run_node: Callable[..., Any]) -> AsyncIterator[Running]:
    """Run a node with two models, one of whose batches all fail, under some load."""
    write_echo(tmp_path / "models", slo_ms=200)
    write_echo(tmp_path / "models", name="other", slo_ms=200, emulated_extra="fail_every = 1")
    async with run_node("4xemulated") as running:
        stop = asyncio.Event()
        loading = asyncio.create_task(load(running, stop))
        yield running
        stop.set()
        await loading


async def test_page_loads_streams_and_says_which_model_hurts(page: Page, node: Running) -> None:
    await page.open(f"{node.url}/dashboard")
    await page.until("document.getElementById('link').textContent === 'live'")
    await page.until("store.bars.total > 50 && store.times.length > 3")
    await page.until("document.querySelectorAll('#rows tr').length === 2")
    await page.until("document.querySelector('#verdict').textContent.includes('other hurts')")
    assert await page.evaluate("document.querySelector('#rows tr .why').textContent.includes('batches fail')")
    await page.until("document.querySelectorAll('#events li').length > 2")
    for chart in ("good", "bad", "gpus", "queue", "sizes"):
        assert await page.evaluate(f"charts.plots.{chart}.data[0].length > 0"), chart
    first = await page.evaluate("store.bars.total")
    await page.until(f"store.bars.total > {first}")
    assert await page.evaluate("[...store.models.values()].map((model) => model.name).sort().join()") == "echo,other"


async def test_page_is_used_by_keyboard(page: Page, node: Running) -> None:
    """Pause stands still while bars go on being collected; zoom, pan, one model alone, live again, themes, help."""
    await page.open(f"{node.url}/dashboard")
    await page.until("store.bars.total > 20")
    await page.key(" ")
    assert (
        await page.evaluate("[timeline.isLive, document.getElementById('link').textContent].join()") == "false,paused"
    )
    end, total = await page.evaluate("timeline.end"), await page.evaluate("store.bars.total")
    await page.until(f"store.bars.total > {total}")
    assert await page.evaluate("timeline.end") == end
    view = await page.evaluate("timeline.view")
    await page.key("+")
    assert await page.evaluate("timeline.view") == view / 2
    await page.key("ArrowLeft")
    assert await page.evaluate("timeline.end") < end
    await page.until("store.busiest(CHART_MODELS_MAX).length > 0")
    await page.key("1")
    assert await page.evaluate("document.querySelectorAll('[aria-selected=true]').length") == 1
    await page.key("0")
    assert await page.evaluate("timeline.alone") is None
    await page.key("l")
    assert await page.evaluate("timeline.isLive")
    before = await page.evaluate("document.documentElement.dataset.theme")
    await page.key("t")
    assert {before, await page.evaluate("document.documentElement.dataset.theme")} == {"light", "dark"}
    await page.key("?")
    assert await page.evaluate("document.getElementById('keys').open")
    unnamed = "[...document.querySelectorAll('button')].filter((b) => !b.textContent.trim() && !b.ariaLabel).length"
    assert await page.evaluate(unnamed) == 0


async def test_export_is_a_trace_that_perfetto_opens(page: Page, node: Running) -> None:
    await page.open(f"{node.url}/dashboard")
    await page.until("store.bars.total > 30")
    trace = json.loads(await page.evaluate("JSON.stringify(traceOf(store))"))
    slices = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert names == {f"emulated:{gpu}" for gpu in range(4)}
    assert len(slices) > 30 and {event["name"] for event in slices} == {"echo", "other"}
    assert all(event["dur"] > 0 and event["ts"] >= 0 and event["args"]["requests"] > 0 for event in slices)


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_text_can_be_read_in_either_theme(theme: str, page: Page, node: Running) -> None:
    """The system's wish is followed, and what is written keeps a contrast of 4.5 to what it is written on."""
    await page.open(f"{node.url}/dashboard", theme=theme)
    await page.until("store.bars.total > 20")
    assert await page.evaluate("document.documentElement.dataset.theme") == theme
    poor = await page.evaluate(CONTRAST)
    assert poor == []


async def test_page_fits_a_phone(page: Page, node: Running) -> None:
    await page.open(f"{node.url}/dashboard", width=390, height=844, scale=2)
    await page.until("store.bars.total > 20 && charts.plots.good")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    small = "[...document.querySelectorAll('button')].filter((b) => b.offsetWidth && b.offsetHeight < 24).length"
    assert await page.evaluate(small) == 0


async def test_page_finds_its_node_again(tmp_path: Path, page: Page, run_node: Callable[..., Any]) -> None:
    write_echo(tmp_path / "models")
    async with run_node() as node:
        await page.open(f"{node.url}/dashboard")
        await page.until("store.isKnown")
        await page.evaluate("source.close(), source.onerror()")
        assert await page.evaluate("document.getElementById('link').dataset.state") == "lost"
        await page.until("document.getElementById('link').dataset.state === 'live'")


async def test_page_stays_smooth_and_small_for_an_hour_of_64_gpus(page: Page, node: Running) -> None:
    """Five minutes and an hour of 1,250 batches a second take the same memory, and drawing keeps up with the stream."""
    await page.open(f"{node.url}/dashboard")
    await page.until("store.isKnown")
    await page.evaluate(HOUR)

    async def heap_bytes() -> int:
        await page.call("HeapProfiler.collectGarbage")
        return int((await page.call("Runtime.getHeapUsage"))["usedSize"])

    early = await heap_bytes()
    await page.evaluate("hour.play(1200, 14300, false)")
    await page.evaluate("hour.play(14300, 14400, true)")
    late = await heap_bytes()
    draws = await page.evaluate("hour.draws()")
    frames = sorted(await page.evaluate("hour.took"))
    median, worst = frames[len(frames) // 2], frames[-1]
    print(f"heap {early / 1e6:.1f} MB after 5 minutes, {late / 1e6:.1f} MB after an hour")
    print("timeline of 2, 10, 60 s drawn in", ", ".join(f"{ms:.1f}" for ms in draws), "ms")
    print(f"a frame of news taken in and shown in {median:.1f} ms, {worst:.1f} at most")
    assert await page.evaluate("store.bars.total") > 4_000_000
    assert late < early + 12_000_000
    assert draws[0] < 33 and draws[1] < 50
    assert median < 125, "half of the time between two frames"
