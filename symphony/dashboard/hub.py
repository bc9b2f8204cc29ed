"""Make one frame of news four times a second, for all viewers, and keep no more of them than a moment's.

Frames are shared: a viewer has a position, not a buffer. One that falls behind by more than `FRAME_COUNT_MAX` frames
is skipped ahead and told the state anew. Without viewers batches are not looked at and the counters read once a second.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from symphony.dashboard.bars import Bar, thin
from symphony.dashboard.journal import Event, Journal
from symphony.dashboard.ring import BatchRecord, BatchRing
from symphony.dashboard.sampler import NODE_FIELDS, ROW_FIELDS, Sampler
from symphony.dashboard.source import Source
from symphony.errors import Reason, SymphonyError
from symphony.units import NS_PER_MS, NS_PER_US

_log = logging.getLogger(__name__)

FRAME_EVERY_S = 0.25
IDLE_EVERY_S = 1.0
"""How often the counters are read when nobody watches."""
FRAME_COUNT_MAX = 8
"""Frames kept for viewers that have not taken them yet: two seconds."""
BAR_COUNT_MAX = 1_500
"""Bars in one frame; more batches are joined. With some 35 bytes a bar: 210 kB a second at most."""
BACKLOG_COUNT_MAX = 4_000
"""Batches from before its coming that a new viewer gets."""
VIEWER_COUNT_MAX = 32
BAR_FIELDS = ("gpu", "model", "size", "start_us", "duration_us", "frontrun_us", "latest_us", "fate", "count")


class Hub:
    """What viewers are told. All methods run on the asyncio thread."""

    def __init__(
        self,
        source: Source,
        about: dict[str, str],
        batches: BatchRing,
        journal: Journal,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`about` names the software: version, policy and so on."""
        self.position = 0
        """Frames made so far."""
        self.viewer_count = 0
        self._source = source
        self._about = about
        self._batches = batches
        self._journal = journal
        self._clock_ns = clock_ns
        self._origin_ns = clock_ns()
        self._numbers = batches.numbers
        self._sampler = Sampler(source, journal, self._numbers, self._origin_ns)
        self._frames: deque[bytes] = deque(maxlen=FRAME_COUNT_MAX)
        self._batch_position = 0
        self._event_position = 0
        self._news = asyncio.Event()
        self._is_closed = False
        self._idle_until_ns = 0

    async def run(self) -> None:
        """Make frames until cancelled. What goes wrong is logged and ends the showing, never the node."""
        try:
            while not self._is_closed:
                await asyncio.sleep(FRAME_EVERY_S)
                self.tick()
        except Exception:
            _log.exception("the dashboard stops")
            self.close()

    def close(self) -> None:
        """Let every viewer go."""
        self._is_closed = True
        self._wake()

    def join(self) -> None:
        """Count a viewer in; raise SymphonyError `queue_full` when there are too many. Pair it with `leave`."""
        if self._is_closed:
            raise SymphonyError(Reason.DRAINING, "the node is shutting down; watch another node", retry_after_s=1)
        if self.viewer_count >= VIEWER_COUNT_MAX:
            raise SymphonyError(
                Reason.QUEUE_FULL,
                f"{self.viewer_count} viewers watch this node, the most it allows; close a dashboard or try later",
                retry_after_s=10,
            )
        if self.viewer_count == 0:
            # What happened while nobody watched is in the greeting.
            self._batch_position, self._event_position = self._batches.count, self._journal.count
            self._frames.clear()
        self.viewer_count += 1

    def leave(self) -> None:
        """Count a viewer out."""
        self.viewer_count -= 1

    def tick(self) -> None:
        """Read the counters, and make a frame if somebody watches."""
        now_ns = self._clock_ns()
        if self.viewer_count == 0 and now_ns < self._idle_until_ns:
            return
        self._idle_until_ns = now_ns + round((IDLE_EVERY_S - FRAME_EVERY_S / 2) * 1e9)
        said = self._sampler.sample(now_ns)
        if self.viewer_count == 0:
            return
        records, missed_count = self._batches.since(self._batch_position)
        self._batch_position = self._batches.count
        said["sizes"] = self._sizes(records)
        said["bars"] = self._bars(records)
        said["batches"] = [len(records) + missed_count, missed_count]
        events = self._journal.since(self._event_position)
        self._event_position = self._journal.count
        if events:
            said["events"] = self._events(events)
        self._frames.append(_encode(said))
        self.position += 1
        self._wake()

    def greeting(self, has_history: bool) -> bytes:
        """Return the first message to a viewer, or to one that was skipped ahead (then without the history)."""
        # The counters are as they were read last, and so is the clock: rates begin there.
        at_ns = self._sampler.sampled_ns
        said: dict[str, Any] = {
            "hello": self._about,
            "t": self._sampler.at_us(at_ns),
            "unix_ms": (time.time_ns() - (self._clock_ns() - at_ns)) // NS_PER_MS,
            "fields": {"bars": BAR_FIELDS, "rows": ROW_FIELDS, "node": NODE_FIELDS},
            "gpu_names": [gpu.name for gpu in self._source.node_stats().gpus],
            **self._sampler.state(),
        }
        if has_history:
            said |= self._sampler.history()
            records, _ = self._batches.since(max(0, self._batches.count - BACKLOG_COUNT_MAX))
            said["sizes"] = self._sizes(records)
            said["bars"] = self._bars(records)
            said["events"] = self._events(self._journal.since(0))
        return _encode(said)

    async def next(self, position: int) -> tuple[list[bytes], int, int]:
        """Wait for news after `position`; return the frames, the new position and how many frames were missed.

        No frames: the showing has ended.
        """
        while position >= self.position and not self._is_closed:
            await self._news.wait()
        if self._is_closed:
            return [], self.position, 0
        fresh = self.position - position
        frames = list(self._frames)[-fresh:]
        return frames, self.position, fresh - len(frames)

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _bars(self, records: list[BatchRecord]) -> list[int]:
        """Return the batches as one flat list, `BAR_FIELDS` for each bar."""
        bars = [self._bar(record) for record in records]
        flat: list[int] = []
        for bar in thin(bars, BAR_COUNT_MAX):
            flat += (
                bar.gpu,
                bar.model,
                bar.size,
                bar.start_us,
                bar.end_us - bar.start_us,
                bar.frontrun_us,
                bar.latest_us,
                bar.fate,
                bar.count,
            )
        return flat

    def _bar(self, record: BatchRecord) -> Bar:
        frontrun_us = latest_us = 0
        if record.predicted_ns > 0:
            due_ns = record.deadline_ns - record.margin_ns
            model = self._numbers.model(record.model)
            growth = 1.0 if model is None else self._source.growth(model, record.gpu, record.size)
            latest_us = (due_ns - record.predicted_ns - record.started_ns) // NS_PER_US
            frontrun_us = (due_ns - round(record.predicted_ns * growth) - record.started_ns) // NS_PER_US
        return Bar(
            record.gpu,
            record.model,
            record.size,
            self._sampler.at_us(record.started_ns),
            self._sampler.at_us(record.finished_ns),
            frontrun_us,
            latest_us,
            record.fate,
        )

    def _sizes(self, records: list[BatchRecord]) -> list[int]:
        """Return how many batches of which model had which size, one flat list of threes."""
        counts: dict[tuple[int, int], int] = {}
        for record in records:
            key = (record.model, record.size)
            counts[key] = counts.get(key, 0) + 1
        flat: list[int] = []
        for (model, size), count in counts.items():
            flat += (model, size, count)
        return flat

    def _events(self, events: list[Event]) -> list[list[object]]:
        return [
            [
                self._sampler.at_us(event.at_ns),
                event.kind,
                event.text,
                0 if event.model is None else self._numbers(event.model),
                event.gpu,
            ]
            for event in events
        ]


def _encode(said: dict[str, Any]) -> bytes:
    """Return a message of a server-sent event stream."""
    return b"data: " + json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
