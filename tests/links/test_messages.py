"""Messages: put together as they were cut, several at a time, within the limits, else FrameError."""

from __future__ import annotations

import os
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symphony.links.faults import FrameError
from symphony.links.frames import SMALL_BYTES_MAX, FrameDecoder, FrameEncoder, Kind
from symphony.links.limits import KIB, METADATA_BYTES_MAX, MIB, SEGMENT_COUNT_MAX, LinkLimits
from symphony.links.messages import ALIGNMENT, HEAD, Assembler, Message, OutgoingMessage, Role, raw_view
from symphony.units import NEVER_NS

EXAMPLE_COUNT = int(os.environ.get("SYMPHONY_EXAMPLES", "100"))
LIMITS = LinkLimits(message_bytes_max=MIB, assembly_bytes_max=2 * MIB, stream_count_max=3)


def receive(assembler: Assembler, stream: int, outgoing: OutgoingMessage, chunk_bytes: int = 100_000) -> Message | None:
    message = None
    while not outgoing.is_finished:
        kind, parts = outgoing.next_frame(chunk_bytes)
        payload = memoryview(b"".join(parts))
        if kind is Kind.OPEN:
            message = assembler.open(stream, payload)
        else:
            assembler.place(stream, len(payload))[:] = payload
            message = assembler.chunk(stream, len(payload))
    return message


def head(role=0, zero=0, count=0, metadata=b"\x80", call=0, body_bytes=0, sizes=(), metadata_bytes=None) -> memoryview:
    length = len(metadata) if metadata_bytes is None else metadata_bytes
    fixed = HEAD.pack(role, zero, count, length, call, body_bytes, NEVER_NS)
    return memoryview(fixed + struct.pack(f"<{len(sizes)}Q", *sizes) + metadata)


sizes = st.lists(
    st.one_of(st.integers(0, 200), st.sampled_from([SMALL_BYTES_MAX - 200, SMALL_BYTES_MAX, 70_000])), max_size=8
)


@settings(max_examples=EXAMPLE_COUNT, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Role)), sizes), min_size=1, max_size=3),
    st.integers(1_000, 130_000),
    st.data(),
)
def test_messages_arrive_as_sent_in_any_turns(sent, chunk_bytes, data) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    segments = {n + 1: [rng.bytes(size) for size in sizes] for n, (_, sizes) in enumerate(sent)}
    outgoing = {
        n + 1: OutgoingMessage(role, {"n": n + 1}, segments[n + 1], LIMITS, call=77, deadline_ns=-5)
        for n, (role, _) in enumerate(sent)
    }
    encoder, assembler = FrameEncoder(), Assembler(LIMITS)
    decoder = FrameDecoder(256 * KIB, assembler.place)
    got: dict[int, Message] = {}
    while outgoing:
        stream = data.draw(st.sampled_from(sorted(outgoing)))
        kind, parts = outgoing[stream].next_frame(chunk_bytes)
        if outgoing[stream].is_finished:
            del outgoing[stream]
        text = b"".join(encoder.encode(kind, stream, parts))
        middle = data.draw(st.integers(0, len(text)))
        for frame in (*decoder.feed(text[:middle]), *decoder.feed(text[middle:])):
            if frame.kind is Kind.OPEN:
                message = assembler.open(frame.stream, frame.payload)
            else:
                message = assembler.chunk(frame.stream, len(frame.payload))
            if message is not None:
                got[frame.stream] = message
    assert assembler.count == assembler.bytes == 0
    assert sorted(got) == sorted(segments)
    for n, message in got.items():
        role = sent[n - 1][0]
        assert (message.role, message.metadata, message.deadline_ns) == (role, {"n": n}, -5)
        assert message.call == (n if role is Role.CALL else 77)
        assert [bytes(segment) for segment in message.segments] == segments[n]
        for segment in message.segments:
            assert not len(segment) or np.frombuffer(segment, np.uint8).ctypes.data % ALIGNMENT == 0
            assert segment.readonly


def test_tensors_are_referred_to_not_copied() -> None:
    tensor = np.arange(100_000, dtype="<f4")
    outgoing = OutgoingMessage(Role.POST, {}, [tensor], LIMITS)
    outgoing.next_frame(100_000)
    _, parts = outgoing.next_frame(100_000)
    assert [len(part) for part in parts] == [100_000]
    assert np.shares_memory(np.frombuffer(parts[0], np.uint8), tensor)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3), "<f4"), np.array(3.5, "<f2"), np.ones((2, 3), "<i8"), np.zeros(3, [("a", "<u4"), ("b", "u1")])],
    ids=["empty", "scalar", "matrix", "records"],
)
def test_array_is_sent_as_its_raw_bytes(array) -> None:
    assert bytes(raw_view(array)) == array.tobytes()


@pytest.mark.parametrize("segment", [np.ones((4, 4))[:, ::2], np.array([b"x"], object), memoryview(b"abcd")[::2]])
def test_segment_that_is_not_raw_and_contiguous_is_refused(segment) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        raw_view(segment)


