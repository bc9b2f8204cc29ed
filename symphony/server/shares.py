"""Share a model that is overloaded among its callers, so that a greedy one is a trouble to itself alone.

Two means, both by weight. *Refusal*: what the door refuses unread (see door.py) comes off those who ask for more than
their share, max-min fairly: there is a level such that whoever asks for less than level times weight is refused
nothing, and everyone else is let in to just that. *Demotion*: requests of a caller that has more under way than its
share of what the model can answer within one SLO go behind those of the others, in the scheduler's lowest priority; so
what the scheduler has to drop is the greedy one's, too. The first needs a few looks to see the load, the second needs
none.

Ways considered: a token bucket per caller, filled with its share of what is served (wastes what others leave unused,
or needs the same levelling); fair queueing by virtual time (the scheduler orders by deadline, which is what makes it
good). Pure: no clock, no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Collection

CALLER_COUNT_MAX = 1024
"""Callers of one model told apart; any more are one."""
FORGOTTEN_RATE = 0.01
"""Calls per look below which a caller with nothing under way is forgotten."""
SMOOTHING = 0.15
EXCESS = 1.5
"""How much more than its share of all calls, by weight, is greedy."""


class Share:
    """What one caller asks of one model."""

    __slots__ = ("call_count", "debt", "inside_count", "is_greedy", "rate", "refused_share", "urgent_looks", "weight")

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.call_count = 0
        """Calls since the last look, refused ones included."""
        self.rate = 0.0
        """Calls per look, averaged."""
        self.refused_share = 0.0
        """Share of its calls refused."""
        self.debt = 0.0
        self.inside_count = 0
        """Requests under way."""
        self.is_greedy = False
        """It sends far more than its share of all calls."""
        self.urgent_looks = 0
        """Looks for which nothing of it is refused."""

    def refuses(self) -> bool:
        """Return whether to refuse the call that arrives now: exactly the share, evenly spread."""
        if self.refused_share <= 0.0 or self.urgent_looks > 0:
            return False
        self.debt += self.refused_share
        if self.debt < 1.0:
            return False
        self.debt -= 1.0
        return True


class Shares:
    """All callers of one model."""

    def __init__(self) -> None:
        self._by_caller: dict[str, Share] = {}
        self._others = Share(1.0)
        self.inside_count = 0
        self._weight_inside = 0.0
        """Weight of the callers with something under way."""

    def __len__(self) -> int:
        """Return how many callers are told apart."""
        return len(self._by_caller)

    def of(self, caller: str, weight: float) -> Share:
        """Return the caller's share."""
        share = self._by_caller.get(caller)
        if share is None:
            if len(self._by_caller) >= CALLER_COUNT_MAX:
                return self._others
            share = self._by_caller[caller] = Share(weight)
        elif share.weight != weight and share.inside_count == 0:
            share.weight = weight
        return share

    def enter(self, share: Share, count: int) -> None:
        """Count requests as under way."""
        if share.inside_count == 0:
            self._weight_inside += share.weight
        share.inside_count += count
        self.inside_count += count

    def leave(self, caller: str, count: int) -> None:
        """Count as many as ended."""
        share = self._by_caller.get(caller)
        if share is None or share.inside_count < count:
            share = self._others  # it came while callers were too many
        count = min(count, share.inside_count)
        if count == 0:
            return
        share.inside_count -= count
        self.inside_count -= count
        if share.inside_count == 0:
            self._weight_inside = max(0.0, self._weight_inside - share.weight)

    def exceeds(self, share: Share, hold_count: float) -> bool:
        """Return whether the caller has more under way than its share of the `hold_count` that can be held in time.

        Never where it is alone, or where less than half of them are under way: there is enough for all, then.
        """
        if self.inside_count <= share.inside_count or 2 * self.inside_count <= hold_count:
            return False
        return share.refused_share > 0.0 or share.inside_count * self._weight_inside > share.weight * hold_count

    def look(self, refused_share: float) -> None:
        """Average what came since the last look, and set anew of whom `refused_share` of all calls is refused."""
        self._by_caller = {
            caller: share
            for caller, share in self._by_caller.items()
            if share.inside_count or share.call_count or share.rate > FORGOTTEN_RATE
        }
        shares = [*self._by_caller.values(), self._others]
        for share in shares:
            share.rate += SMOOTHING * (share.call_count - share.rate)
            share.call_count = 0
            share.urgent_looks = max(0, share.urgent_looks - 1)
        rate, weight = sum(share.rate for share in shares), sum(share.weight for share in self._by_caller.values())
        level = level_of(shares, (1.0 - refused_share) * rate)
        for share in shares:
            share.is_greedy = len(self._by_caller) > 1 and share.rate * weight > EXCESS * share.weight * rate
            if share.is_greedy:
                share.urgent_looks = 0
            allowed = share.weight * level
            share.refused_share = 0.0 if share.rate <= allowed else 1.0 - allowed / share.rate
            if share.refused_share == 0.0:
                share.debt = 0.0


def level_of(shares: Collection[Share], capacity: float) -> float:
    """Return the level at which the rates, each cut to level times weight, add up to `capacity`; inf if none is cut."""
    weight = sum(share.weight for share in shares)
    for share in sorted(shares, key=lambda share: share.rate / share.weight):
        if share.rate * weight > capacity * share.weight * (1.0 + 1e-9):
            return capacity / weight
        capacity -= share.rate
        weight -= share.weight
    return math.inf
