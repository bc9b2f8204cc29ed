"""Take the pictures of docs/dashboard.md anew: python -m tests.dashboard.pictures [FOLDER] (a minute; needs Chromium).

A node with emulated models is asked by `symphony bench`: within what its GPUs can serve, then beyond it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from symphony.config import NodeConfig, parse_devices
from symphony.server.front import Front
from symphony.server.node import Node
from tests.dashboard.chromium import Page, browser
from tests.server.conftest import write_echo

MODELS = {
    "resnet50": (100, 2.0, 10.0),
    "whisper_tiny": (300, 6.0, 30.0),
    "minilm": (80, 0.8, 8.0),
    "ranker": (50, 0.5, 5.0),
}
"""SLO, alpha and beta in milliseconds."""
SETTLE_S = 40.0


@contextlib.asynccontextmanager
async def loaded(folder: Path, devices: str, rate: float, shares: dict[str, float]) -> AsyncIterator[str]:
    """Run a node under load; yield its address once the load has settled."""
    for name, (slo_ms, alpha_ms, beta_ms) in MODELS.items():
        write_echo(folder, name, slo_ms=slo_ms, alpha_ms=alpha_ms, beta_ms=beta_ms, emulated_extra="jitter = 0.02")
    config = NodeConfig(port=0, repository=folder, devices=parse_devices(devices))
    node = Node(config, lambda error: sys.exit(str(error)))
    front = await Front.open(node, config)
    await node.start()
    url = f"http://127.0.0.1:{front.port}"
    flags = [part for name, share in shares.items() for part in ("--model", f"{name}={share}")]
    command = ["-m", "symphony.cli.main", "bench", url, *flags, "--rate", str(rate), "--duration-s", "120", "--quiet"]
    quiet = asyncio.subprocess.DEVNULL
    load = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=quiet, stderr=quiet)
    try:
        await asyncio.sleep(SETTLE_S)
        yield url
    finally:
        load.terminate()
        await load.wait()
        await node.stop()
        await front.close()


async def show(page: Page, url: str, file: Path, width: int, height: int, theme: str, scale: int = 1) -> None:
    """Open the dashboard, let it run for a moment, and take its picture."""
    await page.open(url + "/dashboard", width, height, theme, scale)
    await page.until("store.times.length > 10 && charts.plots.sizes")
    await asyncio.sleep(7)
    await page.picture(file)


async def main(out: Path) -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        async with browser(Path(folder) / "browser") as page:
            even = {"resnet50": 4, "whisper_tiny": 1, "minilm": 4, "ranker": 3}
            async with loaded(Path(folder) / "good", "8xemulated", 330, even) as url:
                await show(page, url, out / "dashboard-light.png", 1440, 1240, "light")
                await page.evaluate("timeline.setLive(false), timeline.zoom(0.04, 0.6)")
                await page.picture(out / "dashboard-zoomed.png", "section.panel")
                await show(page, url, out / "dashboard-phone.png", 390, 844, "light", 2)
                await page.call("Page.navigate", url="about:blank")
            uneven = {"resnet50": 12, "whisper_tiny": 1, "minilm": 2, "ranker": 2}
            async with loaded(Path(folder) / "bad", "3xemulated", 1250, uneven) as url:
                await show(page, url, out / "dashboard-dark.png", 1440, 1240, "dark")
        assert page.errors == [], page.errors


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    target.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(target))
