"""Own the requests that this node accepted, until each has its one outcome.

The ingress node is the only authority about its requests. Whoever plans one, it runs only where this node gave its
inputs away, and inputs are given

- only to a plan of the scheduler that the request is entrusted to now (the node's own core, or the leader of one
  term): so the plans of a leader that is over come to nothing even on nodes that have not heard of it; and
- to one plan at a time: so leaders may plan a request twice, nodes may resubmit, and it still runs once, unless the
  node that has it is lost.

The first outcome wins and removes the request; what comes later names a key that means nothing any more. A request
whose inputs are given away is waited for, until the link to its executor goes down or, at the latest, `overdue_ns`
after its deadline: then it fails, whatever else is going on.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from symphony.cluster.actions import Action, Answer, Refuse
from symphony.cluster.keys import SLOT_COUNT_MAX, make_key, next_key, slot_of
from symphony.cluster.protocol import (
    OWN_TERM,
    Cancel,
    ClusterMessage,
    Dropped,
    Failed,
    Fetch,
    Inputs,
    Outputs,
    Returned,
    Submit,
    Withdraw,
)
from symphony.core import Event, RequestArrived, RequestCancelled
from symphony.errors import Reason
from symphony.units import NEVER_NS, NS_PER_MS

ATTEMPT_COUNT_MAX: Final = 8
"""A request that was planned and returned so often fails: something about it or about the cluster is wrong."""
_TICK_NS: Final = 5 * NS_PER_MS
"""Deadlines are watched in steps of this: one entry of the heap serves all requests of a step."""

_Claim = tuple[str, int, int]
"""Executor, term, plan id."""


@dataclass(slots=True)
class _Accepted:
    model: int
    deadline_ns: int
    priority: int
    term: int
    """Whose it is to plan: OWN_TERM for the node's own core."""
    claim: _Claim | None = None
    """Which plan has its inputs."""
    attempt_count: int = 0


