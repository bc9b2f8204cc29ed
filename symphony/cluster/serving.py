"""Be one node of a cluster: serve alone, follow a leader, lead; never stop serving when one of these ends.

`ClusterNode` puts together what decides about this node: its ingress part (`accepting`), its executing part
(`executing`), its own core, and, while it leads, the `Leader`, which it addresses like any other node. What happens
comes in as calls with the time; what is to be done collects as actions, to be taken with `take()` after each call.

**Alone.** Requests go to the node's own core, which has the node's own GPUs. So it is from the start, while there is no
leader or no link to it, and while the leader does not want it.

**Following.** The node registers with the leader of the newest term it knows of, and goes on alone until the answer is
there. Then the own core forgets its GPUs, and the requests that have not started are submitted. A GPU that still has a
plan that another scheduler made is kept from the present one until it is free (in the own core: joined and drained, so
that requests wait for it; with the leader: not yet `Freed`), so that no two schedulers ever count on the same time.

**Terms.** From the first sign of a newer term on, nothing older counts: plans that have not begun are given back, plans
that arrive are not taken, inputs are not given to them. After a leader is lost without a successor, on the other hand,
what it had planned goes on: nobody contradicts it, and the requests in it are nearest to their deadlines.

Pure: no clock, socket, thread or chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from symphony.cluster.accepting import Ingress
from symphony.cluster.actions import Action, Send
from symphony.cluster.distance import HERE, Distance
from symphony.cluster.executing import Executor
from symphony.cluster.leading import Leader
from symphony.cluster.protocol import (
    OWN_TERM,
    BatchBegan,
    BatchEnded,
    Cancel,
    ClusterMessage,
    Deregister,
    Dismissed,
    Dropped,
    Failed,
    Fetch,
    Freed,
    GpuChanged,
    Inputs,
    Members,
    OfferedGpu,
    OfferedModel,
    OfferedProfile,
    Outdated,
    Outputs,
    Peer,
    PeerLost,
    PeersMeasured,
    Plan,
    Plans,
    Register,
    Registered,
    Returned,
    StoodDown,
    Submit,
    Withdraw,
)
from symphony.cluster.scheduling import Core
from symphony.core import (
    KIND_COUNT_MAX,
    BatchFinished,
    BatchStarted,
    Decision,
    Dispatch,
    Drop,
    GpuDrained,
    GpuJoined,
    GpuLeft,
    GpuRestored,
    ModelAdded,
    ModelEvicted,
    ModelPlaced,
    ProfileChanged,
)
from symphony.units import NEVER_NS, NS_PER_MS

_TO_LEADER: Final = (
    Register,
    Deregister,
    Outdated,
    Freed,
    GpuChanged,
    PeersMeasured,
    PeerLost,
    Submit,
    Cancel,
    BatchBegan,
    BatchEnded,
)
_NEWS_SHARE: Final = 8
"""The way over a link is told again when it changed by more than one part in so many."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node brings along: the models it knows, how fast they are on its GPUs, and its GPUs."""

    models: tuple[OfferedModel, ...]
    profiles: tuple[OfferedProfile, ...]
    gpus: tuple[OfferedGpu, ...]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a node waits: past a plan's start for inputs, past a deadline for outputs, between registrations."""

    fetch_wait_ns: int = 5 * NS_PER_MS
    overdue_ns: int = 20 * NS_PER_MS
    register_every_ns: int = 100 * NS_PER_MS


class Standing(Enum):
    """Say who schedules for a node."""

    ALONE = "alone"
    REGISTERING = "registering"
    """Alone, and has asked a leader."""
    FOLLOWING = "following"


