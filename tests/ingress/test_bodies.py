import gzip
import tracemalloc
import zlib

import pytest

from symphony.errors import Reason, SymphonyError
from symphony.ingress.bodies import inflate

PLAIN = b'{"inputs": []}' * 100


@pytest.mark.parametrize(("encoding", "packed"), [("gzip", gzip.compress(PLAIN)), ("deflate", zlib.compress(PLAIN))])
async def test_known_encodings_are_undone(encoding, packed):
    assert await inflate(packed, encoding, len(PLAIN)) == PLAIN


async def test_large_bodies_are_inflated_too():
    plain = bytes(range(256)) * 4_096
    packed = zlib.compress(plain, 0)
    assert len(packed) > 1_000_000
    assert await inflate(packed, "deflate", len(plain)) == plain


async def test_one_byte_above_the_limit_is_too_large():
    with pytest.raises(SymphonyError, match="inflates to more than 1399 bytes") as caught:
        await inflate(gzip.compress(PLAIN), "gzip", len(PLAIN) - 1)
    assert caught.value.reason is Reason.TOO_LARGE


async def test_bomb_is_refused_without_inflating_it():
    packed = zlib.compress(bytes(200 << 20), 9)
    tracemalloc.start()
    try:
        with pytest.raises(SymphonyError) as caught:
            await inflate(packed, "deflate", 1 << 20)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.reason is Reason.TOO_LARGE
    assert peak_bytes < 8 << 20


@pytest.mark.parametrize(
    ("encoding", "packed", "message"),
    [
        ("br", b"anything", "Content-Encoding 'br' is not known; use gzip, deflate or none"),
        ("gzip", b"anything", "not valid gzip"),
        ("gzip", gzip.compress(PLAIN)[:-9], "breaks off"),
        ("gzip", b"", "breaks off"),
        ("deflate", zlib.compress(PLAIN) + b"more", "4 bytes after its end"),
    ],
)
async def test_what_cannot_be_inflated_is_bad_input(encoding, packed, message):
    with pytest.raises(SymphonyError, match=message) as caught:
        await inflate(packed, encoding, 1 << 20)
    assert caught.value.reason is Reason.BAD_INPUT
