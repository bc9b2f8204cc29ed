"""The links of a cluster: one for each pair, found again when lost, gone when members are, closed without a trace."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from symphony.net import LinkDown, Links, LinkSettings
from tests.net.nodes import KEY, QUICK, Cluster, Node, eventually
from tests.net.proxy import Proxy

pytestmark = pytest.mark.sockets


async def test_three_nodes_have_one_link_for_each_pair(cluster: Cluster) -> None:
    nodes = await cluster.link("a", "b", "c")
    for node in nodes:
        others = cluster.nodes.keys() - {node.links.node}
        assert node.links.up.keys() == others
        for other in others:
            assert (await node.links.call(other, {"from": node.links.node})).metadata == {"from": node.links.node}
    await asyncio.sleep(0.3)
    assert [node.ups for node in nodes] == [2, 2, 2]


async def test_only_the_node_that_sorts_first_dials(cluster: Cluster) -> None:
    proxies = {}
    for name, node in zip("ab", await cluster.add("a", "b"), strict=True):
        proxies[name] = await Proxy(node.address).start()
        cluster.closers.append(proxies[name].close)
        cluster.through[name] = proxies[name].address
    cluster.introduce()
    await cluster.wait_linked()
    assert (proxies["a"].accepted_count, proxies["b"].accepted_count) == (0, 1)


async def test_node_that_comes_later_is_found(cluster: Cluster) -> None:
    (a,) = await cluster.add("a")
    late = Node("b")
    address = await late.links.start()
    await late.links.close()
    a.links.set_members({"b": address})
    await asyncio.sleep(0.2)
    with pytest.raises(LinkDown, match="no link to 'b': it is being dialled"):
        await a.links.call("b", {})
    late = cluster.nodes["b"] = Node("b")
    await late.links.start(*address)
    late.links.set_members({"a": a.address})
    await cluster.wait_linked()


async def test_lost_link_is_found_again_and_each_loss_is_told_once(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    for link in (lambda: a.links.link("b"), lambda: b.links.link("a"), lambda: a.links.link("b")):
        link().abort("for the test")
        await eventually(lambda: a.ups == a.downs + 1 and b.ups == b.downs + 1)
        await cluster.wait_linked()
        await a.links.call("b", {})
    await eventually(lambda: a.ups == b.ups == 4)
    assert a.downs == b.downs == 3


async def test_node_started_anew_replaces_its_old_link_at_once(cluster: Cluster) -> None:
    """The accepting side may still hold the old connection (a machine lost its power): the new one counts."""
    (b,) = await cluster.add("b")
    proxy = await Proxy(b.address).start()
    cluster.closers.append(proxy.close)
    (a,) = await cluster.add("a")
    a.links.set_members({"b": proxy.address})
    b.links.set_members({"a": a.address})
    await cluster.wait_linked()
    proxy.stall()
    anew = Node("a")
    anew.links.set_members({"b": b.address})
    began_s = time.monotonic()
    await anew.links.wait_up("b")
    await eventually(lambda: b.ups == 2)
    assert time.monotonic() - began_s < 0.8  # less than peer_timeout_s: the old link was not waited for
    assert b.reasons == ["the node has connected anew"]
    assert len(b.links.up) == 1
    assert (await b.links.call("a", {"n": 1})).metadata == {"n": 1}
    assert len(anew.calls) == 1
    a.links.set_members({})  # or it would go on dialling
    await anew.links.close()


async def test_removed_member_loses_its_link_and_gets_no_new_one(cluster: Cluster) -> None:
    a, b, c = await cluster.link("a", "b", "c")
    b.links.set_members({"c": c.address})
    await eventually(lambda: "a" not in b.links.up and "b" not in a.links.up)
    await asyncio.sleep(0.4)
    assert "a" not in b.links.up
    assert any("no member any more" in reason for reason in a.reasons)
    with pytest.raises(LinkDown, match="it is no member"):
        b.links.link("a")
    assert (await b.links.call("c", {})).metadata == {}
    assert "a" in c.links.up


async def test_member_with_another_address_is_dialled_there(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    proxy = await Proxy(b.address).start()
    cluster.closers.append(proxy.close)
    a.links.set_members({"b": proxy.address})
    await eventually(lambda: proxy.accepted_count == 1 and "b" in a.links.up)
    await a.links.call("b", {})
    assert a.ups == 2


async def test_closing_tells_the_peer_why_after_what_was_queued(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    for n in range(50):
        a.links.post_urgent("b", {"n": n})
    call = asyncio.create_task(a.links.call("b", {"do": "wait"}))
    await asyncio.sleep(0)
    await a.links.close("going home")
    with pytest.raises(LinkDown, match="going home"):
        await call
    await eventually(lambda: b.downs == 1)
    assert b.reasons == ["'a' closed the link: going home"]
    assert len(b.messages) == 50
    with pytest.raises(LinkDown):
        await a.links.call("b", {})


async def test_closing_the_moment_a_link_is_up_still_tells_the_peer_why(cluster: Cluster) -> None:
    """The task that dialled has not run since, and must not take the link down with it when it is cancelled."""
    a, b = await cluster.link("a", "b")
    await a.links.close("going home")
    await eventually(lambda: b.downs == 1)
    assert (a.reasons, b.reasons) == (["going home"], ["'a' closed the link: going home"])


async def test_closing_does_not_wait_for_a_peer_that_does_not_read(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b")
    b.links.link("a").connection._transport.pause_reading()
    post = asyncio.create_task(a.links.post("b", {}, [bytes(64 << 20)]))
    await asyncio.sleep(0.1)
    began_s = time.monotonic()
    await a.links.close()
    assert time.monotonic() - began_s < QUICK.close_timeout_s + 0.5
    with pytest.raises(LinkDown):
        await post
    b.links.link("a").connection._transport.resume_reading()
    await eventually(lambda: b.downs == 1)


async def test_attempts_to_connect_become_rare_and_are_spread(cluster: Cluster, monkeypatch) -> None:
    waits: list[float] = []
    sleep = asyncio.sleep

    async def note(delay_s: float) -> None:
        waits.append(delay_s)
        await sleep(0)

    settings = LinkSettings(backoff_min_s=0.05, backoff_max_s=1.0)
    links = Links("a", KEY, Node("x"), settings=settings, rng=random.Random(7))
    dead = await Proxy(("127.0.0.1", 1)).start()
    await dead.close()
    monkeypatch.setattr("symphony.net.links.asyncio.sleep", note)
    links.set_members({"b": dead.address})
    while len(waits) < 12:
        await sleep(0.005)
    monkeypatch.undo()
    await links.close()
    limits = [min(0.05 * 2**n, 1.0) for n in range(12)]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=False))
    assert len({round(wait, 6) for wait in waits[5:12]}) > 3


async def test_cause_of_failing_attempts_is_logged_once(cluster: Cluster, caplog) -> None:
    (a,) = await cluster.add("a")
    a.links.set_members({"b": ("127.0.0.1", 1)})
    await asyncio.sleep(0.5)
    assert caplog.text.count("no link to 'b'") == 1


async def test_members_are_limited_and_checked(cluster: Cluster) -> None:
    (a,) = await cluster.add("a", settings=LinkSettings(member_count_max=2))
    a.links.set_members({"A": ("127.0.0.1", 1), "B": ("127.0.0.1", 1)})
    with pytest.raises(ValueError, match="member_count_max"):
        a.links.set_members(dict.fromkeys("ABC", ("127.0.0.1", 1)))
    with pytest.raises(ValueError, match="a node's id"):
        a.links.set_members({"": ("127.0.0.1", 1)})


async def test_address_in_use_is_an_error(cluster: Cluster) -> None:
    (a,) = await cluster.add("a")
    links = Links("b", KEY, a)
    with pytest.raises(OSError, match="in use"):
        await links.start(*a.address)
    await links.close()
