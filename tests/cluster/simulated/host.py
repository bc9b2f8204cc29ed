"""Be the process around one node's logic: performs its actions, keeps its GPUs, calls it when time has come.

A host can be killed, paused (what happens to it waits until it goes on) and suspended (paused, and its clock stands
still). Its GPUs take l(b) with jitter and go on while the process is paused.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from symphony.cluster.actions import Answer, Refuse, Run, Send
from symphony.cluster.distance import Distance
from symphony.cluster.protocol import ClusterMessage, Dropped, Inputs, Outputs, Plans
from symphony.cluster.scheduling import SteppedCore
from symphony.cluster.serving import ClusterNode, Offer, Patience
from symphony.core import Scheduler
from tests.cluster.simulated.clocks import Clock
from tests.cluster.simulated.links import Link
from tests.cluster.simulated.world import MS, US, World

if TYPE_CHECKING:
    from tests.cluster.simulated.checkers import Checkers
    from tests.cluster.simulated.election import Store

REQUEST_COUNT_MAX = 512
LEADER_CONTROL_NS = 2 * MS
PATIENCE = Patience(fetch_wait_ns=4 * MS, overdue_ns=20 * MS, register_every_ns=30 * MS)


class Gpu:
    """One batch at a time, taking l(b) times what chance and faults make of it."""

    def __init__(self) -> None:
        self.running: tuple[int, int] | None = None
        self.slow_factor = 1.0
        self.fails_next = False
        self.is_usable = True
        self.lost_count = 0


class Host:
    """A process with one ClusterNode."""

    def __init__(
        self,
        node_id: str,
        world: World,
        rng: random.Random,
        clock: Clock,
        offer: Offer,
        checkers: Checkers,
        *,
        jitter: float,
        may_lead: bool = True,
    ) -> None:
        self.id = node_id
        self.clock = clock
        self.offer = offer
        self.may_lead = may_lead
        self.is_alive = True
        self.is_paused = False
        self.storeless_until_ns = 0
        self.held_term = 0
        self.links: dict[str, Link] = {}
        self.order: list[int] = []
        """Which of the cluster's models each of its own is."""
        self.gpus = [Gpu() for _ in offer.gpus]
        self.store: Store | None = None
        self.alone_since_ns: int | None = 0
        self.disturbed_ns = 0
        """When it was last paused, or a GPU of its own was in trouble."""
        self._world = world
        self._rng = rng
        self._jitter = jitter
        self._checkers = checkers
        self._waiting: list[Callable[[], None]] = []
        self._wake_version = 0
        self._wakes_at_ns = -1
        self._inputs: dict[tuple[str, int, int, int], None] = {}
        self._outputs: dict[int, str] = {}
        self._held_until_ns = 0
        self._told: set[str] = set()
        """Links that the logic was told to be up."""
        self._seen_leader: tuple[str | None, int] | None = None
        own = Scheduler(
            request_count_max=REQUEST_COUNT_MAX,
            model_count_max=8,
            gpu_count_max=8,
            control_ns=200 * US,
            lead_ns=500 * US,
            window_ns=MS,
        )
        self.node = ClusterNode(
            node_id,
            offer,
            SteppedCore(own, REQUEST_COUNT_MAX),
            request_count_max=REQUEST_COUNT_MAX,
            patience=PATIENCE,
        )
        self.call(lambda: None)

    # Calls into the logic

    def call(self, what: Callable[[], object]) -> None:
        """Let something happen to the process: now, or when it goes on."""
        if not self.is_alive:
            return
        if self.is_paused:
            self._waiting.append(what)
            return
        what()
        self._perform()

    def _perform(self) -> None:
        for action in self.node.take():
            match action:
                case Send():
                    self._send(action)
                case Run():
                    self._run(action)
                case Answer():
                    for key in action.requests:
                        self._checkers.answered(self, key, action.executor, self._outputs.pop(key, ""))
                case Refuse():
                    self._checkers.refused(self, action.request, action.reason)
        is_alone = self.node.following is None
        if is_alone and self.alone_since_ns is None:
            self.alone_since_ns = self._world.now_ns
        elif not is_alone:
            self.alone_since_ns = None
        if self.held_term and self.node.leader is None and self.store is not None:
            self.held_term = 0
            self._world.after(MS, self.store.release, self)
        self._set_alarm()

    def _set_alarm(self) -> None:
        wakeup_ns = self.node.wakeup_ns
        if wakeup_ns == self._wakes_at_ns:
            return
        self._wakes_at_ns = wakeup_ns
        self._wake_version += 1
        if wakeup_ns < 2**62:
            late_ns = self._rng.randint(0, 100) * US
            self._world.at(self.clock.true_ns(wakeup_ns) + late_ns, self._wake, self._wake_version)

    def _wake(self, version: int) -> None:
        if version == self._wake_version:
            self.call(self._wake_now)

    def _wake_now(self) -> None:
        self._wakes_at_ns = -1
        self.node.wake(self.clock.now_ns())

    # Links

    def _send(self, action: Send) -> None:
        message = action.message
        assert action.node in self._told, f"{self.id} sends to {action.node}, to which it has no link"
        link = self.links.get(action.node)
        if isinstance(message, Plans | Dropped):
            self._checkers.leads(self, message, self._held_until_ns)
        load = None
        if isinstance(message, Outputs):
            load = (self.id, message.term, message.plan_id)
        elif isinstance(message, Inputs):
            self._checkers.given(self, action.node, message)
        if link is not None:
            link.send(self, message, load)

    def hear(self, link: Link, number: int, sender: str, message: ClusterMessage, load: object) -> None:
        self.call(lambda: self._hear(sender, message))

    def _hear(self, sender: str, message: ClusterMessage) -> None:
        if isinstance(message, Inputs):
            for key in message.requests:
                self._inputs[sender, key, message.term, message.plan_id] = None
        elif isinstance(message, Outputs):
            for key in message.requests:
                self._outputs[key] = sender
        before = self._checkers.before_hearing(self, message)
        self.node.receive(self.clock.now_ns(), sender, message)
        self._checkers.heard(self, message, before)
        self._outputs = {key: who for key, who in self._outputs.items() if (self.id, key) in self._checkers.accepted}

    def gain_link(self, peer: str, distance: Distance) -> None:
        def gain() -> None:
            self._told.add(peer)
            self.node.link_up(self.clock.now_ns(), peer, distance)

        self.call(gain)

    def measure_link(self, peer: str, distance: Distance) -> None:
        self.call(lambda: self.node.link_measured(self.clock.now_ns(), peer, distance))

    def lose_link(self, peer: str) -> None:
        def lose() -> None:
            self._told.discard(peer)
            self._checkers.link_lost(self, peer)
            self.node.link_lost(self.clock.now_ns(), peer)

        self.call(lose)

    # The coordinator

    def see_leader(self, leader: str | None, term: int) -> None:
        if (leader, term) == self._seen_leader:
            return
        self._seen_leader = (leader, term)

        def see() -> None:
            if leader is not None:
                self._checkers.term_seen(self, term)
            self.node.leader_seen(self.clock.now_ns(), leader, term)

        self.call(see)

    def hold_leadership(self, term: int, held_until_ns: int, is_renewal: bool) -> None:
        def hold() -> None:
            now_ns = self.clock.now_ns()
            if is_renewal:
                if self.held_term == term:
                    self._held_until_ns = held_until_ns
                    self.node.leadership_renewed(now_ns, held_until_ns)
            elif now_ns < held_until_ns:
                self.held_term = term
                self._held_until_ns = held_until_ns
                self._checkers.elected(self, term)
                core = Scheduler(
                    request_count_max=2048,
                    model_count_max=16,
                    gpu_count_max=64,
                    control_ns=LEADER_CONTROL_NS,
                    lead_ns=LEADER_CONTROL_NS + MS,
                    window_ns=MS,
                )
                self.node.lead(
                    now_ns,
                    term,
                    SteppedCore(core, 2048),
                    held_until_ns,
                    control_ns=LEADER_CONTROL_NS,
                    gpu_count_max=64,
                    model_count_max=16,
                )

        self.call(hold)

    def lose_leadership(self, term: int) -> None:
        def lose() -> None:
            if self.held_term == term:
                self.node.leadership_lost(self.clock.now_ns())

        self.call(lose)

    # GPUs

    def _run(self, action: Run) -> None:
        gpu = self.gpus[action.gpu]
        self._checkers.begun(self, action, gpu.running, self._inputs)
        gpu.running = (action.term, action.plan_id)
        for part in action.members:
            for key in part.requests:
                self._inputs.pop((part.ingress, key, action.term, action.plan_id), None)
        size = sum(len(part.requests) for part in action.members)
        kind = self.offer.gpus[action.gpu].kind
        latency_ns = next(
            each.latency_ns for each in self.offer.profiles if (each.model, each.kind) == (action.model, kind)
        )
        takes_ns = round(latency_ns[size - 1] * gpu.slow_factor * (1 + self._rng.random() * self._jitter))
        reason = "worker_failed" if gpu.fails_next else ""
        gpu.fails_next = False
        self._world.after(takes_ns, self._ran, action, gpu.lost_count, reason)

    def _ran(self, action: Run, lost_count: int, reason: str) -> None:
        gpu = self.gpus[action.gpu]
        if gpu.lost_count != lost_count or not self.is_alive:
            return
        ended_at_ns = self.clock.now_ns()

        def ran() -> None:
            if gpu.lost_count != lost_count:
                return  # lost while this process was paused
            gpu.running = None
            for part in action.members:
                if part.ingress == self.id and not reason:
                    self._outputs.update(dict.fromkeys(part.requests, self.id))
            self.node.ran(self.clock.now_ns(), action.term, action.plan_id, ended_at_ns, reason)

        self.call(ran)

    def lose_gpu(self, index: int, duration_ns: int) -> None:
        """Let a GPU be quarantined, and come back later."""

        def lose() -> None:
            gpu = self.gpus[index]
            if gpu.is_usable:
                gpu.is_usable = False
                gpu.running = None
                gpu.lost_count += 1
                self._checkers.gpu_lost(self)
                self.node.change_gpu(self.clock.now_ns(), index, self.offer.gpus[index].models, False)
                self._world.after(duration_ns, self.call, find)

        def find() -> None:
            self.gpus[index].is_usable = True
            self.disturbed_ns = self._world.now_ns
            self.node.change_gpu(self.clock.now_ns(), index, self.offer.gpus[index].models, True)

        self.call(lose)

    # Clients

    def request(self, model: int, slo_ns: int, priority: int, cancel_after_ns: int | None) -> None:
        """Let a client ask, unless the process is gone."""
        arrived_ns = self._world.now_ns

        def ask() -> None:
            deadline_ns = self.clock.now_ns() + slo_ns
            key = self.node.accept(self.clock.now_ns(), model, deadline_ns, priority)
            if key is None:
                self._checkers.turned_away(self)
                return
            self._checkers.taken(self, key, arrived_ns, deadline_ns)
            if cancel_after_ns is not None:
                self._world.after(cancel_after_ns, self.call, lambda: self._cancel(key))

        self.call(ask)

    def _cancel(self, key: int) -> None:
        is_cancelled = self.node.cancel(self.clock.now_ns(), key)
        self._checkers.cancelled(self, key, is_cancelled)

    # Faults

    def kill(self, at_once: bool) -> None:
        """End the process; its peers notice at once, or when they have heard nothing for long enough."""
        self.is_alive = False
        self._waiting.clear()
        self._checkers.killed(self)
        for link in self.links.values():
            link.gone(self, at_once)

    def pause(self, duration_ns: int, is_suspended: bool) -> None:
        """Stop the process for a while."""
        if not self.is_alive or self.is_paused:
            return
        self.is_paused = True
        if is_suspended:
            self.clock.suspend()
        for link in self.links.values():
            link.silent(self)
        self._world.after(duration_ns, self._resume)

    def _resume(self) -> None:
        self.is_paused = False
        if self.clock.is_suspended:
            self.clock.resume()
            self._checkers.clocks_jumped_ns = self._world.now_ns
        self.disturbed_ns = self._world.now_ns
        waiting, self._waiting = self._waiting, []
        for what in waiting:
            self.call(what)
        self._wakes_at_ns = -1
        self.call(lambda: None)
