"""Hold what the node knows of one version of one model while it is loaded, served and unloaded."""

from __future__ import annotations

import math
from pathlib import Path

from symphony.config import ModelConfig
from symphony.errors import Reason, SymphonyError
from symphony.execution.staging import StagingRing
from symphony.ingress.service import not_ready
from symphony.metrics import ModelStats
from symphony.profiles import LatencyProfile
from symphony.server.door import Door
from symphony.server.drift import DriftEstimator
from symphony.server.margin import MarginEstimator
from symphony.server.processor import Processor
from symphony.server.recorder import Recorder
from symphony.units import ms_to_ns, ns_to_ms

MARGIN_SLO_SHARE_MAX = 0.2
"""A margin may take at most this share of the SLO, whatever was measured."""


class ModelEntry:
    """One served version: its configuration, scheduler index, state and counters.

    `state` is "LOADING", "READY" or "UNAVAILABLE"; `reason` says why it is not ready. `alone_ns` is the smallest l(1)
    over the devices that hold it, known once READY.
    """

    def __init__(self, config: ModelConfig, folder: Path, index: int, reply_margin_ns: int) -> None:
        self.config = config
        self.key = (config.name, config.version)
        self.folder = folder
        self.index = index
        self.state = "LOADING"
        self.reason = "loading"
        self.stats = ModelStats(config.batch_size_max)
        self.slo_ns = ms_to_ns(config.slo_ms)
        self.margin = MarginEstimator(reply_margin_ns, round(self.slo_ns * MARGIN_SLO_SHARE_MAX))
        self.door = Door()
        self._overload = SymphonyError(
            Reason.WOULD_MISS,
            f'model "{config.name}": refused unread: more requests arrive than can be answered in time; '
            "try again later or add GPUs",
            model=config.name,
            retry_after_s=self.retry_after_s(),
        )
        self.profiles: dict[str, LatencyProfile] = {}
        self.drifts: dict[str, DriftEstimator] = {}
        """By profile key, how much longer than profiled batches take by now."""
        self._tables: dict[str, tuple[int, ...]] = {}
        self.size_limits: dict[str, int] = {}
        """By profile key, the largest batch that fits the memory of such devices, where less than the largest does."""
        self.ring: StagingRing | None = None
        """Where its requests' inputs wait in pinned memory, if they are worth it."""
        self.processor: Processor | None = None
        """What preprocesses and postprocesses its requests, if it asks for that."""
        self.alone_ns = 0
        self.held_count = 0
        """Slots its requests hold: those in flight, and cancelled ones whose batch has not ended."""
        self.hang_count = 0
        self.recorder: Recorder | None = None
        """Hears of what is refused unread, if arrivals are recorded."""

    def profiled_ns(self, key: str, size: int) -> int:
        """Return l(size) as it was profiled."""
        if key not in self._tables:
            self._tables[key] = self.profiles[key].table_ns(self.config.batch_size_max)
        return self._tables[key][size - 1]

    def table_ns(self, key: str) -> tuple[int, ...]:
        """Return l(1..batch_size_max) on devices of this profile key; a batch that does not fit takes for ever."""
        factor = self.drifts[key].factor if key in self.drifts else 1.0
        table = tuple(round(factor * value) for value in self.profiles[key].table_ns(self.config.batch_size_max))
        limit = self.size_limits.get(key, len(table))
        never_ns = max(table[-1], ms_to_ns(self.config.run_timeout_ms))
        return table[:limit] + (never_ns,) * (len(table) - limit)

    def refusal(self) -> SymphonyError | None:
        """Return why the request that arrives now is refused unread, None when it is not; ask once for each."""
        if not self.door.refuses():
            return None
        if self.recorder is not None:
            self.recorder.refused(self.config.name)
        return self._overload

    def check_admission(self, deadline_ns: int, now_ns: int) -> None:
        """Raise SymphonyError unless the model can take one more request with this deadline."""
        config = self.config
        if self.state != "READY":
            raise not_ready(self)
        if self.stats.in_flight >= config.queue_count_max:
            raise SymphonyError(
                Reason.QUEUE_FULL,
                f'model "{config.name}" holds {self.stats.in_flight} requests, its queue_count_max; '
                "try again later, or add GPUs",
                model=config.name,
                retry_after_s=self.retry_after_s(),
            )
        if deadline_ns - now_ns < self.alone_ns:
            raise SymphonyError(
                Reason.WOULD_MISS,
                f'model "{config.name}": {ns_to_ms(deadline_ns - now_ns):.1f} ms are left before the deadline, but a '
                f"batch of one takes l(1) = {ns_to_ms(self.alone_ns):.1f} ms; allow more time",
                model=config.name,
            )

    def dropped(self, reason: Reason, waited_ns: int) -> SymphonyError:
        """Return the error for a request that the scheduler gave up after `waited_ns`."""
        name = self.config.name
        waited = f"after {ns_to_ms(waited_ns):.1f} ms in the queue"
        if reason is Reason.WOULD_MISS:
            text = (
                f'model "{name}": refused {waited}: its deadline cannot be met at this load; '
                "try again later or add GPUs"
            )
        elif reason is Reason.EXPIRED:
            text = f'model "{name}": the deadline passed {waited}; allow more time'
        elif reason is Reason.NO_GPU:
            text = f'model "{name}": no usable device holds it now ({waited}); try again later'
        else:
            text = f'model "{name}": it was unloaded while the request waited ({waited})'
        return SymphonyError(reason, text, model=name, retry_after_s=self.retry_after_s())

    def retry_after_s(self) -> float:
        """Return when trying again is worth it: once what is queued now has ended, one SLO at most."""
        return max(0.001, self.slo_ns / 1e9)

    def describe_slo_fault(self) -> str:
        """Return why no request could be good with these profiles, "" when some can."""
        if not self.profiles:
            return ""
        alone_ns = min(profile.table_ns(self.config.batch_size_max)[0] for profile in self.profiles.values())
        need_ns = alone_ns + self.margin.floor_ns
        if need_ns <= self.slo_ns:
            return ""
        wanted_ms = math.ceil(ns_to_ms(need_ns) * 1.1)
        return (
            f'model "{self.config.name}": SLO {self.config.slo_ms:g} ms is below l(1) = {ns_to_ms(alone_ns):.1f} ms '
            f"plus a margin of {ns_to_ms(self.margin.floor_ns):.1f} ms, no request could be good; "
            f"raise slo_ms to {wanted_ms} or more, or use a faster device"
        )
