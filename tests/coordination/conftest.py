"""The three backends, each with data of its own for a test, and real etcd members where there is an etcd."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from symphony.cluster import Timing
from symphony.cluster.store import Store
from symphony.coordination import Coordinator, MemorySpace, MemoryStore
from symphony.coordination.address import EtcdAddress
from symphony.coordination.etcd import EtcdStore
from symphony.units import NS_PER_S
from tests.coordination.etcd_cluster import EtcdCluster, find_etcd, why_no_etcd
from tests.coordination.fake_kubernetes import TOKEN, FakeKubernetes
from tests.coordination.faulty_store import FaultyStore
from tests.coordination.manual_clock import ManualClock

TTL = Timing.of_ttl(2_000_000_000)
"""Short leases, for the tests run in real time; shorter ones are lost to a busy machine."""
_prefixes = count()


@pytest.fixture(scope="session")
def etcd_binary() -> Path:
    binary = find_etcd()
    if binary is None:
        pytest.skip(why_no_etcd())
    return binary


@pytest.fixture(scope="session")
def etcd(etcd_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One etcd member that nobody harms."""
    cluster = EtcdCluster(etcd_binary, tmp_path_factory.mktemp("etcd"), 1)
    try:
        cluster.start()
        cluster.wait_until_ready()
        yield cluster
    finally:
        cluster.close()


def etcd_store(
    cluster: EtcdCluster, prefix: str, timing: Timing = TTL, watch_idle_s: float = 10.0, members: tuple[int, ...] = ()
) -> EtcdStore:
    """Return one node's connection to a plain etcd, to all of its members or to some."""
    ports = [cluster.ports[member] for member in members] or cluster.ports
    endpoints = tuple(f"http://127.0.0.1:{port}" for port in ports)
    return EtcdStore(EtcdAddress(endpoints, prefix, timing), watch_idle_s)


def kubernetes_store(api: FakeKubernetes, timing: Timing = TTL, token: str = TOKEN, watch_s: int = 10) -> Store:
    """Return one node's connection to the fake API."""
    client = pytest.importorskip("kubernetes_asyncio.client", reason="kubernetes_asyncio is not installed")
    from symphony.coordination.kubernetes import KubernetesStore

    configuration = client.Configuration(host=api.url)
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    return KubernetesStore(configuration, "ml", "test", timing, watch_s=watch_s)


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test uses."""
    return f"t{next(_prefixes)}"


@pytest_asyncio.fixture
async def kubernetes() -> AsyncIterator[FakeKubernetes]:
    api = FakeKubernetes()
    await api.start()
    yield api
    await api.close()


@pytest_asyncio.fixture(
    params=[
        "memory",
        pytest.param("etcd", marks=pytest.mark.sockets),
        pytest.param("kubernetes", marks=pytest.mark.sockets),
    ]
)
async def new_store(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Callable[[], Store]]:
    """A function that connects one more node to the data of this test."""
    if request.param == "memory":
        space = MemorySpace()
        yield lambda: MemoryStore(space)
    elif request.param == "etcd":
        cluster = request.getfixturevalue("etcd")
        yield lambda: etcd_store(cluster, prefix)
    else:
        api = FakeKubernetes()
        await api.start()
        yield lambda: kubernetes_store(api)
        await api.close()


@pytest_asyncio.fixture
async def new_node(new_store: Callable[[], Store]) -> AsyncIterator[Callable[..., Coordinator]]:
    """A function that makes one more node's coordinator; all are closed at the end."""
    nodes: list[Coordinator] = []

    def make(store: Store | None = None) -> Coordinator:
        nodes.append(Coordinator(store or new_store(), TTL))
        return nodes[-1]

    yield make
    for node in nodes:
        await node.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def space(clock: ManualClock) -> MemorySpace:
    return MemorySpace(clock)


@pytest_asyncio.fixture
async def faulty_node(
    clock: ManualClock, space: MemorySpace
) -> AsyncIterator[Callable[[], tuple[Coordinator, FaultyStore]]]:
    """A function that makes one more node in memory, on a clock set by hand, and the connection to do harm to."""
    nodes: list[Coordinator] = []

    def make() -> tuple[Coordinator, FaultyStore]:
        store = FaultyStore(MemoryStore(space))
        nodes.append(Coordinator(store, Timing(), clock=clock, chance=random.Random(len(nodes))))
        return nodes[-1], store

    yield make
    for node in nodes:
        closing = asyncio.ensure_future(node.close())
        while not closing.done():
            await clock.advance(NS_PER_S)
        await closing


async def die(node: Coordinator) -> None:
    """Have a node stop renewing without a word, as a process that was killed does."""
    for hold in tuple(node._holds):
        hold._keeper.cancel()
    for follower in node._followers.values():
        follower._task.cancel()


async def wait_for(watch: Any, is_it: Callable[[Any], bool]) -> Any:
    """Return the first fresh snapshot of a watch that satisfies `is_it`."""
    snapshot = await watch.fresh()
    while not (snapshot.is_fresh and is_it(snapshot)):
        snapshot = await watch.next()
    return snapshot
