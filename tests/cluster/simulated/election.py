"""Simulate what a coordinator promises (symphony.coordination): a lease that one holds at a time, terms that grow.

The store counts a lease from when it handled a call; the holder counts 0.9 of it from before it sent the call, on its
own clock. Calls take time both ways and are lost while the store is down or cut off.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tests.cluster.simulated.world import MS, World

if TYPE_CHECKING:
    from tests.cluster.simulated.host import Host

POLL_EVERY_NS = 20 * MS


class Store:
    """One lease: the leadership."""

    def __init__(self, world: World, rng: random.Random, ttl_ns: int) -> None:
        self.ttl_ns = ttl_ns
        self.holder: Host | None = None
        self.term = 0
        self.down_until_ns = 0
        self._ends_at_ns = 0
        self._world = world
        self._rng = rng

    def join(self, host: Host) -> None:
        """Let a host watch and campaign."""
        self._world.after(self._rng.randint(1, 20) * MS, self._poll, host)
        self._world.after(self._rng.randint(1, 30) * MS, self._campaign, host)

    def leader(self) -> tuple[str | None, int]:
        """Return who holds the lease, and the term."""
        if self.holder is not None and self._ends_at_ns <= self._world.now_ns:
            self.holder = None
        return (self.holder.id if self.holder else None), self.term

    def go_down(self, duration_ns: int, renews: bool) -> None:
        """Answer nobody for a while; afterwards leases may begin anew."""
        self.down_until_ns = self._world.now_ns + duration_ns
        if renews:
            self._ends_at_ns = max(self._ends_at_ns, self.down_until_ns + self.ttl_ns)

    def release(self, host: Host) -> None:
        """Take the lease back if the host can say so."""
        if self._is_reached(host) and self.holder is host:
            self.holder = None

    def _is_reached(self, host: Host) -> bool:
        now_ns = self._world.now_ns
        return host.is_alive and now_ns >= self.down_until_ns and now_ns >= host.storeless_until_ns

    def _wait_ns(self) -> int:
        return self._rng.randint(1, 4) * MS // 2

    def _poll(self, host: Host) -> None:
        if not host.is_alive:
            return
        if self._is_reached(host):
            host.see_leader(*self.leader())
        self._world.after(POLL_EVERY_NS, self._poll, host)

    def _campaign(self, host: Host) -> None:
        """Ask for the lease, or for more of it."""
        if not host.is_alive:
            return
        if not host.is_paused:
            self._world.after(self._wait_ns(), self._handle, host, host.clock.now_ns(), host.held_term)
        wait_ns = self.ttl_ns // 3 if host.held_term else self._rng.randint(20, 60) * MS
        self._world.after(wait_ns, self._campaign, host)

    def _handle(self, host: Host, sent_at_ns: int, held_term: int) -> None:
        if not self._is_reached(host):
            return
        holder, _ = self.leader()
        if held_term:
            if holder == host.id and self.term == held_term:
                self._ends_at_ns = self._world.now_ns + self.ttl_ns
                self._world.after(self._wait_ns(), self._answer, host, sent_at_ns, held_term, True)
            else:
                self._world.after(self._wait_ns(), host.lose_leadership, held_term)
        elif holder is None and host.may_lead:
            self.holder = host
            self.term += self._rng.randint(1, 3)
            self._ends_at_ns = self._world.now_ns + self.ttl_ns
            self._world.after(self._wait_ns(), self._answer, host, sent_at_ns, self.term, False)

    def _answer(self, host: Host, sent_at_ns: int, term: int, is_renewal: bool) -> None:
        if self._is_reached(host):
            host.hold_leadership(term, sent_at_ns + self.ttl_ns * 9 // 10, is_renewal)
