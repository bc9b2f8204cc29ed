"""Simulate in virtual time: the real core against GPUs that take l(b), from a seed. Reads no clock."""

from symphony.sim.report import SimReport, report_on
from symphony.sim.scenario import Outcome, Requests, draw_requests, make_core_policy, simulate

__all__ = ["Outcome", "Requests", "SimReport", "draw_requests", "make_core_policy", "report_on", "simulate"]
