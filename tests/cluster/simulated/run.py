"""Put a cluster together from a seed, let it run with faults, and check it: meanwhile, after them, at the end."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import count

from symphony.cluster.protocol import OfferedGpu, OfferedModel, OfferedProfile
from symphony.cluster.serving import Offer
from tests.cluster.simulated.checkers import Checkers
from tests.cluster.simulated.clocks import Clock
from tests.cluster.simulated.election import Store
from tests.cluster.simulated.faults import FAULTS
from tests.cluster.simulated.host import Host
from tests.cluster.simulated.links import Link
from tests.cluster.simulated.world import MS, US, S, World

FAULTS_FROM_NS = 300 * MS
FAULTS_UNTIL_NS = 1_100 * MS
"""Faults begin before this; the longest of those that last goes on for 500 ms more."""
SETTLING_NS = 1_900 * MS
RECOVERED_NS = 2_400 * MS
"""By now the cluster must be as good as ever: pauses are over, a lease has run out, a leader is elected."""
REQUESTS_UNTIL_NS = 2_700 * MS
END_NS = 3_100 * MS
RECOVERED_SHARE = 0.95
RECOVERED_MISS_COUNT = 2
"""So many may be missed without faults, too: a burst at a node with one slow GPU."""
BATCH_SIZE_MAX = 8
SILENCES_NS = (40 * MS, 40 * MS, 400 * MS)
"""After so long without a sign of life a link is down: sooner than a lease ends, or later: then terms decide."""


@dataclass
class Report:
    """What a run was and what came of it."""

    seed: int
    faults: tuple[str, ...]
    digest: str
    counts: Counter[str]
    recovered_share: float
    """Of the requests that came after all faults were over."""
    has_recovered: bool
    alone: Counter[bool] = field(default_factory=Counter)
    """Requests of nodes that served alone, undisturbed: whether good."""
    event_count: int = 0


class Cluster:
    """The hosts, links and store of one run."""

    def __init__(self, seed: int, fault_names: Collection[str] | None = None) -> None:
        rng = self.rng = random.Random(seed)
        self.seed = seed
        self.world = World()
        self.checkers = Checkers(self.world)
        self.store = Store(self.world, random.Random(rng.random()), rng.choice((150, 250, 400)) * MS)
        self.hosts: list[Host] = []
        self._all_links: list[Link] = []
        self._numbers = count(1)
        self._latency_us = rng.choice((50, 150, 400))
        self._jitter = rng.choice((0.0, 0.05, 0.2))
        self.slos_ns = [rng.choice((50, 80, 120)) * MS for _ in range(rng.randint(1, 3))]
        models = tuple(OfferedModel(f"m{i}/1", slo, BATCH_SIZE_MAX, 3 * MS) for i, slo in enumerate(self.slos_ns))
        self._names = models
        self._tables = [
            tuple((rng.randint(200, 600) * b + beta) * US for b in range(1, BATCH_SIZE_MAX + 1))
            for beta in (rng.randint(1000, 4000) for _ in models)
        ]
        self._tables = [tuple(sorted(table)) for table in self._tables]
        names = sorted(FAULTS)
        chosen = names if rng.random() < 0.1 else rng.sample(names, rng.randint(1, 5))
        self.faults = tuple(sorted(chosen if fault_names is None else fault_names))
        self._silence_ns = rng.choice(SILENCES_NS)
        self.cancels_share = rng.choice((0.0, 0.0, 0.1))
        host_count = rng.choice((1, 2, 3, 3, 4, 5))
        gpu_counts = [rng.choice((1, 1, 2)) for _ in range(host_count)]
        if host_count > 2 and rng.random() < 0.4:
            gpu_counts[rng.randrange(host_count)] = 0
        for gpu_count in gpu_counts:
            self.start(gpu_count)
        self.rate = rng.choice((15, 40, 80, 160)) * max(1, sum(gpu_counts))

    def start(self, gpu_count: int) -> None:
        """Add a host, and links to all others."""
        rng = self.rng
        n = next(self._numbers)
        order = list(range(len(self._names)))
        rng.shuffle(order)  # nodes number models as they like
        kind = rng.choice(("fast", "fast", "slow"))
        factor = 1 if kind == "fast" else 2
        profiles = tuple(
            OfferedProfile(place, kind, tuple(factor * ns for ns in self._tables[model]))
            for place, model in enumerate(order)
        )
        gpus = tuple(OfferedGpu(kind, tuple(range(len(order)))) for _ in range(gpu_count))
        offer = Offer(tuple(self._names[model] for model in order), profiles if gpus else (), gpus)
        clock = Clock(self.world, rng.randint(0, 10**6) * MS, rng.randint(-100, 100))
        host = Host(f"n{n}", self.world, random.Random(rng.random()), clock, offer, self.checkers, jitter=self._jitter)
        host.order = order
        for other in self.alive():
            latency_ns = rng.randint(self._latency_us // 2, self._latency_us * 2) * US
            link = Link(self.world, host, other, random.Random(rng.random()), latency_ns, self._silence_ns)
            host.links[other.id] = other.links[host.id] = link
            self._all_links.append(link)
        self.hosts.append(host)
        host.store = self.store
        self.store.join(host)

    def alive(self) -> list[Host]:
        return [host for host in self.hosts if host.is_alive]

    def leader(self) -> Host | None:
        """Return the host that leads in the newest term."""
        return max((host for host in self.alive() if host.held_term), key=lambda host: host.held_term, default=None)

    def links(self) -> list[Link]:
        return [link for link in self._all_links if not link.is_gone]

    def kill(self, host: Host, at_once: bool) -> None:
        """Kill a host, and start another in its place a while later."""
        host.kill(at_once)
        for other in self.alive():
            self.world.after(900 * MS, other.links.pop, host.id, None)
        self.world.after(self.rng.randint(20, 300) * MS, self.start, len(host.gpus))

    def run(self) -> Report:
        """Run from start to end; raise AssertionError at the first violation."""
        rng = self.rng
        at_ns = 100 * MS
        while at_ns < REQUESTS_UNTIL_NS:
            at_ns += int(rng.expovariate(self.rate) * S)
            if SETTLING_NS <= at_ns < RECOVERED_NS - 100 * MS or at_ns >= REQUESTS_UNTIL_NS:
                continue  # nothing to see, and time to save
            self.world.at(at_ns, self._ask, rng.random())
        for name in self.faults:
            for _ in range(rng.choice((1, 2, 4))):
                self.world.at(rng.randint(FAULTS_FROM_NS, FAULTS_UNTIL_NS), self._strike, name)
        self.world.run(END_NS)
        self.checkers.finish(self.hosts)
        after = [each.is_good for each in self.checkers.ended if RECOVERED_NS <= each.arrived_ns < REQUESTS_UNTIL_NS]
        share = sum(after) / len(after) if after else 1.0
        alone = Counter(each.is_good for each in self.checkers.ended if each.was_alone)
        return Report(
            self.seed,
            self.faults,
            self.checkers.digest,
            self.checkers.counts,
            share,
            sum(after) + RECOVERED_MISS_COUNT >= RECOVERED_SHARE * len(after),
            alone,
            self.world.event_count,
        )

    def _strike(self, name: str) -> None:
        if self.alive():
            FAULTS[name](self, self.rng)

    def _ask(self, where: float) -> None:
        alive = self.alive()
        if not alive:
            return
        host = alive[int(where * len(alive))]
        rng = self.rng
        place = rng.randrange(len(self.slos_ns))
        cancel_ns = rng.randint(0, 40) * MS if rng.random() < self.cancels_share else None
        host.request(place, self.slos_ns[host.order[place]], rng.choice((4, 4, 4, 1, 8)), cancel_ns)


def run(seed: int, fault_names: Collection[str] | None = None) -> Report:
    """Run the cluster of `seed`; with `fault_names`, with these faults instead of the seed's own."""
    return Cluster(seed, fault_names).run()
