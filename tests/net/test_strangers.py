"""Whoever does not hold the key gets nothing: no link, no memory, no time, no word of what the key is."""

from __future__ import annotations

import asyncio
import logging
import random
import struct
import time
from pathlib import Path
from zlib import crc32

import pytest

from symphony.errors import ConfigError
from symphony.links.frames import FrameEncoder, Kind
from symphony.links.handshake import KEY_BYTES_MIN, ClusterKey, Dialer, Identity
from symphony.links.limits import HANDSHAKE_BYTES_MAX, LinkLimits
from symphony.links.messages import HEAD, Role
from symphony.net import LinkSettings, read_key
from tests.net.nodes import KEY, QUICK, Cluster, Node, eventually

pytestmark = pytest.mark.sockets
OPEN_HEAD = HEAD.pack(Role.CALL, 0, 1, 1, 0, 30_000, 0) + struct.pack("<Q", 30_000) + b"\x80"
OTHER_KEY = ClusterKey(b"another key, of another cluster, as long")


async def answer_to(node: Node, text: bytes, timeout_s: float = 2.0) -> bytes:
    """Send bytes to a node; return all that it sends until it closes. Fail if it does not close."""
    reader, writer = await asyncio.open_connection(*node.address)
    try:
        writer.write(text)
        async with asyncio.timeout(timeout_s):
            try:
                return await reader.read(-1)
            except ConnectionResetError:
                return b""
    finally:
        writer.transport.abort()


def frame(kind: Kind, payload: bytes) -> bytes:
    return b"".join(FrameEncoder().encode(kind, 0, [payload]))


def hello(node: str = "a", peer: str = "b") -> bytes:
    return Dialer(Identity(node, 1), peer, KEY, LinkLimits(), b"n" * 32).hello(0)


async def test_node_with_another_key_gets_no_link(cluster: Cluster, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    a = Node("a", key=OTHER_KEY)
    (b,) = await cluster.add("b")
    b.links.set_members({"a": ("127.0.0.1", 1)})
    a.links.set_members({"b": b.address})
    await asyncio.sleep(0.4)
    await a.links.close()
    assert a.ups == b.ups == 0
    assert "does not hold this cluster's key" in caplog.text
    for key in (KEY, OTHER_KEY):
        assert key._secret.decode() not in caplog.text


async def test_holder_of_the_key_that_is_no_member_is_told_so(cluster: Cluster, caplog) -> None:
    a, b = await cluster.add("a", "b")
    a.links.set_members({"b": b.address})
    await eventually(lambda: "'a' is no member of the cluster as 'b' knows it" in caplog.text)
    assert a.ups == b.ups == 0


async def test_gibibyte_declared_is_refused_at_once(cluster: Cluster) -> None:
    (b,) = await cluster.add("b")
    fields = struct.pack("<HBBHHIIQI", 0x5953, 1, Kind.HELLO, 1, 0, 0, 1 << 30, 0, 0)
    began_s = time.monotonic()
    assert await answer_to(b, fields + struct.pack("<I", crc32(fields))) == b""
    assert time.monotonic() - began_s < QUICK.handshake_timeout_s


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        frame(Kind.HELLO, bytes(HANDSHAKE_BYTES_MAX + 1)),
        frame(Kind.HELLO, bytes(HANDSHAKE_BYTES_MAX)),
        frame(Kind.HELLO, hello(peer="c")),
        frame(Kind.HELLO, hello(node="b")),
        frame(Kind.SUBMIT, bytes(24)),
        frame(Kind.READY, b""),
        frame(Kind.CHUNK, bytes(10)),
        frame(Kind.CLOSE, b"bye"),
    ],
    ids=["HTTP", "TLS", "large", "zeros", "for another", "our id", "records", "ready", "chunk", "close"],
)
async def test_what_is_no_greeting_is_closed_without_an_answer(cluster: Cluster, text) -> None:
    (b,) = await cluster.add("b")
    b.links.set_members({"a": ("127.0.0.1", 1)})
    began_s = time.monotonic()
    assert await answer_to(b, text) == b""
    assert time.monotonic() - began_s < QUICK.handshake_timeout_s
    assert b.ups == 0


async def test_nothing_but_a_proof_is_taken_after_the_greeting(cluster: Cluster) -> None:
    (b,) = await cluster.add("b")
    b.links.set_members({"a": ("127.0.0.1", 1)})
    for kind, payload in (
        (Kind.PROOF, bytes(48)),
        (Kind.SUBMIT, bytes(24)),
        (Kind.PING, bytes(8)),
        (Kind.TAKEN, bytes(8)),
    ):
        encoder = FrameEncoder()
        text = b"".join(encoder.encode(Kind.HELLO, 0, [hello()]) + encoder.encode(kind, 0, [payload]))
        answer = await answer_to(b, text)
        assert answer.count(b"SY") <= 1  # WELCOME at most
    assert b.ups == 0


