"""Send a schedule to a server, open loop: each request at its intended instant, whatever became of the others.

Latency counts from the intended instant, so a stall of the sender or of the server cannot hide (no coordinated
omission). Callback style: no task and no future for a request; results go into arrays made beforehand.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from symphony.client.connection import ConnectionPool, HttpConnection
from symphony.client.http import Address, Response, TransportError
from symphony.client.timer import PreciseTimer
from symphony.wire import decode_error

START_DELAY_NS = 100_000_000
SENDS_PER_WAKE_MAX = 64
"""After so many sends in a row the loop reads answers first."""
OPENING_MAX = 64

NO_ANSWER, ANSWERED, REFUSED, BROKEN = 0, 1, 2, 3


@dataclass(slots=True)
class LoadResult:
    """What became of each request of a schedule, by its position in it.

    `state`: NO_ANSWER, ANSWERED (200), REFUSED (an error answer) or BROKEN (its connection failed). `latency_ns`: from
    the intended instant to the whole answer. `lag_ns`: from the intended instant to the write. `reasons`: the error's
    token, or why the connection failed, of those not answered.
    """

    state: np.ndarray[Any, np.dtype[np.int8]]
    latency_ns: np.ndarray[Any, np.dtype[np.int64]]
    lag_ns: np.ndarray[Any, np.dtype[np.int64]]
    reasons: dict[int, str]
    cpu_share: float
    duration_s: float
    first_fault: str = ""


class _Lane:
    """One connection and the request it carries."""

    __slots__ = ("connection", "position", "run")

    def __init__(self, run: LoadRun, connection: HttpConnection) -> None:
        self.run = run
        self.connection = connection
        self.position = -1

    def on_response(self, response: Response | None, error: Exception | None) -> None:
        self.run.ended(self, response, error)


class _LanePool(ConnectionPool):
    """A pool whose connections stay with their lanes."""

    def release(self, connection: HttpConnection) -> None:
        """Leave the connection to its lane."""


class LoadRun:
    """One run of a schedule against one server."""

    def __init__(
        self,
        address: Address,
        at_ns: np.ndarray[Any, np.dtype[np.int64]],
        requests: Callable[[int], bytes],
        connection_count_max: int,
        grace_s: float,
    ) -> None:
        """Take the instants, `requests(position)` as whole bytes to write, and how long to wait after the last one."""
        count = len(at_ns)
        self._pool = _LanePool(address, connection_count_max)
        self._at_ns = at_ns.tolist()
        self._requests = requests
        self._grace_s = grace_s
        self._idle: list[_Lane] = []
        self._due: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._lane_count = 0
        self._next = 0
        self._ended = 0
        self._start_ns = 0
        self._has_stopped = False
        self._is_over: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._timer: PreciseTimer
        self.result = LoadResult(
            np.zeros(count, np.int8), np.zeros(count, np.int64), np.zeros(count, np.int64), {}, 0.0, 0.0
        )

    @property
    def sent_count(self) -> int:
        """Return how many requests were written so far."""
        return self._next - len(self._due)

    async def run(self, warm_connection_count: int) -> LoadResult:
        """Open connections, send everything, await the answers (at most `grace_s` after the last); return all."""
        self._loop = asyncio.get_running_loop()
        self._is_over = asyncio.Event()
        for _ in range(min(warm_connection_count, self._pool.connection_count_max)):
            self._idle.append(_Lane(self, await self._pool.open()))
        self._lane_count = len(self._idle)
        was_collecting = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        self._timer = PreciseTimer(self._loop, self._send_due)
        cpu_s = time.process_time()
        self._start_ns = time.monotonic_ns() + START_DELAY_NS
        began_s = time.monotonic()
        try:
            if self._at_ns:
                self._timer.set(self._start_ns + self._at_ns[0])
                last_s = (self._start_ns + self._at_ns[-1]) / 1e9
                try:
                    async with asyncio.timeout(last_s - time.monotonic() + self._grace_s):
                        await self._is_over.wait()
                except TimeoutError:
                    pass
        finally:
            self._has_stopped = True
            self._timer.close()
            for task in self._opening:
                task.cancel()
            self._pool.close()
            if was_collecting:
                gc.enable()
            gc.unfreeze()
        elapsed_s = time.monotonic() - began_s
        self.result.duration_s = elapsed_s
        self.result.cpu_share = (time.process_time() - cpu_s) / elapsed_s
        return self.result

    def _send_due(self) -> None:
        """Write what is due; be called again for the rest."""
        at_ns, start_ns = self._at_ns, self._start_ns
        count = len(at_ns)
        sends = 0
        while self._next < count:
            now_ns = time.monotonic_ns()
            due_ns = start_ns + at_ns[self._next]
            if due_ns > now_ns or sends >= SENDS_PER_WAKE_MAX:
                self._timer.set(due_ns)
                return
            self._due.append(self._next)
            self._next += 1
            sends += 1
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self._due:
            if not self._idle:
                if self._lane_count < self._pool.connection_count_max and len(self._opening) < OPENING_MAX:
                    self._lane_count += 1
                    task = self._loop.create_task(self._open())
                    self._opening.add(task)
                    task.add_done_callback(self._opening.discard)
                return
            lane = self._idle.pop()
            if lane.connection.transport is None:
                self._lane_count -= 1
                continue
            position = self._due.popleft()
            lane.position = position
            lane.connection.send(self._requests(position), lane.on_response)
            self.result.lag_ns[position] = time.monotonic_ns() - self._start_ns - self._at_ns[position]

    async def _open(self) -> None:
        try:
            self._idle.append(_Lane(self, await self._pool.open()))
        except TransportError as error:
            self._lane_count -= 1
            if self._due:
                self._end(self._due.popleft(), BROKEN, "connect", str(error))
        self._send_waiting()

    def ended(self, lane: _Lane, response: Response | None, error: Exception | None) -> None:
        """Take an answer; called by connections."""
        if self._has_stopped:
            return  # what has no answer by now stays NO_ANSWER
        position = lane.position
        if response is None:
            self._lane_count -= 1
            self._end(position, BROKEN, "connection", str(error))
        else:
            if lane.connection.transport is not None:
                self._idle.append(lane)
            else:
                self._lane_count -= 1
            if response.status == 200:
                self._end(position, ANSWERED, "", "")
            else:
                fault = decode_error(response.status, response.body, response.headers.get("content-type", ""))
                self._end(position, REFUSED, fault.reason.token, fault.message)
        if self._due:
            self._send_waiting()

    def _end(self, position: int, state: int, reason: str, text: str) -> None:
        result = self.result
        result.latency_ns[position] = time.monotonic_ns() - self._start_ns - self._at_ns[position]
        result.state[position] = state
        if reason:
            result.reasons[position] = reason
            result.first_fault = result.first_fault or text
        self._ended += 1
        if self._ended == len(self._at_ns):
            self._is_over.set()


def run_load(
    address: Address,
    at_ns: np.ndarray[Any, np.dtype[np.int64]],
    bodies: Sequence[Sequence[bytes]],
    models: np.ndarray[Any, np.dtype[np.int32]],
    *,
    connection_count_max: int,
    warm_connection_count: int,
    grace_s: float,
    on_progress: Callable[[int], None] | None = None,
) -> LoadResult:
    """Run a schedule on an event loop of its own and return what happened.

    `bodies[model]` are that model's whole requests, sent in turn. `on_progress` hears how many were sent, a few times a
    second.
    Raise TransportError if the server cannot be reached at all.
    """
    import uvloop

    model_of: list[int] = models.tolist()

    def request(position: int) -> bytes:
        of_model = bodies[model_of[position]]
        return of_model[position % len(of_model)]

    async def go() -> LoadResult:
        run = LoadRun(address, at_ns, request, connection_count_max, grace_s)
        ticker = asyncio.create_task(_tick(run, on_progress)) if on_progress else None
        try:
            return await run.run(warm_connection_count)
        finally:
            if ticker is not None:
                ticker.cancel()

    return uvloop.run(go())


async def _tick(run: LoadRun, on_progress: Callable[[int], None]) -> None:
    while True:
        await asyncio.sleep(0.25)
        on_progress(run.sent_count)
