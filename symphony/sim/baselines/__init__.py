"""Other systems' policies on the simulator, to compare with: docs/policies.md explains each with its source."""

from symphony.sim.baselines.clockwork import ClockworkPolicy
from symphony.sim.baselines.nexus import NexusPolicy
from symphony.sim.baselines.shepherd import ShepherdPolicy
from symphony.sim.baselines.triton import TritonPolicy

__all__ = ["ClockworkPolicy", "NexusPolicy", "ShepherdPolicy", "TritonPolicy"]
