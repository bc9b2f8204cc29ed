"""Write down what arrives at a node: when, for which model, with how much time; never what is inside.

The file is a trace (symphony/workload/trace.py) that `symphony simulate`, `symphony plan` and `symphony bench` replay.
Requests that were refused are in it, too: they are part of the load. The asyncio thread only appends to a list; a
thread of the pool turns it into lines and writes them, a few times a second. Everything has a limit, and what is left
out for it is counted and noted at the end of the file. A file that cannot be written ends the recording, not the node.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import TextIO

from symphony.errors import ConfigError
from symphony.units import NS_PER_S
from symphony.workload import trace_line
from symphony.workload.arrivals import REQUEST_COUNT_MAX
from symphony.workload.trace import HEADER

_log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.5
WAITING_COUNT_MAX = 1_000_000
"""Requests waiting to be written; a disk that is slower than that loses some."""
FILE_COUNT_MAX = 1000
NOTE_BYTES = 256
"""Kept free for the last line."""


class Recorder:
    """One recording. Make it before the first request, run `run` as a task, and `await close()` at the end.

    `arrived` and `refused` are called on the asyncio thread.
    """

    def __init__(self, file: Path, bytes_max: int, count_max: int = REQUEST_COUNT_MAX) -> None:
        """Begin the file, or the first of FILE-1, FILE-2, ... that is not there: a restart leaves older ones alone.

        Raise ConfigError if it cannot be written.
        """
        self.count = 0
        """Requests written."""
        self.left_out_count = 0
        self._bytes_max = bytes_max - NOTE_BYTES
        self._count_max = count_max
        self._waiting: list[tuple[int, str, int]] = []
        self._began_ns = 0
        self._bytes = len(HEADER)
        self._why = ""
        self._turn = asyncio.Lock()
        self.file, self._target = _begin(file)
        _log.info("recording into %s", self.file)

    @property
    def duration_s(self) -> float:
        """Return how long ago the first request arrived, which is where the trace begins; 0 before that."""
        return (time.monotonic_ns() - self._began_ns) / NS_PER_S if self._began_ns else 0.0

    def arrived(self, model: str, at_ns: int, slo_ns: int = 0) -> None:
        """Take a request that arrived at `at_ns` of the monotonic clock; `slo_ns` 0: the model's own."""
        self._began_ns = self._began_ns or at_ns
        if self._why or len(self._waiting) >= WAITING_COUNT_MAX:
            self.left_out_count += 1
        else:
            self._waiting.append((at_ns, model, slo_ns))

    def refused(self, model: str) -> None:
        """Take a request that is refused now, unread."""
        self.arrived(model, time.monotonic_ns())

    async def run(self) -> None:
        """Write what came, a few times a second, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self._write()

    async def close(self) -> None:
        """Write the rest and what was left out, and close the file."""
        await self._write()
        if self.left_out_count:
            why = self._why or f"more than {WAITING_COUNT_MAX} requests waited to be written"
            note = f"# left out: {self.left_out_count} requests: {why}\n"
            _log.warning("%s lacks %d requests: %s", self.file, self.left_out_count, why)
        else:
            note = "# complete\n"
        try:
            self._target.write(note)
            self._target.close()
        except OSError as error:
            _log.error("cannot end %s: %s", self.file, error.strerror or error)
        _log.info("recorded %d requests in %.1f s into %s", self.count, self.duration_s, self.file)

    async def _write(self) -> None:
        async with self._turn:
            taken, self._waiting = self._waiting, []
            if taken:
                lost = await asyncio.to_thread(self._write_lines, taken)
                self.left_out_count += lost

    def _write_lines(self, taken: list[tuple[int, str, int]]) -> int:
        """Write the requests, as far as the limits go; return how many were left out. Runs in a thread of the pool."""
        lines: list[str] = []
        if self._why:
            return len(taken)
        size = self._bytes
        for at_ns, model, slo_ns in taken[: self._count_max - self.count]:
            line = trace_line(max(0, at_ns - self._began_ns), model, slo_ns)
            if size + len(line) > self._bytes_max:
                break
            size += len(line)
            lines.append(line)
        why = ""
        if len(lines) < len(taken):
            why = f"the recording reached its limit ({self.count + len(lines)} requests, {size} bytes)"
            _log.warning("%s: %s; what arrives from now on is counted only", self.file, why)
        try:
            self._target.writelines(lines)
            self._target.flush()
        except OSError as error:
            why = f"writing failed: {error.strerror or error}"
            _log.error("cannot record into %s: %s; the node serves on", self.file, why)
            lines = []
        self._why = why
        self._bytes = size
        self.count += len(lines)
        return len(taken) - len(lines)


def _begin(file: Path) -> tuple[Path, TextIO]:
    """Return a new file beginning with the header, under the name given or the next free one."""
    for number in range(FILE_COUNT_MAX):
        found = file.with_stem(f"{file.stem}-{number}") if number else file
        try:
            target = found.open("x", encoding="utf-8")
            target.write(HEADER)
            target.flush()
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"cannot record into {found}: {error.strerror or error}; name another file") from error
        return found, target
    raise ConfigError(f"cannot record into {file}: it and {FILE_COUNT_MAX - 1} more are there already; remove some")
