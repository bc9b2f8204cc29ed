"""Hold what is known of an area at one moment, and say what changed between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Changes(Generic[Value]):
    """What to do to get from one snapshot to a later one."""

    put: Mapping[str, Value]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[Value]):
    """An area as last heard of: `items` by name.

    `stale_reason` is "" while the store answers; else it says why what is here may be out of date (it is still the
    last that was known). `faults` says, by name, which entries cannot be read and why. `version` grows with each
    snapshot of one coordinator.
    """

    items: Mapping[str, Value]
    stale_reason: str = ""
    faults: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    version: int = 0

    @property
    def is_fresh(self) -> bool:
        """Return whether the store answers."""
        return not self.stale_reason

    def since(self, earlier: Snapshot[Value]) -> Changes[Value]:
        """Return what was put and what went since `earlier`. O(size of both)."""
        put = {
            name: value
            for name, value in self.items.items()
            if name not in earlier.items or earlier.items[name] != value
        }
        return Changes(put, tuple(name for name in earlier.items if name not in self.items))
