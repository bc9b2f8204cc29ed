"""Hold what the node knows of one version of one model while it is loaded, served and unloaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from symphony.config import ModelConfig
from symphony.errors import Reason, SymphonyError
from symphony.execution.staging import StagingRing
from symphony.ingress.callers import Caller
from symphony.ingress.service import not_ready
from symphony.metrics import ModelStats
from symphony.profiles import LatencyProfile
from symphony.server.door import Door
from symphony.server.drift import DriftEstimator
from symphony.server.margin import MarginEstimator
from symphony.server.processor import Processor
from symphony.server.recorder import Recorder
from symphony.units import NS_PER_S, ms_to_ns, ns_to_ms

if TYPE_CHECKING:
    from symphony.server.lanes import Lanes

CROWDED_SHARE = 0.75
"""So full, the queue takes nothing more from callers that have more than their share in it."""
RETRY_AFTER_S_MAX = 300.0
MARGIN_SLO_SHARE_MAX = 0.2
"""A margin may take at most this share of the SLO, whatever was measured."""


class ModelEntry:
    """One served version: its configuration, scheduler index, state and counters.

    `state` is "LOADING", "READY" or "UNAVAILABLE"; `reason` says why it is not ready. `alone_ns` is the smallest l(1)
    over the devices that hold it, known once READY.
    """

    def __init__(self, config: ModelConfig, folder: Path, index: int, reply_margin_ns: int) -> None:
        self.config = config
        self.folder = folder
        self.index = index
        self.state = "LOADING"
        self.reason = "loading"
        self.stats = ModelStats(config.batch_size_max)
        self.slo_ns = ms_to_ns(config.slo_ms)
        self.margin = MarginEstimator(reply_margin_ns, round(self.slo_ns * MARGIN_SLO_SHARE_MAX))
        self.door = Door()
        self._overload: SymphonyError | None = None
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
        self.lanes: Lanes | None = None
        """Where its requests vary in length: what the scheduler takes for models, one for each bucket of lengths."""
        self.alone_ns = 0
        self.control_ns = 0
        """From a decision to the earliest start of its batch."""
        self.capacity_per_s = 1.0
        """Requests per second that its GPUs can answer in time, as far as is known."""
        self._bound_per_s = 1.0
        """The same if it had them for itself."""
        self.held_count = 0
        """Slots its requests hold: those in flight, and cancelled ones whose batch has not ended."""
        self.hang_count = 0
        self.probation_count = 0
        """So many batches must still end well before it gets more than one device again, after a hang."""
        self.pause = ""
        """Why it takes no requests for a while though it is READY, "" when it does."""
        self.recorder: Recorder | None = None
        """Hears of what is refused unread, if arrivals are recorded."""

    @property
    def served(self) -> ModelEntry:
        """Return the model that clients know; itself, unless this is one of its lanes."""
        return self

    @property
    def scheduled(self) -> Sequence[ModelEntry]:
        """Return what the scheduler takes for models: its lanes, by length, or itself."""
        return [self] if self.lanes is None else list(self.lanes)

    def profiled_ns(self, key: str, size: int) -> int:
        """Return l(size) as it was profiled."""
        if key not in self._tables:
            self._tables[key] = self.profiles[key].table_ns(self.config.batch_size_max)
        return self._tables[key][size - 1]

    def replace_profile(self, key: str, profile: LatencyProfile) -> None:
        """Take a profile measured anew; drift against the old one is forgotten."""
        self.profiles[key] = profile
        self._tables.pop(key, None)
        self.drifts.pop(key, None)
        self.alone_ns = min(self.table_ns(known)[0] for known in self.profiles)

    def table_ns(self, key: str) -> tuple[int, ...]:
        """Return l(1..batch_size_max) on devices of this profile key; a batch that does not fit takes for ever."""
        factor = self.drifts[key].factor if key in self.drifts else 1.0
        table = tuple(round(factor * value) for value in self.profiles[key].table_ns(self.config.batch_size_max))
        limit = self.size_limits.get(key, len(table))
        never_ns = max(table[-1], ms_to_ns(self.config.run_timeout_ms))
        return table[:limit] + (never_ns,) * (len(table) - limit)

    def refusal(self, caller: Caller) -> SymphonyError | None:
        """Return why the call that arrives now is refused unread, None when it is not; ask once for each."""
        door = self.door
        share = door.shares.of(caller.id, caller.weight)
        if not door.refuses(share):
            is_crowded = self.stats.in_flight > CROWDED_SHARE * self.config.queue_count_max
            if not is_crowded or not door.shares.exceeds(share, door.hold_count):
                return None
        if self.recorder is not None:
            self.recorder.refused(self.config.name)
        if self._overload is None:
            self._overload = SymphonyError(
                Reason.WOULD_MISS,
                f'model "{self.config.name}": refused unread: more requests arrive than can be answered in time; '
                "try again later or add GPUs",
                model=self.config.name,
                retry_after_s=self.retry_after_s(),
                earliest_ms=ns_to_ms(self.earliest_ns()),
            )
        return self._overload

    def enter(self, caller: Caller, count: int, priority: int) -> int:
        """Count requests of the caller's as under way; return the priority they are scheduled with."""
        door = self.door
        return door.enter(door.shares.of(caller.id, caller.weight), count, priority, self.config.priority_default)

    def leave(self, caller: Caller, count: int) -> None:
        """Count as many as ended."""
        self.door.shares.leave(caller.id, count)

    def capacity_known(self, bound_per_s: float) -> None:
        """Take what the model's GPUs could answer per second if they had nothing else to do."""
        self._bound_per_s = max(bound_per_s, 1e-3)
        self.looked(0.0)

    def looked(self, look_s: float) -> None:
        """Learn from the door's last look, which took in `look_s` seconds, what can be answered in time."""
        per_s = self._bound_per_s
        if self.door.is_dropping and look_s > 0:
            per_s = min(per_s, max(self.door.served_count / look_s, 1e-3))
        self.capacity_per_s = per_s
        self.door.hold_count = per_s * self.slo_ns / NS_PER_S
        self._overload = None  # what it says of waiting is past

    def check_admission(self, deadline_ns: int, now_ns: int) -> None:
        """Raise SymphonyError unless the model can take one more request with this deadline."""
        config = self.config
        if self.state != "READY":
            raise not_ready(self)
        if self.pause:
            raise SymphonyError(
                Reason.NOT_READY,
                f'model "{config.name}" takes no requests now: {self.pause}; try again then',
                model=config.name,
                retry_after_s=1,
            )
        if self.stats.in_flight >= config.queue_count_max:
            raise SymphonyError(
                Reason.QUEUE_FULL,
                f'model "{config.name}" holds {self.stats.in_flight} requests, its queue_count_max; '
                "try again later, or add GPUs",
                model=config.name,
                retry_after_s=self.retry_after_s(),
            )
        margin_ns = self.margin.margin_ns + self.control_ns
        if deadline_ns - now_ns < self.alone_ns + margin_ns:
            raise SymphonyError(
                Reason.WOULD_MISS,
                f'model "{config.name}": {ns_to_ms(deadline_ns - now_ns):.1f} ms are left before the deadline, but a '
                f"batch of one takes l(1) = {ns_to_ms(self.alone_ns):.1f} ms and {ns_to_ms(margin_ns):.1f} ms of "
                "margin; allow more time",
                model=config.name,
                earliest_ms=ns_to_ms(self.earliest_ns()),
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
        earliest_ms = ns_to_ms(self.earliest_ns()) if reason in (Reason.WOULD_MISS, Reason.EXPIRED) else None
        return SymphonyError(reason, text, model=name, retry_after_s=self.retry_after_s(), earliest_ms=earliest_ms)

    def queue_s(self) -> float:
        """Return how long what is under way keeps the model's GPUs busy, in seconds."""
        return self.stats.in_flight / self.capacity_per_s

    def earliest_ns(self) -> int:
        """Return the shortest time-out that a request arriving now could be expected to meet, behind what is queued."""
        return round(self.queue_s() * NS_PER_S) + self.alone_ns + self.margin.margin_ns + self.control_ns

    def retry_after_s(self) -> float:
        """Return when trying again is worth it: once what is queued has ended, and what is refused would have."""
        let_in_share = max(1.0 - self.door.refused_share, 1e-3)
        return min(max(0.001, self.queue_s() / let_in_share), RETRY_AFTER_S_MAX)

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
