"""While a batch of a model takes far too long, give that model no further device: it may hang on each in turn.

A batch that takes four times what was predicted, and 20 ms longer than that, is either slow or hangs; which of the two
only its model's `run_timeout_ms` tells. Until it has ended the scheduler takes the model for resident where such
batches run, and nowhere else. Its requests wait, and those that can no longer be good are dropped as ever. If the
batch was only slow, the model has lost other devices for as long as that took; if it hung, the model keeps to one
device until `PROBATION_COUNT` batches have ended well, or else what had piled up would hang on all of them at once.

Devices whose memory is shared by demand are left out: there the scheduler itself decides where a model is resident.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from symphony.execution.worker import Worker
from symphony.loop import SchedulingLoop
from symphony.server.catalog import Catalog
from symphony.server.served import ModelEntry

_log = logging.getLogger(__name__)

PROBATION_COUNT = 8
"""Batches that must end well after a hang: at full load a fraction of a second."""


class Holds:
    """Know which models are held back, and from which devices. All methods run on the asyncio thread."""

    def __init__(self, loop: SchedulingLoop, catalog: Catalog, workers: Sequence[Worker]) -> None:
        self._loop = loop
        self._catalog = catalog
        self._workers = workers
        self._held: dict[int, tuple[ModelEntry, set[int]]] = {}
        """By the scheduler's index: the model, and the devices from which it was taken."""
        self._lost: set[int] = set()

    def look(self, now_ns: int) -> None:
        """Hold back the models of batches that take far too long; give back their devices to the others."""
        suspects: dict[int, set[int]] = {}
        for worker in self._workers:
            model = worker.suspect(now_ns) if worker.swapper is None else None
            if model is not None:
                suspects.setdefault(model, set()).add(worker.gpu)
        for index, (entry, _) in list(self._held.items()):
            if self._catalog.by_index.get(index) is not entry:
                del self._held[index]  # it was unloaded; the index may be another model's by now
            elif index not in suspects and entry.probation_count > 0:
                self._confine(index, entry)
            elif index not in suspects:
                self._take_from(index, entry, set())
                del self._held[index]
        for index, gpus in suspects.items():
            suspect = self._catalog.by_index.get(index)
            if suspect is not None:
                self._take_from(index, suspect, set(self._homes(index)) - gpus)

    def hung(self, entry: ModelEntry) -> None:
        """Let the model keep to one device for a while, because a batch of it hung."""
        entry.probation_count = PROBATION_COUNT
        self._held.setdefault(entry.index, (entry, set()))

    def lose(self, gpu: int) -> None:
        """Forget a device that is lost: no model comes back to it."""
        self._lost.add(gpu)
        for _, taken in self._held.values():
            taken.discard(gpu)

    def _homes(self, index: int) -> list[int]:
        return [
            worker.gpu
            for worker in self._workers
            if worker.swapper is None and index in worker.models and worker.gpu not in self._lost
        ]

    def _confine(self, index: int, entry: ModelEntry) -> None:
        """Leave the model one device, one where it is now."""
        homes = set(self._homes(index))
        kept = min(homes - self._held[index][1] or homes, default=None)
        self._take_from(index, entry, homes - {kept})

    def _take_from(self, index: int, entry: ModelEntry, wanted: set[int]) -> None:
        """Let the model be resident everywhere but on these devices."""
        _, taken = self._held.get(index, (entry, set()))
        if wanted and not taken:
            _log.warning('model "%s": a batch takes far too long; no other device meanwhile', entry.config.name)
        # First what comes back: requests of a model that is nowhere would be dropped.
        for gpu in sorted(taken - wanted):
            if gpu in self._homes(index):
                self._loop.model_placed(index, gpu)
        for gpu in sorted(wanted - taken):
            self._loop.model_evicted(index, gpu)
        self._held[index] = (entry, wanted)
