"""What bare sockets may do to the ingress: huge, slow, broken and vanishing requests."""

import asyncio
import json

import numpy as np
import pytest

pytestmark = pytest.mark.sockets

BODY = json.dumps({"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [1] * 8}]}).encode()
GIB = 1 << 30


def head(
    length: int | None = None, *, method: str = "POST", path: str = "/v2/models/scale/infer", **headers: str
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: here"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(5):
        text = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in text[1:] if line)
        return int(text[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def assert_error(response, status: int, reason: str) -> None:
    assert response[0] == status, response
    body = json.loads(response[2])
    assert set(body) == {"error", "reason", "model"}
    assert body["error"]
    assert body["reason"] == reason


async def test_gibibyte_declared_is_refused_before_it_is_sent(start):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(GIB))
    response = await read_response(reader)
    assert_error(response, 413, "too_large")
    assert "allowed are 67108864 (body_bytes_max)" in json.loads(response[2])["error"]
    assert response[1]["connection"] == "close"
    assert server.exchanges.body_bytes == 0
    writer.close()


async def test_connection_of_a_refused_body_ends_though_the_client_goes_on_sending(start):
    server = await start(lingering_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(GIB))
    assert (await read_response(reader))[0] == 413
    sent_bytes = 0
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(5):
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
                sent_bytes += 65_536
                await asyncio.sleep(0.01)
    assert sent_bytes < GIB
    writer.close()


async def test_expecting_client_is_told_before_sending_too_much(start):
    server = await start(body_bytes_max=100)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(101, Expect="100-continue"))
    assert_error(await read_response(reader), 413, "too_large")
    writer.close()


async def test_expecting_client_is_told_to_go_on(start):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(len(BODY), Expect="100-continue"))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    writer.write(BODY)
    assert (await read_response(reader))[0] == 200
    writer.close()


async def test_unknown_expectation_is_refused(start):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(len(BODY), Expect="miracles") + BODY)
    assert_error(await read_response(reader), 417, "bad_input")
    writer.close()


async def test_endless_chunked_body_is_cut_at_the_limit(start):
    server = await start(body_bytes_max=100_000, lingering_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(Transfer_Encoding="chunked"))
    for _ in range(20):
        writer.write(b"2710\r\n" + bytes(10_000) + b"\r\n")
    assert_error(await read_response(reader), 413, "too_large")
    await until(lambda: server.exchanges.body_bytes == 0)
    writer.close()


async def test_chunked_body_within_the_limit_is_read(start):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(Transfer_Encoding="chunked"))
    for begin in range(0, len(BODY), 7):
        piece = BODY[begin : begin + 7]
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert (await read_response(reader))[0] == 200
    writer.close()


async def test_broken_chunk_is_bad_input(start):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(Transfer_Encoding="chunked") + b"zz\r\nnothing\r\n")
    assert_error(await read_response(reader), 400, "bad_input")
    writer.close()


async def test_body_that_stalls_is_given_up(start):
    server = await start(body_timeout_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(len(BODY)) + BODY[:10])
    response = await read_response(reader)
    assert_error(response, 400, "bad_input")
    assert "body_timeout_s" in json.loads(response[2])["error"]
    assert server.exchanges.body_bytes == 0
    writer.close()


async def test_body_sent_byte_by_byte_is_read(start):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for byte in head(len(BODY)) + BODY:
        writer.write(bytes([byte]))
        await writer.drain()
    assert (await read_response(reader))[0] == 200
    writer.close()


async def test_client_that_goes_away_cancels_its_requests(start, service):
    server = await start()
    service.mode = "never"
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(len(BODY)) + BODY)
    await until(lambda: len(service.inside) == 2)
    assert server.exchanges.in_flight == 1
    writer.transport.abort()
    await until(lambda: not service.inside)
    assert len(service.cancelled) == 2
    assert server.exchanges.in_flight == 0
    assert server.exchanges.body_bytes == 0


async def test_client_that_goes_away_while_sending_leaves_no_trace(start, service):
    server = await start()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(len(BODY)) + BODY[:10])
    await until(lambda: server.exchanges.body_bytes == len(BODY))
    writer.transport.abort()
    await until(lambda: server.exchanges.body_bytes == 0)
    assert not service.submitted


async def test_bodies_being_read_count_against_the_limit_of_all(start):
    server = await start(body_bytes_max=1_000, body_bytes_total_max=1_500)
    _, first = await asyncio.open_connection("127.0.0.1", server.port)
    first.write(head(1_000) + b"slow")
    await until(lambda: server.exchanges.body_bytes == 1_000)
    reader, second = await asyncio.open_connection("127.0.0.1", server.port)
    second.write(head(501))
    assert_error(await read_response(reader), 503, "queue_full")
    first.close()
    second.close()


async def test_pipelined_requests_are_answered_in_order(start):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        head(len(BODY)) + BODY + head(method="GET", path="/v2") + head(len(BODY), path="/v2/models/no/infer") + BODY
    )
    assert [(await read_response(reader))[0] for _ in range(3)] == [200, 200, 404]
    writer.close()


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v2/models/scale/infer HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/models/scale/infer HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"POST /v2/models/scale/infer HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nLong: " + b"x" * 9_000 + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % index for index in range(200)) + b"\r\n",
        b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_not_http_gets_a_json_400(start, text):
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(text)
    assert_error(await read_response(reader), 400, "bad_input")
    assert await reader.read() == b""
    writer.close()


async def test_random_bytes_on_the_socket_never_get_a_500(start):
    server = await start()
    random = np.random.default_rng(5)
    for index in range(200):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        noise = random.bytes(int(random.integers(1, 300)))
        writer.write((head(method="GET", path="/v2") if index % 2 else b"") + noise + b"\r\n\r\n")
        writer.write_eof()
        try:
            async with asyncio.timeout(2):
                answer = await reader.read(100_000)
        except ConnectionError:
            answer = b""
        except TimeoutError:
            answer = b""
        assert b"HTTP/1.1 5" not in answer, noise
        writer.close()
    status, _, _ = await ask_again(server)
    assert status == 200


async def ask_again(server):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head(len(BODY)) + BODY)
    try:
        return await read_response(reader)
    finally:
        writer.close()
