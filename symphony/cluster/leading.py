"""Lead: schedule all requests on all GPUs of the registered nodes, with one core.

The leader translates. What nodes say (their models, GPUs, keys, instants) becomes events of the core; what the core
decides becomes plans for executing nodes and drops for ingress nodes, batched per node. No tensor passes through it.

**What it keeps of a request.** Until the core has decided, which ingress node it belongs to and under which key. From
then until the plan has begun, the same in the plan, so that the requests of a node that goes away are planned again. No
longer: from the beginning of its plan on a request is between the executing and the ingress node, which alone knows
whether it needs another plan, and then submits it again. Planning a request twice is therefore harmless: the ingress
node gives its inputs to one plan at a time.

**Every scheduled node reaches every other.** The core knows nothing of links: it would send requests of A to GPUs of B
also while the link between the two is cut, again and again. So a node is admitted only with links to all registered
ones, and when two of them lose theirs, one is dismissed: the one that lost more links, else the one that is complained
about. It serves its own requests on its own GPUs until it is whole again. The leader needs no link of its own to judge
that, and one bad link costs one node's share of the pool, not the requests of two.

**Distance in the arithmetic.** A deadline becomes, on the leader's clock, `deadline - bound - way back`: the error
bound of the clocks' comparison, and the longest way that outputs may take from any executing node to the request's
ingress node. The way there (plan, fetch, inputs) is `control_ns` of the core; what is longer than that is subtracted,
too. It is the longest way since the core does not yet know on which GPU the request will run.

**Terms.** Before anything goes out the clock is compared with the instant until which the leadership is held; at that
instant the leader stands down, and says so. What it sent just before is fenced by its term at the receivers.

Pure: no clock, socket or thread; `send` and time are arguments. Soft state: all of it comes back from the nodes.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from symphony.cluster.distance import Distance
from symphony.cluster.protocol import (
    OWN_TERM,
    BatchBegan,
    BatchEnded,
    Cancel,
    ClusterMessage,
    Deregister,
    Dismissed,
    Dropped,
    Freed,
    GpuChanged,
    Members,
    Outdated,
    PeerLost,
    PeersMeasured,
    Plan,
    Plans,
    Register,
    Registered,
    StoodDown,
    Submit,
)
from symphony.cluster.scheduling import Core
from symphony.core import (
    KIND_COUNT_MAX,
    PRIORITY_HIGHEST,
    PRIORITY_LOWEST,
    BatchFinished,
    BatchStarted,
    Decision,
    Dispatch,
    Drop,
    Event,
    GpuDrained,
    GpuJoined,
    GpuLeft,
    GpuRestored,
    ModelAdded,
    ModelEvicted,
    ModelPlaced,
    ModelRemoved,
    ProfileChanged,
    RequestArrived,
    RequestCancelled,
)
from symphony.errors import Reason

NODE_COUNT_MAX: Final = 4096
NODE_GPU_COUNT_MAX: Final = 1024
BATCH_SIZE_MAX: Final = 1 << 16
DURATION_NS_MAX: Final = (1 << 60) - 1
"""Of the core: instants and durations lie within."""


@dataclass(slots=True)
class _Entry:
    """A request: whose, under which key, and the rest as the core has it."""

    node: _Node
    key: int
    model: int
    deadline_ns: int
    priority: int


@dataclass(slots=True)
class _Node:
    id: str
    attempt: int
    models: list[int | None] = field(default_factory=list)
    """Its indices to ours."""
    model_there: dict[int, int] = field(default_factory=dict)
    gpus: list[_Gpu | None] = field(default_factory=list)
    """None: one that the core has no room for."""
    queued: dict[int, int] = field(default_factory=dict)
    """Key to the id in the core."""
    peers: dict[str, int] = field(default_factory=dict)
    """Nodes that it has a link to, and how long data takes there."""
    lost: set[str] = field(default_factory=set)
    """Registered nodes that it lost its link to."""
    way_ns: int = 0
    way_version: int = -1


@dataclass(slots=True)
class _Gpu:
    id: int
    node: _Node
    local: int
    kind: int
    models: set[int] = field(default_factory=set)
    plans: dict[int, _Planned] = field(default_factory=dict)
    is_freed: bool = False
    is_usable: bool = True
    is_drained: bool = True


@dataclass(slots=True)
class _Planned:
    gpu: _Gpu
    entries: list[_Entry]
    """Emptied when it begins."""
    decided_at_ns: int


@dataclass(slots=True)
class _Model:
    index: int
    name: str
    batch_size_max: int
    nodes: set[str] = field(default_factory=set)
    tables: dict[int, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    """By kind and node; the core gets the slowest."""


class Leader:
    """The leader of one term, until it stands down.

    `core` is fresh and has room for `core.request_count_max` requests, `gpu_count_max` GPUs, `model_count_max` models;
    `control_ns` is what it was made with. `distance_to(node)` is what this node's link says, None without a link.
    """

    def __init__(
        self,
        term: int,
        core: Core,
        held_until_ns: int,
        send: Callable[[str, ClusterMessage], None],
        distance_to: Callable[[str], Distance | None],
        *,
        control_ns: int,
        gpu_count_max: int = 1024,
        model_count_max: int = 1024,
    ) -> None:
        if term <= OWN_TERM:
            raise ValueError(f"a leader's term must be above {OWN_TERM}, got {term}")
        self.term = term
        self.is_over = False
        self._core = core
        self._held_until_ns = held_until_ns
        self._send = send
        self._distance_to = distance_to
        self._control_ns = control_ns
        self._nodes: dict[str, _Node] = {}
        self._ids = list(range(core.request_count_max - 1, -1, -1))
        self._entries: dict[int, _Entry] = {}
        self._gpu_ids = list(range(gpu_count_max))
        self._gpus: dict[int, _Gpu] = {}
        self._kinds: dict[str, int] = {}
        self._model_ids = list(range(model_count_max))
        self._models: dict[str, _Model] = {}
        self._model_names: dict[int, str] = {}
        self._plans: dict[int, _Planned] = {}
        self._plans_out: defaultdict[str, list[Plan]] = defaultdict(list)
        self._drops_out: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
        self._topology_version = 0

    @property
    def wakeup_ns(self) -> int:
        """Return when the core wants to be called, or the leadership ends."""
        return min(self._core.wakeup_ns, self._held_until_ns)

    @property
    def node_ids(self) -> list[str]:
        """Return the registered nodes."""
        return list(self._nodes)

    @property
    def request_count(self) -> int:
        """Return how many requests wait in the core."""
        return len(self._entries)

    @property
    def plan_count(self) -> int:
        """Return how many plans have not ended."""
        return len(self._plans)

    def renewed(self, held_until_ns: int) -> None:
        """Take note until when the leadership is held."""
        self._held_until_ns = held_until_ns

    def is_leading(self, now_ns: int) -> bool:
        """Return whether it may still lead at this instant; stand down if not."""
        if not self.is_over and now_ns >= self._held_until_ns:
            self.stand_down()
        return not self.is_over

    def stand_down(self) -> None:
        """Lead no more, and tell the nodes."""
        if not self.is_over:
            self.is_over = True
            for node in self._nodes:
                self._send(node, StoodDown(self.term))
            for table in (self._nodes, self._entries, self._gpus, self._plans, self._models, self._model_names):
                table.clear()
            self._plans_out.clear()
            self._drops_out.clear()

    def receive(self, now_ns: int, node_id: str, message: ClusterMessage) -> None:
        """Act on what a node says; what is for another term, or comes from a node not registered, is ignored."""
        if not self.is_leading(now_ns):
            return
        if isinstance(message, Outdated):
            if message.term > self.term:
                self.stand_down()
            return
        if isinstance(message, Register):
            if message.term == self.term:
                self._register(now_ns, node_id, message)
                self._flush()
            return
        node = self._nodes.get(node_id)
        if node is None or message.term != self.term:
            return
        match message:
            case Submit():
                self._submit(now_ns, node, message)
            case Cancel():
                self._cancel(now_ns, node, message.requests)
            case BatchBegan() | BatchEnded():
                self._progress(now_ns, node, message)
            case Freed():
                if (gpu := self._gpu_of(node, message.gpu)) is not None:
                    gpu.is_freed = True
                    self._apply(now_ns, self._drained_or_not(gpu))
            case GpuChanged():
                self._change(now_ns, node, message)
            case PeersMeasured():
                for peer in message.peers:
                    if peer.node in node.peers or len(node.peers) < NODE_COUNT_MAX:
                        node.peers[peer.node] = peer.data_ns
                node.way_version = -1
            case PeerLost():
                self._peer_lost(now_ns, node, message.peer)
            case Deregister():
                self._forget(now_ns, node)
        self._flush()

    def link_lost(self, now_ns: int, node_id: str) -> None:
        """Do without a node that is out of reach."""
        if self.is_leading(now_ns) and node_id in self._nodes:
            self._forget(now_ns, self._nodes[node_id])
            self._flush()

    def link_measured(self) -> None:
        """Take note that the way to some node is longer or shorter now."""
        self._topology_version += 1

    def wake(self, now_ns: int) -> None:
        """Decide what time alone decides."""
        if self.is_leading(now_ns) and now_ns >= self._core.wakeup_ns:
            self._apply(now_ns, ())
            self._flush()

    # Nodes

    def _register(self, now_ns: int, node_id: str, message: Register) -> None:
        if node_id in self._nodes:
            self._forget(now_ns, self._nodes[node_id])
        if why := self._objection(node_id, message):
            self._send(node_id, Dismissed(self.term, message.attempt, why))
            return
        node = _Node(node_id, message.attempt, peers={peer.node: peer.data_ns for peer in message.peers})
        self._nodes[node_id] = node
        self._topology_version += 1
        for other in self._nodes.values():
            other.lost.discard(node_id)
        self._send(node_id, Registered(self.term, message.attempt))
        events: list[Event] = []
        for index, offered in enumerate(message.models):
            model = self._models.get(offered.name)
            if model is None:
                if not self._model_ids:
                    node.models.append(None)
                    continue
                model = _Model(heapq.heappop(self._model_ids), offered.name, offered.batch_size_max)
                self._models[offered.name] = model
                self._model_names[model.index] = offered.name
                events.append(ModelAdded(model.index, offered.slo_ns, offered.batch_size_max, offered.margin_ns))
            model.nodes.add(node_id)
            node.models.append(model.index)
            node.model_there[model.index] = index
        for local, gpu_offered in enumerate(message.gpus):
            kind = self._kind_of(gpu_offered.kind)
            if kind is None or not self._gpu_ids:
                node.gpus.append(None)
                continue
            gpu = _Gpu(heapq.heappop(self._gpu_ids), node, local, kind, is_usable=gpu_offered.is_usable)
            node.gpus.append(gpu)
            self._gpus[gpu.id] = gpu
            events += (GpuJoined(gpu.id, kind), GpuDrained(gpu.id))
        for profile in message.profiles:
            index_here = node.models[profile.model]
            kind = self._kinds.get(profile.kind)
            if index_here is not None and kind is not None:
                model = self._models[self._model_names[index_here]]
                if len(profile.latency_ns) >= model.batch_size_max:
                    table = profile.latency_ns[: model.batch_size_max]
                    model.tables.setdefault(kind, {})[node_id] = table
                    events.append(ProfileChanged(model.index, kind, _slowest(model.tables[kind].values())))
        for local, gpu_offered in enumerate(message.gpus):
            if (gpu_here := node.gpus[local]) is not None:
                events += self._placed(gpu_here, gpu_offered.models)
        self._apply(now_ns, events)

    def _objection(self, node_id: str, message: Register) -> str:
        """Say why a node cannot be admitted, or return an empty string."""
        if self._distance_to(node_id) is None:
            return "there is no comparison of clocks with it yet"
        if len(self._nodes) >= NODE_COUNT_MAX or len(message.gpus) > NODE_GPU_COUNT_MAX:
            return (
                f"{len(self._nodes)} nodes, {len(message.gpus)} GPUs: at most {NODE_COUNT_MAX} of {NODE_GPU_COUNT_MAX}"
            )
        peers = {peer.node for peer in message.peers}
        for other in self._nodes:
            if other not in peers and other != node_id:
                return f"it has no link to {other}, and every scheduled node must reach every other"
        for model in message.models:
            is_right = 0 < model.slo_ns <= DURATION_NS_MAX and 0 <= model.margin_ns <= DURATION_NS_MAX
            if not is_right or not 1 <= model.batch_size_max <= BATCH_SIZE_MAX:
                return f"model {model.name} has an SLO, batch size or margin out of range"
        for profile in message.profiles:
            table = profile.latency_ns
            if not 0 <= profile.model < len(message.models):
                return f"a profile is for its model {profile.model} of {len(message.models)}"
            if not table or table[0] <= 0 or table[-1] > DURATION_NS_MAX or list(table) != sorted(table):
                return f"the profile of {message.models[profile.model].name} on {profile.kind} is not a rising table"
        return ""

    def _forget(self, now_ns: int, node: _Node) -> None:
        """Take a node out: its requests, its GPUs, and back into the core what of others' has not begun there."""
        del self._nodes[node.id]
        self._topology_version += 1
        for other in self._nodes.values():
            other.lost.discard(node.id)
        self._apply(now_ns, [GpuLeft(gpu.id) for gpu in node.gpus if gpu is not None])
        self._cancel(now_ns, node, list(node.queued))
        # While its GPUs left one after the other, the others still got plans: nobody is to hear of these.
        self._plans_out.pop(node.id, None)
        self._drops_out.pop(node.id, None)
        stranded: list[_Entry] = []
        for gpu in node.gpus:
            if gpu is not None:
                for plan_id, planned in gpu.plans.items():
                    stranded += planned.entries
                    del self._plans[plan_id]
                del self._gpus[gpu.id]
                heapq.heappush(self._gpu_ids, gpu.id)
        events: list[Event] = []
        for model in [self._models[self._model_names[index]] for index in node.models if index is not None]:
            model.nodes.discard(node.id)
            for kind, tables in list(model.tables.items()):
                if tables.pop(node.id, None) is not None and tables:
                    events.append(ProfileChanged(model.index, kind, _slowest(tables.values())))
                if not tables:
                    del model.tables[kind]
        self._apply(now_ns, events)
        self._put_back(now_ns, stranded)
        unknown = [model for model in self._models.values() if not model.nodes]
        self._apply(now_ns, [ModelRemoved(model.index) for model in unknown])
        for model in unknown:
            del self._models[model.name], self._model_names[model.index]
            heapq.heappush(self._model_ids, model.index)

    def _dismiss(self, now_ns: int, node: _Node, why: str) -> None:
        self._forget(now_ns, node)
        self._flush()  # in the order decided: what was planned for it comes before its dismissal
        self._send(node.id, Dismissed(self.term, node.attempt, why))

    def _peer_lost(self, now_ns: int, node: _Node, peer_id: str) -> None:
        peer = self._nodes.get(peer_id)
        if peer is None or peer is node:
            return
        node.lost.add(peer_id)
        complaint_count = sum(peer_id in other.lost for other in self._nodes.values())
        culprit, other = (node, peer) if len(node.lost) > complaint_count else (peer, node)
        self._dismiss(now_ns, culprit, f"the link between it and {other.id} is down")

    # GPUs

    def _gpu_of(self, node: _Node, local: int) -> _Gpu | None:
        return node.gpus[local] if 0 <= local < len(node.gpus) else None

    def _kind_of(self, name: str) -> int | None:
        if name not in self._kinds:
            used = {gpu.kind for gpu in self._gpus.values()}
            self._kinds = {each: kind for each, kind in self._kinds.items() if kind in used}
            free = [kind for kind in range(KIND_COUNT_MAX) if kind not in used]
            if not free:
                return None
            self._kinds[name] = free[0]
        return self._kinds[name]

    def _placed(self, gpu: _Gpu, models_there: Sequence[int]) -> list[Event]:
        """Return what makes these models, in its node's numbers, the ones on the GPU."""
        node = gpu.node
        wanted: dict[int, None] = {}
        for index in models_there:
            here = node.models[index] if 0 <= index < len(node.models) else None
            if here is not None and gpu.kind in self._models[self._model_names[here]].tables:
                wanted[here] = None
        events: list[Event] = [ModelEvicted(model, gpu.id) for model in sorted(gpu.models) if model not in wanted]
        events += [ModelPlaced(model, gpu.id) for model in wanted if model not in gpu.models]
        gpu.models = set(wanted)
        return events

    def _drained_or_not(self, gpu: _Gpu) -> list[Event]:
        is_drained = not (gpu.is_freed and gpu.is_usable)
        if is_drained == gpu.is_drained:
            return []
        gpu.is_drained = is_drained
        return [GpuDrained(gpu.id) if is_drained else GpuRestored(gpu.id)]

    def _change(self, now_ns: int, node: _Node, message: GpuChanged) -> None:
        gpu = self._gpu_of(node, message.gpu)
        if gpu is not None:
            gpu.is_usable = message.is_usable
            self._apply(now_ns, [*self._placed(gpu, message.models), *self._drained_or_not(gpu)])

    def _progress(self, now_ns: int, node: _Node, message: BatchBegan | BatchEnded) -> None:
        planned = self._plans.get(message.plan_id)
        distance = self._distance_to(node.id)
        if planned is None or planned.gpu.node is not node or distance is None:
            return  # of an earlier registration
        at_ns = min(max(planned.decided_at_ns, distance.here_ns(message.at_ns)), now_ns)  # clocks may be off
        if isinstance(message, BatchBegan):
            planned.entries = []
            self._apply(now_ns, (BatchStarted(message.plan_id, planned.gpu.id, at_ns),))
        else:
            del self._plans[message.plan_id], planned.gpu.plans[message.plan_id]
            self._apply(now_ns, (BatchFinished(message.plan_id, planned.gpu.id, at_ns),))

    # Requests

    def _submit(self, now_ns: int, node: _Node, message: Submit) -> None:
        distance = self._distance_to(node.id)
        if distance is None:
            return  # its link is down, and we are about to hear of it
        way_ns = self._way_ns(node)
        entries = []
        rows = zip(message.requests, message.models, message.deadlines_ns, message.priorities, strict=True)
        for key, model, deadline_ns, priority in rows:
            here = node.models[model] if 0 <= model < len(node.models) else None
            if here is None:
                self._drops_out[node.id].append((key, Reason.UNKNOWN_MODEL.token))
                continue
            ends_at_ns = distance.here_at_latest_ns(deadline_ns) - way_ns
            if abs(ends_at_ns) > DURATION_NS_MAX or not PRIORITY_HIGHEST <= priority <= PRIORITY_LOWEST:
                self._drops_out[node.id].append((key, Reason.BAD_INPUT.token))
                continue
            entries.append(_Entry(node, key, here, ends_at_ns, priority))
        self._admit(now_ns, entries)

    def _put_back(self, now_ns: int, entries: Iterable[_Entry]) -> None:
        self._admit(now_ns, [entry for entry in entries if self._nodes.get(entry.node.id) is entry.node])

    def _admit(self, now_ns: int, entries: list[_Entry]) -> None:
        events: list[Event] = []
        for entry in entries:
            node = entry.node
            if entry.key in node.queued:
                continue  # submitted again by its node and put back by us
            if not self._ids:
                self._drops_out[node.id].append((entry.key, Reason.QUEUE_FULL.token))
                continue
            id_ = node.queued[entry.key] = self._ids.pop()
            self._entries[id_] = entry
            events.append(RequestArrived(id_, entry.model, entry.deadline_ns, entry.priority))
        self._apply(now_ns, events)

    def _cancel(self, now_ns: int, node: _Node, keys: Sequence[int]) -> None:
        ids = [node.queued[key] for key in keys if key in node.queued]
        self._apply(now_ns, [RequestCancelled(id_) for id_ in ids])
        for id_ in ids:
            if id_ in self._entries:  # else it was decided about on the way
                self._leave(id_)

    def _leave(self, id_: int) -> _Entry:
        entry = self._entries.pop(id_)
        del entry.node.queued[entry.key]
        self._ids.append(id_)
        return entry

    def _way_ns(self, node: _Node) -> int:
        """Return how much earlier than at its deadline a batch with a request of this node's must end. Cached."""
        if node.way_version != self._topology_version:
            back_ns = there_ns = 0
            for other in self._nodes.values():
                if other is not node and other.gpus:
                    data_ns = node.peers.get(other.id, 0)
                    distance = self._distance_to(other.id)
                    back_ns = max(back_ns, data_ns)
                    there_ns = max(there_ns, (distance.data_ns if distance else 0) + 2 * data_ns)
            node.way_ns = back_ns + max(0, there_ns - self._control_ns)
            node.way_version = self._topology_version
        return node.way_ns

    # The core

    def _apply(self, now_ns: int, events: Sequence[Event]) -> None:
        if events or now_ns >= self._core.wakeup_ns:
            for decision in self._core.apply(now_ns, events):
                self._carry_out(now_ns, decision)

    def _carry_out(self, now_ns: int, decision: Decision) -> None:
        match decision:
            case Dispatch():
                gpu = self._gpus[decision.gpu]
                entries = [self._leave(id_) for id_ in decision.ids]
                planned = _Planned(gpu, entries, now_ns)
                self._plans[decision.plan_id] = gpu.plans[decision.plan_id] = planned
                by_node: defaultdict[str, list[int]] = defaultdict(list)
                for entry in entries:
                    by_node[entry.node.id].append(entry.key)
                plan = Plan(
                    decision.plan_id,
                    gpu.local,
                    gpu.node.model_there[decision.model],
                    tuple(Members(ingress, tuple(keys)) for ingress, keys in by_node.items()),
                    decision.start_at_ns,
                    decision.finish_at_ns,
                    max(entry.deadline_ns for entry in entries),
                )
                self._plans_out[gpu.node.id].append(plan)
            case Drop():
                entry = self._leave(decision.id)
                self._drops_out[entry.node.id].append((entry.key, decision.reason))

    def _flush(self) -> None:
        for node_id, plans in self._plans_out.items():
            self._send(node_id, Plans(self.term, tuple(plans)))
        for node_id, drops in self._drops_out.items():
            requests, reasons = zip(*drops, strict=True)
            self._send(node_id, Dropped(self.term, requests, reasons))
        self._plans_out.clear()
        self._drops_out.clear()


def _slowest(tables: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(max, zip(*tables, strict=True)))
