"""Connect hosts by links that keep order while they are up, and are slow, cut in one direction or both, or reset.

A link is a connection with a number; what was under way when one end gave it up is lost. The two ends notice at
different times. A cut direction holds messages back (they would be sent again); an end that hears nothing for
`silence_ns` gives the connection up. Tensors (Inputs, Outputs) have a lane of their own, slower than the rest.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from symphony.cluster.distance import Distance
from symphony.cluster.protocol import ClusterMessage, Inputs, Outputs
from tests.cluster.simulated.world import MS, US, World

if TYPE_CHECKING:
    from tests.cluster.simulated.host import Host

MEASURE_EVERY_NS = 100 * MS


class Link:
    """Between two hosts, from when both are there until one is gone."""

    def __init__(self, world: World, a: Host, b: Host, rng: random.Random, latency_ns: int, silence_ns: int) -> None:
        self.hosts = (a, b)
        self.latency_ns = latency_ns
        self.data_ns = latency_ns + rng.randint(50, 500) * US
        self.slow_factor = 1
        self._world = world
        self._rng = rng
        self._silence_ns = silence_ns
        self._number = 0
        self._connection = {a.id: 0, b.id: 0}
        self._cut_until_ns = {a.id: 0, b.id: 0}
        """By the host that hears nothing."""
        self._delivered_ns: dict[tuple[str, bool], int] = {}
        self.is_gone = False
        self.dropped_count = 0
        world.after(rng.randint(1, 5) * MS, self._connect)
        world.after(MEASURE_EVERY_NS, self._measure)

    def other(self, host: Host) -> Host:
        return self.hosts[1] if host is self.hosts[0] else self.hosts[0]

    def send(self, sender: Host, message: ClusterMessage, load: object) -> None:
        """Pass a message on with what lies beside it, if this end is up."""
        number = self._connection[sender.id]
        if not number:
            self.dropped_count += 1
            return
        to = self.other(sender)
        is_data = isinstance(message, Inputs | Outputs)
        lane = (to.id, is_data)
        base_ns = self.data_ns if is_data else self.latency_ns
        wait_ns = base_ns * self.slow_factor + self._rng.randint(0, self.latency_ns // 2)
        at_ns = max(self._world.now_ns, self._cut_until_ns[to.id]) + wait_ns
        at_ns = max(at_ns, self._delivered_ns.get(lane, 0) + 1)
        self._delivered_ns[lane] = at_ns
        self._world.at(at_ns, self._deliver, sender.id, to, number, message, load)

    def cut(self, hosts: tuple[Host, ...], duration_ns: int) -> None:
        """Let these hosts hear nothing over this link for a while."""
        until_ns = self._world.now_ns + duration_ns
        for host in hosts:
            self._cut_until_ns[host.id] = max(self._cut_until_ns[host.id], until_ns)
            self._world.after(self._silence_ns, self._listen, host, self._connection[host.id])

    def reset(self) -> None:
        """Break the connection; it comes again."""
        for host in self.hosts:
            self._give_up(host, self._connection[host.id])

    def silent(self, host: Host) -> None:
        """Let `host`'s peer give up if it goes on hearing nothing from it, which stands still."""
        peer = self.other(host)
        self._world.after(self._silence_ns, self._listen_to_paused, peer, self._connection[peer.id])

    def gone(self, host: Host, at_once: bool) -> None:
        """Let the peer notice that `host` is no more."""
        self.is_gone = True
        self._connection[host.id] = 0
        peer = self.other(host)
        number = self._connection[peer.id]
        self._world.after(self.latency_ns if at_once else self._silence_ns, self._give_up, peer, number)

    def distance(self, host: Host) -> Distance:
        """Return what `host` may measure: right within its bound."""
        bound_ns = self.latency_ns + 20 * US
        offset_ns = self.other(host).clock.now_ns() - host.clock.now_ns()
        data_ns = self.data_ns * self.slow_factor
        return Distance(offset_ns + self._rng.randint(-bound_ns, bound_ns), bound_ns, data_ns)

    def is_up_at(self, host: Host) -> bool:
        return self._connection[host.id] != 0

    # Inside

    def _deliver(self, sender: str, to: Host, number: int, message: ClusterMessage, load: object) -> None:
        if self._connection[to.id] == number:
            to.hear(self, number, sender, message, load)

    def is_current(self, host: Host, number: int) -> bool:
        return self._connection[host.id] == number

    def _is_cut(self, host: Host) -> bool:
        return self._cut_until_ns[host.id] > self._world.now_ns

    def _listen(self, host: Host, number: int) -> None:
        if self._is_cut(host):
            self._give_up(host, number)

    def _listen_to_paused(self, peer: Host, number: int) -> None:
        if self.other(peer).is_paused:
            self._give_up(peer, number)

    def _give_up(self, host: Host, number: int) -> None:
        if not number or self._connection[host.id] != number or not host.is_alive:
            return
        self._connection[host.id] = 0
        host.lose_link(self.other(host).id)
        other = self.other(host)
        if other.is_alive and self._connection[other.id] == number:
            if self._is_cut(other):
                self._world.after(self._silence_ns, self._give_up, other, number)
            else:
                at_ns = max(
                    self._world.now_ns + self.latency_ns,
                    *(self._delivered_ns.get((other.id, is_data), 0) for is_data in (False, True)),
                )
                self._world.at(at_ns + 1, self._give_up, other, number)
        if not self.is_gone:
            self._world.after(self._rng.randint(5, 30) * MS, self._connect)

    def _connect(self) -> None:
        a, b = self._rng.sample(self.hosts, 2)
        if self.is_gone or (self._connection[a.id] and self._connection[a.id] == self._connection[b.id]):
            return
        if self._is_cut(a) or self._is_cut(b) or a.is_paused or b.is_paused:
            self._world.after(15 * MS, self._connect)
            return
        for host in self.hosts:
            self._give_up(host, self._connection[host.id])  # an end that had not noticed yet
        self._number += 1
        self._connection[a.id] = self._connection[b.id] = self._number
        self._delivered_ns.clear()
        at_ns = self._world.now_ns + self.latency_ns
        for host, up_at_ns in ((a, self._world.now_ns), (b, at_ns)):
            for is_data in (False, True):
                self._delivered_ns[host.id, is_data] = up_at_ns
            self._world.at(up_at_ns, self._up, host, self._number)

    def _up(self, host: Host, number: int) -> None:
        if self._connection[host.id] == number and host.is_alive:
            host.gain_link(self.other(host).id, self.distance(host))

    def _measure(self) -> None:
        if self.is_gone:
            return
        a, b = self.hosts
        is_whole = self._connection[a.id] and self._connection[a.id] == self._connection[b.id]
        if is_whole and not (self._is_cut(a) or self._is_cut(b) or a.is_paused or b.is_paused):
            for host in self.hosts:
                host.measure_link(self.other(host).id, self.distance(host))
        self._world.after(MEASURE_EVERY_NS, self._measure)
