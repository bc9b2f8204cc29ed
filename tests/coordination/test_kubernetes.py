"""What is particular to Kubernetes: objects that stay, versions that conflict, leases that nobody ends, permissions."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from symphony.cluster import CoordinatorRefused, CoordinatorUnavailable, NodeRecord
from symphony.cluster.store import LEADER, Area
from symphony.coordination import Coordinator, open_coordinator
from tests.coordination.conftest import TTL, die, kubernetes_store, wait_for
from tests.coordination.etcd_cluster import ROOT
from tests.coordination.fake_kubernetes import TOKEN, FakeKubernetes
from tests.coordination.faulty_store import FaultyStore

pytest.importorskip("kubernetes_asyncio", reason="kubernetes_asyncio is not installed")
from symphony.coordination.kubernetes.sightings import Sightings

pytestmark = pytest.mark.sockets

TTL_S = TTL.ttl_ns / 1e9
ALICE, BOB = NodeRecord("Alice:1", "a:1", {"gpus": 2}), NodeRecord("bob", "b:1")
LEADER_OBJECT = ("leases", "test-leader")

NewNode = Callable[..., Coordinator]


@pytest_asyncio.fixture
async def new_node(kubernetes: FakeKubernetes) -> AsyncIterator[NewNode]:
    nodes: list[Coordinator] = []

    def make(**options: Any) -> Coordinator:
        nodes.append(Coordinator(kubernetes_store(kubernetes, **options), TTL))
        return nodes[-1]

    yield make
    kubernetes.forbidden.clear()
    kubernetes.come_back()
    for node in nodes:
        await node.close()


def foreign_lease(name: str, **spec: Any) -> dict[str, Any]:
    """Return a Lease of the leader as another program might have left it."""
    return {
        "kind": "Lease",
        "metadata": {"name": name, "labels": {"symphony/cluster": "test", "symphony/area": "election"}},
        "spec": spec,
    }


async def test_objects_say_to_people_what_they_are(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    node = new_node()
    membership, leadership = await node.join(ALICE), await node.campaign(ALICE)
    await node.put("resnet50/1", {"slo_ms": 100})
    leader = kubernetes.objects[LEADER_OBJECT]
    assert leader["spec"]["holderIdentity"] == f"{leadership.token:x}"
    assert leader["spec"]["leaseTransitions"] == leadership.term == 1
    assert leader["spec"]["leaseDurationSeconds"] == 2
    assert leader["spec"]["renewTime"].endswith("Z")
    (member,) = (one for (_, name), one in kubernetes.objects.items() if name.startswith("test-members-"))
    assert member["metadata"]["annotations"]["symphony/name"] == ALICE.id
    assert json.loads(member["metadata"]["annotations"]["symphony/value"])["facts"] == {"gpus": 2}
    assert member["spec"]["holderIdentity"] == f"{membership.token:x}"
    (document,) = (one for (kind, _), one in kubernetes.objects.items() if kind == "configmaps")
    assert document["metadata"]["labels"] == {"symphony/cluster": "test", "symphony/area": "models"}
    assert json.loads(document["data"]["value"])["document"] == {"slo_ms": 100}


async def test_resigning_keeps_the_object_so_that_terms_go_on(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    for term in (1, 2, 3):
        node = new_node()  # none that remembers
        leadership = await node.campaign(ALICE)
        assert leadership.term == term
        await leadership.resign()
        assert kubernetes.objects[LEADER_OBJECT]["spec"]["holderIdentity"] == ""


async def test_terms_go_on_after_the_object_was_deleted_by_hand(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    node, other = new_node(), new_node()
    await (await node.campaign(ALICE)).resign()
    leadership = await node.campaign(ALICE)
    await wait_for(other.leader(), lambda snapshot: snapshot.items)
    kubernetes._record("DELETED", "leases", kubernetes.objects[LEADER_OBJECT])
    async with asyncio.timeout(TTL_S):
        assert "no longer holds it" in await leadership.lost()
    assert (await other.campaign(BOB)).term > leadership.term


async def test_lease_that_others_touched_is_renewed_all_the_same(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    node = new_node()
    leadership = await node.campaign(ALICE)
    for _ in range(3):
        kubernetes._record("MODIFIED", "leases", kubernetes.objects[LEADER_OBJECT])
        await asyncio.sleep(TTL_S / 2)
    assert leadership.is_held()
    assert leadership.term == 1


@pytest.mark.parametrize("renewed", ["2000-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z", "nonsense", None])
async def test_clocks_of_others_are_not_trusted(kubernetes: FakeKubernetes, new_node: NewNode, renewed: object) -> None:
    kubernetes._record(
        "ADDED",
        "leases",
        foreign_lease(
            "test-leader", holderIdentity="abc", leaseDurationSeconds=1, leaseTransitions=41, renewTime=renewed
        ),
    )
    began = time.monotonic()
    async with asyncio.timeout(10):
        leadership = await new_node().campaign(ALICE)
    assert time.monotonic() - began > 1, "it was taken before it had been seen unchanged for its whole duration"
    assert leadership.term == 42


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": None}, {"leaseTransitions": "x", "holderIdentity": 3}])
async def test_lease_without_sense_is_taken_over(kubernetes: FakeKubernetes, new_node: NewNode, spec: Any) -> None:
    kubernetes._record("ADDED", "leases", foreign_lease("test-leader", **spec))
    async with asyncio.timeout(5):
        assert (await new_node().campaign(ALICE)).term == 1


async def test_objects_of_others_with_our_labels_are_passed_over(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    stranger = foreign_lease("stranger", holderIdentity="abc", leaseDurationSeconds=1)
    stranger["metadata"]["labels"]["symphony/area"] = "members"
    kubernetes._record("ADDED", "leases", stranger)
    node = new_node()
    watch = node.members()
    await node.join(ALICE)
    kubernetes._record("MODIFIED", "leases", stranger)
    seen = await wait_for(watch, lambda snapshot: snapshot.items)
    assert seen.items.keys() == {ALICE.id}
    assert not seen.faults
    await asyncio.sleep(1.5 * TTL_S)
    assert ("leases", "stranger") in kubernetes.objects, "an object that is not ours was deleted"


async def test_object_of_a_dead_member_is_deleted_by_whoever_watches(
    kubernetes: FakeKubernetes, new_node: NewNode
) -> None:
    node, other = new_node(), new_node()
    await node.join(ALICE)
    await wait_for(other.members(), lambda snapshot: snapshot.items)
    await die(node)
    async with asyncio.timeout(5 * TTL_S):
        await wait_for(other.members(), lambda snapshot: not snapshot.items)
        while any(name.startswith("test-members-") for _, name in kubernetes.objects):
            await asyncio.sleep(0.05)


async def test_short_outage_costs_nobody_anything(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    node, other = new_node(), new_node()
    membership, leadership = await node.join(ALICE), await node.campaign(ALICE)
    watch = other.members()
    await wait_for(watch, lambda snapshot: snapshot.items)
    gone = asyncio.create_task(wait_for(watch, lambda snapshot: not snapshot.items))
    for _ in range(3):
        kubernetes.go_down()
        await asyncio.sleep(0.4 * TTL_S)
        kubernetes.come_back()
        await asyncio.sleep(0.5 * TTL_S)
    assert membership.is_held()
    assert leadership.is_held()
    assert not gone.done(), "a member that held its lease was taken for gone"
    gone.cancel()


async def test_long_outage_ends_leadership_in_time_and_operations_in_bounded_time(
    kubernetes: FakeKubernetes, new_node: NewNode
) -> None:
    node = new_node()
    leadership = await node.campaign(ALICE)
    watch = node.leader()
    await wait_for(watch, lambda snapshot: snapshot.items)
    kubernetes.go_down()
    began = time.monotonic()
    with pytest.raises(CoordinatorUnavailable, match="503 apiserver is shutting down"):
        await node.put("m/1", {})
    assert time.monotonic() - began < TTL.operation_ns / 1e9 + 0.5
    assert not leadership.is_held()
    assert not watch.latest.is_fresh
    kubernetes.come_back()
    async with asyncio.timeout(5 * TTL_S):
        again = await node.campaign(ALICE)
    assert again.term > leadership.term


async def test_watch_that_was_cut_while_history_was_compacted_sees_the_last_state(
    kubernetes: FakeKubernetes, new_node: NewNode
) -> None:
    writer = new_node()
    store = FaultyStore(kubernetes_store(kubernetes))
    reader = Coordinator(store, TTL)
    try:
        gone = await writer.put("gone/1", {})
        watch = reader.models()
        before = await watch.fresh()
        store.cut()
        await watch.next()
        await writer.remove("gone/1", gone)
        await writer.put("new/1", {})
        kubernetes.compact()
        store.mend()
        async with asyncio.timeout(5):
            after = await watch.fresh()
        changes = after.since(before)
        assert (changes.put.keys(), changes.gone) == ({"new/1"}, ("gone/1",))
    finally:
        await reader.close()


async def test_compaction_under_a_quiet_watch_is_made_up_for(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    node = new_node(watch_s=1)
    watch = node.models()
    await watch.fresh()
    kubernetes.version += 50
    kubernetes.compact()
    kubernetes.version += 50
    await asyncio.sleep(1.5)
    await node.put("m/1", {})
    async with asyncio.timeout(5):
        await wait_for(watch, lambda snapshot: snapshot.items)


async def test_watch_is_begun_anew_when_the_api_ends_it_without_a_gap(
    kubernetes: FakeKubernetes, new_node: NewNode
) -> None:
    writer, reader = new_node(), new_node(watch_s=1)
    watch = reader.models()
    await watch.fresh()
    for number in range(30):
        await writer.put(f"m{number}/1", {})
        await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await wait_for(watch, lambda snapshot: len(snapshot.items) == 30)
    assert kubernetes.watch_count >= 3


@pytest.mark.parametrize("verb", ["get", "create", "update", "delete"])
async def test_missing_permission_is_refused_and_says_where_to_look(
    kubernetes: FakeKubernetes, new_node: NewNode, verb: str
) -> None:
    node = new_node()
    revision = await node.put("m/1", {})
    kubernetes.forbidden.add(verb)
    with pytest.raises(CoordinatorRefused, match=rf"403 cannot {verb} resource .* docs/cluster\.md"):
        if verb == "get":
            await node.get("m/1")
        elif verb == "create":
            await node.put("m/2", {})
        elif verb == "update":
            await node.put("m/1", {"n": 1}, revision)
        else:
            await node.remove("m/1", revision)


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_watch_that_is_not_permitted_says_so(kubernetes: FakeKubernetes, new_node: NewNode, verb: str) -> None:
    kubernetes.forbidden.add(verb)
    watch = new_node().models()
    async with asyncio.timeout(5):
        while f"cannot {verb}" not in watch.latest.stale_reason:
            await watch.next()


async def test_wrong_token_is_refused_at_once(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    with pytest.raises(CoordinatorRefused, match="401 Unauthorized"):
        await new_node(token="wrong").join(ALICE)


@pytest.mark.parametrize(("namespace", "context_namespace"), [("ml", "other"), ("", "ml")])
async def test_kubeconfig_names_the_api_the_token_and_the_namespace(
    kubernetes: FakeKubernetes, tmp_path: Path, namespace: str, context_namespace: str
) -> None:
    (tmp_path / "config").write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "wrong",
                "clusters": [{"name": "fake", "cluster": {"server": kubernetes.url}}],
                "users": [{"name": "node", "user": {"token": TOKEN}}],
                "contexts": [
                    {"name": "right", "context": {"cluster": "fake", "user": "node", "namespace": context_namespace}},
                    {"name": "wrong", "context": {"cluster": "fake", "user": "node", "namespace": "wrong"}},
                ],
            }
        )
    )
    node = await open_coordinator(f"kubernetes://{namespace}/blue?kubeconfig={tmp_path}/config&context=right&ttl_s=1")
    try:
        assert (await node.campaign(ALICE)).term == 1
        assert ("leases", "blue-leader") in kubernetes.objects
        assert (await wait_for(node.leader(), lambda snapshot: snapshot.items)).items[LEADER].id == ALICE.id
    finally:
        await node.close()


async def test_names_of_objects_are_ones_that_kubernetes_takes(kubernetes: FakeKubernetes, new_node: NewNode) -> None:
    node = new_node()
    await node.join(NodeRecord("A_b.C:" + "x" * 100, "a:1"))
    await node.put("Model_X.y/" + "V" * 128, {})
    await node.campaign(ALICE)
    for _, name in kubernetes.objects:
        assert len(name) <= 63
        assert all(character.islower() or character.isdigit() or character == "-" for character in name)


def test_lease_is_over_once_it_was_seen_unchanged_for_its_duration() -> None:
    seen = Sightings()
    seen.see("a", "1", 10, 100)
    seen.see("a", "1", 10, 105)  # nothing new
    assert not seen.is_over("a", 109)
    assert seen.is_over("a", 110)
    seen.see("a", "2", 10, 110)
    assert not seen.is_over("a", 119)
    seen.begin_anew(119)
    assert not seen.is_over("a", 128)
    assert seen.is_over("a", 129)
    seen.keep_only({"a", "b"})
    assert seen.ends_at_ns("a") == 129
    seen.keep_only({"b"})
    seen.see("a", "2", 10, 200)
    assert not seen.is_over("a", 209)


async def test_held_entries_can_be_read_one_by_one(kubernetes: FakeKubernetes) -> None:
    store = kubernetes_store(kubernetes)
    try:
        assert await store.read(Area.ELECTION, LEADER) is None
        assert await store.acquire(Area.ELECTION, LEADER, b"me", 5, TTL.ttl_ns) == 1
        found = await store.read(Area.ELECTION, LEADER)
        assert found is not None
        assert (found.value, found.term) == (b"me", 1)
        await store.release(Area.ELECTION, LEADER, 4)  # not the holder
        assert await store.read(Area.ELECTION, LEADER) is not None
        await store.release(Area.ELECTION, LEADER, 5)
        assert await store.read(Area.ELECTION, LEADER) is None
        assert not await store.renew(Area.ELECTION, LEADER, 5, TTL.ttl_ns)
    finally:
        await store.close()


async def test_role_in_the_docs_has_the_verbs_that_are_used_and_no_others(
    kubernetes: FakeKubernetes, new_node: NewNode
) -> None:
    yaml = pytest.importorskip("yaml")
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)
    granted = {
        (kind, verb) for rule in yaml.safe_load(text)["rules"] for kind in rule["resources"] for verb in rule["verbs"]
    }
    node = new_node()
    membership, leadership = await node.join(ALICE), await node.campaign(ALICE)
    revision = await node.put("m/1", {}, await node.put("m/1", {"n": 1}))
    for watch in (node.members(), node.leader(), node.models()):
        await watch.fresh()
    await asyncio.sleep(TTL_S / 2)
    await node.get("m/1")
    await node.remove("m/1", revision)
    await leadership.resign()
    await membership.leave()
    assert kubernetes.used == granted
