"""Speak to the API of Kubernetes: Lease objects for members and the leader, ConfigMaps for models."""

from symphony.coordination.kubernetes.opening import open_store
from symphony.coordination.kubernetes.store import KubernetesStore

__all__ = ["KubernetesStore", "open_store"]
