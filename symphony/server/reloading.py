"""Follow files that may change while a node serves: keys, certificate. What is wrong leaves the old ones in use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from symphony.config import KeyConfig, parse_keys
from symphony.errors import ConfigError

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
KEYS_BYTES_MAX = 4 << 20


class Followed(NamedTuple):
    """Files that belong together: `what` they are to people, and what to call with `reload` when one has changed.

    `reload` runs on the asyncio thread and raises ConfigError for what cannot be used.
    """

    what: str
    files: Sequence[Path]
    reload: Callable[[], None]


class Reloader:
    """Look for changes once a second, and at once when told."""

    def __init__(self, followed: Sequence[Followed]) -> None:
        self._followed = followed
        self._seen = [stamps(item.files) for item in followed]
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        if self._followed:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    def reload(self) -> None:
        """Read everything again, changed or not."""
        for index, item in enumerate(self._followed):
            self._seen[index] = stamps(item.files)
            try:
                item.reload()
                _log.info("read %s again", item.what)
            except ConfigError as error:
                _log.error("%s; the old %s stay in use", error, item.what)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            found = await asyncio.to_thread(lambda: [stamps(item.files) for item in self._followed])
            if found != self._seen:
                self.reload()


def stamps(files: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """Return what changes when a file does; None for one that cannot be looked at."""
    found: list[tuple[int, int, int] | None] = []
    for file in files:
        try:
            status = file.stat()
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        except OSError:
            found.append(None)
    return found


def read_keys(file: Path) -> tuple[KeyConfig, ...]:
    """Return the keys in the file; raise ConfigError when it cannot be read or used."""
    try:
        if file.stat().st_size > KEYS_BYTES_MAX:
            raise ConfigError(f"{file} has more than {KEYS_BYTES_MAX} bytes: this is no keys.toml")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"cannot read the keys in {file}: {reason}; make one with `symphony keys new`") from None
    return parse_keys(text, str(file))
