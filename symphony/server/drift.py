"""Keep profiles true while serving: how much longer batches take than they did when they were measured.

A GPU whose clocks fall, or a neighbour that takes memory bandwidth, changes l(b) of all sizes alike; so one factor for
a model on a kind of device, the median of measured over profiled time, follows what the scheduler must count with.
(What jitter costs is not in it: margins have that, see margin.py.) Of several devices of a kind, one that is slower
than the rest does not move the median; it is found by its own: first it is marked, and where it takes twice as long as
the others it gets no more batches. Measured is only what the device says that a batch took, without its waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import median

from symphony.metrics import GpuStats
from symphony.units import NS_PER_S

_log = logging.getLogger(__name__)

SAMPLE_COUNT = 64
SAMPLE_COUNT_MIN = 16
ADJUST_EVERY_NS = NS_PER_S // 4
STEP = 0.02
"""A factor that has changed by less than this is kept: each change makes the scheduler measure its targets anew."""
FACTOR_MIN, FACTOR_MAX = 0.25, 8.0
SLOW_FACTOR = 1.25
QUARANTINE_FACTOR = 2.0


class _Recent:
    """The last samples, in a ring."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._next = 0

    def add(self, sample: float) -> None:
        if len(self._samples) < SAMPLE_COUNT:
            self._samples.append(sample)
        else:
            self._samples[self._next] = sample
            self._next = (self._next + 1) % SAMPLE_COUNT

    def median(self) -> float | None:
        """Return the median, None while there are too few."""
        return median(self._samples) if len(self._samples) >= SAMPLE_COUNT_MIN else None


class DriftEstimator:
    """One model on one kind of device: `factor` is how much longer than in its profile a batch takes."""

    def __init__(self) -> None:
        self.factor = 1.0
        self._recent = _Recent()
        self._adjust_at_ns = 0

    def observe(self, ratio: float, now_ns: int) -> bool:
        """Take one batch's measured over profiled time; return whether `factor` changed."""
        self._recent.add(ratio)
        if now_ns < self._adjust_at_ns:
            return False
        self._adjust_at_ns = now_ns + ADJUST_EVERY_NS
        found = self._recent.median()
        if found is None:
            return False
        wanted = min(FACTOR_MAX, max(FACTOR_MIN, found))
        if abs(wanted - self.factor) < STEP * self.factor:
            return False
        self.factor = wanted
        return True


class SlownessWatch:
    """One device among others of its kind: `factor` is how much longer than theirs its batches take."""

    def __init__(self) -> None:
        self.factor = 1.0
        self._recent = _Recent()

    def observe(self, ratio: float) -> None:
        """Take one batch's time over what it takes on such devices."""
        self._recent.add(ratio)
        found = self._recent.median()
        if found is not None:
            self.factor = found

    @property
    def is_slow(self) -> bool:
        """Return whether it is persistently slower than the others."""
        return self.factor > SLOW_FACTOR

    @property
    def is_too_slow(self) -> bool:
        """Return whether it does more harm than good."""
        return self.factor > QUARANTINE_FACTOR


class SlowDevices:
    """All devices of a node: `watches[gpu]` takes what each one's batches took."""

    def __init__(self, gpus: Sequence[GpuStats]) -> None:
        self.watches = [SlownessWatch() for _ in gpus]
        self._gpus = gpus

    def look(self) -> list[int]:
        """Mark devices that are slower than the others; return those that are to get no more batches from now on."""
        found = []
        for gpu, (watch, stats) in enumerate(zip(self.watches, self._gpus, strict=True)):
            if watch.is_slow and not stats.is_slow:
                _log.warning("%s takes %.2f times as long as others of its kind", stats.name, watch.factor)
            stats.is_slow, stats.slowdown = watch.is_slow, watch.factor
            others = [one for one in self._gpus if one is not stats and not one.is_quarantined]
            if watch.is_too_slow and others and not stats.is_quarantined:
                _log.error("%s is too slow (%.2f times the others' time): no more batches", stats.name, watch.factor)
                stats.is_quarantined = True
                found.append(gpu)
        return found