async def test_stranger_that_says_nothing_is_closed_after_the_handshake_time(cluster: Cluster) -> None:
    (b,) = await cluster.add("b")
    for text in (b"", frame(Kind.HELLO, hello())[:40], frame(Kind.HELLO, hello())):
        began_s = time.monotonic()
        await answer_to(b, text)
        assert QUICK.handshake_timeout_s * 0.9 < time.monotonic() - began_s < QUICK.handshake_timeout_s + 1.0


async def test_strangers_are_limited_and_do_not_keep_members_out(cluster: Cluster) -> None:
    settings = LinkSettings(stranger_count_max=4, handshake_timeout_s=5.0)
    a, b = await cluster.add("a", "b", settings=settings)
    strangers = [await asyncio.open_connection(*b.address) for _ in range(20)]
    await asyncio.sleep(0.1)
    assert b.links.stranger_count <= 4
    cluster.introduce()
    await cluster.wait_linked(2.0)
    closed = 0
    for reader, writer in strangers:
        try:
            async with asyncio.timeout(0.05):
                closed += await reader.read(1) == b""
        except TimeoutError:
            pass
        writer.transport.abort()
    assert closed >= 16
    assert a.ups == b.ups == 1


async def test_member_that_breaks_the_protocol_is_cut_off(cluster: Cluster) -> None:
    """Frames that only the handshake has, chunks of no message, pongs to no ping, calls twice: each ends the link."""
    a, b = await cluster.link("a", "b")
    for count, (kind, payload, stream) in enumerate(
        [
            (Kind.HELLO, b"x", 0),
            (Kind.CHUNK, b"x", 9),
            (Kind.PONG, bytes(24), 0),
            (Kind.PONG, bytes(23), 0),
            (Kind.PING, bytes(7), 0),
            (Kind.ABORT, b"", 9),
            (Kind.TAKEN, struct.pack("<Q", 1), 0),
            (Kind.TAKEN, bytes(7), 0),
            (Kind.SUBMIT, bytes(25), 0),
            (Kind.OPEN, bytes(10), 9),
        ],
        1,
    ):
        a.links.link("b").connection.send_control(kind, payload, stream)
        await eventually(lambda count=count: b.downs == count)
        await cluster.wait_linked()
    assert not any("the peer closed" in reason for reason in b.reasons)


async def test_random_frames_of_a_member_never_break_the_node(cluster: Cluster) -> None:
    """Frames with right headers and any content: taken, or the link ends and is made again; nothing else happens."""
    a, b = await cluster.link("a", "b")
    rng = random.Random(1)
    for _ in range(60):
        await cluster.wait_linked()
        link = a.links.up.get("b")
        if link is None:
            continue  # it went down while the other side was waited for
        for _ in range(4):
            payload = rng.choice(
                [b"", rng.randbytes(8), rng.randbytes(24), rng.randbytes(200), OPEN_HEAD, OPEN_HEAD + b"x"]
            )
            link.connection.send_control(rng.choice(list(Kind)), payload, rng.choice([0, 1, 2, rng.getrandbits(64)]))
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.2)
    await cluster.wait_linked()
    assert b.downs > 20
    assert (await b.links.call("a", {"n": 1})).metadata == {"n": 1}
    assert (await a.links.call("b", {"n": 1})).metadata == {"n": 1}


def test_key_is_read_from_its_file_without_white_space(tmp_path: Path, caplog) -> None:
    path = tmp_path / "cluster.key"
    path.write_bytes(b"\n" + b"s" * KEY_BYTES_MIN + b" \n")
    path.chmod(0o600)
    assert read_key(path).mac("x") == ClusterKey(b"s" * KEY_BYTES_MIN).mac("x")
    assert caplog.text == ""
    path.chmod(0o644)
    read_key(path)
    assert "chmod 600" in caplog.text
    assert "sss" not in caplog.text


def test_key_file_that_cannot_be_used_is_an_error_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(path)
    path.write_bytes(b"short secret")
    with pytest.raises(ConfigError, match="has 12 bytes, allowed are 32") as caught:
        read_key(path)
    assert "secret" not in str(caught.value)
    path.write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="allowed are 32 to 4096"):
        read_key(path)
