"""Read request bodies within limits of size, time and expansion."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from aiohttp import ClientPayloadError, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from symphony.errors import Reason, SymphonyError

_INFLATE_HERE_BYTES_MAX: Final = 256 * 1024
"""Bodies that inflate to no more are inflated on the asyncio thread, at once; others in a thread of their own, one by
one: a bomb of 16 KB keeps a thread busy for longer than an SLO, and many of them all the cores there are."""
_INFLATE_STEP_BYTES: Final = 1 << 18
"""What is inflated at once: the interpreter stands still while such a piece is copied."""
_REST_FACTOR: Final = 4.0
"""How long the thread rests after a bomb, relative to what it took: many keep a fifth of a core busy, no more. A
lower priority would not do: the event loop would wait for a thread that holds the interpreter and is not run.
"""
_inflating = ThreadPoolExecutor(1, "inflate")
_DEFLATE_ALONE_BYTES_MAX: Final = 4 * 1024
"""Replies up to this size are compressed on the asyncio thread, larger ones in another."""
_CODINGS: Final = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_REFUSED: Final = re.compile(r"(?:^|;)\s*q\s*=\s*0(?:\.0*)?\s*(?:;|$)", re.IGNORECASE)
_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


async def read_body(request: web.Request, bytes_max: int, timeout_s: float) -> bytes:
    """Return the whole body as sent, without joining when it came in one piece.

    Raises SymphonyError: `too_large` above `bytes_max`, as soon as that is known; `bad_input` when the body breaks
    off, is not valid chunked coding or is not whole after `timeout_s` seconds.
    """
    declared = request.content_length
    if declared is not None and declared > bytes_max:
        raise too_large(declared, bytes_max)
    stream = request.content
    try:
        if stream.is_eof():
            return await _read(stream, bytes_max)
        async with asyncio.timeout(timeout_s):
            return await _read(stream, bytes_max)
    except TimeoutError:
        raise too_slow(timeout_s) from None
    except (HttpProcessingError, ClientPayloadError, web.RequestPayloadError) as error:
        raise SymphonyError(Reason.BAD_INPUT, f"the body cannot be read: {error}") from None


def too_slow(timeout_s: float) -> SymphonyError:
    """Return the error for a body that did not come within its time."""
    return SymphonyError(
        Reason.BAD_INPUT, f"the body was not whole after {timeout_s:g} s (body_timeout_s); send it faster"
    )


async def _read(stream: StreamReader, bytes_max: int) -> bytes:
    chunks = []
    size = 0
    while chunk := await stream.readany():
        chunks.append(chunk)
        size += len(chunk)
        if size > bytes_max:
            raise too_large(size, bytes_max)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def inflate(body: bytes | bytearray, encoding: str, bytes_max: int) -> bytes | bytearray:
    """Return the body without its `Content-Encoding` (gzip, or deflate in zlib's wrapping).

    Raises SymphonyError: `too_large` when it inflates to more than `bytes_max`; `bad_input` for another encoding, or
    data that are not whole and valid.
    """
    if len(body) <= _INFLATE_HERE_BYTES_MAX:
        here_bytes_max = min(bytes_max, _INFLATE_HERE_BYTES_MAX)
        try:
            return _inflate(body, encoding, here_bytes_max)
        except SymphonyError as error:
            if error.reason is not Reason.TOO_LARGE or here_bytes_max == bytes_max:
                raise
    return await asyncio.get_running_loop().run_in_executor(_inflating, _inflate_there, body, encoding, bytes_max)


def _inflate_there(body: bytes | bytearray, encoding: str, bytes_max: int) -> bytearray:
    began_s = time.monotonic()
    try:
        return _inflate(body, encoding, bytes_max)
    except SymphonyError as error:
        if error.reason is Reason.TOO_LARGE:
            time.sleep(_REST_FACTOR * (time.monotonic() - began_s))
        raise


def _inflate(body: bytes | bytearray, encoding: str, bytes_max: int) -> bytearray:
    window_bits = _WINDOW_BITS.get(encoding)
    if window_bits is None:
        raise SymphonyError(
            Reason.BAD_INPUT, f"Content-Encoding {encoding[:32]!r} is not known; use gzip, deflate or none"
        )
    inflator = zlib.decompressobj(window_bits)
    plain = bytearray()
    try:
        piece, rest = b"x", bytes(body)
        while piece and len(plain) <= bytes_max:
            piece = inflator.decompress(rest, min(_INFLATE_STEP_BYTES, bytes_max + 1 - len(plain)))
            rest = inflator.unconsumed_tail
            plain += piece
    except zlib.error as error:
        raise SymphonyError(Reason.BAD_INPUT, f"the body is not valid {encoding}: {error}") from None
    if len(plain) > bytes_max:
        plain.clear()  # the error keeps this frame alive for a while
        raise SymphonyError(
            Reason.TOO_LARGE,
            f"the body inflates to more than {bytes_max} bytes (body_bytes_max); send fewer rows in a call",
        )
    if not inflator.eof:
        raise SymphonyError(Reason.BAD_INPUT, f"the {encoding} body breaks off after {len(body)} bytes; send all of it")
    if inflator.unused_data:
        raise SymphonyError(
            Reason.BAD_INPUT, f"the {encoding} body has {len(inflator.unused_data)} bytes after its end; leave them out"
        )
    return plain


def reply_coding(accept_encoding: str) -> str | None:
    """Return "gzip" or "deflate" when `Accept-Encoding` names that one alone, None otherwise.

    Libraries name all that they can read with every request; compressing for those would cost time that nobody asked
    for. Who wants it says so.
    """
    wanted = None
    for item in accept_encoding.split(","):
        coding, _, parameters = item.partition(";")
        coding = coding.strip().lower()
        if coding in ("", "identity"):
            continue
        if coding not in _CODINGS or wanted is not None or _REFUSED.search(parameters):
            return None
        wanted = _CODINGS[coding]
    return wanted


async def deflate(body: bytes, coding: str) -> bytes:
    """Return the body in a coding of `reply_coding`: at zlib's fastest level, in another thread unless it is small."""
    if len(body) <= _DEFLATE_ALONE_BYTES_MAX:
        return _deflate(body, coding)
    return await asyncio.to_thread(_deflate, body, coding)


def _deflate(body: bytes, coding: str) -> bytes:
    deflator = zlib.compressobj(level=1, wbits=_WINDOW_BITS[coding])
    return deflator.compress(body) + deflator.flush()


def too_large(size: int, bytes_max: int) -> SymphonyError:
    """Return the error for a body of `size` bytes or more."""
    return SymphonyError(
        Reason.TOO_LARGE,
        f"the body has {size} bytes or more, allowed are {bytes_max} (body_bytes_max); "
        "send fewer rows in a call, or raise the limit",
    )
