"""As much of Kubernetes' API as the coordinator uses: Leases and ConfigMaps of a namespace, with its habits.

resourceVersion is one counter over all objects; creating what exists and replacing what has changed are 409; a list is
a snapshot, a watch tells what follows a version, in order, filtered by labels, ends by itself, and is 410 for versions
that were compacted; deletes honour preconditions; the bearer token is checked.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from contextlib import suppress
from typing import Any

from aiohttp import web

TOKEN = "a-token-for-tests"
MICRO_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
KINDS = {"leases": "Lease", "configmaps": "ConfigMap"}


class FakeKubernetes:
    """The server. `forbidden` verbs (get, list, watch, create, update, delete) answer 403."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.version = 100
        self.compacted = 0
        self.forbidden: set[str] = set()
        self.used: set[tuple[str, str]] = set()
        self.is_down = False
        self.watch_count = 0
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port of loopback."""
        app = web.Application(middlewares=[self._check])
        for prefix in ("/apis/coordination.k8s.io/v1/namespaces/ml", "/api/v1/namespaces/ml"):
            app.router.add_get(prefix + "/{kind}", self._list)
            app.router.add_post(prefix + "/{kind}", self._create)
            app.router.add_get(prefix + "/{kind}/{name}", self._get)
            app.router.add_put(prefix + "/{kind}/{name}", self._replace)
            app.router.add_delete(prefix + "/{kind}/{name}", self._delete)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop listening."""
        self.go_down()
        if self._runner is not None:
            await self._runner.cleanup()

    def go_down(self) -> None:
        """Answer 503 to everything and break the watches."""
        self.is_down = True
        self._tell()

    def come_back(self) -> None:
        """Undo `go_down`."""
        self.is_down = False

    def compact(self) -> None:
        """Forget all history."""
        self.history.clear()
        self.compacted = self.version

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.is_down:
            return _status(503, "ServiceUnavailable", "apiserver is shutting down")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized", "Unauthorized")
        verb = {"GET": "get", "POST": "create", "PUT": "update", "DELETE": "delete"}[request.method]
        if verb == "get" and "name" not in request.match_info:
            verb = "watch" if request.query.get("watch") in ("true", "True") else "list"
        self.used.add((request.match_info["kind"], verb))
        if verb in self.forbidden:
            return _status(403, "Forbidden", f"cannot {verb} resource {request.match_info['kind']}")
        return await handler(request)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        found = self.objects.get(_key(request))
        return web.json_response(found) if found else _not_found(request)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        kind, name = request.match_info["kind"], body["metadata"]["name"]
        assert body["kind"] == KINDS[kind]
        assert "resourceVersion" not in body["metadata"]
        if fault := _invalid(body):
            return _status(422, "Invalid", fault)
        if (kind, name) in self.objects:
            return _status(409, "AlreadyExists", f'{kind} "{name}" already exists')
        return web.json_response(self._record("ADDED", kind, body), status=201)

    async def _replace(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        kind, name = _key(request)
        found = self.objects.get((kind, name))
        if found is None:
            return _not_found(request)
        if fault := _invalid(body):
            return _status(422, "Invalid", fault)
        if body["metadata"].get("resourceVersion") != found["metadata"]["resourceVersion"]:
            return _status(
                409, "Conflict", "the object has been modified; please apply your changes to the latest version"
            )
        return web.json_response(self._record("MODIFIED", kind, body))

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        kind, name = _key(request)
        found = self.objects.get((kind, name))
        if found is None:
            return _not_found(request)
        body = await request.json() if request.can_read_body else {}
        wanted = (body.get("preconditions") or {}).get("resourceVersion")
        if wanted is not None and wanted != found["metadata"]["resourceVersion"]:
            return _status(409, "Conflict", "Precondition failed: ResourceVersion")
        self._record("DELETED", kind, found)
        return web.json_response({"kind": "Status", "status": "Success"})

    async def _list(self, request: web.Request) -> web.StreamResponse:
        kind = request.match_info["kind"]
        labels = dict(part.split("=") for part in request.query["labelSelector"].split(","))
        if request.query.get("watch") in ("true", "True"):
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            with suppress(ConnectionError):  # the client has gone
                await self._watch(request, response, kind, labels)
            return response
        found = [one for (of, _), one in sorted(self.objects.items()) if of == kind and _matches(one, labels)]
        start, version = 0, self.version
        if "continue" in request.query:
            start, version = json.loads(request.query["continue"])
        limit = int(request.query.get("limit", "0")) or len(found)
        metadata = {"resourceVersion": str(version)}
        if start + limit < len(found):
            metadata["continue"] = json.dumps([start + limit, version])
        return web.json_response({"kind": "List", "metadata": metadata, "items": found[start : start + limit]})

    async def _watch(
        self, request: web.Request, response: web.StreamResponse, kind: str, labels: dict[str, str]
    ) -> None:
        seen = int(request.query["resourceVersion"])
        self.watch_count += 1
        await response.prepare(request)
        if seen < self.compacted:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(_line({"type": "ERROR", "object": gone}))
            return
        ends_at = asyncio.get_running_loop().time() + int(request.query.get("timeoutSeconds", "60"))
        while not self.is_down:
            for version, event, of, found in tuple(self.history):
                if version > seen:
                    seen = version
                    if of == kind and _matches(found, labels):
                        await response.write(_line({"type": event, "object": found}))
            left = ends_at - asyncio.get_running_loop().time()
            if left <= 0:
                bookmark = {"kind": KINDS[kind], "metadata": {"resourceVersion": str(self.version)}}
                await response.write(_line({"type": "BOOKMARK", "object": bookmark}))
                return
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                continue
        if request.transport is not None:
            request.transport.abort()

    def _record(self, event: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        found = copy.deepcopy(body)
        found["metadata"]["resourceVersion"] = str(self.version)
        key = (kind, found["metadata"]["name"])
        if event == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = found
        self.history.append((self.version, event, kind, found))
        self._tell()
        return found

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _invalid(body: dict[str, Any]) -> str:
    """Say what the API would not take of an object, "" if nothing."""
    spec, metadata = body.get("spec", {}), body["metadata"]
    if spec.get("leaseDurationSeconds", 1) <= 0 or spec.get("leaseTransitions", 0) < 0:
        return "spec: leaseDurationSeconds must be greater than 0, leaseTransitions not below it"
    if any(not re.fullmatch(MICRO_TIME, spec[key]) for key in ("acquireTime", "renewTime") if key in spec):
        return "spec: a time is no RFC 3339 time with microseconds"
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", metadata["name"]):
        return "metadata.name: a lowercase RFC 1123 label is needed"
    if sum(map(len, metadata.get("annotations", {}).values())) > 256 * 1024 or len(json.dumps(body)) > 1024 * 1024:
        return "metadata.annotations or the object: too long"
    return ""


def _key(request: web.Request) -> tuple[str, str]:
    return request.match_info["kind"], request.match_info["name"]


def _matches(found: dict[str, Any], labels: dict[str, str]) -> bool:
    return labels.items() <= (found["metadata"].get("labels") or {}).items()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _not_found(request: web.Request) -> web.Response:
    return _status(404, "NotFound", f'{request.match_info["kind"]} "{request.match_info["name"]}" not found')


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(
        {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": code}, status=code
    )
