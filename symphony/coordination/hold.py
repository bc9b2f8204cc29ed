"""Keep a lease alive, and know in time when it is held no longer.

`is_held()` compares the clock with the instant up to which the last granted renewal reaches, counted from before that
renewal was sent. So it is right whenever it is asked, also first thing after the process was stopped for a minute or
its event loop was busy: nothing has to run for a lease to be over. `lost()` is for those who wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from symphony.cluster.faults import CoordinatorRefused, CoordinatorUnavailable, LeaseLost, StoreUnavailable
from symphony.cluster.store import Area, Store
from symphony.cluster.timing import Backoff, LeaseTime, Timing
from symphony.coordination.clock import Clock, within
from symphony.coordination.retrying import Retrying
from symphony.units import NS_PER_S

_log = logging.getLogger(__name__)


class Hold:
    """One held name, renewed by a task of its own until it is released or lost. Made by Coordinator only."""

    def __init__(
        self,
        store: Store,
        area: Area,
        name: str,
        token: int,
        term: int,
        lease: LeaseTime,
        timing: Timing,
        clock: Clock,
        chance: Callable[[], float],
        on_lost: Callable[[Hold], None],
    ) -> None:
        self.area = area
        self.name = name
        self.token = token
        self._term = term
        self._store = store
        self._lease = lease
        self._timing = timing
        self._clock = clock
        self._chance = chance
        self._on_lost = on_lost
        self._lost_reason = ""
        self._is_over = asyncio.Event()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"keep {area.value}/{name}")

    @property
    def held_until_ns(self) -> int:
        """Return up to which instant of the clock nobody else can hold it; 0 once it is lost or released.

        Threads may read it.
        """
        return 0 if self._is_over.is_set() else self._lease.until_ns

    def is_held(self) -> bool:
        """Return whether it is held at this instant. Ask right before acting on it."""
        return self._clock.now_ns() < self.held_until_ns

    async def lost(self) -> str:
        """Wait until it is held no longer; return why."""
        await self._is_over.wait()
        return self._lost_reason

    async def _release(self) -> None:
        """Give it up, first here and then in the store; raise CoordinatorUnavailable if that cannot be told.

        Then it ends with its lease. Nothing happens the second time.
        """
        if self._is_over.is_set():
            return
        self._end("it was given up")
        self._keeper.cancel()
        retrying = Retrying(self._store.where, self._timing, self._clock, self._chance)
        try:
            await retrying.run(
                f"giving up {self.area.value}/{self.name}",
                lambda: self._store.release(self.area, self.name, self.token),
            )
        except CoordinatorUnavailable:
            self._on_lost(self)
            raise

    def _end(self, reason: str) -> None:
        if not self._is_over.is_set():
            self._lost_reason = reason
            self._is_over.set()

    async def _keep(self) -> None:
        """Renew until that fails for too long; then say so, and have the store told when it can be."""
        try:
            reason, may_stand = await self._renew()
        except Exception as error:  # a fault of ours: the lease runs out, and whoever waits must hear of it
            _log.exception("renewing %s/%s failed", self.area.value, self.name)
            reason, may_stand = f"renewing it failed: {error!r}", True
        _log.warning("%s/%s is lost: %s", self.area.value, self.name, reason)
        self._end(reason)
        if may_stand:
            self._on_lost(self)

    async def _renew(self) -> tuple[str, bool]:
        """Renew while it is held; return why it is not, and whether the store may still take it for held."""
        backoff = Backoff(self._timing, self._chance)
        next_at_ns = self._lease.renew_at_ns
        trouble = "the process or its event loop stood still"
        while True:
            await self._clock.sleep_until(min(next_at_ns, self._lease.until_ns))
            sent_at_ns = self._clock.now_ns()
            if not self._lease.is_held(sent_at_ns):
                return self._not_in_time(trouble), True
            try:
                is_granted = await within(
                    self._clock,
                    self._lease.until_ns,
                    self._store.renew(self.area, self.name, self.token, self._timing.ttl_ns),
                )
            except TimeoutError:
                return self._not_in_time(f"{self._store.where} did not answer"), True
            except (StoreUnavailable, CoordinatorRefused) as error:  # refused: a login that is being changed, perhaps
                trouble = str(error)
                next_at_ns = self._clock.now_ns() + backoff.next_ns()
                continue
            if not is_granted:
                return f"{self._store.where} no longer holds it: its lease expired or was revoked", False
            self._lease.granted(sent_at_ns)
            next_at_ns = self._lease.renew_at_ns
            backoff.reset()

    def _not_in_time(self, trouble: str) -> str:
        return f"its lease of {self._timing.ttl_ns / NS_PER_S:g} s was not renewed in time: {trouble}"


class Membership(Hold):
    """A node's place among the members."""

    async def leave(self) -> None:
        """Cease to be a member at once; raise CoordinatorUnavailable if it takes until the lease ends."""
        await self._release()


class Leadership(Hold):
    """The leadership, won in `term`."""

    @property
    def term(self) -> int:
        """Return the fencing token: larger than that of every leadership before."""
        return self._term

    def require(self) -> int:
        """Return the term if the leadership is held at this instant, else raise LeaseLost."""
        if not self.is_held():
            reason = self._lost_reason or "its lease ran out"
            raise LeaseLost(f"the leadership of term {self._term} is over: {reason}; campaign again")
        return self._term

    async def resign(self) -> None:
        """Give the leadership up at once; raise CoordinatorUnavailable if it takes until the lease ends."""
        await self._release()
