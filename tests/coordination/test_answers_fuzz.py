"""Whatever a server answers, a store returns something or raises one of the coordinator's own errors."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from symphony.cluster.faults import CoordinatorRefused, CursorLost, StoreUnavailable
from symphony.cluster.store import Area, Store
from symphony.coordination.address import EtcdAddress
from symphony.coordination.etcd import EtcdStore
from tests.coordination.conftest import TTL

pytestmark = pytest.mark.sockets

KEYS = (
    *("header", "revision", "result", "TTL", "kvs", "key", "value", "lease", "mod_revision", "create_revision"),
    *("succeeded", "responses", "response_range", "more", "created", "canceled", "compact_revision", "events", "kv"),
    *("type", "error", "message", "code", "grpc_code", "token", "fragment", "metadata", "name", "resourceVersion"),
    *("items", "spec", "holderIdentity", "leaseTransitions", "leaseDurationSeconds", "annotations", "labels"),
    *("object", "continue", "data", "symphony/name", "symphony/value"),
)
LEAVES: list[Any] = [
    None,
    True,
    0,
    1,
    -1,
    2**70,
    1.5,
    "",
    "1",
    "x",
    "ADDED",
    "DELETE",
    "ERROR",
    "BOOKMARK",
    "eA==",
    "abc",
]


def anything(chance: random.Random, depth: int = 4) -> Any:
    """Return random JSON made of the words that the servers use."""
    kind = chance.random()
    if depth == 0 or kind < 0.25:
        return chance.choice(LEAVES)
    if kind < 0.4:
        return [anything(chance, depth - 1) for _ in range(chance.randrange(3))]
    return {chance.choice(KEYS): anything(chance, depth - 1) for _ in range(chance.randrange(1, 8))}


class Answering:
    """A server that answers with random JSON, mostly objects, mostly with a good status."""

    def __init__(self) -> None:
        self.chance = random.Random(0)

    async def answer(self, request: web.Request) -> web.Response:
        if request.path.endswith("/authenticate") and self.chance.random() < 0.8:
            return web.json_response({"token": "t"})
        status = self.chance.choice([200] * 8 + [201, 400, 401, 404, 409, 410, 500])
        lines = [json.dumps(anything(self.chance)) for _ in range(self.chance.choice([1, 1, 1, 3]))]
        return web.Response(status=status, text="\n".join(lines))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[Answering, str]]:
    answering = Answering()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answering.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield answering, f"http://{host}:{port}"
    await runner.cleanup()


def etcd_at(url: str) -> Store:
    return EtcdStore(EtcdAddress((url,), "p", TTL, "node", "secret"))


def kubernetes_at(url: str) -> Store:
    client = pytest.importorskip("kubernetes_asyncio.client", reason="kubernetes_asyncio is not installed")
    from symphony.coordination.kubernetes import KubernetesStore

    return KubernetesStore(client.Configuration(host=url), "ml", "p", TTL)


async def watch(store: Store, area: Area) -> None:
    async for _ in store.watch(area, "1"):
        pass


@pytest.mark.parametrize("store_at", [etcd_at, kubernetes_at])
async def test_any_answer_is_taken_or_our_own_error(
    server: tuple[Answering, str], store_at: Callable[[str], Store]
) -> None:
    answering, url = server
    store = store_at(url)
    calls: list[Callable[[Area], Awaitable[Any]]] = [
        lambda area: store.acquire(area, "n", b"v", 5, TTL.ttl_ns),
        lambda area: store.renew(area, "n", 5, TTL.ttl_ns),
        lambda area: store.release(area, "n", 5),
        lambda area: store.read(area, "n"),
        lambda area: store.write(area, "n", b"v", "1"),
        lambda area: store.erase(area, "n", "1"),
        store.entries,
        lambda area: watch(store, area),
    ]
    outcomes: dict[str, int] = {}
    for seed in range(1500):
        answering.chance = random.Random(seed)
        call, area = calls[seed % len(calls)], list(Area)[seed % 3]
        try:
            await call(area)
            outcome = "taken"
        except (StoreUnavailable, CoordinatorRefused, CursorLost) as error:
            outcome = type(error).__name__
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    await store.close()
    assert outcomes["taken"] > 50, outcomes
    assert outcomes["CoordinatorRefused"] > 50, outcomes
