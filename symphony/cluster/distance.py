"""Hold what a node knows of one link: how the clock at the other end stands, and how long data takes to get there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distance:
    """Their clock minus ours is `offset_ns`, give or take `bound_ns`; data takes `data_ns` one way, control no longer.

    All measured by round trips on the link, and measured again as long as it is up.
    """

    offset_ns: int = 0
    bound_ns: int = 0
    data_ns: int = 0

    def here_ns(self, there_at_ns: int) -> int:
        """Return the instant of our clock that is most likely `there_at_ns` of theirs."""
        return there_at_ns - self.offset_ns

    def here_at_latest_ns(self, there_at_ns: int) -> int:
        """Return an instant of our clock that is no later than `there_at_ns` of theirs, whatever the error is."""
        return there_at_ns - self.offset_ns - self.bound_ns


HERE = Distance()
"""From a node to itself."""
