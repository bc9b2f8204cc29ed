"""Check what must hold whatever goes wrong, from outside: by what goes in and out, not by what the logic says.

A violation is an AssertionError at the moment it happens. `finish` checks what can be seen only at the end.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symphony.cluster.actions import Run
from symphony.cluster.protocol import (
    ClusterMessage,
    Dismissed,
    Dropped,
    Fetch,
    Inputs,
    Plans,
    Registered,
    StoodDown,
)
from tests.cluster.simulated.world import MS, World

if TYPE_CHECKING:
    from tests.cluster.simulated.host import Host

LATE_START_NS_MAX = 2 * MS
"""How much later than its plan says a batch may begin: what clocks may be off."""
CLOCKS_WRONG_NS_MAX = 300 * MS
LATE_NS_MAX = 27 * MS
"""Overdue time, one tick of the ingress' watch and a late timer."""


@dataclass(slots=True)
class Accepted:
    arrived_ns: int
    deadline_ns: int
    """On the ingress node's clock."""


@dataclass(frozen=True, slots=True)
class Ended:
    host: str
    arrived_ns: int
    is_good: bool
    reason: str
    was_alone: bool
    """Its node served alone from well before it came, undisturbed."""


class Checkers:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self.accepted: dict[tuple[str, int], Accepted] = {}
        self.ended: list[Ended] = []
        self.counts: Counter[str] = Counter()
        self.terms: dict[int, str] = {}
        self._world = world
        self._terms_seen: defaultdict[str, int] = defaultdict(int)
        self._losses: Counter[tuple[str, str]] = Counter()
        self._given: dict[tuple[str, int, str, int, int], int] = {}
        """How often the executor had been lost when it was given the inputs."""
        self._latest: dict[tuple[int, int], tuple[Host, int]] = {}
        """Until when a plan may begin, on whose clock."""
        self._runs: dict[tuple[str, int], list[tuple[str, int]]] = {}
        self._over: set[tuple[str, int]] = set()
        self.clocks_jumped_ns = -CLOCKS_WRONG_NS_MAX
        """When the last machine woke, whose clock had stood still; links know only when they measure again."""
        self._hash = hashlib.blake2b(digest_size=8)

    @property
    def digest(self) -> str:
        """Return what tells two runs apart: outcomes and batches in order, with their instants."""
        return self._hash.hexdigest()

    def note(self, *what: object) -> None:
        self._hash.update(f"{self._world.now_ns} {what}\n".encode())

    # Requests: exactly one outcome, none after cancellation, by the deadline

    def taken(self, host: Host, key: int, arrived_ns: int, deadline_ns: int) -> None:
        assert (host.id, key) not in self.accepted and (host.id, key) not in self._over, "a key was given twice"
        self.accepted[host.id, key] = Accepted(arrived_ns, deadline_ns)
        self.counts["accepted"] += 1

    def turned_away(self, host: Host) -> None:
        self.counts["turned away"] += 1

    def answered(self, host: Host, key: int, executor: str, outputs_of: str) -> None:
        assert outputs_of == executor, (
            f"{key:x} of {host.id} answered by {executor}, but outputs came from {outputs_of!r}"
        )
        self._end(host, key, "")

    def refused(self, host: Host, key: int, reason: str) -> None:
        self._end(host, key, reason)

    def cancelled(self, host: Host, key: int, is_cancelled: bool) -> None:
        assert is_cancelled == ((host.id, key) in self.accepted), "cancelled what was over, or not what was not"
        if is_cancelled:
            del self.accepted[host.id, key]
            self._over.add((host.id, key))
            self.counts["cancelled"] += 1

    def _end(self, host: Host, key: int, reason: str) -> None:
        who = (host.id, key)
        assert who not in self._over, f"{key:x} of {host.id} has a second outcome, or one after it was cancelled"
        request = self.accepted.pop(who)
        self._over.add(who)
        now_ns = self._world.now_ns
        late_ns = host.clock.now_ns() - request.deadline_ns
        if now_ns - host.disturbed_ns > 2 * MS:
            assert late_ns <= LATE_NS_MAX, f"{key:x} of {host.id} ended {late_ns / MS:.1f} ms after its deadline"
        since_ns = host.alone_since_ns
        was_alone = (
            since_ns is not None
            and since_ns < request.arrived_ns - 100 * MS
            and host.disturbed_ns < request.arrived_ns - 100 * MS
            and bool(host.offer.gpus)
        )
        is_good = not reason and late_ns <= 0
        self.ended.append(Ended(host.id, request.arrived_ns, is_good, reason, was_alone))
        self.counts[reason or ("good" if is_good else "late")] += 1
        self.note(host.id, key, reason)

    def given(self, host: Host, executor: str, message: Inputs) -> None:
        for key in message.requests:
            assert (host.id, key) in self.accepted, f"{host.id} gives away inputs of {key:x}, which is over"
            self._given[host.id, key, executor, message.term, message.plan_id] = self._losses[host.id, executor]

    # Terms: one leader each, growing, and none acts after a newer one was heard of

    def elected(self, host: Host, term: int) -> None:
        assert self.terms.setdefault(term, host.id) == host.id, f"two leaders in term {term}"
        self.term_seen(host, term)
        self.counts["leaderships"] += 1

    def leads(self, host: Host, message: Plans | Dropped, held_until_ns: int) -> None:
        if isinstance(message, Plans):
            for plan in message.plans:
                self._latest[message.term, plan.plan_id] = (host, plan.latest_at_ns)
        assert host.clock.now_ns() < held_until_ns, f"{host.id} acts as leader after its lease"

    def term_seen(self, host: Host, term: int) -> None:
        self._terms_seen[host.id] = max(self._terms_seen[host.id], term)

    def before_hearing(self, host: Host, message: ClusterMessage) -> object:
        """Return the node's state if this message must not change it."""
        if not 0 < message.term < self._terms_seen[host.id]:
            self.term_seen(host, message.term)
            return None
        if isinstance(message, Registered | Dismissed | StoodDown | Plans | Dropped | Fetch):
            return state_of(host)
        return None

    def heard(self, host: Host, message: ClusterMessage, before: object) -> None:
        if before is not None:
            self.counts["old messages"] += 1
            assert state_of(host) == before, f"{host.id} acted on {message} of an old term"

    # GPUs: one batch at a time, of the newest term, with inputs that were given, each request once

    def begun(self, host: Host, action: Run, running: object, inputs: dict) -> None:
        planned = self._latest.get((action.term, action.plan_id))
        if planned is not None and self._world.now_ns > self.clocks_jumped_ns + CLOCKS_WRONG_NS_MAX:
            leader, latest_at_ns = planned
            late_ns = leader.clock.now_ns() - latest_at_ns
            assert late_ns <= LATE_START_NS_MAX, f"{host.id} begins {action}, {late_ns / MS:.1f} ms too late"
        assert running is None, f"GPU {action.gpu} of {host.id} has two batches: {running} and {action}"
        assert host.gpus[action.gpu].is_usable, f"a batch on GPU {action.gpu} of {host.id}, which is lost"
        newest = self._terms_seen[host.id]
        assert action.term in (0, newest), f"{host.id} began a plan of term {action.term}, but has heard of {newest}"
        self.counts["batches"] += 1
        self.counts["batches of leaders"] += action.term > 0
        self.note(host.id, action)
        for part in action.members:
            for key in part.requests:
                who = (part.ingress, key)
                losses = self._losses[part.ingress, host.id]
                if part.ingress == host.id:
                    assert who in self.accepted, f"{host.id} runs {key:x} of its own, which is over"
                else:
                    self.counts["requests of others"] += 1
                    assert (*who, action.term, action.plan_id) in inputs, f"{host.id} runs {who} without its inputs"
                    if losses > self._given[*who, host.id, action.term, action.plan_id]:
                        continue  # out of reach for a while, or just coming to itself: it may not know yet
                runs = self._runs.setdefault(who, [])
                for executor, losses_then in runs:
                    assert self._losses[part.ingress, executor] > losses_then, (
                        f"{who} runs on {host.id}, but ran on {executor}, which was not lost since"
                    )
                runs.append((host.id, losses))

    def link_lost(self, host: Host, peer: str) -> None:
        self._losses[host.id, peer] += 1
        self.counts["links lost"] += 1

    def gpu_lost(self, host: Host) -> None:
        host.disturbed_ns = self._world.now_ns
        for ingress in {ingress for ingress, _ in self.accepted}:
            self._losses[ingress, host.id] += 1

    def killed(self, host: Host) -> None:
        for who in [who for who in self.accepted if who[0] == host.id]:
            del self.accepted[who]
            self._over.add(who)
            self.counts["died with their node"] += 1

    # The end

    def finish(self, hosts: list[Host]) -> None:
        """Check that nothing is left when all is over."""
        assert not self.accepted, f"no outcome: {[(who, f'{key:x}') for who, key in self.accepted][:5]}"
        for host in hosts:
            if host.is_alive:
                left = {name: size for name, size in sizes_of(host).items() if size}
                assert not left, f"left in {host.id}: {left}"


