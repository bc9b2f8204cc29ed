"""Slow, huge and many: what clients may do to others, over plain HTTP and over TLS, on both paths."""

from __future__ import annotations

import asyncio
import ssl
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import trustme

from tests.ingress.test_connections import BODY, assert_error, head, read_response, until

pytestmark = pytest.mark.sockets

MIB = 1 << 20
GROWTH_BYTES_MAX = 16 * MIB
"""Of this process, between the first quarter of the fuzzing and its end."""


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of a server and of a client that trusts it."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def connect(server, context: ssl.SSLContext | None = None):
    return await asyncio.open_connection("127.0.0.1", server.port, ssl=context)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return everything until the server closes, within 5 s."""
    async with asyncio.timeout(5):
        try:
            return await reader.read()
        except ConnectionError:
            return b""


@pytest.mark.parametrize(
    "begin", [b"GET /v2/models/sc", b"POST /v2/models/scale/infer HTTP/1.1\r\nHost: x\r\nA", b"POST /v2"]
)
async def test_head_that_never_ends_is_given_up(start, begin):
    server = await start(header_timeout_s=0.2)
    reader, writer = await connect(server)
    writer.write(begin)
    started_s = time.monotonic()
    feeding = asyncio.create_task(feed(writer, b"a", 0.05))
    assert await ended(reader) == b""
    assert 0.2 <= time.monotonic() - started_s < 3
    feeding.cancel()
    writer.close()


async def feed(writer: asyncio.StreamWriter, data: bytes, every_s: float) -> None:
    """Send a little from time to time, to look alive."""
    while True:
        writer.write(data)
        await asyncio.sleep(every_s)


async def test_second_head_of_a_connection_is_given_up_too(start):
    server = await start(header_timeout_s=0.2)
    reader, writer = await connect(server)
    for text in (head(method="GET", path="/v2"), head(len(BODY)) + BODY):
        writer.write(text)
        assert (await read_response(reader))[0] == 200
    writer.write(b"GET /v2 HT")
    assert await ended(reader) == b""
    writer.close()


async def test_body_that_dribbles_is_given_up_though_it_never_stalls(start):
    server = await start(body_timeout_s=0.3, lingering_s=0.1)
    reader, writer = await connect(server)
    writer.write(head(100_000))
    feeding = asyncio.create_task(feed(writer, b"x", 0.05))
    assert_error(await read_response(reader), 400, "bad_input")
    feeding.cancel()
    await until(lambda: server.exchanges.body_bytes == 0)
    writer.close()


async def test_silent_connection_is_closed(start):
    server = await start(keepalive_timeout_s=0.2)
    reader, writer = await connect(server)
    assert await ended(reader) == b""
    writer.close()


@pytest.mark.parametrize(
    "head_bytes",
    [
        b"GET /v2 HTTP/1.1\r\n" + b"".join(b"H%d: %s\r\n" % (index, b"x" * 4000) for index in range(100)),
        b"GET /v2 HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % index for index in range(100_000)),
        b"POST /v2/models/scale/infer HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % index for index in range(100_000)),
    ],
)
async def test_flood_of_headers_is_refused_before_it_ends(start, head_bytes):
    server = await start()
    reader, writer = await connect(server)
    writer.write(head_bytes)  # and no end
    answer = await ended(reader)
    assert not answer or answer.split()[1] in (b"400", b"431"), answer[:200]
    assert (await call(server))[0] == 200
    writer.close()


async def test_ten_gibibytes_declared_are_refused_unread(start):
    server = await start()
    reader, writer = await connect(server)
    writer.write(head(10 << 30))
    assert_error(await read_response(reader), 413, "too_large")
    assert server.exchanges.body_bytes == 0
    writer.close()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_decompression_bomb_is_refused(start, encoding):
    server = await start(body_bytes_max=MIB)
    deflator = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    bomb = b"".join(deflator.compress(bytes(MIB)) for _ in range(200)) + deflator.flush()
    assert len(bomb) < MIB
    reader, writer = await connect(server)
    writer.write(head(len(bomb), Content_Encoding=encoding) + bomb)
    assert_error(await read_response(reader), 413, "too_large")
    writer.close()


async def test_newcomer_takes_the_place_of_the_oldest_that_never_sent_a_request(start, service):
    server = await start(connection_count_max=4)
    good = await connect(server)
    good[1].write(head(len(BODY)) + BODY)
    assert (await read_response(good[0]))[0] == 200
    slow = []
    for _ in range(6):
        reader, writer = await connect(server)
        writer.write(b"GET /v2 HT")
        slow.append((reader, writer))
        await asyncio.sleep(0.01)
    assert service.stats.connection_count <= 4
    for reader, _ in slow[:3]:
        assert await ended(reader) == b""
    good[1].write(head(len(BODY)) + BODY)
    assert (await read_response(good[0]))[0] == 200
    assert (await call(server))[0] == 200
    for _, writer in [good, *slow]:
        writer.close()


async def test_connection_at_work_is_not_closed_for_a_newcomer(start, service):
    server = await start(connection_count_max=2)
    service.mode = "never"
    working = [await connect(server) for _ in range(2)]
    for _, writer in working:
        writer.write(head(len(BODY)) + BODY)
    await until(lambda: len(service.inside) == 4)
    reader, writer = await connect(server)
    assert await ended(reader) == b""
    for request in list(service.inside):
        service.finish(request)
    assert [(await read_response(reader))[0] for reader, _ in working] == [200, 200]
    for _, one in [*working, (reader, writer)]:
        one.close()


async def test_many_declared_bodies_of_one_caller_leave_room_for_others(start):
    """Bodies that are declared, and never sent, may fill what one caller may have, but not all there is."""
    server = await start(body_bytes_max=10 * MIB, body_bytes_total_max=80 * MIB)
    writers, statuses = [], []
    for _ in range(12):
        reader, writer = await connect(server)
        writer.write(head(10 * MIB))
        writers.append(writer)
        await asyncio.sleep(0.01)
        if reader._buffer:
            statuses.append((await read_response(reader))[0])
    assert server.exchanges.body_bytes == 70 * MIB
    assert statuses == [503] * 5
    other = server.exchanges.callers.peer(("10.0.0.9", 1))
    assert server.exchanges.refusal(10 * MIB, other) is None
    for writer in writers:
        writer.transport.abort()
    await until(lambda: server.exchanges.body_bytes == 0)


async def test_client_that_does_not_read_is_closed(start, service):
    server = await start(keepalive_timeout_s=0.5, body_timeout_s=0.5)
    before = service.stats.connection_count
    _, writer = await connect(server)
    writer.transport.pause_reading()
    request = head(len(BODY)) + BODY + head(method="GET", path="/metrics") * 50

    async def send() -> None:
        while True:
            writer.write(request)
            await writer.drain()

    sending = asyncio.create_task(send())
    await until(lambda: service.stats.connection_count > before)
    async with asyncio.timeout(20):
        while service.stats.connection_count > before:
            await asyncio.sleep(0.05)
    sending.cancel()
    writer.transport.abort()


async def test_infer_and_everything_else_are_answered_over_tls(start, tls):
    server = await start(tls=tls[0])
    reader, writer = await connect(server, tls[1])
    for text in (head(len(BODY)) + BODY, head(method="GET", path="/v2"), head(len(BODY)) + BODY):
        writer.write(text)
        assert (await read_response(reader))[0] == 200
    writer.close()


async def test_body_in_pieces_comes_whole_over_tls(start, tls):
    server = await start(tls=tls[0])
    reader, writer = await connect(server, tls[1])
    text = head(len(BODY)) + BODY
    for begin in range(0, len(text), 50):
        writer.write(text[begin : begin + 50])
        await writer.drain()
    assert (await read_response(reader))[0] == 200
    writer.close()


async def test_plain_http_at_a_tls_port_is_closed(start, tls):
    server = await start(tls=tls[0])
    reader, writer = await connect(server)
    writer.write(head(len(BODY)) + BODY)
    assert b"HTTP/1.1" not in await ended(reader)
    writer.close()


@pytest.mark.parametrize("secured", [False, True], ids=["http", "tls"])
async def test_fuzzed_requests_get_no_500_no_crash_and_no_hang(start, service, tls, secured):
    """Good requests, cut, doubled, overwritten and joined at random, in random pieces; what is left is answered."""
    server = await start(tls=tls[0] if secured else None, header_timeout_s=0.5, body_timeout_s=0.5, lingering_s=0.1)
    context = tls[1] if secured else None
    random = np.random.default_rng(11)
    whole = [
        head(len(BODY)) + BODY,
        head(method="GET", path="/v2/models/scale"),
        head(Transfer_Encoding="chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        head(len(BODY), Expect="100-continue") + BODY,
        head(2, path="/v2/repository/index") + b"{}",
        head(len(BODY), Content_Encoding="gzip") + BODY,
    ]

    async def one(text: bytes) -> bytes:
        reader, writer = await connect(server, context)
        try:
            cut = int(random.integers(0, len(text) + 1))
            writer.write(text[:cut])
            await asyncio.sleep(0)
            writer.write(text[cut:])
            if context is None and writer.can_write_eof():
                writer.write_eof()
            async with asyncio.timeout(0.4):
                return await reader.read(1 << 20)
        except (TimeoutError, ConnectionError, ssl.SSLError):
            return b""
        finally:
            writer.transport.abort()

    resident = []
    for _ in range(40):
        resident.append(resident_bytes())
        texts = [mutated(whole[int(random.integers(0, len(whole)))], random) for _ in range(8)]
        for text, answer in zip(texts, await asyncio.gather(*map(one, texts)), strict=True):
            assert b"HTTP/1.1 500" not in answer, text
    await until(lambda: service.stats.connection_count == 0 and server.exchanges.in_flight == 0)
    assert server.exchanges.body_bytes == 0
    assert resident[-1] - resident[10] < GROWTH_BYTES_MAX
    reader, writer = await connect(server, context)
    writer.write(whole[0])
    assert (await read_response(reader))[0] == 200
    writer.close()


def resident_bytes() -> int:
    """Return how much memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def mutated(text: bytes, random: np.random.Generator) -> bytes:
    """Return the text with a few random faults."""
    data = bytearray(text)
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(0, max(1, len(data))))
        kind = int(random.integers(0, 4))
        if kind == 0:
            data[at : at + 1] = random.bytes(int(random.integers(0, 3)))
        elif kind == 1:
            del data[at : at + int(random.integers(1, 30))]
        elif kind == 2:
            data[at:at] = data[at : at + 40]
        else:
            data = data[:at] if at > 4 else data + data
    return bytes(data)


async def call(server) -> tuple:
    """Send a good call on a connection of its own."""
    reader, writer = await connect(server)
    writer.write(head(len(BODY)) + BODY)
    try:
        return await read_response(reader)
    finally:
        writer.close()
