"""Let things go wrong, at random. A run has a few classes of faults switched on, so that those it has bite."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.cluster.simulated.world import MS

if TYPE_CHECKING:
    from tests.cluster.simulated.run import Cluster


def kill_leader(cluster: Cluster, rng: random.Random) -> None:
    cluster.kill(cluster.leader() or rng.choice(cluster.alive()), rng.random() < 0.5)


def kill_node(cluster: Cluster, rng: random.Random) -> None:
    cluster.kill(rng.choice(cluster.alive()), rng.random() < 0.5)


def pause_leader(cluster: Cluster, rng: random.Random) -> None:
    host = cluster.leader() or rng.choice(cluster.alive())
    host.pause(rng.choice((10, 60, 300, 500)) * MS, False)


def pause_node(cluster: Cluster, rng: random.Random) -> None:
    rng.choice(cluster.alive()).pause(rng.choice((5, 30, 100, 400)) * MS, False)


def suspend_node(cluster: Cluster, rng: random.Random) -> None:
    """Let a machine sleep: its clock stands still, so a leader that wakes believes that it leads."""
    host = rng.choice([cluster.leader() or rng.choice(cluster.alive()), rng.choice(cluster.alive())])
    host.pause(rng.choice((20, 100, 400, 600)) * MS, True)


def partition_leader(cluster: Cluster, rng: random.Random) -> None:
    """Cut the leader off from all or some nodes, perhaps from the coordinator, too."""
    host = cluster.leader() or rng.choice(cluster.alive())
    duration_ns = rng.choice((50, 150, 400)) * MS
    share = rng.choice((0.5, 1.0))
    for link in host.links.values():
        if rng.random() < share:
            link.cut(link.hosts, duration_ns)
    if rng.random() < 0.5:
        host.storeless_until_ns = cluster.world.now_ns + duration_ns


def partition_node(cluster: Cluster, rng: random.Random) -> None:
    host = rng.choice(cluster.alive())
    duration_ns = rng.choice((50, 150, 400)) * MS
    for link in host.links.values():
        link.cut(link.hosts, duration_ns)
    if rng.random() < 0.5:
        host.storeless_until_ns = cluster.world.now_ns + duration_ns


def cut_link(cluster: Cluster, rng: random.Random) -> None:
    if links := cluster.links():
        link = rng.choice(links)
        link.cut(link.hosts, rng.choice((10, 60, 200, 400)) * MS)


def cut_one_way(cluster: Cluster, rng: random.Random) -> None:
    if links := cluster.links():
        link = rng.choice(links)
        link.cut((rng.choice(link.hosts),), rng.choice((10, 60, 200, 400)) * MS)


def reset_link(cluster: Cluster, rng: random.Random) -> None:
    if links := cluster.links():
        rng.choice(links).reset()


def slow_link(cluster: Cluster, rng: random.Random) -> None:
    if links := cluster.links():
        link = rng.choice(links)
        link.slow_factor = rng.choice((5, 20, 60))
        cluster.world.after(rng.choice((50, 200)) * MS, setattr, link, "slow_factor", 1)


def lose_store(cluster: Cluster, rng: random.Random) -> None:
    cluster.store.go_down(rng.choice((30, 150, 500)) * MS, rng.random() < 0.5)


def lose_store_for_one(cluster: Cluster, rng: random.Random) -> None:
    host = rng.choice([cluster.leader() or rng.choice(cluster.alive()), rng.choice(cluster.alive())])
    host.storeless_until_ns = cluster.world.now_ns + rng.choice((50, 200, 500)) * MS


def lose_gpu(cluster: Cluster, rng: random.Random) -> None:
    host = rng.choice(cluster.alive())
    if host.gpus:
        host.lose_gpu(rng.randrange(len(host.gpus)), rng.choice((20, 100, 300)) * MS)


def slow_gpu(cluster: Cluster, rng: random.Random) -> None:
    host = rng.choice(cluster.alive())
    if host.gpus:
        gpu = rng.choice(host.gpus)
        gpu.slow_factor = rng.choice((2.0, 10.0, 40.0))
        host.disturbed_ns = cluster.world.now_ns + 10**9
        cluster.world.after(rng.choice((30, 100)) * MS, setattr, gpu, "slow_factor", 1.0)
        cluster.world.after(800 * MS, setattr, host, "disturbed_ns", cluster.world.now_ns + 800 * MS)


def fail_batch(cluster: Cluster, rng: random.Random) -> None:
    host = rng.choice(cluster.alive())
    host.disturbed_ns = cluster.world.now_ns
    for gpu in host.gpus:
        gpu.fails_next = True
        cluster.world.after(200 * MS, setattr, gpu, "fails_next", False)


def resign(cluster: Cluster, rng: random.Random) -> None:
    if (leader := cluster.leader()) is not None:
        leader.lose_leadership(leader.held_term)


def revoke_lease(cluster: Cluster, rng: random.Random) -> None:
    """Let somebody delete the leader's lease: another leads before it has noticed, so that terms alone decide."""
    cluster.store.holder = None


FAULTS: dict[str, Callable[[Cluster, random.Random], None]] = {
    fault.__name__: fault
    for fault in (
        kill_leader,
        kill_node,
        pause_leader,
        pause_node,
        suspend_node,
        partition_leader,
        partition_node,
        cut_link,
        cut_one_way,
        reset_link,
        slow_link,
        lose_store,
        lose_store_for_one,
        lose_gpu,
        slow_gpu,
        fail_batch,
        resign,
        revoke_lease,
    )
}
