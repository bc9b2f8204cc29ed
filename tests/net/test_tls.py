"""Links over TLS: the same links, for those whose certificate is right on both sides, and for nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time

import numpy as np
import pytest
import trustme

from symphony.links.frames import Kind
from symphony.links.limits import MIB
from symphony.links.records import SUBMIT
from symphony.net import LinkDown, TlsContexts
from tests.net.nodes import QUICK, Cluster, Node, eventually
from tests.net.proxy import Proxy, flip

pytestmark = pytest.mark.sockets

CA = trustme.CA()
OTHER_CA = trustme.CA()
NAME = "cluster.example.org"


def contexts(own_ca: trustme.CA = CA, trusted_ca: trustme.CA = CA, name: str = NAME) -> TlsContexts:
    """Return contexts that show a certificate of `own_ca` and want one of `trusted_ca`, both ways."""
    certificate = own_ca.issue_cert(name)
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        certificate.configure_cert(context)
        trusted_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return TlsContexts(server, client, NAME)


async def test_link_over_tls_carries_what_a_plain_one_does(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b", tls=contexts())
    tensor = np.random.default_rng(1).integers(0, 255, 20 * MIB, np.uint8)
    replies = await asyncio.gather(*(a.links.call("b", {"n": n}, [tensor[n:]]) for n in range(4)))
    for n, reply in enumerate(replies):
        assert np.array_equal(np.frombuffer(reply.segments[0], np.uint8), tensor[n:])
    for size in (0, 1, 20_000, 200_000):
        assert len((await b.links.call("a", {}, [bytes(size)])).segments[0]) == size
    a.links.post_records("b", Kind.SUBMIT, np.zeros(100_000, SUBMIT))
    await eventually(lambda: sum(len(records) for _, records, _ in b.records) == 100_000)


async def test_nothing_is_readable_on_the_way(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b", tls=contexts())
    proxy = await Proxy(b.address).start()
    cluster.closers.append(proxy.close)
    seen: list[bytes] = []
    proxy.to_target = lambda offset, data: seen.append(data) or data
    cluster.through["b"] = proxy.address
    cluster.introduce()
    await cluster.wait_linked()
    await a.links.call("b", {"word": "cleartext"}, [b"cleartext" * 1000])
    assert len(b"".join(seen)) > 9000
    assert b"cleartext" not in b"".join(seen)
    assert b"SY\x01" not in b"".join(seen)[:2000]


async def test_altered_byte_ends_a_tls_link_too(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b", tls=contexts())
    proxy = await Proxy(b.address).start()
    cluster.closers.append(proxy.close)
    cluster.through["b"] = proxy.address
    cluster.introduce()
    await cluster.wait_linked()
    proxy.cut()
    proxy.to_target = flip(50_000)
    await eventually(lambda: a.downs == 1 and a.ups == 2)
    with pytest.raises(LinkDown):
        await a.links.call("b", {}, [bytes(200_000)])
    assert not b.calls
    await cluster.wait_linked()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: contexts(own_ca=OTHER_CA), contexts),
        (contexts, lambda: contexts(own_ca=OTHER_CA)),
        (contexts, lambda: contexts(name="another.example.org")),
        (lambda: None, contexts),
        (contexts, lambda: None),
    ],
    ids=["dialler of another CA", "acceptor of another CA", "another name", "plain dialler", "plain acceptor"],
)
async def test_node_without_the_right_certificate_gets_no_link(cluster: Cluster, ours, theirs, caplog) -> None:
    (a,) = await cluster.add("a", tls=ours())
    (b,) = await cluster.add("b", tls=theirs())
    cluster.introduce()
    await asyncio.sleep(0.5)
    assert a.ups == b.ups == 0
    assert "no link to 'b'" in caplog.text


async def test_stranger_that_stalls_in_tls_is_closed_and_its_descriptor_freed(cluster: Cluster) -> None:
    (b,) = await cluster.add("b", tls=contexts())
    _, writer = await asyncio.open_connection(*b.address)  # the loop opens a descriptor of its own for the first
    writer.transport.abort()
    await eventually(lambda: b.links.stranger_count == 0)
    open_count = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts descriptors
    strangers = [await asyncio.open_connection(*b.address) for _ in range(5)]
    await eventually(lambda: b.links.stranger_count == 5)
    began_s = time.monotonic()
    for reader, writer in strangers:
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 3)
        writer.transport.abort()
    assert time.monotonic() - began_s < QUICK.handshake_timeout_s + 1.0
    await eventually(lambda: b.links.stranger_count == 0)
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= open_count)  # noqa: PTH208


async def test_closing_a_tls_link_tells_the_peer_why(cluster: Cluster) -> None:
    a, b = await cluster.link("a", "b", tls=contexts())
    assert isinstance(a, Node)
    await a.links.close("going home")
    await eventually(lambda: b.downs == 1)
    assert b.reasons == ["'a' closed the link: going home"]