def test_message_is_taken_at_each_limit_and_refused_above_it() -> None:
    def take(count: int = 1, size: int = 0, metadata: int = 1) -> None:
        outgoing = OutgoingMessage(Role.POST, {"m": b"x" * (metadata - 6)}, [b"x" * size] * count, LIMITS)
        assert receive(Assembler(LIMITS), 1, outgoing) is not None

    take(metadata=METADATA_BYTES_MAX, count=SEGMENT_COUNT_MAX)
    take(size=LIMITS.message_bytes_max)
    with pytest.raises(ValueError, match=f"{METADATA_BYTES_MAX + 1} bytes, allowed are {METADATA_BYTES_MAX}"):
        take(metadata=METADATA_BYTES_MAX + 1)
    with pytest.raises(ValueError, match="4097 segments"):
        take(count=SEGMENT_COUNT_MAX + 1)
    with pytest.raises(ValueError, match="message_bytes_max"):
        take(size=LIMITS.message_bytes_max + 1)


def test_streams_and_their_bytes_are_limited() -> None:
    def opened(assembler: Assembler, *sizes: int) -> None:
        for stream, size in enumerate(sizes):
            _, parts = OutgoingMessage(Role.POST, {}, [bytes(size)], LIMITS).next_frame(1)
            assembler.open(stream, memoryview(b"".join(parts)))

    opened(assembler := Assembler(LIMITS), 20_000, 20_000, 20_000)
    assert (assembler.count, assembler.bytes) == (3, 60_000)
    with pytest.raises(FrameError, match="stream_count_max"):
        opened(Assembler(LIMITS), 20_000, 20_000, 20_000, 20_000)
    opened(Assembler(LIMITS), MIB, MIB)
    with pytest.raises(FrameError, match="assembly_bytes_max"):
        opened(Assembler(LIMITS), MIB, MIB, 20_000)


def test_message_given_up_is_forgotten() -> None:
    assembler = Assembler(LIMITS)
    _, parts = OutgoingMessage(Role.POST, {}, [bytes(50_000)], LIMITS).next_frame(1)
    assembler.open(4, memoryview(b"".join(parts)))
    assembler.place(4, 1_000)
    assembler.chunk(4, 1_000)
    assembler.abort(4)
    assert (assembler.count, assembler.bytes) == (0, 0)
    with pytest.raises(FrameError, match="not open"):
        assembler.place(4, 1_000)


BAD_OPENS = {
    "empty": memoryview(b""),
    "short": head()[: HEAD.size - 1],
    "unknown role": head(role=9),
    "padding": head(zero=1),
    "too many segments": head(count=SEGMENT_COUNT_MAX + 1),
    "metadata above the limit": head(metadata_bytes=METADATA_BYTES_MAX + 1),
    "body above the limit": head(count=1, body_bytes=1 << 40, sizes=[1 << 40]),
    "sizes missing": head(count=2, body_bytes=8, sizes=[8], metadata=b""),
    "metadata missing": head(metadata_bytes=5),
    "sizes that do not add up": head(count=2, body_bytes=65, sizes=[1, 2]),
    "sizes beyond 64 bits": head(count=2, body_bytes=0, sizes=[2**64 - 1, 1]),
    "no msgpack": head(metadata=b"\xc1"),
    "msgpack and more": head(metadata=b"\x80\x80"),
    "a list": head(metadata=b"\x90"),
    "a number as key": head(metadata=msgpack.packb({1: 2})),
    "a bomb": head(metadata=b"\x91" * 60_000),
    "a huge list announced": head(metadata=b"\x81\xa1a\xdd\xff\xff\xff\xff"),
    "a part of the body": memoryview(bytes(head(count=1, body_bytes=10, sizes=[10])) + b"12345"),
    "more than the body": memoryview(bytes(head(count=1, body_bytes=2, sizes=[2])) + b"12345"),
}


@pytest.mark.parametrize("payload", BAD_OPENS.values(), ids=BAD_OPENS.keys())
def test_open_that_lies_is_refused(payload) -> None:
    with pytest.raises(FrameError, match="stream 1"):
        Assembler(LIMITS).open(1, payload)


def test_chunk_out_of_place_is_refused() -> None:
    assembler = Assembler(LIMITS)
    _, parts = OutgoingMessage(Role.POST, {}, [bytes(50_000)], LIMITS).next_frame(1)
    assembler.open(1, memoryview(b"".join(parts)))
    for stream, count in ((2, 10), (1, 50_001), (1, 0)):
        with pytest.raises(FrameError):
            assembler.place(stream, count)
    with pytest.raises(FrameError, match="while it is open"):
        assembler.open(1, memoryview(b"".join(parts)))
    with pytest.raises(FrameError, match="not open"):
        assembler.abort(2)


@settings(max_examples=EXAMPLE_COUNT, deadline=None)
@given(st.binary(max_size=120), st.data())
def test_random_or_spoilt_open_is_a_message_or_refused(text, data) -> None:
    good = bytearray(head(count=2, body_bytes=66, sizes=[1, 2], metadata=msgpack.packb({"a": [1, "b", None]})))
    good += bytes(66)
    index = data.draw(st.integers(0, len(good) - 1))
    good[index] = data.draw(st.integers(0, 255))
    for payload in (text, bytes(good)):
        assembler = Assembler(LIMITS)
        try:
            message = assembler.open(1, memoryview(payload))
        except FrameError:
            continue
        assert message is not None or assembler.bytes <= LIMITS.message_bytes_max


@pytest.mark.parametrize(
    ("key", "value"),
    [("frame_bytes_max", 1000), ("stream_count_max", 0), ("call_count_max", 1 << 32), ("assembly_bytes_max", MIB)],
)
def test_limits_under_which_nothing_could_be_sent_are_refused(key, value) -> None:
    with pytest.raises(ValueError, match=key):
        LinkLimits(**{key: value})
