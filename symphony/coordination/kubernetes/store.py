"""Keep the cluster's data in Kubernetes objects of one namespace.

A held name is a Lease (`coordination.k8s.io/v1`): `holderIdentity` is the token in hexadecimal, `leaseTransitions` the
term, raised by every acquisition; the value is in an annotation. The leader's object is never deleted, for its terms
must go on from there; giving up leadership empties the holder. A member's object is deleted when it leaves, or by
whoever watches and sees that its lease is over. A document is a ConfigMap. Its revision is the object's
`resourceVersion`, by which the API refuses (409) a write based on an older one.

Names may hold characters that object names may not, so these are made of a hash, and the name is in an annotation.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from datetime import UTC, datetime

from kubernetes_asyncio import client

from symphony.cluster.faults import CoordinatorRefused, CursorLost, StoreUnavailable
from symphony.cluster.limits import ENTRY_COUNT_MAX
from symphony.cluster.store import ABSENT, LEADER, Area, Batch, Entry, Listing
from symphony.cluster.timing import Timing
from symphony.coordination.clock import Clock, SystemClock
from symphony.coordination.kubernetes.objects import CHANGES, Object, Objects, config_map_calls, lease_calls
from symphony.coordination.kubernetes.sightings import Sightings
from symphony.units import NS_PER_S

ATTEMPT_S_MAX = 2.0
WATCH_S = 10
"""A watch is begun anew so often, which shows whether anybody is at its other end."""

_NAME = "symphony/name"
_VALUE = "symphony/value"
_CLUSTER_LABEL = "symphony/cluster"
_AREA_LABEL = "symphony/area"
_DATA_KEY = "value"


class KubernetesStore:
    """One node's connection to the API. Made inside a running event loop."""

    def __init__(
        self,
        configuration: client.Configuration,
        namespace: str,
        prefix: str,
        timing: Timing,
        *,
        clock: Clock | None = None,
        watch_s: int = WATCH_S,
    ) -> None:
        self.where = f"Kubernetes at {configuration.host}, namespace {namespace}"
        self._prefix = prefix
        self._clock = clock or SystemClock()
        self._api = client.ApiClient(configuration)
        attempt_s = min(ATTEMPT_S_MAX, timing.ttl_ns / 4 / NS_PER_S)
        self._leases = Objects(lease_calls(self._api), self.where, namespace, attempt_s, watch_s)
        self._config_maps = Objects(config_map_calls(self._api), self.where, namespace, attempt_s, watch_s)
        self._sightings = Sightings()
        self._held: dict[tuple[Area, str, int], Object] = {}
        self._shown: dict[Area, dict[str, Entry]] = {area: {} for area in Area}
        self._was_cut: set[Area] = set()
        self._term_max = 0

    async def acquire(self, area: Area, name: str, value: bytes, token: int, ttl_ns: int) -> int | None:
        """See Store."""
        found = await self._leases.read(self._object_name(area, name))
        if found is None:
            # Terms go on from the highest seen, should somebody have deleted the object.
            lease = self._lease(area, name, value, token, ttl_ns, self._term_max + 1, {})
            return self._keep(area, name, token, await self._leases.create(lease))
        self._see(found)
        holder, term = _holder(found), _transitions(found)
        if holder not in (0, token) and not self._is_over(found):
            return None
        if holder != token:
            term += 1
        lease = self._lease(area, name, value, token, ttl_ns, term, found)
        return self._keep(area, name, token, await self._leases.replace(lease))

    async def renew(self, area: Area, name: str, token: int, ttl_ns: int) -> bool:
        """See Store."""
        known = self._held.pop((area, name, token), None)
        for written in (known, None):  # as it was left; then, if that is outdated, as it is
            found = written or await self._leases.read(self._object_name(area, name))
            if found is None or _holder(found) != token:
                return False
            lease = self._lease(area, name, _entry(found).value, token, ttl_ns, _transitions(found), found)
            if self._keep(area, name, token, await self._leases.replace(lease)) is not None:
                return True
        raise StoreUnavailable(f"{self.where}: the lease {area.value}/{name} changed while it was renewed")

    async def release(self, area: Area, name: str, token: int) -> None:
        """See Store."""
        self._held.pop((area, name, token), None)
        found = await self._leases.read(self._object_name(area, name))
        if found is None or _holder(found) != token:
            return
        if area is Area.MEMBERS:
            is_done = await self._leases.delete(found["metadata"]["name"], _version(found))
        else:
            empty = self._lease(area, name, b"", 0, NS_PER_S, _transitions(found), found)
            is_done = await self._leases.replace(empty) is not None
        if not is_done:
            raise StoreUnavailable(f"{self.where}: the lease {area.value}/{name} changed while it was given up")

    async def read(self, area: Area, name: str) -> Entry | None:
        """See Store."""
        found = await self._objects(area).read(self._object_name(area, name))
        if found is None or (area is not Area.MODELS and not self._is_live(found)):
            return None
        return _entry(found)

    async def write(self, area: Area, name: str, value: bytes, expected: str) -> str | None:
        """See Store."""
        body: Object = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": self._metadata(area, name, {}),
            "data": {_DATA_KEY: value.decode()},
        }
        if expected == ABSENT:
            written = await self._config_maps.create(body)
        else:
            body["metadata"]["resourceVersion"] = expected
            written = await self._config_maps.replace(body)
        return None if written is None else _version(written)

    async def erase(self, area: Area, name: str, expected: str) -> bool:
        """See Store."""
        return await self._config_maps.delete(self._object_name(area, name), expected)

    async def entries(self, area: Area) -> Listing:
        """See Store."""
        try:
            found, version = await self._objects(area).all(self._selector(area))
        except CursorLost as error:  # between two pages
            raise StoreUnavailable(str(error)) from None
        if area in self._was_cut:  # nobody could renew what could not be reached
            self._was_cut.discard(area)
            self._sightings.begin_anew(self._clock.now_ns())
        if area is Area.MEMBERS:
            leader = self._object_name(Area.ELECTION, LEADER)
            self._sightings.keep_only({leader, *(one["metadata"]["name"] for one in found)})
        shown = {}
        for one in found:
            entry = _entry(one)
            if self._is_ours(area, one, entry) and (area is Area.MODELS or self._is_live(one)):
                shown[entry.name] = entry
        self._shown[area] = shown
        return Listing(tuple(shown.values()), version)

    async def watch(self, area: Area, cursor: str) -> AsyncGenerator[Batch, None]:
        """See Store."""
        try:
            async with aclosing(self._objects(area).watch(self._selector(area), cursor)) as events:
                waiting = asyncio.ensure_future(anext(events, None))
                try:
                    while True:
                        await asyncio.wait((waiting,), timeout=self._until_next_end_s(area))
                        if not waiting.done():
                            ended = await self._remove_ended(area)
                            if ended:
                                yield Batch(gone=ended, cursor=cursor)
                            continue
                        event = waiting.result()
                        if event is None:
                            return
                        kind, found = event
                        cursor = _version(found) or cursor
                        yield self._batch(area, kind, found, cursor)
                        waiting = asyncio.ensure_future(anext(events, None))
                finally:
                    waiting.cancel()
                    await asyncio.wait((waiting,))
        except StoreUnavailable:
            self._was_cut.add(area)
            raise

    async def close(self) -> None:
        """See Store."""
        await self._api.close()

    # What is on show: held entries whose leases are not over, and documents

    def _batch(self, area: Area, kind: str, found: Object, cursor: str) -> Batch:
        if kind not in CHANGES:
            return Batch(cursor=cursor)
        entry, shown = _entry(found), self._shown[area]
        if not self._is_ours(area, found, entry):
            return Batch(cursor=cursor)
        is_live = kind != "DELETED" and (area is Area.MODELS or self._is_live(found))
        if kind == "DELETED":
            self._sightings.forget(found["metadata"]["name"])
        if not is_live:
            return Batch(gone=(entry.name,) if shown.pop(entry.name, None) else (), cursor=cursor)
        if len(shown) >= ENTRY_COUNT_MAX and entry.name not in shown:
            raise CoordinatorRefused(f"{self.where} holds more than {ENTRY_COUNT_MAX} objects of {area.value}")
        before, shown[entry.name] = shown.get(entry.name), entry
        is_renewal = area is not Area.MODELS and before is not None and _held_same(before, entry)
        return Batch(put=() if is_renewal else (entry,), cursor=cursor)

    def _until_next_end_s(self, area: Area) -> float | None:
        if area is Area.MODELS or not self._shown[area]:
            return None
        ends_at_ns = min(self._sightings.ends_at_ns(self._object_name(area, name)) for name in self._shown[area])
        return max(0.0, (ends_at_ns - self._clock.now_ns()) / NS_PER_S)

    async def _remove_ended(self, area: Area) -> tuple[str, ...]:
        now_ns = self._clock.now_ns()
        shown = self._shown[area]
        ended = [name for name in shown if self._sightings.is_over(self._object_name(area, name), now_ns)]
        for name in ended:
            entry = shown.pop(name)
            if area is Area.MEMBERS:  # whoever sees it first tidies up; who is late is refused by the version
                with suppress(StoreUnavailable, CoordinatorRefused):
                    await self._leases.delete(self._object_name(area, name), entry.revision)
        return tuple(ended)

    def _is_ours(self, area: Area, found: Object, entry: Entry) -> bool:
        """Return whether the object has the name that its entry must have: others may have set our labels."""
        return bool(found["metadata"]["name"] == self._object_name(area, entry.name))

    def _is_live(self, found: Object) -> bool:
        self._see(found)
        return _holder(found) != 0 and not self._is_over(found)

    def _see(self, found: Object) -> None:
        duration_ns = _number(found, "leaseDurationSeconds") * NS_PER_S
        self._term_max = max(self._term_max, _transitions(found))
        self._sightings.see(found["metadata"]["name"], _version(found), duration_ns, self._clock.now_ns())

    def _is_over(self, found: Object) -> bool:
        return self._sightings.is_over(found["metadata"]["name"], self._clock.now_ns())

    # Objects

    def _keep(self, area: Area, name: str, token: int, taken: Object | None) -> int | None:
        if taken is None:
            return None
        self._held[area, name, token] = taken
        return _transitions(taken)

    def _objects(self, area: Area) -> Objects:
        return self._config_maps if area is Area.MODELS else self._leases

    def _object_name(self, area: Area, name: str) -> str:
        if area is Area.ELECTION:
            return f"{self._prefix}-{name}"
        return f"{self._prefix}-{area.value}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"

    def _selector(self, area: Area) -> str:
        return ",".join(f"{key}={value}" for key, value in self._labels(area).items())

    def _labels(self, area: Area) -> dict[str, str]:
        return {_CLUSTER_LABEL: self._prefix, _AREA_LABEL: area.value}

    def _metadata(self, area: Area, name: str, annotations: dict[str, str]) -> Object:
        return {
            "name": self._object_name(area, name),
            "labels": self._labels(area),
            "annotations": {_NAME: name, **annotations},
        }

    def _lease(self, area: Area, name: str, value: bytes, token: int, ttl_ns: int, term: int, found: Object) -> Object:
        """Return a Lease held by `token` (0: by nobody), to replace `found` where that is given."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # for people; nobody here compares it
        metadata = self._metadata(area, name, {_VALUE: value.decode()})
        if found:
            metadata["resourceVersion"] = _version(found)
        acquired = _spec(found).get("acquireTime") if _holder(found) == token else None
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": f"{token:x}" if token else "",
                "leaseDurationSeconds": -(-ttl_ns // NS_PER_S),
                "acquireTime": acquired or now,
                "renewTime": now,
                "leaseTransitions": term,
            },
        }


def _held_same(one: Entry, other: Entry) -> bool:
    return (one.value, one.term) == (other.value, other.term)


def _part(found: Object, key: str) -> Object:
    part = found.get(key)
    return part if isinstance(part, dict) else {}


def _spec(found: Object) -> Object:
    return _part(found, "spec")


def _holder(found: Object) -> int:
    """Return the holding token, 0 for none, -1 for something that is no token of ours."""
    text = _spec(found).get("holderIdentity") or "0"
    try:
        return int(text, 16)
    except (TypeError, ValueError):
        return -1


def _number(found: Object, key: str) -> int:
    value = _spec(found).get(key)
    return value if isinstance(value, int) and 0 <= value < 2**31 else 0


def _transitions(found: Object) -> int:
    return _number(found, "leaseTransitions")


def _version(found: Object) -> str:
    return str(_part(found, "metadata").get("resourceVersion", ""))


def _entry(found: Object) -> Entry:
    """Return what an object says; one that others have made or damaged has a name or value that nobody can read."""
    metadata = _part(found, "metadata")
    annotations = _part(metadata, "annotations")
    value = annotations.get(_VALUE) if "spec" in found else _part(found, "data").get(_DATA_KEY)
    name = annotations.get(_NAME) or metadata.get("name", "")
    return Entry(str(name), str(value or "").encode(), _version(found), _transitions(found))
