"""Name what the cluster's logic asks of the process around it, in the order in which it is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from symphony.cluster.protocol import ClusterMessage, Members


@dataclass(frozen=True, slots=True)
class Send:
    """Pass a message to another node over the link that is up, never over a later one.

    Inputs go with the inputs of their requests, Outputs with their outputs; the logic never sees a tensor.
    """

    node: str
    message: ClusterMessage


@dataclass(frozen=True, slots=True)
class Run:
    """Run these requests on the node's GPU as one batch, now; answer with `ClusterNode.ran`."""

    gpu: int
    model: int
    term: int
    plan_id: int
    members: tuple[Members, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """These requests of the node's own are answered: their outputs came from `executor` with its Outputs."""

    requests: Sequence[int]
    executor: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """This request of the node's own ends without an answer; `reason` is a token of symphony.errors.Reason."""

    request: int
    reason: str


Action = Send | Run | Answer | Refuse
