"""Keep the cluster's data in etcd.

Keys, under `/PREFIX/`: `members/NODE`, `election/leader`, `models/MODEL/VERSION`.

A token is the id of an etcd lease, so whoever finds a key sees by its lease whether it is its own: an attempt whose
answer was lost is recognised when it is repeated. A held key is created by a transaction that demands its absence; the
revision of its creation is the term, and revisions only grow. It goes with its lease. A renewal asks for the key,
too, for a lease can outlive a key that somebody deleted by hand.

A document's revision is its key's `mod_revision`. A watch begins one past the revision of the listing.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from symphony.cluster.faults import CoordinatorRefused, CursorLost, StoreUnavailable
from symphony.cluster.limits import ENTRY_COUNT_MAX
from symphony.cluster.store import ABSENT, Area, Batch, Entry, Listing
from symphony.coordination.address import EtcdAddress
from symphony.coordination.answers import Answers, Table
from symphony.coordination.etcd.gateway import FAILED_PRECONDITION, NOT_FOUND, WATCH_IDLE_S, EtcdError, Gateway
from symphony.units import NS_PER_S

ATTEMPT_S_MAX = 2.0
PAGE_COUNT = {Area.MEMBERS: 400, Area.ELECTION: 1, Area.MODELS: 32}
"""Entries asked for at once: the largest ones fit an answer."""


class EtcdStore:
    """One node's connection to etcd."""

    def __init__(self, address: EtcdAddress, watch_idle_s: float = WATCH_IDLE_S) -> None:
        attempt_s = min(ATTEMPT_S_MAX, address.timing.ttl_ns / 4 / NS_PER_S)
        self._gateway = Gateway(address, attempt_s, watch_idle_s)
        self._prefix = f"/{address.prefix}/"
        self._answers = Answers(address.where)
        self.where = address.where

    async def acquire(self, area: Area, name: str, value: bytes, token: int, ttl_ns: int) -> int | None:
        """See Store."""
        key = self._key(area, name)
        found = await self._find(key)
        if found is not None and self._lease(found) != token:
            return None
        await self._grant(token, ttl_ns)
        answer = await self._txn(
            {"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"},
            {"request_put": {"key": key, "value": b64encode(value).decode(), "lease": str(token)}},
            {"request_range": {"key": key}},
        )
        if answer.get("succeeded"):
            return self._revision(answer)
        responses = self._answers.tables(answer, "responses")
        found = self._first(self._answers.table(responses[0], "response_range")) if responses else None
        if found is not None and self._lease(found) == token:
            return self._answers.number(found, "create_revision")
        await self._revoke(token)
        return None

    async def renew(self, area: Area, name: str, token: int, ttl_ns: int) -> bool:
        """See Store."""
        if not await self._keep_alive(token):
            return False
        found = await self._find(self._key(area, name))
        return found is not None and self._lease(found) == token

    async def release(self, area: Area, name: str, token: int) -> None:
        """See Store."""
        await self._revoke(token)

    async def read(self, area: Area, name: str) -> Entry | None:
        """See Store."""
        found = await self._find(self._key(area, name))
        return None if found is None else self._entry(area, found)

    async def write(self, area: Area, name: str, value: bytes, expected: str) -> str | None:
        """See Store."""
        key = self._key(area, name)
        put = {"request_put": {"key": key, "value": b64encode(value).decode()}}
        answer = await self._if_unchanged(key, expected, put)
        return str(self._revision(answer)) if answer.get("succeeded") else None

    async def erase(self, area: Area, name: str, expected: str) -> bool:
        """See Store."""
        key = self._key(area, name)
        answer = await self._if_unchanged(key, expected, {"request_delete_range": {"key": key}})
        return bool(answer.get("succeeded"))

    async def entries(self, area: Area) -> Listing:
        """See Store."""
        first, end = self._span(area)
        entries: list[Entry] = []
        revision = 0
        while True:
            answer = await self._call(
                "/v3/kv/range",
                {"key": _b64(first), "range_end": _b64(end), "limit": str(PAGE_COUNT[area]), "revision": str(revision)},
            )
            revision = revision or self._revision(answer)
            page = [self._entry(area, found) for found in self._answers.tables(answer, "kvs")]
            entries += page
            if len(entries) > ENTRY_COUNT_MAX:
                raise CoordinatorRefused(
                    f"{self.where} holds more than {ENTRY_COUNT_MAX} keys under {self._prefix}{area.value}; remove some"
                )
            if not answer.get("more") or not page:
                return Listing(tuple(entries), str(revision))
            first = b64decode(self._key(area, page[-1].name)) + b"\0"

    async def watch(self, area: Area, cursor: str) -> AsyncGenerator[Batch, None]:
        """See Store."""
        first, end = self._span(area)
        request = {
            "key": _b64(first),
            "range_end": _b64(end),
            "start_revision": str(int(cursor) + 1),
            "fragment": True,
        }
        put: dict[str, Entry] = {}
        gone: dict[str, None] = {}
        async with aclosing(self._gateway.stream("/v3/watch", {"create_request": request})) as messages:
            async for message in messages:
                if message.get("canceled"):
                    self._raise_cancelled(message)
                for event in self._answers.tables(message, "events"):
                    entry = self._entry(area, self._answers.table(event, "kv"))
                    put.pop(entry.name, None)
                    gone.pop(entry.name, None)
                    if event.get("type") == "DELETE":
                        gone[entry.name] = None
                    else:
                        put[entry.name] = entry
                    cursor = entry.revision
                if message.get("fragment"):
                    continue  # the rest of this revision comes in the next message
                yield Batch(tuple(put.values()), tuple(gone), cursor)
                put, gone = {}, {}

    async def close(self) -> None:
        """See Store."""
        await self._gateway.close()

    def _raise_cancelled(self, message: Mapping[str, Any]) -> None:
        if self._answers.number(message, "compact_revision"):
            raise CursorLost
        reason = str(message.get("cancel_reason", ""))[:300]
        if "permission denied" in reason:
            raise CoordinatorRefused(f"{self.where} refused to watch {self._prefix}: {reason}")
        if "token" in reason:
            self._gateway.forget_login()
        raise StoreUnavailable(f"{self.where} ended a watch: {reason or 'no reason given'}")

    async def _grant(self, token: int, ttl_ns: int) -> None:
        try:
            await self._gateway.call("/v3/lease/grant", {"ID": str(token), "TTL": str(-(-ttl_ns // NS_PER_S))})
        except EtcdError as error:
            if error.code != FAILED_PRECONDITION:
                raise self._unexpected(error) from None
            if not await self._keep_alive(token):
                raise StoreUnavailable(f"the lease of an earlier attempt at {self.where} just ended") from None

    async def _keep_alive(self, token: int) -> bool:
        answer = await self._call("/v3/lease/keepalive", {"ID": str(token)})
        if isinstance(error := answer.get("error"), dict):  # a stream's errors come with a good status
            raise StoreUnavailable(f"{self.where}: {str(error.get('message', ''))[:300]}")
        return self._answers.number(answer, "result", "TTL") > 0

    async def _revoke(self, token: int) -> None:
        try:
            await self._gateway.call("/v3/lease/revoke", {"ID": str(token)})
        except EtcdError as error:
            if error.code != NOT_FOUND:
                raise self._unexpected(error) from None

    async def _find(self, key: str) -> dict[str, Any] | None:
        return self._first(await self._call("/v3/kv/range", {"key": key}))

    async def _if_unchanged(self, key: str, expected: str, action: Mapping[str, Any]) -> dict[str, Any]:
        revision = "0" if expected == ABSENT else expected
        if not (revision.isascii() and revision.isdigit() and len(revision) < 19):
            return {}  # no revision of etcd's: nothing can be at it
        compare = {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}
        return await self._txn(compare, action, None)

    async def _txn(
        self, compare: Mapping[str, Any], success: Mapping[str, Any], failure: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        try:
            return await self._gateway.call(
                "/v3/kv/txn", {"compare": [compare], "success": [success], "failure": [failure] if failure else []}
            )
        except EtcdError as error:
            if error.code == NOT_FOUND:  # the lease ended between its grant and here
                raise StoreUnavailable(f"{self.where}: {error}") from None
            raise self._unexpected(error) from None

    async def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await self._gateway.call(path, body)
        except EtcdError as error:
            raise self._unexpected(error) from None

    def _key(self, area: Area, name: str) -> str:
        return _b64(f"{self._prefix}{area.value}/{name}".encode())

    def _span(self, area: Area) -> tuple[bytes, bytes]:
        """Return the first key of an area and the first one after it: "0" follows "/"."""
        start = f"{self._prefix}{area.value}".encode()
        return start + b"/", start + b"0"

    def _entry(self, area: Area, found: Table) -> Entry:
        try:
            key = b64decode(found["key"]).decode(errors="replace")
            value = b64decode(found.get("value", ""))
        except (KeyError, TypeError, ValueError):
            raise self._answers.fault("a key or its value is not base64") from None
        revision = self._answers.number(found, "mod_revision")
        term = 0 if area is Area.MODELS else self._answers.number(found, "create_revision")
        return Entry(key.removeprefix(f"{self._prefix}{area.value}/"), value, str(revision), term)

    def _first(self, answer: Table) -> Table | None:
        found = self._answers.tables(answer, "kvs")
        return found[0] if found else None

    def _lease(self, found: Table) -> int:
        return self._answers.number(found, "lease")

    def _revision(self, answer: Table) -> int:
        """Return the store's revision at this answer; 0 is none of etcd's."""
        revision = self._answers.number(answer, "header", "revision")
        if revision < 1:
            raise self._answers.fault("it has no header.revision")
        return revision

    def _unexpected(self, error: EtcdError) -> CoordinatorRefused:
        return CoordinatorRefused(f"{self.where} refused: {error}")


def _b64(data: bytes) -> str:
    return b64encode(data).decode()
