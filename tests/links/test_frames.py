"""Frames: laid out as documented, whole or byte by byte the same, and nothing but FrameError for anything else."""

from __future__ import annotations

import os
import struct
import tracemalloc
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.links.faults import FrameError
from symphony.links.frames import (
    HEADER_BYTES,
    SCRATCH_BYTES,
    SMALL_BYTES_MAX,
    Buffer,
    Frame,
    FrameDecoder,
    FrameEncoder,
    Kind,
)

PAYLOAD_BYTES_MAX = 256 * 1024
EXAMPLE_COUNT = int(os.environ.get("SYMPHONY_EXAMPLES", "200"))

small_frames = st.tuples(
    st.sampled_from([kind for kind in Kind if kind is not Kind.CHUNK]),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=80),
)
large_frames = st.builds(
    lambda kind, stream, size, seed: (kind, stream, np.random.default_rng(seed).bytes(size)),
    st.sampled_from([Kind.CHUNK, Kind.OPEN]),
    st.integers(0, 2**64 - 1),
    st.sampled_from([1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1, SCRATCH_BYTES, PAYLOAD_BYTES_MAX]),
    st.integers(0, 99),
)


def encode(frames: list[tuple[Kind, int, bytes]], is_checked: bool = True) -> bytes:
    encoder = FrameEncoder(is_checked)
    return b"".join(part for kind, stream, payload in frames for part in encoder.encode(kind, stream, [payload]))


def new_decoder(is_checked: bool = True) -> FrameDecoder:
    return FrameDecoder(PAYLOAD_BYTES_MAX, lambda stream, count: None, is_checked)


def plain(frames: list[Frame]) -> list[tuple[Kind, int, bytes]]:
    return [(frame.kind, frame.stream, bytes(frame.payload)) for frame in frames]


def test_frame_is_laid_out_as_documented() -> None:
    encoder = FrameEncoder()
    encoder.encode(Kind.PING, 0, [b""])
    header, payload = encoder.encode(Kind.SUBMIT, 0x0102030405060708, [b"abc"])
    assert payload == b"abc"
    fields = bytes.fromhex("5359 01 20 0100 0000 01000000 03000000 0807060504030201") + struct.pack("<I", crc32(b"abc"))
    assert header == fields + struct.pack("<I", crc32(fields))
    assert len(header) == HEADER_BYTES == 32


def test_encoder_joins_and_copies_nothing() -> None:
    tensor = memoryview(bytearray(1 << 20))
    parts = FrameEncoder().encode(Kind.CHUNK, 1, [tensor[:5], tensor[5:]])
    assert len(parts) == 3
    assert parts[1].obj is tensor.obj  # type: ignore[union-attr]


@settings(max_examples=EXAMPLE_COUNT, deadline=None)
@given(st.lists(st.one_of(small_frames, small_frames, large_frames), max_size=6), st.booleans(), st.data())
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames, is_checked, data) -> None:
    text = encode(frames, is_checked)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    decoder = new_decoder(is_checked)
    got: list[Frame] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        got += decoder.feed(text[start:end])
    assert plain(got) == frames


