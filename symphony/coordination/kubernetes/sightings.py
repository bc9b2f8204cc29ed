"""Know which leases are over although nobody says so: Kubernetes keeps a Lease object for ever.

Clocks of other machines are not trusted: a lease is over once this process has seen its object unchanged for the
whole of its duration, on its own clock. The holder renewed it, if at all, before it was seen, so the holder's own
reckoning always ends first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Sighting:
    version: str
    duration_ns: int
    at_ns: int


class Sightings:
    """When each object was first seen at its present version. Instants are given, in nanoseconds."""

    def __init__(self) -> None:
        self._seen: dict[str, _Sighting] = {}

    def see(self, name: str, version: str, duration_ns: int, now_ns: int) -> None:
        """Hear that the object `name` is at `version`; only one not seen before counts."""
        known = self._seen.get(name)
        if known is None or known.version != version:
            self._seen[name] = _Sighting(version, duration_ns, now_ns)

    def forget(self, name: str) -> None:
        """Hear that the object is gone."""
        self._seen.pop(name, None)

    def keep_only(self, names: set[str]) -> None:
        """Hear which objects there are: others went unseen."""
        for name in self._seen.keys() - names:
            del self._seen[name]

    def is_over(self, name: str, now_ns: int) -> bool:
        """Return whether its lease has ended."""
        return now_ns >= self.ends_at_ns(name)

    def ends_at_ns(self, name: str) -> int:
        """Return when its lease ends if the object does not change; the name must have been seen."""
        known = self._seen[name]
        return known.at_ns + known.duration_ns

    def begin_anew(self, now_ns: int) -> None:
        """Hear that changes may have been missed: what was seen counts from now."""
        for known in self._seen.values():
            known.at_ns = now_ns
