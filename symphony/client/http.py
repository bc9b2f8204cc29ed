"""Write requests and read responses of HTTP/1.1, without a socket: shared by both clients and the load generator."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

Buffer = bytes | bytearray | memoryview
BODY_BYTES_MAX = 1 << 30
HEADER_BYTES_MAX = 64 << 10


class TransportError(ConnectionError):
    """Report a server that could not be reached or did not answer in HTTP; the message names it and the remedy.

    `is_unsent`: the server cannot have run the request, since it never got all of it; sending it again runs it once.
    """

    def __init__(self, message: str, *, is_unsent: bool = False) -> None:
        super().__init__(message)
        self.is_unsent = is_unsent


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext | None = None) -> Address:
        """Return the address in a URL such as `http://127.0.0.1:8000`; raise ValueError for any other kind of text.

        `tls` replaces the system's certificates for https.
        """
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or port == -1
            or parts.path.strip("/")
            or parts.query
        ):
            raise ValueError(f"{url!r} is no server's address; write for example http://127.0.0.1:8000")
        if parts.scheme == "https" and tls is None:
            tls = ssl.create_default_context()
        return cls(parts.hostname, port or (443 if tls else 80), tls if parts.scheme == "https" else None)

    def __str__(self) -> str:
        """Return host and port as a URL writes them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(slots=True)
class Response:
    """A whole response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes | bytearray


def write_head(
    method: str, path: str, host: str, body_bytes: int, content_type: str = "", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return the head of a request; raise ValueError for a header that would break out of its line."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}"]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    if body_bytes or method == "POST":
        lines.append(f"Content-Length: {body_bytes}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a header's name or value, or the path, holds a line break; take it out")
    return text.encode("latin-1") + b"\r\n\r\n"


class ResponseReader:
    """Read the responses of one connection; also the callback object of llhttp's parser.

    `feed` returns True once the response is whole; take it with `take`. Interim responses (1xx) are passed over. Raises
    TransportError for what is not HTTP, for more than one response to a request, or for more than the limits.
    """

    __slots__ = (
        "_body",
        "_has_head",
        "_header_bytes",
        "_headers",
        "_is_complete",
        "_is_excessive",
        "_parser",
        "_unfinished_bytes",
        "has_begun",
        "keeps_alive",
        "response_count",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.keeps_alive = True
        self.response_count = 0
        self._reset()

    def _reset(self) -> None:
        self._headers: dict[str, str] = {}
        self._body: bytes | bytearray = b""
        self._header_bytes = 0
        self._unfinished_bytes = 0
        self._has_head = False
        self._is_complete = False
        self._is_excessive = False
        self.has_begun = False

    def feed(self, data: Buffer) -> bool:
        """Take bytes; return whether the response is whole."""
        self.has_begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise TransportError(f"the answer is not HTTP/1.1 ({error}); is this a Symphony server's port?") from None
        if self._is_excessive:
            raise TransportError("the server sent more than one answer to a request; is this a Symphony server's port?")
        if len(self._body) > BODY_BYTES_MAX:
            raise TransportError(f"the answer is larger than {BODY_BYTES_MAX} bytes; ask for fewer outputs or rows")
        if not self._has_head:
            self._unfinished_bytes += len(data)
        if max(self._header_bytes, self._unfinished_bytes) > HEADER_BYTES_MAX:
            raise TransportError(
                f"the answer has more than {HEADER_BYTES_MAX} bytes of headers; is this a Symphony server's port?"
            )
        return self._is_complete

    def take(self) -> Response:
        """Return the whole response and make ready for the next."""
        response = Response(self._parser.get_status_code(), self._headers, self._body)
        self.response_count += 1
        self._reset()
        return response

    def on_message_begin(self) -> None:
        """Note the beginning of a response."""
        if self._is_complete:
            self._is_excessive = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header from the parser."""
        self._header_bytes += len(name) + len(value)
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Note the end of the headers."""
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body from the parser."""
        if not self._body:
            self._body = body
            return
        if not isinstance(self._body, bytearray):
            self._body = bytearray(self._body)
        self._body += body

    def on_message_complete(self) -> None:
        """Note the end of a response; an interim one is forgotten."""
        if self._parser.get_status_code() < 200:
            self._headers = {}
            self._has_head = False
        else:
            self._is_complete = True
            self.keeps_alive = self._parser.should_keep_alive()  # known only here: the parser forgets it


def join(head: bytes, parts: Sequence[Buffer]) -> bytes:
    """Return a request's head and body as one write."""
    return b"".join((head, *parts))


OnResponse = Callable[["Response | None", "Exception | None"], None]


def cannot_connect(address: Address, error: OSError) -> TransportError:
    """Return the error for a connection that could not be opened: what failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return TransportError(
            f"the certificate of {address} is not trusted: {error.verify_message}; "
            "pass tls=ssl.create_default_context(cafile=...)",
            is_unsent=True,
        )
    if isinstance(error, ssl.SSLError):
        return TransportError(f"no TLS with {address}: {error.reason}; is https right for this port?", is_unsent=True)
    return TransportError(
        f"cannot connect to {address}: {error.strerror or error}; is the server up and the port right?", is_unsent=True
    )
