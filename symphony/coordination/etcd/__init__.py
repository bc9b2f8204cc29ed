"""Speak to etcd v3 through its JSON gateway."""

from symphony.coordination.etcd.store import EtcdStore

__all__ = ["EtcdStore"]
