"""Say what nodes tell one another, as values; how they are written is the links' business.

Who speaks to whom: a **node** registers with the **leader** and reports what its GPUs do; its ingress part submits
requests; the leader sends plans to the executing nodes and drops to the ingress nodes. Between an **executing** and an
**ingress** node: Fetch, then Inputs, perhaps Withdraw, then Outputs, Failed or Returned. Tensors travel beside Inputs
and Outputs, not in them.

Everything that concerns a leadership carries its `term`; a receiver that follows another term ignores it. Models and
GPUs are the indices of the node at the far end of the leader's link: the leader translates. Instants are on the
*sender's* clock; the receiver subtracts the link's offset. What comes once per request is written in columns (arrays
of equal length, one entry a request), so that no Python object per request is needed to pass it on.

Messages of one direction of a link arrive in the order sent, or not at all when the link goes down. Inputs and Outputs
carry tensors and may be overtaken by all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OWN_TERM = 0
"""The "term" of plans that a node's own core makes for its own GPUs; leaders' terms are larger."""


# What a node offers


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """One model that the node knows. Its index is its place in the list; nodes match by `name` (`model/version`)."""

    name: str
    slo_ns: int
    batch_size_max: int
    margin_ns: int = 0


@dataclass(frozen=True, slots=True)
class OfferedProfile:
    """The latency profile l(1) .. l(batch_size_max) of a model on the node's GPUs of `kind`, in nanoseconds."""

    model: int
    kind: str
    latency_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OfferedGpu:
    """One GPU of the node, its index its place in the list, and the models resident on it."""

    kind: str
    models: tuple[int, ...]
    is_usable: bool = True


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that the sender has a link to, and how long an input or output takes there (one way, measured)."""

    node: str
    data_ns: int


# Between a node and the leader


@dataclass(frozen=True, slots=True)
class Register:
    """Ask the leader of `term` to schedule this node's GPUs and requests.

    Every GPU counts as busy until `Freed` names it: the node's own core, or the leader before, goes on using it until
    the answer is there, so that no GPU stands still while messages travel. `peers` are the nodes it has links to.
    `attempt` counts what the node has asked; the answer repeats it.
    """

    term: int
    attempt: int
    models: tuple[OfferedModel, ...]
    profiles: tuple[OfferedProfile, ...]
    gpus: tuple[OfferedGpu, ...]
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """The leader schedules for this node from now on."""

    term: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Deregister:
    """The node schedules for itself from now on; the leader forgets its GPUs and requests."""

    term: int


@dataclass(frozen=True, slots=True)
class Dismissed:
    """The leader does not schedule for this node (any more), and says why. The node may ask again later."""

    term: int
    attempt: int
    why: str


@dataclass(frozen=True, slots=True)
class StoodDown:
    """The leadership of `term` is over."""

    term: int


@dataclass(frozen=True, slots=True)
class Outdated:
    """What the receiver sent as leader of an earlier term was ignored: the sender has seen `term`."""

    term: int


@dataclass(frozen=True, slots=True)
class Freed:
    """Nothing that anybody else decided is left on this GPU: the leader may use it."""

    term: int
    gpu: int


@dataclass(frozen=True, slots=True)
class GpuChanged:
    """The GPU is usable or not, and holds these models now."""

    term: int
    gpu: int
    models: tuple[int, ...]
    is_usable: bool


@dataclass(frozen=True, slots=True)
class PeersMeasured:
    """These links of the node's take that long now."""

    term: int
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The node's link to `peer` went down. Sent before anything that follows from it."""

    term: int
    peer: str


@dataclass(frozen=True, slots=True)
class Submit:
    """Requests to schedule, in columns: keys, models, deadlines (instants), priorities."""

    term: int
    requests: Sequence[int]
    models: Sequence[int]
    deadlines_ns: Sequence[int]
    priorities: Sequence[int]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Requests that need no plan any more."""

    term: int
    requests: Sequence[int]


@dataclass(frozen=True, slots=True)
class Members:
    """The requests of one ingress node in a batch."""

    ingress: str
    requests: Sequence[int]


@dataclass(frozen=True, slots=True)
class Plan:
    """Run these requests of one model as one batch on `gpu`, not before `start_at_ns`, not after `latest_at_ns`.

    Whoever begins later than that answers nobody in time. (term, plan_id) names it; ids of a term grow, so a plan is
    carried out at most once.
    """

    plan_id: int
    gpu: int
    model: int
    members: tuple[Members, ...]
    start_at_ns: int
    finish_at_ns: int
    latest_at_ns: int

    @property
    def size(self) -> int:
        """Return how many requests it has."""
        return sum(len(part.requests) for part in self.members)


@dataclass(frozen=True, slots=True)
class Plans:
    """What the leader decided for the receiver's GPUs, in the order decided."""

    term: int
    plans: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Requests that the leader refused, in columns: keys and reasons (tokens of symphony.errors.Reason)."""

    term: int
    requests: Sequence[int]
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True)
class BatchBegan:
    """A plan began at this instant."""

    term: int
    plan_id: int
    gpu: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class BatchEnded:
    """A plan is over: it ran until this instant, or nothing was left of it to run."""

    term: int
    plan_id: int
    gpu: int
    at_ns: int


# Between an executing and an ingress node


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for the inputs of these requests, for a plan on the sender's GPUs."""

    term: int
    plan_id: int
    requests: Sequence[int]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of `requests` come with this; those of `denied` do not: others run them, or nobody wants them."""

    term: int
    plan_id: int
    requests: Sequence[int]
    denied: Sequence[int]


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of these requests come with this."""

    term: int
    plan_id: int
    requests: Sequence[int]


@dataclass(frozen=True, slots=True)
class Failed:
    """The batch ran and failed; `reason` is a token of symphony.errors.Reason."""

    term: int
    plan_id: int
    requests: Sequence[int]
    reason: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """These requests, whose inputs the plan has, are over: they need not run. From the ingress node."""

    term: int
    plan_id: int
    requests: Sequence[int]


@dataclass(frozen=True, slots=True)
class Returned:
    """These requests were planned and not run: schedule them again."""

    term: int
    plan_id: int
    requests: Sequence[int]


ToLeader = (
    Register
    | Deregister
    | Outdated
    | Freed
    | GpuChanged
    | PeersMeasured
    | PeerLost
    | Submit
    | Cancel
    | BatchBegan
    | BatchEnded
)
FromLeader = Registered | Dismissed | StoodDown | Plans | Dropped
BetweenNodes = Fetch | Inputs | Withdraw | Outputs | Failed | Returned
ClusterMessage = ToLeader | FromLeader | BetweenNodes
