"""Run a model's own `preprocess` and `postprocess`, one request at a time, in a bounded pool beside the event loop.

`kind = "threads"` suits code that lets go of the GIL (image decoders, tokenizers); `"processes"` code that does not:
tensors are then copied to the worker processes and back through pipes of this machine. Each thread or process makes an
object of its own, so the code need not be thread-safe.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from symphony.config import ModelConfig, TensorSpec
from symphony.config.lengths import fits
from symphony.execution.entry import made_by_entry
from symphony.execution.trouble import ModelLoadError
from symphony.wire.tensors import NUMPY_DTYPES

Step = Literal["preprocess", "postprocess"]
_STEPS: tuple[Step, ...] = ("preprocess", "postprocess")
Arrays = Mapping[str, np.ndarray[Any, Any]]


class ProcessingError(Exception):
    """Report what a step returned that the configuration does not declare."""


class ProcessingPool:
    """The workers of one model's `[processing]`."""

    def __init__(self, config: ModelConfig, folder: Path) -> None:
        """Load the code once to see that it works; raise ModelLoadError when it does not."""
        assert config.processing is not None
        self.worker_count = config.processing.worker_count
        self._config = config
        self._folder = folder
        try:
            made = _make(config, folder)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:  # none of it may end the node
            raise ModelLoadError(
                f'model "{config.name}": {config.processing.entry} raised {error!r} while it was loaded; mend its code'
            ) from error
        self.steps: frozenset[Step] = frozenset(step for step in _STEPS if callable(getattr(made, step, None)))
        if not self.steps:
            raise ModelLoadError(
                f'model "{config.name}": {config.processing.entry} has neither preprocess nor postprocess; add one, or '
                "leave [processing] out"
            )
        self._executor = self._new_executor()

    def submit(self, step: Step, tensors: Arrays) -> Future[dict[str, np.ndarray[Any, Any]]]:
        """Run one request's step; the future raises what the code raises, or ProcessingError."""
        return self._executor.submit(_run, step, dict(tensors))

    def renew(self) -> None:
        """Give up the workers, one of which hangs or died, and take new ones; what they had not begun is cancelled."""
        old, self._executor = self._executor, self._new_executor()
        _end(old)

    def close(self) -> None:
        """End the workers without waiting for them."""
        _end(self._executor)

    def _new_executor(self) -> Executor:
        spec = self._config.processing
        assert spec is not None
        if spec.kind == "processes":
            context = multiprocessing.get_context("spawn")
            return ProcessPoolExecutor(spec.worker_count, context, _enter, (self._config, self._folder))
        return _DaemonThreads(spec.worker_count, self._config, self._folder)


class _DaemonThreads(Executor):
    """Threads that do not keep the process alive, as those of ThreadPoolExecutor would when one hangs."""

    def __init__(self, count: int, config: ModelConfig, folder: Path) -> None:
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._count = count
        for number in range(count):
            name = f"process-{config.name}-{number}"
            threading.Thread(target=self._work, args=(config, folder), name=name, daemon=True).start()

    def submit(self, function: Callable[..., Any], /, *values: Any, **named: Any) -> Future[Any]:
        """Run the function in one of the threads."""
        future: Future[Any] = Future()
        self._queue.put((future, partial(function, *values, **named)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once each has finished what it does; cancel what waits."""
        while not self._queue.empty():
            item = self._queue.get()
            if item is not None:
                item[0].cancel()
        for _ in range(self._count):
            self._queue.put(None)

    def _work(self, config: ModelConfig, folder: Path) -> None:
        failure: Exception | None = None
        try:
            _enter(config, folder)
        except Exception as error:
            failure = error
        while (item := self._queue.get()) is not None:
            future, run = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                if failure is not None:
                    raise failure
                future.set_result(run())
            except BaseException as error:
                # Whatever the model's code raises belongs to its request; the thread goes on.
                future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            del item, future, run


def _end(executor: Executor) -> None:
    # A process that hangs would be waited for when this one ends.
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.terminate()
    executor.shutdown(wait=False, cancel_futures=True)


_here = threading.local()
"""In each worker: the model's configuration and the object made there."""


def _enter(config: ModelConfig, folder: Path) -> None:
    _here.config = config
    _here.made = _make(config, folder)


def _make(config: ModelConfig, folder: Path) -> Any:
    assert config.processing is not None
    made = made_by_entry(config, config.processing.entry, folder)
    load = getattr(made, "load", None)
    if load is not None:
        load(folder, dict(config.parameters))
    return made


def _run(step: Step, tensors: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    config: ModelConfig = _here.config
    found = getattr(_here.made, step)(tensors)
    specs = config.network.inputs if step == "preprocess" else config.outputs
    return checked(config.name, step, specs, found)


def checked(model: str, step: str, specs: Sequence[TensorSpec], found: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the declared tensors of one request as arrays; raise ProcessingError naming the one that is not right."""
    if not isinstance(found, Mapping):
        raise ProcessingError(f'model "{model}": {step} returned {type(found).__name__}; return a mapping of arrays')
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for spec in specs:
        if spec.name not in found:
            raise ProcessingError(
                f'model "{model}": {step} returned no "{spec.name}" (it returned {sorted(map(str, found))}); '
                "return every tensor that model.toml declares"
            )
        dtype = np.dtype(object) if spec.datatype == "BYTES" else np.dtype(NUMPY_DTYPES[spec.datatype])
        array = np.asarray(found[spec.name])
        if not fits(array.shape, spec) or array.dtype != dtype:
            raise ProcessingError(
                f'model "{model}": {step} returned "{spec.name}" as {array.dtype}{list(array.shape)}; model.toml '
                f"declares {spec.datatype}{list(spec.shape)}"
            )
        arrays[spec.name] = array
    return arrays
