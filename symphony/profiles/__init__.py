"""Know how long batches take: latency profiles and the bounds that follow from them. Pure arithmetic."""

from symphony.profiles.profile import LatencyProfile
from symphony.profiles.stagger import staggered_bound

__all__ = ["LatencyProfile", "staggered_bound"]