@settings(max_examples=EXAMPLE_COUNT // 4, deadline=None)
@given(st.lists(small_frames, max_size=6))
def test_frames_come_out_as_they_went_in_byte_by_byte(frames) -> None:
    decoder = new_decoder()
    got: list[Frame] = []
    for byte in encode(frames):
        got += decoder.feed(bytes([byte]))
    assert plain(got) == frames


@settings(max_examples=EXAMPLE_COUNT, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_are_refused_the_same_whole_or_byte_by_byte(text, begins_well) -> None:
    if begins_well:
        text = encode([(Kind.PING, 0, b"")])[:4] + text
    outcomes = []
    for pieces in ([text], [bytes([byte]) for byte in text]):
        decoder = new_decoder()
        got: list[Frame] = []
        try:
            for piece in pieces:
                got += decoder.feed(piece)
            outcomes.append((plain(got), ""))
        except FrameError as error:
            outcomes.append((plain(got), str(error)))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][1] or len(text) < HEADER_BYTES


@settings(max_examples=EXAMPLE_COUNT, deadline=None)
@given(st.lists(small_frames, min_size=1, max_size=4), st.data())
def test_flipped_bit_is_never_delivered(frames, data) -> None:
    text = bytearray(encode(frames))
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    text[bit // 8] ^= 1 << bit % 8
    got: list[Frame] = []
    decoder = new_decoder()
    with pytest.raises(FrameError):
        for byte in text:
            got += decoder.feed(bytes([byte]))
    assert plain(got) == frames[: len(got)]
    assert len(got) < len(frames)


@pytest.mark.parametrize("order", [(0, 0), (0, 2), (1, 0), (0, 1, 1, 2)], ids=str)
def test_frame_lost_repeated_or_moved_is_refused(order) -> None:
    encoder = FrameEncoder()
    frames = [b"".join(encoder.encode(Kind.SUBMIT, n, [b"x" * 24])) for n in range(3)]
    with pytest.raises(FrameError, match="lost, repeated or moved"):
        new_decoder().feed(b"".join(frames[index] for index in order))


def test_frame_is_taken_at_the_limit_and_refused_one_byte_above() -> None:
    for kind in (Kind.OPEN, Kind.CHUNK):
        (frame,) = new_decoder().feed(encode([(kind, 1, bytes(PAYLOAD_BYTES_MAX))]))
        assert len(frame.payload) == PAYLOAD_BYTES_MAX
        with pytest.raises(
            FrameError, match=f"declares {PAYLOAD_BYTES_MAX + 1} bytes, allowed are {PAYLOAD_BYTES_MAX}"
        ):
            new_decoder().feed(encode([(kind, 1, bytes(PAYLOAD_BYTES_MAX + 1))])[:HEADER_BYTES])


def test_gibibyte_declared_is_refused_without_memory() -> None:
    fields = struct.pack("<HBBHHIIQI", 0x5953, 1, Kind.CHUNK, 1, 0, 0, 1 << 30, 1, 0)
    decoder = new_decoder()
    tracemalloc.start()
    with pytest.raises(FrameError, match="1073741824 bytes"):
        decoder.feed(fields + struct.pack("<I", crc32(fields)))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 100_000


def test_payload_without_checksum_is_refused_where_one_is_needed() -> None:
    text = encode([(Kind.SUBMIT, 1, b"x" * 24)], is_checked=False)
    assert len(new_decoder(is_checked=False).feed(text)) == 1
    with pytest.raises(FrameError, match="no CRC-32"):
        new_decoder().feed(text)


def test_chunk_is_received_in_its_place_and_mostly_not_copied() -> None:
    body = bytearray(4 * PAYLOAD_BYTES_MAX)
    filled = 0

    def place(stream: int, count: int) -> memoryview:
        nonlocal filled
        filled += count
        return memoryview(body)[filled - count : filled]

    sent = np.random.default_rng(1).bytes(len(body))
    chunks = [sent[at : at + PAYLOAD_BYTES_MAX] for at in range(0, len(sent), PAYLOAD_BYTES_MAX)]
    rest = memoryview(encode([(Kind.CHUNK, 1, chunk) for chunk in chunks]))
    decoder = FrameDecoder(PAYLOAD_BYTES_MAX, place)
    whole = np.frombuffer(body, np.uint8)
    in_place = 0
    got: list[Buffer] = []
    while rest:
        buffer = decoder.get_buffer()
        count = min(len(buffer), len(rest))
        if np.shares_memory(np.frombuffer(buffer, np.uint8), whole):
            in_place += count
        buffer[:count] = rest[:count]
        decoder.advance(count)
        rest = rest[count:]
        while (frame := decoder.next_frame()) is not None:
            got.append(frame.payload)
    assert bytes(body) == sent
    assert all(np.shares_memory(np.frombuffer(payload, np.uint8), whole) for payload in got)
    assert in_place > 0.9 * len(sent)


def test_kept_payload_does_not_change_when_more_is_received() -> None:
    decoder = new_decoder()
    kept = decoder.feed(encode([(Kind.SUBMIT, n, bytes([n]) * 24) for n in range(50)]))
    for _ in range(100):
        decoder.get_buffer()[:] = b"\xff" * len(decoder.get_buffer())
    assert plain(kept) == [(Kind.SUBMIT, n, bytes([n]) * 24) for n in range(50)]
    with pytest.raises(TypeError):
        kept[0].payload[0] = 1
