"""Plan GPUs as Nexus does (Shen et al., SOSP 2019, section 6): squishy bin packing of sessions into duty cycles.

A session is a model with its SLO and rate. Busy ones get GPUs of their own, each running batches of which two in a row
fit the SLO. What remains of each is packed: sessions on one GPU take turns within a duty cycle, and batch sizes shrink
("squish") when a shorter cycle is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

HEADROOM_MAX = 1.25
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Session:
    """A model to be planned for: `table_ns[b - 1]` is l(b), `rate` in requests per nanosecond."""

    model: int
    slo_ns: int
    rate: float
    table_ns: Sequence[int]


@dataclass(slots=True)
class Turn:
    """A session's part of a GPU's duty cycle: batches of `size`, at `rate` requests per nanosecond."""

    session: Session
    size: int
    rate: float


@dataclass(slots=True)
class Node:
    """What one GPU runs: its sessions in turn, once every `duty_ns`."""

    turns: list[Turn]
    duty_ns: float

    def busy_share(self) -> float:
        """Return the share of the duty cycle in which the GPU runs."""
        return sum(turn.session.table_ns[turn.size - 1] for turn in self.turns) / self.duty_ns


def plan(sessions: Sequence[Session], gpu_count: int, headroom: float = HEADROOM_MAX) -> list[Node]:
    """Return at most `gpu_count` nodes, planned for up to `headroom` times the rates if that many GPUs suffice.

    Without headroom a random stream would overrun its plan half of the time. If not even the rates themselves fit, the
    nodes that matter least (least busy) are left out.
    """
    low, high = 1.0, headroom
    best = pack(sessions, 1.0)
    if len(best) > gpu_count:
        return sorted(best, key=lambda node: -node.busy_share())[:gpu_count]
    for _ in range(20):
        middle = (low + high) / 2
        found = pack(sessions, middle)
        low, high, best = (middle, high, found) if len(found) <= gpu_count else (low, middle, best)
    return best


def pack(sessions: Sequence[Session], factor: float) -> list[Node]:
    """Return the nodes that `factor` times the rates need."""
    nodes: list[Node] = []
    residuals: list[Node] = []
    for session in sessions:
        rate = session.rate * factor
        size = largest(session, [2 * latency_ns <= session.slo_ns for latency_ns in session.table_ns])
        if size > 0:
            duty_ns = session.table_ns[size - 1]
            full = int(rate * duty_ns / size)
            nodes += [Node([Turn(session, size, size / duty_ns)], duty_ns) for _ in range(full)]
            rate -= full * size / duty_ns
        if rate * session.slo_ns > 1e-9:
            residuals.append(_alone(session, rate))
    residuals.sort(key=lambda node: -node.busy_share())
    shared: list[Node] = []
    for residual in residuals:
        found = [(at, _merge(node, residual)) for at, node in enumerate(shared)]
        merged = [(both.busy_share(), at, both) for at, both in found if both is not None]
        if merged:
            _, at, node = max(merged, key=lambda one: (one[0], -one[1]))
            shared[at] = node
        else:
            shared.append(residual)
    return nodes + shared


def largest(session: Session, fits: Sequence[bool]) -> int:
    """Return the largest batch size b for which `fits[b - 1]`, 0 if there is none."""
    return max((size for size in range(1, len(session.table_ns) + 1) if fits[size - 1]), default=0)


def _alone(session: Session, rate: float) -> Node:
    fits = [latency_ns + b / rate <= session.slo_ns for b, latency_ns in enumerate(session.table_ns, 1)]
    size = largest(session, fits) or 1
    duty_ns = max(float(session.table_ns[size - 1]), min(size / rate, session.slo_ns - session.table_ns[size - 1]))
    return Node([Turn(session, size, rate)], duty_ns)


def _merge(first: Node, second: Node) -> Node | None:
    """Return both in one duty cycle, the shorter one, with batches squished to it; None if they do not fit."""
    duty_ns = min(first.duty_ns, second.duty_ns)
    turns = []
    for turn in (*first.turns, *second.turns):
        size = max(1, min(len(turn.session.table_ns), ceil(turn.rate * duty_ns - ROUNDING)))
        turns.append(Turn(turn.session, size, turn.rate))
        if turn.session.table_ns[size - 1] + duty_ns > turn.session.slo_ns:
            return None
    node = Node(turns, duty_ns)
    return node if node.busy_share() <= 1.0 else None
