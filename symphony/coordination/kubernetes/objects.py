"""Read and write objects of one kind through Kubernetes' API: one attempt each, bounded in time and size.

Objects are plain dictionaries as the API sends them: the client package's models would drop what they do not know,
and it reads answers without a limit. It does the rest: addresses, TLS, tokens and their renewal.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes_asyncio import client

from symphony.cluster.faults import CoordinatorRefused, CursorLost, StoreUnavailable
from symphony.cluster.limits import ENTRY_COUNT_MAX
from symphony.coordination.answers import Answers, Table
from symphony.coordination.bounded_json import bounded_body, json_lines, json_object

ANSWER_BYTES_MAX = 32 * 1024 * 1024
PAGE_COUNT = 32
"""Objects asked for at once: the largest ones fit an answer."""

CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})

Object = Table


@dataclass(frozen=True, slots=True)
class Calls:
    """The client's functions for one kind of object."""

    read: Callable[..., Awaitable[Any]]
    create: Callable[..., Awaitable[Any]]
    replace: Callable[..., Awaitable[Any]]
    delete: Callable[..., Awaitable[Any]]
    many: Callable[..., Awaitable[Any]]


def lease_calls(api: client.ApiClient) -> Calls:
    """Return the functions for Lease objects."""
    leases = client.CoordinationV1Api(api)
    return Calls(
        leases.read_namespaced_lease,
        leases.create_namespaced_lease,
        leases.replace_namespaced_lease,
        leases.delete_namespaced_lease,
        leases.list_namespaced_lease,
    )


def config_map_calls(api: client.ApiClient) -> Calls:
    """Return the functions for ConfigMap objects."""
    core = client.CoreV1Api(api)
    return Calls(
        core.read_namespaced_config_map,
        core.create_namespaced_config_map,
        core.replace_namespaced_config_map,
        core.delete_namespaced_config_map,
        core.list_namespaced_config_map,
    )


class Objects:
    """The objects of one kind in one namespace. `attempt_s` bounds each call, `watch_s` how long a watch lasts.

    Every method raises StoreUnavailable when there is no usable answer, CoordinatorRefused for what will not pass.
    """

    def __init__(self, calls: Calls, where: str, namespace: str, attempt_s: float, watch_s: int) -> None:
        self._calls = calls
        self._where = where
        self._answers = Answers(where)
        self._namespace = namespace
        self._attempt_s = attempt_s
        self._watch_s = watch_s

    async def read(self, name: str) -> Object | None:
        """Return the object, None if there is none."""
        return self._object(await self._answer({404}, self._calls.read, name, self._namespace))

    async def create(self, body: Mapping[str, Any]) -> Object | None:
        """Return the object as created, None if there is one of this name."""
        return self._object(await self._answer({409}, self._calls.create, self._namespace, body))

    async def replace(self, body: Mapping[str, Any]) -> Object | None:
        """Return the object as replaced, None if it is not at the body's resourceVersion any more."""
        name = body["metadata"]["name"]
        return self._object(await self._answer({404, 409}, self._calls.replace, name, self._namespace, body))

    async def delete(self, name: str, version: str) -> bool:
        """Delete the object at this resourceVersion; return False if it is not at it any more."""
        body = {"preconditions": {"resourceVersion": version}}
        return await self._answer({404, 409}, self._calls.delete, name, self._namespace, body=body) is not None

    async def all(self, selector: str) -> tuple[list[Object], str]:
        """Return the objects with these labels, and the resourceVersion to watch from."""
        found: list[Object] = []
        more = None
        while True:
            page = await self._answer(
                set(),
                self._calls.many,
                self._namespace,
                label_selector=selector,
                limit=PAGE_COUNT,
                **({"_continue": more} if more else {}),
            )
            assert page is not None, "no status of a list means that there is none"
            for one in self._answers.tables(page, "items"):
                self._object(one)
                found.append(one)
            if len(found) > ENTRY_COUNT_MAX:
                raise CoordinatorRefused(
                    f"{self._where} holds more than {ENTRY_COUNT_MAX} objects with {selector}; remove some"
                )
            metadata = self._answers.table(page, "metadata")
            more = metadata.get("continue")
            if not more:
                return found, str(metadata.get("resourceVersion", ""))

    async def watch(self, selector: str, version: str) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield (type, object) for what happens after `version`; ("", {}) first, when the API has answered.

        Ends after `watch_s`. Raise CursorLost if the version is too old.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._attempt_s, sock_read=self._watch_s + 5)
        has_begun = False
        try:
            response = await self._calls.many(
                self._namespace,
                label_selector=selector,
                resource_version=version,
                watch=True,
                allow_watch_bookmarks=True,
                timeout_seconds=self._watch_s,
                _preload_content=False,
                _request_timeout=timeout,
            )
            async with response:
                if response.status != 200:
                    self._raise(response.status, await self._read(response))
                has_begun = True
                yield "", {}
                async with aclosing(json_lines(response.content, self._where)) as messages:
                    async for message in messages:
                        kind, found = str(message.get("type", "")), self._answers.table(message, "object")
                        if kind == "ERROR":
                            self._raise(self._answers.number(found, "code") or 500, found)
                        if kind in CHANGES:
                            self._object(found)
                        yield kind, found
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not (has_begun and isinstance(error, TimeoutError)):
                raise self._unavailable(error) from error

    async def _answer(
        self, absent: set[int], call: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any
    ) -> Object | None:
        timeout = aiohttp.ClientTimeout(total=self._attempt_s)
        try:
            response = await call(*arguments, _preload_content=False, _request_timeout=timeout, **options)
            async with response:
                answer = await self._read(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(error) from error
        if 200 <= response.status < 300:
            return answer
        if response.status in absent:
            return None
        self._raise(response.status, answer)
        return None

    def _object(self, found: Object | None) -> Object | None:
        """Return `found` if it has what every object has: a name and a version."""
        if found is not None:
            metadata = self._answers.table(found, "metadata")
            if not all(isinstance(metadata.get(key), str) for key in ("name", "resourceVersion")):
                raise self._answers.fault("an object without a name or resourceVersion")
        return found

    async def _read(self, response: aiohttp.ClientResponse) -> Object:
        held = await bounded_body(response, ANSWER_BYTES_MAX, self._where)
        if response.status >= 400 and not held.lstrip().startswith(b"{"):
            return {"message": held[:300].decode(errors="replace")}
        return json_object(held, self._where)

    def _raise(self, status: int, answer: Mapping[str, Any]) -> None:
        message = f"{status} {str(answer.get('message', ''))[:300]}".rstrip()
        if status == 410:
            raise CursorLost(message)
        if status == 429 or status >= 500:
            raise StoreUnavailable(f"{self._where}: {message}")
        remedy = "; give the service account the verbs that docs/cluster.md lists" if status in (401, 403) else ""
        raise CoordinatorRefused(f"{self._where} refused: {message}{remedy}")

    def _unavailable(self, error: BaseException) -> StoreUnavailable:
        said = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return StoreUnavailable(f"{self._where}: {said}")
