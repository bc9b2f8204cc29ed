"""Bring models into a device's memory and out of it again, beside the batches that run: one thread per device.

The scheduling loop decides which model is loaded and which leave for it; no batch of those that leave is in flight
then. Loads of one device follow one another: they share its bus.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Literal, Protocol

from symphony.execution.devices import Device, LoadedModel

_log = logging.getLogger(__name__)


class LoadOrder(Protocol):
    """What the swapper reads of a load (symphony.loop.Load)."""

    is_load: Literal[True]
    load_id: int
    gpu: int
    model: int
    evicted: list[int]


class LoadPort(Protocol):
    """What the swapper needs of the scheduling loop."""

    def load_finished(self, load_id: int, gpu: int, is_there: bool) -> None: ...


class Swapper:
    """Own the thread that loads and evicts on one device. `models` returns what is placed there now, by index."""

    def __init__(self, device: Device, port: LoadPort, models: Callable[[], dict[int, LoadedModel]]) -> None:
        self.load_count = 0
        self.resident: set[int] = set()
        """Models in the device's memory, as far as loads went."""
        self._device = device
        self._port = port
        self._models = models
        self._orders: queue.SimpleQueue[LoadOrder | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=f"swap-{device.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, order: LoadOrder) -> None:
        """Let the order be carried out after those before it."""
        self._orders.put(order)

    def abandon(self) -> None:
        """Let the thread end by itself, after the load under way."""
        self._is_stopping = True
        self._orders.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; return whether it did within `timeout_s` seconds."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._device.enter_thread()
        while (order := self._orders.get()) is not None and not self._is_stopping:
            is_there = self._carry_out(order)
            if not self._is_stopping:
                self._port.load_finished(order.load_id, order.gpu, is_there)

    def _carry_out(self, order: LoadOrder) -> bool:
        """Evict, then load; return whether the model is there now."""
        models = self._models()
        for index in order.evicted:
            self.resident.discard(index)
            if index in models:
                models[index].evict()
        loaded = models.get(order.model)
        if loaded is None:
            return False  # it was unloaded while the order waited
        try:
            loaded.restore()
        except Exception as error:
            loaded.evict()
            self._device.examine(error)
            _log.error(
                'model "%s" cannot be brought into the memory of %s: %s: %s; lower device_memory_mb or free memory',
                loaded.config.name,
                self._device.name,
                type(error).__name__,
                error,
            )
            return False
        self.resident.add(order.model)
        self.load_count += 1
        return True