def state_of(host: Host) -> object:
    """Return what a message could change: whom the node follows, its requests, its plans, whom it leads."""
    node = host.node
    leader = node.leader
    return (
        node.standing,
        node.following,
        node.newest_term,
        {key: (each.term, each.claim) for key, each in node._ingress._requests.items()},
        {key: (held.has_begun, len(held.ready), len(held.waiting)) for key, held in node._executor._plans.items()},
        leader and (leader.term, leader.request_count, leader.plan_count, leader.node_ids),
    )


def sizes_of(host: Host) -> dict[str, int]:
    """Return how much is in each table that must be empty when there are no requests."""
    node = host.node
    sizes = {
        "requests": len(node._ingress._requests),
        "slots": len(node._ingress._key_in_slot) - len(node._ingress._free),
        "watched": len(node._ingress._watched) + len(node._ingress._ticks),
        "to submit": len(node._ingress._submitted) + len(node._ingress._cancelled),
        "plans": len(node._executor._plans) + sum(map(len, node._executor._queues)),
        "own core": node._core.queued_count,
        "terms of plans": max(0, len(node._executor._newest_plan) - 2),
        "messages": len(node._local) + len(node._executor.reports) + len(node._ingress.own_events),
    }
    if node.leader is not None:
        leader = node.leader
        sizes["leader's requests"] = len(leader._entries) + sum(len(each.queued) for each in leader._nodes.values())
        sizes["leader's plans"] = len(leader._plans) + sum(len(gpu.plans) for gpu in leader._gpus.values())
        sizes["leader's core"] = leader._core.queued_count
        sizes["leader's messages"] = len(leader._plans_out) + len(leader._drops_out)
        sizes["leader's ids"] = leader._core.request_count_max - len(leader._ids)
    return sizes
