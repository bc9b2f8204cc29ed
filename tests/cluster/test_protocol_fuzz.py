"""Whatever well-formed messages say, in whatever order: a node and the leader in it go on.

Types are checked where messages are decoded; values that make no sense come through.
"""

from __future__ import annotations

import random

import pytest

from symphony.cluster import protocol as p
from symphony.cluster.actions import Run
from symphony.cluster.distance import Distance
from symphony.cluster.scheduling import SteppedCore
from symphony.cluster.serving import ClusterNode, Offer
from symphony.core import Scheduler

MS = 1_000_000
TERM = 5
TABLE = (3 * MS, 4 * MS)
TABLES = (TABLE, TABLE[::-1], (), (1,), (-1, 5))
PEERS = ("x", "y")


def make_core() -> SteppedCore:
    return SteppedCore(Scheduler(request_count_max=32, gpu_count_max=4, model_count_max=3), 32)


class Speaker:
    """Says what comes to its mind: mostly what could be meant, at times what cannot."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now_ns = 0

    def small(self) -> int:
        return self.rng.choice((0, 0, 1, 2, 3, -1, 1 << 24, 1 << 63))

    def key(self) -> int:
        return self.rng.choice((self.rng.randrange(8) | 1 << 24, self.rng.randrange(8) | 2 << 24, 7, 1 << 63))

    def keys(self) -> tuple[int, ...]:
        return tuple(self.key() for _ in range(self.rng.randrange(4)))

    def at(self) -> int:
        return self.rng.choice((*[self.now_ns + 50 * MS] * 4, self.now_ns, -(1 << 62), 1 << 62, 1 << 63))

    def term(self) -> int:
        return self.rng.choice((TERM,) * 12 + (0, TERM - 1))

    def node(self) -> str:
        return self.rng.choice((*PEERS, "me", "nobody"))

    def models(self) -> tuple[int, ...]:
        return tuple(self.small() for _ in range(self.rng.randrange(3)))

    def register(self) -> p.Register:
        rng = self.rng
        models = tuple(
            p.OfferedModel(rng.choice("ab"), rng.choice((50 * MS, 0, 1 << 62)), rng.choice((2, 2, 0, 3)))
            for _ in range(rng.randrange(3))
        )
        profiles = tuple(
            p.OfferedProfile(
                rng.randrange(-1, 3), rng.choice("kl"), rng.choice((TABLE, TABLE[::-1], (), (1,), (-1, 5)))
            )
            for _ in range(rng.randrange(3))
        )
        gpus = tuple(p.OfferedGpu(rng.choice("kl"), self.models(), rng.random() < 0.8) for _ in range(rng.randrange(4)))
        peers = tuple(p.Peer(node, rng.choice((0, MS, 1 << 62))) for node in (*PEERS, "me") if rng.random() < 0.95)
        if rng.random() < 0.6:  # one that makes sense
            models = (p.OfferedModel("a", 50 * MS, 2), p.OfferedModel("b", 50 * MS, 2))
            profiles = tuple(p.OfferedProfile(model, "k", TABLE) for model in range(2))
            gpus = (p.OfferedGpu("k", (0, 1)),) * 2
        return p.Register(self.term(), self.small(), models, profiles, gpus, peers)

    def plan(self) -> p.Plan:
        members = tuple(p.Members(self.node(), self.keys()) for _ in range(self.rng.randrange(3)))
        return p.Plan(self.rng.randrange(30), self.small(), 0, members, self.at(), self.at(), self.at())

    def message(self) -> p.ClusterMessage:
        rng, term = self.rng, self.term()
        n = rng.randrange(4)
        keys = tuple(self.key() for _ in range(n))
        plan_id = rng.randrange(1, 9)
        if rng.random() < 0.4:  # what gets a leader to plan, and tells it what became of that
            return rng.choice(
                (
                    self.register if rng.random() < 0.2 else lambda: p.Freed(term, rng.randrange(2)),
                    lambda: p.Freed(term, rng.randrange(2)),
                    lambda: p.Freed(term, rng.randrange(2)),
                    lambda: p.BatchBegan(term, plan_id, self.small(), self.at()),
                    lambda: p.BatchEnded(term, plan_id, self.small(), self.at()),
                )
            )()
        return rng.choice(
            (
                lambda: p.Registered(term, self.small()),
                lambda: p.Deregister(term),
                lambda: p.Dismissed(term, self.small(), "because"),
                lambda: p.StoodDown(term),
                lambda: p.Outdated(term),
                lambda: p.Freed(term, self.small()),
                lambda: p.GpuChanged(term, self.small(), self.models(), rng.random() < 0.7),
                lambda: p.PeersMeasured(term, (p.Peer(self.node(), rng.choice((0, MS, 1 << 40))),)),
                lambda: p.PeerLost(term, self.node()),
                lambda: p.Submit(
                    term,
                    keys,
                    tuple(self.small() for _ in range(n)),
                    tuple(self.at() for _ in range(n)),
                    tuple(rng.choice((4, 1, 8, 0, 9, -1)) for _ in range(n)),
                ),
                lambda: p.Cancel(term, keys),
                lambda: p.BatchBegan(term, plan_id, self.small(), self.at()),
                lambda: p.BatchEnded(term, plan_id, self.small(), self.at()),
                lambda: p.Plans(term, tuple(self.plan() for _ in range(rng.randrange(3)))),
                lambda: p.Dropped(term, keys, ("would_miss",) * n),
                lambda: p.Fetch(term, plan_id, keys),
                lambda: p.Inputs(term, plan_id, keys, self.keys()),
                lambda: p.Withdraw(term, plan_id, keys),
                lambda: p.Outputs(term, plan_id, keys),
                lambda: p.Failed(term, plan_id, keys, "worker_failed"),
                lambda: p.Returned(term, plan_id, keys),
            )
        )()


@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize("seed", range(60))
def test_node_goes_on_whatever_it_is_told(seed: int, leads: bool) -> None:
    rng = random.Random(seed)
    speaker = Speaker(rng)
    offer = Offer(
        (p.OfferedModel("a", 50 * MS, 2),),
        (p.OfferedProfile(0, "k", TABLE),),
        (p.OfferedGpu("k", (0,)),) * (seed % 3),
    )
    node = ClusterNode("me", offer, make_core(), request_count_max=8)
    for peer in PEERS:
        node.link_up(0, peer, Distance())
    if leads:
        node.lead(0, TERM, make_core(), 1 << 50, control_ns=MS, gpu_count_max=4, model_count_max=3)
    else:
        node.leader_seen(0, "x", TERM)
        node.receive(0, "x", p.Registered(TERM, 1))
    now_ns = 0
    running: dict[tuple[int, int], int] = {}
    for _ in range(300):
        now_ns += rng.choice((0, 0, MS // 3, 5 * MS))
        speaker.now_ns = now_ns
        what = rng.random()
        if what < 0.2:
            node.accept(now_ns, 0, now_ns + 50 * MS, 4)
        elif what < 0.3 and running:
            term, plan_id = rng.choice(list(running))
            del running[term, plan_id]
            node.ran(now_ns, term, plan_id, now_ns)
        elif what < 0.4:
            node.wake(now_ns)
        elif what < 0.41:
            peer = rng.choice(PEERS)
            node.link_lost(now_ns, peer)
            node.link_up(now_ns, peer, Distance(rng.randint(-MS, MS), MS, rng.choice((0, MS))))
        elif what < 0.46 and not leads:
            node.leader_seen(now_ns, rng.choice(("x", None)), TERM)
        else:
            node.receive(now_ns, rng.choice(PEERS), speaker.message())
        for action in node.take():
            if isinstance(action, Run):
                assert action.gpu not in running.values(), "two batches on a GPU"
                running[action.term, action.plan_id] = action.gpu
    assert node.request_count <= 8
    node.wake(now_ns + 1000 * MS)
    assert node.request_count == 0