class Ingress:
    """The requests of one node that have no outcome yet, at most `request_count_max` (a key's slot is below it).

    `own_events` are for the node's own core, in order; they must be applied before the next request is accepted, since
    slots are ids there. `flush` sends what is for the leader.
    """

    def __init__(
        self,
        node: str,
        request_count_max: int,
        send: Callable[[str, ClusterMessage], None],
        reaches: Callable[[str], bool],
        actions: list[Action],
        overdue_ns: int,
    ) -> None:
        if not 0 < request_count_max <= SLOT_COUNT_MAX:
            raise ValueError(f"request_count_max must be 1 to {SLOT_COUNT_MAX}, got {request_count_max}")
        self._node = node
        self._send = send
        self._reaches = reaches
        self._actions = actions
        self._overdue_ns = overdue_ns
        self._requests: dict[int, _Accepted] = {}
        self._key_in_slot = [make_key(slot, 0) for slot in range(request_count_max)]
        self._free = deque(range(request_count_max))
        self._watched: dict[int, list[int]] = {}
        self._ticks: list[int] = []
        self._submitted: list[int] = []
        self._cancelled: list[int] = []
        self.term = OWN_TERM
        self.leader = ""
        self.own_events: list[Event] = []

    @property
    def request_count(self) -> int:
        """Return how many requests have no outcome yet."""
        return len(self._requests)

    @property
    def wakeup_ns(self) -> int:
        """Return when some request may be overdue."""
        return self._ticks[0] * _TICK_NS if self._ticks else NEVER_NS

    # What clients do

    def accept(self, model: int, deadline_ns: int, priority: int) -> int | None:
        """Take a request and return its key; None if there are too many."""
        if not self._free:
            return None
        slot = self._free.popleft()
        key = self._key_in_slot[slot] = next_key(self._key_in_slot[slot])
        self._requests[key] = request = _Accepted(model, deadline_ns, priority, self.term)
        tick = -(-(deadline_ns + self._overdue_ns) // _TICK_NS)
        if tick not in self._watched:
            self._watched[tick] = []
            heapq.heappush(self._ticks, tick)
        self._watched[tick].append(key)
        self._place(key, request)
        return key

    def cancel(self, key: int) -> bool:
        """Forget a request: it has no outcome after this. Return False if it had one already."""
        return self._take(key) is not None

    # Who schedules

    def entrust(self, now_ns: int, term: int, leader: str) -> None:
        """Give all that is not being executed to another scheduler, and what comes from now on."""
        if self.term != OWN_TERM:
            self._submitted.clear()  # what was not sent to the leader before need not be
            self._cancelled.clear()
        before, self.term, self.leader = self.term, term, leader
        for key, request in list(self._requests.items()):
            if request.claim is None:
                if before == OWN_TERM:
                    self.own_events.append(RequestCancelled(slot_of(key)))
                self._replace(now_ns, key, request)

    def flush(self) -> None:
        """Send the leader what has collected for it."""
        if self._cancelled:
            self._send(self.leader, Cancel(self.term, tuple(self._cancelled)))
            self._cancelled.clear()
        if self._submitted:
            columns = [
                (key, request.model, request.deadline_ns, request.priority)
                for key in self._submitted
                if (request := self._requests.get(key)) is not None
            ]
            self._submitted.clear()
            if columns:
                keys, models, deadlines_ns, priorities = zip(*columns, strict=True)
                self._send(self.leader, Submit(self.term, keys, models, deadlines_ns, priorities))

    def dropped(self, message: Dropped) -> None:
        """Take the leader's refusals."""
        for key, reason in zip(message.requests, message.reasons, strict=True):
            self._drop(key, message.term, reason)

    def dropped_here(self, slot: int, reason: str) -> None:
        """Take a refusal of the node's own core."""
        self._drop(self._key_in_slot[slot], OWN_TERM, reason)

    def keys_of(self, slots: Sequence[int]) -> tuple[int, ...]:
        """Return the keys of the requests that have these slots now."""
        return tuple(self._key_in_slot[slot] for slot in slots)

    def deadline_max_ns(self, keys: Sequence[int]) -> int:
        """Return the latest deadline of these requests, those that are over left out."""
        return max((self._requests[key].deadline_ns for key in keys if key in self._requests), default=0)

    # What executing nodes say

    def fetch(self, now_ns: int, executor: str, message: Fetch) -> None:
        """Give the inputs of those requests that this plan may run."""
        given, denied = [], []
        claim = (executor, message.term, message.plan_id)
        for key in message.requests:
            request = self._requests.get(key)
            if request is None or request.term != message.term or request.claim not in (None, claim):
                denied.append(key)
            elif now_ns >= request.deadline_ns:
                denied.append(key)
                self._refuse(key, Reason.EXPIRED.token)
            else:
                request.claim = claim
                given.append(key)
        self._send(executor, Inputs(message.term, message.plan_id, tuple(given), tuple(denied)))

    def outputs(self, executor: str, message: Outputs) -> None:
        """Answer the requests that are still waited for, whoever has them now: the first outcome wins."""
        claim = (executor, message.term, message.plan_id)
        answered = tuple(key for key in message.requests if self._take(key, ended=claim) is not None)
        if answered:
            self._actions.append(Answer(answered, executor))

    def failed(self, executor: str, message: Failed) -> None:
        """Fail the requests that this plan has; one that another plan has since may still succeed."""
        for key in message.requests:
            request = self._requests.get(key)
            claim = (executor, message.term, message.plan_id)
            if request is not None and request.claim == claim:
                self._take(key, ended=claim)
                self._actions.append(Refuse(key, message.reason))

    def returned(self, now_ns: int, executor: str, message: Returned) -> None:
        """Have requests that were planned and not run scheduled again."""
        claim = (executor, message.term, message.plan_id)
        for key in message.requests:
            request = self._requests.get(key)
            if request is None:
                continue
            if request.claim == claim or (request.claim is None and request.term == message.term):
                self._replace(now_ns, key, request)

    def peer_lost(self, now_ns: int, peer: str) -> None:
        """Have what the lost executing node had scheduled again. Costs O(requests)."""
        for key, request in list(self._requests.items()):
            if request.claim is not None and request.claim[0] == peer:
                self._replace(now_ns, key, request)

    def wake(self, now_ns: int) -> None:
        """Fail what is overdue."""
        while self._ticks and self._ticks[0] * _TICK_NS <= now_ns:
            for key in self._watched.pop(heapq.heappop(self._ticks)):
                if key in self._requests:
                    self._refuse(key, Reason.EXPIRED.token)

    # Inside

    def _place(self, key: int, request: _Accepted) -> None:
        if self.term == OWN_TERM:
            self.own_events.append(RequestArrived(slot_of(key), request.model, request.deadline_ns, request.priority))
        else:
            self._submitted.append(key)

    def _replace(self, now_ns: int, key: int, request: _Accepted) -> None:
        if request.claim is not None or request.term == self.term:
            request.attempt_count += 1  # being handed from one scheduler to another is no attempt
        request.claim = None
        request.term = self.term
        if now_ns >= request.deadline_ns:
            self._refuse(key, Reason.EXPIRED.token, is_placed=False)
        elif request.attempt_count >= ATTEMPT_COUNT_MAX:
            self._refuse(key, Reason.WORKER_FAILED.token, is_placed=False)
        else:
            self._place(key, request)

    def _drop(self, key: int, term: int, reason: str) -> None:
        request = self._requests.get(key)
        if request is not None and request.term == term and request.claim is None:
            self._refuse(key, reason, is_placed=False)

    def _refuse(self, key: int, reason: str, *, is_placed: bool = True) -> None:
        self._take(key, is_placed=is_placed)
        self._actions.append(Refuse(key, reason))

    def _take(self, key: int, *, is_placed: bool = True, ended: _Claim | None = None) -> _Accepted | None:
        """Remove a request, and tell whoever still has it, its scheduler or a plan other than the `ended` one."""
        request = self._requests.pop(key, None)
        if request is None:
            return None
        self._free.append(slot_of(key))
        if request.claim is not None:
            executor, term, plan_id = request.claim
            if request.claim != ended and self._reaches(executor):
                self._send(executor, Withdraw(term, plan_id, (key,)))
        elif is_placed:
            if request.term == OWN_TERM:
                self.own_events.append(RequestCancelled(slot_of(key)))
            else:
                self._cancelled.append(key)
        return request
