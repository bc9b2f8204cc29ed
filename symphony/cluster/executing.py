"""Carry out plans on this node's GPUs: fetch inputs as soon as a plan is known, run, return what came of it.

It is the one authority over what its GPUs do, whoever decides: the node's own core and leaders hand plans in, and a GPU
runs one batch at a time, in the order the plans came. A plan's requests belong to ingress nodes, which may deny them
(cancelled, taken elsewhere): it runs with what it was given, and not at all if that is nothing. Every request of a plan
ends here in one of four ways: its outputs are sent, it failed, it was denied, or it is returned to be scheduled again.
Only a link that is down leaves one of them unsaid; then both ends know that from the link.

Pure: time comes in, `send` and the actions go out. Whether a plan's term is the right one is the caller's business.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from symphony.cluster.actions import Action, Run
from symphony.cluster.protocol import (
    OWN_TERM,
    BatchBegan,
    BatchEnded,
    ClusterMessage,
    Failed,
    Fetch,
    Members,
    Outputs,
    Plan,
    Returned,
)
from symphony.units import NEVER_NS

PLAN_COUNT_MAX: Final = 8
"""Plans that a GPU has at once: a scheduler keeps two in flight, and after a change of leaders older ones are left."""

Member = tuple[str, int]
"""Ingress node and key."""


@dataclass(slots=True)
class _Held:
    """A plan on this node. `waiting` are requests whose inputs are on their way, `ready` those that are here."""

    term: int
    plan: Plan
    start_at_ns: int
    latest_at_ns: int
    give_up_at_ns: int
    waiting: set[Member] = field(default_factory=set)
    ready: list[Member] = field(default_factory=list)
    has_begun: bool = False


class Executor:
    """What runs on this node's GPUs, numbered from 0.

    `fetch_wait_ns`: how long past its start a plan waits for inputs; then it runs without those that have not come.
    `reaches` says whether a node can be sent to (this one always). Reports to the scheduler collect in `reports`.
    """

    def __init__(
        self,
        gpu_count: int,
        send: Callable[[str, ClusterMessage], None],
        reaches: Callable[[str], bool],
        actions: list[Action],
        fetch_wait_ns: int,
    ) -> None:
        self._send = send
        self._reaches = reaches
        self._actions = actions
        self._fetch_wait_ns = fetch_wait_ns
        self._queues: list[deque[_Held]] = [deque() for _ in range(gpu_count)]
        self._is_usable = [True] * gpu_count
        self._plans: dict[tuple[int, int], _Held] = {}
        self._newest_plan: dict[int, int] = {}
        self.reports: list[BatchBegan | BatchEnded] = []

    @property
    def plan_count(self) -> int:
        """Return how many plans are held."""
        return len(self._plans)

    @property
    def wakeup_ns(self) -> int:
        """Return when a plan could begin, or will wait for inputs no longer. Costs O(GPUs)."""
        due = NEVER_NS
        for queue in self._queues:
            if queue and not queue[0].has_begun:
                head = queue[0]
                due = min(due, head.give_up_at_ns if head.waiting else head.start_at_ns)
        return due

    def is_busy(self, gpu: int) -> bool:
        """Return whether the GPU runs or has yet to run a plan."""
        return bool(self._queues[gpu])

    def accept(self, now_ns: int, term: int, plan: Plan, start_at_ns: int, latest_at_ns: int) -> None:
        """Take a plan to be begun between these instants of this node's clock. One that was taken before is ignored.

        One that cannot be taken (no such GPU, unusable, too many) is returned to the ingress nodes.
        """
        if plan.plan_id <= self._newest_plan.get(term, 0):
            return
        self._newest_plan[term] = plan.plan_id
        held = _Held(term, plan, start_at_ns, latest_at_ns, max(now_ns, start_at_ns) + self._fetch_wait_ns)
        if (
            not 0 <= plan.gpu < len(self._queues)
            or not self._is_usable[plan.gpu]
            or len(self._queues[plan.gpu]) >= PLAN_COUNT_MAX
        ):
            for part in plan.members:
                self._give_back(held, part.ingress, part.requests)
            self._report_end(now_ns, held)
            return
        self._queues[plan.gpu].append(held)
        self._plans[term, plan.plan_id] = held
        for part in plan.members:
            if self._reaches(part.ingress):
                held.waiting.update((part.ingress, request) for request in part.requests)
                self._send(part.ingress, Fetch(term, plan.plan_id, part.requests))
        self._advance(now_ns, plan.gpu)

    def inputs(
        self, now_ns: int, ingress: str, term: int, plan_id: int, given: Sequence[int], denied: Sequence[int]
    ) -> None:
        """Take note of which requests of a plan an ingress node gives and which it does not."""
        held = self._plans.get((term, plan_id))
        if held is None or held.has_begun:
            return  # it ran without them and they were returned
        for request in given:
            if (ingress, request) in held.waiting:
                held.waiting.remove((ingress, request))
                held.ready.append((ingress, request))
        held.waiting.difference_update((ingress, request) for request in denied)
        self._advance(now_ns, held.plan.gpu)

    def withdraw(self, now_ns: int, ingress: str, term: int, plan_id: int, requests: Sequence[int]) -> None:
        """Do not run these requests of a plan, if it has not begun."""
        held = self._plans.get((term, plan_id))
        if held is not None and not held.has_begun:
            gone = {(ingress, request) for request in requests}
            held.waiting -= gone
            held.ready = [member for member in held.ready if member not in gone]
            self._advance(now_ns, held.plan.gpu)

    def ran(self, now_ns: int, term: int, plan_id: int, ended_at_ns: int, reason: str = "") -> None:
        """Take note that a batch ended; with a `reason`, that it failed. One that is not held any more is ignored."""
        held = self._plans.get((term, plan_id))
        if held is None or not held.has_begun:
            return
        for ingress, requests in _by_ingress(held.ready).items():
            if self._reaches(ingress):
                self._send(
                    ingress,
                    Failed(term, plan_id, requests, reason) if reason else Outputs(term, plan_id, requests),
                )
        self._end(ended_at_ns, held)
        self._advance(now_ns, held.plan.gpu)

    def set_usable(self, now_ns: int, gpu: int, is_usable: bool) -> None:
        """Use a GPU again, or give back everything on it: a batch that runs there will not be heard of again."""
        self._is_usable[gpu] = is_usable
        if not is_usable:
            for held in list(self._queues[gpu]):
                self._abandon(held)
                self._end(now_ns, held)

    def is_usable(self, gpu: int) -> bool:
        """Return whether the GPU may be used."""
        return self._is_usable[gpu]

    def discard_older(self, now_ns: int, term: int) -> None:
        """Give back what leaders before `term` planned and what has not begun: their plans begin no more."""
        for key in [each for each in self._newest_plan if OWN_TERM < each < term]:
            del self._newest_plan[key]
        for held in [each for each in self._plans.values() if OWN_TERM < each.term < term and not each.has_begun]:
            self._abandon(held)
            self._end(now_ns, held)
        for gpu in range(len(self._queues)):
            self._advance(now_ns, gpu)

    def peer_lost(self, now_ns: int, peer: str) -> None:
        """Do without the requests of an ingress node that is out of reach: it takes them back itself."""
        for held in list(self._plans.values()):
            if not held.has_begun:
                held.waiting = {member for member in held.waiting if member[0] != peer}
                held.ready = [member for member in held.ready if member[0] != peer]
        for gpu in range(len(self._queues)):
            self._advance(now_ns, gpu)

    def wake(self, now_ns: int) -> None:
        """Begin what is due."""
        for gpu in range(len(self._queues)):
            self._advance(now_ns, gpu)

    # Inside

    def _advance(self, now_ns: int, gpu: int) -> None:
        queue = self._queues[gpu]
        while queue and not queue[0].has_begun:
            head = queue[0]
            if now_ns > head.latest_at_ns:  # the process stood still, or the batch before took very long
                self._abandon(head)
                self._end(now_ns, head)
                continue
            if head.waiting and now_ns < head.give_up_at_ns:
                return
            if not head.waiting and head.ready and now_ns < head.start_at_ns:
                return
            for ingress, requests in _by_ingress(head.waiting).items():
                self._give_back(head, ingress, requests)
            head.waiting.clear()
            if head.ready:
                self._begin(now_ns, head)
            else:
                self._end(now_ns, head)

    def _begin(self, now_ns: int, held: _Held) -> None:
        held.has_begun = True
        plan = held.plan
        members = tuple(Members(ingress, requests) for ingress, requests in _by_ingress(held.ready).items())
        self._actions.append(Run(plan.gpu, plan.model, held.term, plan.plan_id, members))
        self.reports.append(BatchBegan(held.term, plan.plan_id, plan.gpu, now_ns))

    def _end(self, at_ns: int, held: _Held) -> None:
        self._queues[held.plan.gpu].remove(held)
        del self._plans[held.term, held.plan.plan_id]
        self._report_end(at_ns, held)

    def _report_end(self, at_ns: int, held: _Held) -> None:
        self.reports.append(BatchEnded(held.term, held.plan.plan_id, held.plan.gpu, at_ns))

    def _abandon(self, held: _Held) -> None:
        for ingress, requests in _by_ingress([*held.ready, *held.waiting]).items():
            self._give_back(held, ingress, requests)

    def _give_back(self, held: _Held, ingress: str, requests: Sequence[int]) -> None:
        if self._reaches(ingress):
            self._send(ingress, Returned(held.term, held.plan.plan_id, requests))


def _by_ingress(members: Collection[Member]) -> dict[str, tuple[int, ...]]:
    """Group keys by ingress node, both in ascending order where their source has none."""
    grouped: defaultdict[str, list[int]] = defaultdict(list)
    for ingress, request in sorted(members) if isinstance(members, set) else members:
        grouped[ingress].append(request)
    return {ingress: tuple(requests) for ingress, requests in grouped.items()}