class ClusterNode:
    """One node: `node_id` is unique to the process; `own_core` is fresh, with room for all its requests and GPUs.

    The caller performs the actions in order, calls `wake` at `wakeup_ns`, and never lets time go backwards.
    """

    def __init__(
        self,
        node_id: str,
        offer: Offer,
        own_core: Core,
        *,
        request_count_max: int = 65536,
        patience: Patience | None = None,
    ) -> None:
        if own_core.request_count_max < request_count_max:
            raise ValueError(
                f"the own core has room for {own_core.request_count_max} requests, the node for {request_count_max}; "
                "make the core as large"
            )
        self.id = node_id
        self.standing = Standing.ALONE
        self.newest_term = OWN_TERM
        self.leader: Leader | None = None
        self._offer = offer
        self._core = own_core
        self._patience = patience or Patience()
        self._actions: list[Action] = []
        self._local: list[ClusterMessage] = []
        self._links: dict[str, Distance] = {}
        self._target: tuple[str, int] | None = None
        self._following: tuple[str, int] | None = None
        self._asked: Register | None = None
        self._attempt_count = 0
        self._register_at_ns = NEVER_NS
        self._now_ns = 0
        self._gpus = list(offer.gpus)
        self._kinds = {kind: index for index, kind in enumerate(dict.fromkeys(gpu.kind for gpu in offer.gpus))}
        if len(self._kinds) > KIND_COUNT_MAX:
            raise ValueError(f"node {node_id} has GPUs of {len(self._kinds)} kinds; at most {KIND_COUNT_MAX} are known")
        self._kept_back: set[int] = set()
        """GPUs that still have a plan that the present scheduler did not make."""
        self._ingress = Ingress(
            node_id, request_count_max, self._send, self._reaches, self._actions, self._patience.overdue_ns
        )
        self._executor = Executor(
            len(offer.gpus), self._send, self._reaches, self._actions, self._patience.fetch_wait_ns
        )
        events = self._ingress.own_events
        for index, model in enumerate(offer.models):
            events.append(ModelAdded(index, model.slo_ns, model.batch_size_max, model.margin_ns))
        for profile in offer.profiles:
            if profile.kind in self._kinds:
                events.append(ProfileChanged(profile.model, self._kinds[profile.kind], profile.latency_ns))
        self._take_gpus()

    # What the process around it may look at

    @property
    def wakeup_ns(self) -> int:
        """Return when `wake` is to be called."""
        return min(
            self._core.wakeup_ns,
            self._ingress.wakeup_ns,
            self._executor.wakeup_ns,
            self._register_at_ns,
            self.leader.wakeup_ns if self.leader is not None else NEVER_NS,
        )

    @property
    def following(self) -> tuple[str, int] | None:
        """Return the leader that schedules for this node and its term; None while it serves alone."""
        return self._following

    @property
    def request_count(self) -> int:
        """Return how many accepted requests have no outcome yet."""
        return self._ingress.request_count

    @property
    def plan_count(self) -> int:
        """Return how many plans its GPUs have."""
        return self._executor.plan_count

    def take(self) -> list[Action]:
        """Return what is to be done, in order, and forget it."""
        actions = self._actions.copy()
        self._actions.clear()
        return actions

    # Clients

    def accept(self, now_ns: int, model: int, deadline_ns: int, priority: int) -> int | None:
        """Accept a request for the offer's model of that index and return its key; None if there are too many.

        It ends with exactly one Answer or Refuse, unless it is cancelled first.
        """
        return self.accept_many(now_ns, ((model, deadline_ns, priority),))[0]

    def accept_many(self, now_ns: int, rows: Sequence[tuple[int, int, int]]) -> list[int | None]:
        """Accept requests (model, deadline_ns, priority), submitted together."""
        self._begin(now_ns)
        keys = [self._ingress.accept(*row) for row in rows]
        self._settle()
        return keys

    def cancel(self, now_ns: int, key: int) -> bool:
        """Forget a request; False if it has its outcome already."""
        self._begin(now_ns)
        is_cancelled = self._ingress.cancel(key)
        self._settle()
        return is_cancelled

    # GPUs

    def ran(self, now_ns: int, term: int, plan_id: int, ended_at_ns: int, reason: str = "") -> None:
        """Take note that what `Run` asked for ended; with a `reason` (a token), that it failed."""
        self._begin(now_ns)
        self._executor.ran(now_ns, term, plan_id, ended_at_ns, reason)
        self._settle()

    def change_gpu(self, now_ns: int, gpu: int, models: tuple[int, ...], is_usable: bool) -> None:
        """Take note of which models a GPU holds, and whether it is usable.

        When it ceases to be, everything on it is scheduled again, also the batch that runs, unless it said so before.
        """
        self._begin(now_ns)
        before = self._gpus[gpu]
        self._gpus[gpu] = replace(before, models=models, is_usable=is_usable)
        if self._following is not None:
            self._send(self._following[0], GpuChanged(self._following[1], gpu, models, is_usable))
        else:
            events = self._ingress.own_events
            events += [ModelEvicted(model, gpu) for model in before.models if model not in models]
            events += [ModelPlaced(model, gpu) for model in models if model not in before.models]
            if before.is_usable != is_usable and gpu not in self._kept_back:
                events.append(GpuRestored(gpu) if is_usable else GpuDrained(gpu))
        if before.is_usable != is_usable:
            self._executor.set_usable(now_ns, gpu, is_usable)
        self._settle()

    # Links

    def link_up(self, now_ns: int, peer: str, distance: Distance) -> None:
        """Take note of a link to another node, which is only told once clocks are compared."""
        self._begin(now_ns)
        self._links[peer] = distance
        if self._following is not None:
            self._send(self._following[0], PeersMeasured(self._following[1], (Peer(peer, distance.data_ns),)))
        self._consider()
        self._settle()

    def link_measured(self, now_ns: int, peer: str, distance: Distance) -> None:
        """Take note of a newer measurement of a link."""
        self._begin(now_ns)
        before = self._links.get(peer)
        if before is not None:
            is_news = abs(distance.data_ns - before.data_ns) * _NEWS_SHARE > before.data_ns
            self._links[peer] = distance if is_news else replace(distance, data_ns=before.data_ns)
            if is_news and self.leader is not None:
                self.leader.link_measured()
            if is_news and self._following is not None:
                self._send(self._following[0], PeersMeasured(self._following[1], (Peer(peer, distance.data_ns),)))
        self._settle()

    def link_lost(self, now_ns: int, peer: str) -> None:
        """Take note that a link is down, and with it what was under way on it."""
        self._begin(now_ns)
        if self._links.pop(peer, None) is not None:
            if self.leader is not None:
                self.leader.link_lost(now_ns, peer)
            if self._target is not None and self._target[0] == peer:
                self._go_alone()
            elif self._following is not None:
                self._send(self._following[0], PeerLost(self._following[1], peer))
            self._executor.peer_lost(now_ns, peer)
            self._ingress.peer_lost(now_ns, peer)
        self._settle()

    # Leadership, as the coordinator says

    def leader_seen(self, now_ns: int, node: str | None, term: int = OWN_TERM) -> None:
        """Take note of who leads in which term; None: nobody. Older news than what is known is ignored."""
        self._begin(now_ns)
        if node is None:
            self._target = None
            self._leave()
        else:
            self._follow(node, term)
        self._settle()

    def lead(
        self,
        now_ns: int,
        term: int,
        core: Core,
        held_until_ns: int,
        *,
        control_ns: int,
        gpu_count_max: int = 1024,
        model_count_max: int = 1024,
    ) -> None:
        """Lead in this term, which the coordinator granted until `held_until_ns`, with a fresh core."""
        self._begin(now_ns)
        if term < self.newest_term:
            return  # another has been elected since
        self._see_term(term)
        self.leader = Leader(
            term,
            core,
            held_until_ns,
            self._send,
            self._distance_to,
            control_ns=control_ns,
            gpu_count_max=gpu_count_max,
            model_count_max=model_count_max,
        )
        self._follow(self.id, term)
        self._settle()

    def leadership_renewed(self, now_ns: int, held_until_ns: int) -> None:
        """Take note that the leadership is held for longer."""
        self._begin(now_ns)
        if self.leader is not None:
            self.leader.renewed(held_until_ns)
        self._settle()

    def leadership_lost(self, now_ns: int) -> None:
        """Stand down: the leadership is lost or was given up."""
        self._begin(now_ns)
        if self.leader is not None:
            self.leader.stand_down()
        self._settle()

    # Messages and time

    def receive(self, now_ns: int, peer: str, message: ClusterMessage) -> None:
        """Act on a message that came over the link to `peer`."""
        self._begin(now_ns)
        if peer in self._links:
            self._act(peer, message)
        self._settle()

    def wake(self, now_ns: int) -> None:
        """Do what time alone makes due."""
        self._begin(now_ns)
        self._executor.wake(now_ns)
        self._ingress.wake(now_ns)
        if self.leader is not None:
            self.leader.wake(now_ns)
        if now_ns >= self._register_at_ns:
            self._consider()
        self._settle()

    # Inside: messages

    def _act(self, peer: str, message: ClusterMessage) -> None:
        now_ns = self._now_ns
        if message.term <= OWN_TERM and peer != self.id:
            return  # nobody else has to do with what the own core plans
        if message.term > self.newest_term:
            self._see_term(message.term)
        if isinstance(message, _TO_LEADER):
            leader = self.leader
            if leader is not None and leader.is_leading(now_ns) and leader.term == message.term:
                leader.receive(now_ns, peer, message)
            elif isinstance(message, Register):
                why = f"it does not lead in term {message.term}"
                self._send(peer, Dismissed(message.term, message.attempt, why))
            return
        match message:
            case Fetch():
                self._ingress.fetch(now_ns, peer, message)
            case Inputs():
                self._executor.inputs(now_ns, peer, message.term, message.plan_id, message.requests, message.denied)
            case Withdraw():
                self._executor.withdraw(now_ns, peer, message.term, message.plan_id, message.requests)
            case Outputs():
                self._ingress.outputs(peer, message)
            case Failed():
                self._ingress.failed(peer, message)
            case Returned():
                self._ingress.returned(now_ns, peer, message)
            case Plans():
                self._plans(peer, message)
            case Registered():
                self._registered(peer, message.term, message.attempt)
            case Dropped():
                if self._following == (peer, message.term):
                    self._ingress.dropped(message)
            case Dismissed():
                if self._target == (peer, message.term) and message.attempt == self._attempt_count:
                    self._go_alone()
            case StoodDown():
                if self._target == (peer, message.term):
                    self._target = None
                    self._go_alone()

    def _plans(self, peer: str, message: Plans) -> None:
        if message.term < self.newest_term:
            self._send(peer, Outdated(self.newest_term))
        if self._following == (peer, message.term):
            for plan in message.plans:
                here_ns = self._links.get(peer, HERE).here_ns
                self._executor.accept(
                    self._now_ns, message.term, plan, here_ns(plan.start_at_ns), here_ns(plan.latest_at_ns)
                )

    def _send(self, node: str, message: ClusterMessage) -> None:
        if node == self.id:
            self._local.append(message)
        elif node in self._links:
            self._actions.append(Send(node, message))

    def _reaches(self, node: str) -> bool:
        return node == self.id or node in self._links

    def _distance_to(self, node: str) -> Distance | None:
        return HERE if node == self.id else self._links.get(node)

    # Inside: who schedules

    def _see_term(self, term: int) -> None:
        """Take nothing older seriously any more."""
        if term > self.newest_term:
            self.newest_term = term
            if self.leader is not None and self.leader.term < term:
                self.leader.stand_down()
            self._target = None
            self._leave()
            self._executor.discard_older(self._now_ns, term)

    def _follow(self, node: str, term: int) -> None:
        if term >= self.newest_term and self._target != (node, term):
            self._see_term(term)
            self._leave()
            self._target = (node, term)
            self._consider()

    def _consider(self) -> None:
        """Register with the leader, if there is one within reach that has not been asked.

        Whoever is asked answers, or the link goes down.
        """
        self._register_at_ns = NEVER_NS
        if self._target is None or self.standing is not Standing.ALONE or not self._reaches(self._target[0]):
            return
        node, term = self._target
        self.standing = Standing.REGISTERING
        self._attempt_count += 1
        peers = tuple(Peer(peer, distance.data_ns) for peer, distance in self._links.items())
        self._asked = Register(
            term, self._attempt_count, self._offer.models, self._offer.profiles, tuple(self._gpus), peers
        )
        self._send(node, self._asked)

    def _registered(self, peer: str, term: int, attempt: int) -> None:
        """Hand over to the leader: what has not started, and each GPU once it is free."""
        if self._asked is None or attempt != self._asked.attempt:
            return  # another answer is on its way
        if self._target != (peer, term) or self.standing is not Standing.REGISTERING:
            self._send(peer, Deregister(term))
            return
        self.standing = Standing.FOLLOWING
        self._following = (peer, term)
        self._ingress.own_events += [GpuLeft(gpu) for gpu in range(len(self._gpus))]
        self._ingress.entrust(self._now_ns, term, peer)
        # What changed since the node asked:
        for index, (gpu, asked) in enumerate(zip(self._gpus, self._asked.gpus, strict=True)):
            if gpu != asked:
                self._send(peer, GpuChanged(term, index, gpu.models, gpu.is_usable))
        for each in self._asked.peers:
            if each.node not in self._links:
                self._send(peer, PeerLost(term, each.node))
        told = {each.node: each.data_ns for each in self._asked.peers}
        news = [Peer(each, to.data_ns) for each, to in self._links.items() if told.get(each) != to.data_ns]
        if news:
            self._send(peer, PeersMeasured(term, tuple(news)))
        self._kept_back = set(range(len(self._gpus)))
        self._release()

    def _leave(self) -> None:
        """Schedule for itself, on its own initiative."""
        if self._following is not None:
            self._send(self._following[0], Deregister(self._following[1]))
        self._go_alone()
        self._register_at_ns = NEVER_NS

    def _go_alone(self) -> None:
        """Schedule for itself, and ask the leader again later, if there is one."""
        self.standing = Standing.ALONE
        is_asking = self._target is not None
        self._register_at_ns = self._now_ns + self._patience.register_every_ns if is_asking else NEVER_NS
        if self._following is not None:
            self._following = None
            self._take_gpus()
            self._ingress.entrust(self._now_ns, OWN_TERM, "")

    def _take_gpus(self) -> None:
        """Have the own core schedule the node's GPUs, those that others left plans on once they are free."""
        events = self._ingress.own_events
        for index, gpu in enumerate(self._gpus):
            events.append(GpuJoined(index, self._kinds[gpu.kind]))
            events.append(GpuDrained(index))
            events += [ModelPlaced(model, index) for model in gpu.models]
        self._kept_back = set(range(len(self._gpus)))
        self._release()

    def _release(self) -> None:
        """Let the present scheduler have the GPUs on which nothing of others' is left."""
        for gpu in [each for each in sorted(self._kept_back) if not self._executor.is_busy(each)]:
            self._kept_back.discard(gpu)
            if self._following is not None:
                self._send(self._following[0], Freed(self._following[1], gpu))
            elif self._gpus[gpu].is_usable:
                self._ingress.own_events.append(GpuRestored(gpu))

    # Inside: a call

    def _begin(self, now_ns: int) -> None:
        self._now_ns = max(self._now_ns, now_ns)

    def _settle(self) -> None:
        """Carry on until nothing is left to do: messages to itself, reports of its GPUs, decisions of its own core."""
        ingress, executor = self._ingress, self._executor
        is_first = True
        while True:
            if self._local:
                messages = self._local.copy()
                self._local.clear()
                for message in messages:
                    self._act(self.id, message)
            elif executor.reports:
                reports = executor.reports.copy()
                executor.reports.clear()
                for report in reports:
                    self._report(report)
                self._release()
            elif ingress.own_events or (is_first and self._now_ns >= self._core.wakeup_ns):
                is_first = False
                events = ingress.own_events.copy()
                ingress.own_events.clear()
                for decision in self._core.apply(self._now_ns, events):
                    self._carry_out(decision)
            else:
                ingress.flush()
                if not self._local:
                    break
        if self.leader is not None and self.leader.is_over:
            self.leader = None

    def _report(self, report: BatchBegan | BatchEnded) -> None:
        if report.term == OWN_TERM:
            if self._following is None:
                self._ingress.own_events.append(
                    BatchStarted(report.plan_id, report.gpu, report.at_ns)
                    if isinstance(report, BatchBegan)
                    else BatchFinished(report.plan_id, report.gpu, report.at_ns)
                )
        elif self._following is not None and self._following[1] == report.term:
            self._send(self._following[0], report)

    def _carry_out(self, decision: Decision) -> None:
        match decision:
            case Dispatch() if self._following is None:  # else made while its GPUs left one after the other
                keys = self._ingress.keys_of(decision.ids)
                plan = Plan(
                    decision.plan_id,
                    decision.gpu,
                    decision.model,
                    (Members(self.id, keys),),
                    decision.start_at_ns,
                    decision.finish_at_ns,
                    self._ingress.deadline_max_ns(keys),
                )
                self._executor.accept(self._now_ns, OWN_TERM, plan, plan.start_at_ns, plan.latest_at_ns)
            case Drop():
                self._ingress.dropped_here(decision.id, decision.reason)
