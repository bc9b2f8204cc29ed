"""Make the coordinator that an address names."""

from __future__ import annotations

import random

from symphony.cluster.store import Store
from symphony.coordination.address import Address, EtcdAddress, MemoryAddress, parse_address
from symphony.coordination.clock import Clock
from symphony.coordination.coordinator import Coordinator
from symphony.coordination.memory import MemoryStore
from symphony.errors import ConfigError


async def open_coordinator(url: str, *, clock: Clock | None = None, chance: random.Random | None = None) -> Coordinator:
    """Return the coordinator at `url` (see symphony.coordination.address); nothing is sent yet.

    Raise ConfigError for an address, a file or a package that is missing or cannot be used.
    """
    address = parse_address(url)
    return Coordinator(await _store(address), address.timing, clock=clock, chance=chance)


async def _store(address: Address) -> Store:
    if isinstance(address, MemoryAddress):
        return MemoryStore()
    if isinstance(address, EtcdAddress):
        from symphony.coordination.etcd import EtcdStore

        return EtcdStore(address)
    try:
        from symphony.coordination.kubernetes import open_store
    except ImportError as error:
        raise ConfigError(
            f"--cluster kubernetes: needs the package {error.name}; pip install 'symphony-serve[kubernetes]'"
        ) from None
    return await open_store(address)
