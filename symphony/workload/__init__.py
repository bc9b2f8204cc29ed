"""Describe load: when which model is asked. Pure arithmetic on seeds."""

from symphony.workload.arrivals import Arrivals
from symphony.workload.schedule import Schedule, make_schedule
from symphony.workload.trace import Trace, parse_trace, trace_line

__all__ = ["Arrivals", "Schedule", "Trace", "make_schedule", "parse_trace", "trace_line"]
