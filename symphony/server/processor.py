"""Take requests through their processing on the asyncio thread: what is under way, what hangs, what comes too late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from symphony.driver.requests import PendingRequest
from symphony.execution.processing import Arrays, ProcessingPool, Step

TRY_COUNT_MAX = 2
"""A request whose worker was given up is tried once more: it may have been another's fault."""

Done = Callable[[Any, Exception | None], None]


class Overdue(Exception):
    """Report a request whose deadline passed before a worker took it."""


@dataclass(slots=True)
class _Task:
    step: Step
    tensors: Arrays
    done: Done
    future: Future[Any]
    try_count: int = 1
    runs_since_ns: int = 0
    """When it was first seen to run; 0: not yet."""


class Processor:
    """One model's pool and what it is doing. All methods run on the asyncio thread."""

    def __init__(self, pool: ProcessingPool, limit_ms: float) -> None:
        self.steps = pool.steps
        self._pool = pool
        self._limit_ms = limit_ms
        self._tasks: dict[PendingRequest, _Task] = {}
        self._asyncio = asyncio.get_running_loop()

    def begin(self, request: PendingRequest, step: Step, tensors: Arrays, done: Done) -> None:
        """Run the step; `done(result, error)` is called once, on the asyncio thread, with one of the two."""
        task = _Task(step, tensors, done, self._submit(step, tensors))
        self._tasks[request] = task
        self._follow(request, task)

    def look(self, now_ns: int) -> None:
        """End what runs longer than its limit, with its worker, and what can no longer be in time."""
        hangs = False
        for request, task in list(self._tasks.items()):
            if not task.future.running():
                if now_ns > request.deadline_ns and task.future.cancel():
                    self._end(request, None, Overdue(f"the deadline passed before {task.step} began"))
                continue
            task.runs_since_ns = task.runs_since_ns or now_ns
            if now_ns - task.runs_since_ns > self._limit_ms * 1e6:
                hangs = True
                text = f"{task.step} ran longer than run_timeout_ms = {self._limit_ms:g} ms"
                self._end(request, None, TimeoutError(text))
        if hangs:
            self._pool.renew()

    def close(self) -> None:
        """End the workers; nothing that is under way is heard of any more."""
        self._tasks.clear()
        self._pool.close()

    def _follow(self, request: PendingRequest, task: _Task) -> None:
        def ended(future: Future[Any]) -> None:
            with suppress(RuntimeError):  # the event loop is closed: the node has stopped
                self._asyncio.call_soon_threadsafe(self._ended, request, future)

        task.future.add_done_callback(ended)

    def _ended(self, request: PendingRequest, future: Future[Any]) -> None:
        task = self._tasks.get(request)
        if task is None or task.future is not future:
            return  # it was given up
        result: Any = None
        error: Exception | None = None
        try:
            result = future.result()
        except (CancelledError, BrokenExecutor):
            if task.try_count < TRY_COUNT_MAX:
                task.try_count += 1
                task.runs_since_ns = 0
                task.future = self._submit(task.step, task.tensors)
                self._follow(request, task)
                return
            error = RuntimeError(f"{task.step} lost its worker {TRY_COUNT_MAX} times")
        except Exception as raised:
            error = raised
        self._end(request, result, error)

    def _submit(self, step: Step, tensors: Arrays) -> Future[Any]:
        try:
            return self._pool.submit(step, tensors)
        except BrokenExecutor:  # a process died, and with it the pool
            self._pool.renew()
            return self._pool.submit(step, tensors)

    def _end(self, request: PendingRequest, result: Any, error: Exception | None) -> None:
        self._tasks.pop(request).done(result, error)
