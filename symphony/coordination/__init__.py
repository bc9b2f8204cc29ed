"""Speak to the system that keeps who is a member, who leads and what is served: in memory, etcd or Kubernetes.

Never schedules, never carries requests. `open_coordinator(url)` is the door.
"""

from symphony.coordination.coordinator import Coordinator
from symphony.coordination.following import Watch
from symphony.coordination.hold import Leadership, Membership
from symphony.coordination.memory import MemorySpace, MemoryStore
from symphony.coordination.opening import open_coordinator

__all__ = ["Coordinator", "Leadership", "Membership", "MemorySpace", "MemoryStore", "Watch", "open_coordinator"]
