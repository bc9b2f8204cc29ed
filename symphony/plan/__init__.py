"""Say how many GPUs a workload needs: arithmetic first, then simulation. Reads no clock: the budget's is handed in."""

from symphony.plan.budget import Budget
from symphony.plan.planner import Answer, Plan, make_plan

__all__ = ["Answer", "Budget", "Plan", "make_plan"]
