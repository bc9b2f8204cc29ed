"""Run the scheduling core in a thread of its own, without the GIL, on the monotonic clock."""

from symphony.loop.loop import Load, Plan, SchedulingLoop

__all__ = ["Load", "Plan", "SchedulingLoop"]
