"""Try an operation again while the store gives no usable answer, for a bounded time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from symphony.cluster.faults import CoordinatorUnavailable, StoreUnavailable
from symphony.cluster.timing import Backoff, Timing
from symphony.coordination.clock import Clock, within
from symphony.units import NS_PER_S

Result = TypeVar("Result")


class Retrying:
    """Run attempts until one is answered. `chance` spreads the waits between them."""

    def __init__(self, where: str, timing: Timing, clock: Clock, chance: Callable[[], float]) -> None:
        self._where = where
        self._timing = timing
        self._clock = clock
        self._chance = chance

    async def run(self, what: str, attempt: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return the first answer; raise CoordinatorUnavailable when there is none within `operation_ns`.

        `what` says the operation in words. Whatever else `attempt` raises ends it at once.
        """
        backoff = Backoff(self._timing, self._chance)
        ends_at_ns = self._clock.now_ns() + self._timing.operation_ns
        count, trouble = 0, "no answer"
        while self._clock.now_ns() < ends_at_ns:
            count += 1
            try:
                return await within(self._clock, ends_at_ns, attempt())
            except StoreUnavailable as error:
                trouble = str(error)
            except TimeoutError:
                break
            await self._clock.sleep_until(min(ends_at_ns, self._clock.now_ns() + backoff.next_ns()))
        raise CoordinatorUnavailable(
            f"{what}: {self._where} gave no usable answer within {self._timing.operation_ns / NS_PER_S:g} s "
            f"({count} attempts; the last: {trouble}); is a majority of it up and reachable?"
        )
