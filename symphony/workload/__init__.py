"""Describe load: when which model is asked. Pure arithmetic on seeds."""

from symphony.workload.arrivals import Arrivals, parse_trace
from symphony.workload.schedule import Schedule, make_schedule

__all__ = ["Arrivals", "Schedule", "make_schedule", "parse_trace"]
