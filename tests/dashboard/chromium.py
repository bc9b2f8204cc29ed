"""Drive a headless Chromium over its own protocol: open a page, run scripts in it, hear its errors, take pictures."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 60.0
NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Return the browser's path, None when there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab. `errors` are what a person would see red in the console."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.errors: list[str] = []
        self._socket = socket
        self._calls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_id = 0
        self._reader = asyncio.create_task(self._read())

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; raise RuntimeError with the browser's error."""
        self._last_id += 1
        answer = asyncio.get_running_loop().create_future()
        self._calls[self._last_id] = answer
        await self._socket.send_json({"id": self._last_id, "method": method, "params": parameters})
        async with asyncio.timeout(CALL_TIMEOUT_S):
            reply = await answer
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return reply["result"]

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, waiting for promises; raise RuntimeError if it throws."""
        reply = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in reply:
            raise RuntimeError(f"{expression}: {reply['exceptionDetails']}")
        return reply["result"].get("value")

    async def until(self, expression: str, timeout_s: float = 60.0) -> None:
        """Wait until the expression is true."""
        async with asyncio.timeout(timeout_s):
            while not await self.evaluate(f"Boolean({expression})"):
                await asyncio.sleep(0.1)

    async def open(self, url: str, width: int = 1440, height: int = 900, theme: str = "light", scale: int = 1) -> None:
        """Load the page in a window of this size, on a system that prefers this theme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        await self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def key(self, key: str) -> None:
        """Press and release a key, a character or a name such as ArrowLeft."""
        text = key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")

    async def picture(self, file: Path, selector: str = "") -> None:
        """Save what is seen, or the first element that `selector` finds, as PNG."""
        clip = {}
        if selector:
            box = await self.evaluate(
                f"(({{x, y, width, height}}) => ({{x, y: y + scrollY, width, height, scale: 1}}))"
                f"(document.querySelector({selector!r}).getBoundingClientRect())"
            )
            clip = {"clip": box}
        reply = await self.call("Page.captureScreenshot", format="png", **clip)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(reply["data"]))

    async def _read(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._calls.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Runtime.consoleAPICalled" and said["params"]["type"] in ("error", "warning"):
                self.errors.append(str(said["params"]["args"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] in ("error", "warning"):
                self.errors.append(str(said["params"]["entry"]))


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """Run a browser whose profile lies in `folder`, with one empty tab."""
    program = find_chromium()
    assert program is not None
    flags = ["--headless=new", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # it refuses to run as root otherwise
    process = await asyncio.create_subprocess_exec(
        program,
        *flags,
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            port = await _port(process)
            async with aiohttp.ClientSession() as session:
                tabs = await (await session.get(f"http://127.0.0.1:{port}/json")).json()
                (url,) = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0) as socket,
        ):
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            yield page
            page._reader.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # its helpers, too
        await process.wait()


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    said = b""
    while line := await process.stderr.readline():
        said += line
        if found := re.search(rb"DevTools listening on ws://127.0.0.1:(\d+)/", line):
            return int(found[1])
    raise RuntimeError(f"chromium did not start: {said[-2000:].decode(errors='replace')}")
