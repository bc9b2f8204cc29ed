"""Requests and responses without a socket: addresses, heads, and a reader that takes bytes however they come."""

from __future__ import annotations

import pytest

from symphony.client.http import HEADER_BYTES_MAX, Address, ResponseReader, TransportError, write_head

ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000),
        ("http://[::1]:9", "::1", 9),
        ("example.test:81/", "example.test", 81),
        ("http://example.test", "example.test", 80),
        ("https://example.test", "example.test", 443),
    ],
)
def test_address_is_read_from_a_url(url: str, host: str, port: int) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.tls is not None) == (host, port, url.startswith("https"))


@pytest.mark.parametrize(
    "url", ["", "ftp://a", "http://", "http://a:x", "http://a:70000", "http://a/v2", "http://a?b=c"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no server's address; write for example"):
        Address.parse(url)


def test_address_is_written_as_urls_do() -> None:
    assert str(Address("::1", 8000)) == "[::1]:8000"


@pytest.mark.parametrize("headers", [{"A": "b\r\nEvil: 1"}, {"A\nB": "c"}, {"A": "b\rc"}])
def test_header_that_would_break_out_of_its_line_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="line break"):
        write_head("GET", "/", "h", 0, headers=headers)
    with pytest.raises(ValueError, match="line break"):
        write_head("GET", "/a\r\nb", "h", 0)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_response_is_read_whole_or_byte_by_byte(size: int) -> None:
    reader = ResponseReader()
    pieces = [ANSWER[at : at + size] for at in range(0, len(ANSWER), size)]
    assert [reader.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    response = reader.take()
    assert (response.status, bytes(response.body), response.headers["retry-after"]) == (503, b"hello", "2")
    assert reader.keeps_alive
    assert not reader.has_begun


def test_responses_of_a_kept_connection_are_apart() -> None:
    reader = ResponseReader()
    for text in (b"one", b"three"):
        assert reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        assert bytes(reader.take().body) == text
        assert reader.keeps_alive
    assert reader.response_count == 2


def test_interim_response_is_passed_over() -> None:
    reader = ResponseReader()
    assert not reader.feed(b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n")
    assert reader.feed(ANSWER)
    assert "x" not in reader.take().headers


def test_chunked_body_is_joined() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert bytes(reader.take().body) == b"abcde"


def test_connection_that_the_server_will_close_is_not_kept() -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    reader.take()
    assert not reader.keeps_alive


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP/1.1"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "not HTTP/1.1"),
        (ANSWER + ANSWER, "more than one answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * (HEADER_BYTES_MAX + 1) + b"\r\nY: z\r\n", "bytes of headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEADER_BYTES_MAX, "bytes of headers"),
    ],
)
def test_what_no_node_sends_is_a_transport_error(data: bytes, part: str) -> None:
    with pytest.raises(TransportError, match=part):
        ResponseReader().feed(data)
