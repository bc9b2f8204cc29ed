"""Take requests through their processing on the asyncio thread: what is under way, what hangs, what comes too late.

The pool is given little more than its workers can do at once; the rest waits here. So a worker process that dies takes
few requests with it, and whose fault it was is found out: those are run once more, one at a time with nothing beside
them. The one that brings down a worker again fails, the others are answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from symphony.driver.requests import PendingRequest
from symphony.execution.processing import Arrays, ProcessingPool, Step

TRY_COUNT_MAX = 2
"""A request that lost its worker is tried once more, alone: it may have been another's fault."""
OUT_COUNT_PER_WORKER = 2
"""What a worker does, and what it finds when it is done with that."""

Done = Callable[[Any, Exception | None], None]


class Overdue(Exception):
    """Report a request whose deadline passed before a worker took it."""


@dataclass(slots=True)
class _Task:
    request: PendingRequest
    step: Step
    tensors: Arrays
    done: Done
    future: Future[Any] | None = None
    """None while it waits here."""
    try_count: int = 0
    runs_since_ns: int = 0
    """When it was first seen to run; 0: not yet."""


class Processor:
    """One model's pool and what it is doing. All methods run on the asyncio thread."""

    def __init__(self, pool: ProcessingPool, limit_ms: float) -> None:
        self.steps = pool.steps
        self._pool = pool
        self._limit_ms = limit_ms
        self._tasks: dict[PendingRequest, _Task] = {}
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        """Tasks that lost their worker; each is run alone."""
        self._out: dict[Future[Any], _Task] = {}
        """What the pool has."""
        self._out_count_max = OUT_COUNT_PER_WORKER * pool.worker_count
        self._asyncio = asyncio.get_running_loop()

    def begin(self, request: PendingRequest, step: Step, tensors: Arrays, done: Done) -> None:
        """Run the step; `done(result, error)` is called once, on the asyncio thread, with one of the two."""
        task = self._tasks[request] = _Task(request, step, tensors, done)
        self._waiting.append(task)
        self._hand_out()

    def look(self, now_ns: int) -> None:
        """End what runs longer than its limit, with its worker, and what can no longer be in time."""
        hangs = False
        for request, task in list(self._tasks.items()):
            if task.future is None or not task.future.running():
                if now_ns > request.deadline_ns and (task.future is None or task.future.cancel()):
                    self._end(task, None, Overdue(f"the deadline passed before {task.step} began"))
                continue
            task.runs_since_ns = task.runs_since_ns or now_ns
            if now_ns - task.runs_since_ns > self._limit_ms * 1e6:
                hangs = True
                text = f"{task.step} ran longer than run_timeout_ms = {self._limit_ms:g} ms"
                self._end(task, None, TimeoutError(text))
        if hangs:
            self._renew()
            self._hand_out()

    def close(self) -> None:
        """End the workers; nothing that is under way is heard of any more."""
        for tasks in (self._tasks, self._waiting, self._suspects, self._out):
            tasks.clear()
        self._pool.close()

    def _hand_out(self) -> None:
        """Give the pool what it can take: a suspect alone, or others as they came."""
        while len(self._out) < self._out_count_max:
            if self._suspects:
                if self._out:
                    return
                self._submit(self._suspects.popleft())
            elif self._waiting and not self._is_suspect_out():
                self._submit(self._waiting.popleft())
            else:
                return

    def _is_suspect_out(self) -> bool:
        # Where one is, nothing else is.
        return len(self._out) == 1 and next(iter(self._out.values())).try_count > 1

    def _submit(self, task: _Task) -> None:
        if self._tasks.get(task.request) is not task:
            return  # it came too late and was answered so
        try:
            future = self._pool.submit(task.step, task.tensors)
        except BrokenExecutor:  # a process died, and with it the pool
            self._renew()
            future = self._pool.submit(task.step, task.tensors)
        task.future = future
        task.try_count += 1
        task.runs_since_ns = 0
        self._out[future] = task

        def ended(future: Future[Any]) -> None:
            with suppress(RuntimeError):  # the event loop is closed: the node has stopped
                self._asyncio.call_soon_threadsafe(self._ended, task, future)

        future.add_done_callback(ended)

    def _renew(self) -> None:
        """Take new workers. What the old ones had is heard of yet, but no longer in the way of the new."""
        self._out.clear()
        self._pool.renew()

    def _ended(self, task: _Task, future: Future[Any]) -> None:
        self._out.pop(future, None)
        if self._tasks.get(task.request) is task and task.future is future:  # else it was given up
            result: Any = None
            error: Exception | None = None
            try:
                result = future.result()
            except CancelledError:  # the workers were given up before they began it
                task.future = None
                task.try_count -= 1
                (self._suspects if task.try_count else self._waiting).appendleft(task)
            except BrokenExecutor:
                task.future = None
                if task.try_count < TRY_COUNT_MAX:
                    self._suspects.append(task)
                else:
                    error = RuntimeError(f"{task.step} lost its worker {TRY_COUNT_MAX} times")
            except Exception as raised:
                error = raised
            if task.future is not None or error is not None:
                self._end(task, result, error)
        self._hand_out()

    def _end(self, task: _Task, result: Any, error: Exception | None) -> None:
        del self._tasks[task.request]
        task.done(result, error)
