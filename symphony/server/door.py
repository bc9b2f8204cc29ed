"""Refuse at the door, before it is read, a share of what a model's GPUs cannot serve anyway.

Under lasting overload the scheduler drops what would miss its deadline. That is exact, but each such request has been
read, decoded, queued and answered late in its life: at twice the load a node spends half its time on requests that come
to nothing, and then has none left for the others. So while a model's requests are being dropped, and more GPUs are
asked for than there are, a share of its arrivals is refused unread. The share is at most what leaves the GPUs a tenth
more than they can serve, so that the scheduler, which knows deadlines and batches, still has the choice; it grows and
shrinks step by step with the drops, and is gone a moment after the load is. Who is refused, of several callers, is for
shares.py to say.

Ways considered: a limit on the queue (says nothing about time, and differs per model and load); refusing by predicted
wait (the scheduler's own work, twice); a share computed from what was answered (where answers fail for another reason
it refuses ever more, and stays there). Pure: told the outcomes, no clock, no randomness.
"""

from __future__ import annotations

from collections.abc import Collection

from symphony.server.shares import Share, Shares

SPARE = 1.1
"""What is let in at least, relative to what the GPUs can serve."""
STEP = 0.1
"""How much the share changes in one look."""
DROPPED_SHARE_HIGH = 0.05
DROPPED_SHARE_LOW = 0.02
"""Drops among those let in above which the share grows, and below which it shrinks."""
ACCEPTED_COUNT_MIN = 20
"""Fewer in one look say nothing."""
URGENT_LOOKS = 100
"""For so many looks after a request of better than default priority, nothing of its caller is refused unread."""
PRIORITY_LOWEST = 8
SMOOTHING = 0.15
"""Weight of the newest look in what is averaged over all doors: the loop's wish for GPUs lags behind the load, too."""


class Door:
    """Decide about the calls that arrive for one model."""

    def __init__(self) -> None:
        self.refused_share = 0.0
        """Share of all calls refused."""
        self.shares = Shares()
        self.hold_count = 1.0
        """Requests that can be under way and be answered within one SLO."""
        self.is_dropping = False
        """Requests were dropped in the last look, more than a few."""
        self.served_count = 0.0
        """Requests per look that the scheduler took and did not give up, averaged."""
        self.let_in_count = 0
        self.refused_count = 0
        """Calls since the last look."""
        self.accepted_count = 0
        """Requests that the scheduler took since the last look: a call may hold several, or none that is valid."""
        self.dropped_count = 0
        """Requests that it gave up since, for want of time."""

    def refuses(self, share: Share) -> bool:
        """Return whether to refuse the call of this caller's that arrives now."""
        share.call_count += 1
        if share.refuses():
            self.refused_count += 1
            return True
        self.let_in_count += 1
        return False

    def enter(self, share: Share, count: int, priority: int, priority_default: int) -> int:
        """Count requests of the caller's as under way; return the priority they go with (see shares.py)."""
        is_over = self.shares.exceeds(share, self.hold_count)
        self.shares.enter(share, count)
        if is_over:
            return PRIORITY_LOWEST
        if priority < priority_default and not share.is_greedy:
            # Priorities are inside the body: from now on, for a while, what this caller sends is read.
            share.urgent_looks = URGENT_LOOKS
        return priority

    def look(self, gpus_asked: float, gpu_count: int) -> None:
        """Set the share anew. `gpus_asked`: for all calls of all models, those refused included."""
        dropped_share = self.dropped_count / max(ACCEPTED_COUNT_MIN, self.accepted_count)
        share = self.refused_share
        if dropped_share > DROPPED_SHARE_HIGH:
            share += STEP
        elif dropped_share < DROPPED_SHARE_LOW:
            share -= STEP
        most = 1.0 - SPARE * gpu_count / gpus_asked if gpus_asked > 0.0 else 0.0
        self.refused_share = max(0.0, min(share, most))
        self.is_dropping = dropped_share > DROPPED_SHARE_LOW
        self.served_count += SMOOTHING * (max(0, self.accepted_count - self.dropped_count) - self.served_count)
        self.shares.look(self.refused_share)
        self.let_in_count = self.refused_count = self.accepted_count = self.dropped_count = 0


class Doors:
    """Let every model's door follow the load: call `look` every 0.05 s or so."""

    def __init__(self) -> None:
        self._let_in = 0.0
        self._refused = 0.0
        """Calls in one look, averaged."""

    def look(self, doors: Collection[Door], gpus_asked: float, gpu_count: int) -> None:
        """Look after all doors. `gpus_asked`: the scheduler's wish, which knows only what was let in."""
        self._let_in += SMOOTHING * (sum(door.let_in_count for door in doors) - self._let_in)
        self._refused += SMOOTHING * (sum(door.refused_count for door in doors) - self._refused)
        gpus_asked *= 1.0 + self._refused / max(1.0, self._let_in)
        for door in doors:
            door.look(gpus_asked, gpu_count)
