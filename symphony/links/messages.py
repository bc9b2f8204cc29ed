"""Cut messages (metadata and tensors) into frames and put them together again, several at a time.

A message is a map in msgpack and up to SEGMENT_COUNT_MAX raw segments. Its first frame (OPEN) brings the map and the
segments' sizes, and the segments themselves if they are small; CHUNKs bring the rest. Segments lie at 64-byte
boundaries of one body, which the receiver allocates once and into which the kernel writes. Nothing is joined to be
sent, nothing copied when received, small messages aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from struct import Struct
from typing import Any, Final

import msgpack
import numpy as np

from symphony.links.faults import FrameError
from symphony.links.frames import SMALL_BYTES_MAX, Buffer, Kind
from symphony.links.limits import METADATA_BYTES_MAX, SEGMENT_COUNT_MAX, LinkLimits
from symphony.units import NEVER_NS

HEAD: Final = Struct("<BBHIQQq")
"""role, zero, segments, metadata bytes, call, body bytes, deadline; then sizes of segments (u64), metadata, body."""
ALIGNMENT: Final = 64
PART_COUNT_MAX: Final = 64
"""A frame of more pieces than this is joined: a copy of small pieces is cheaper than a long list of them."""
_ZEROS: Final = bytes(ALIGNMENT)


class Role(IntEnum):
    """Say what a message is for."""

    POST = 0
    CALL = 1
    REPLY = 2
    ERROR = 3


_ROLES: Final = {int(role): role for role in Role}


@dataclass(frozen=True, slots=True)
class Message:
    """One message as received. `segments` are read-only views of one body, each at a 64-byte boundary.

    `call` is the number that a reply answers; of a call it is the one to answer. `deadline_ns` is an instant on the
    sender's clock, NEVER_NS when there is none.
    """

    role: Role
    metadata: Mapping[str, Any]
    segments: tuple[memoryview, ...] = ()
    call: int = 0
    deadline_ns: int = NEVER_NS


def raw_view(segment: Any) -> memoryview:
    """Return the bytes of a contiguous buffer (a numpy array, bytes) without copying; raise ValueError for others."""
    if isinstance(segment, np.ndarray):
        if not segment.flags.c_contiguous or segment.dtype.hasobject:
            raise ValueError(f"a segment of {segment.dtype} is not contiguous raw data: send np.ascontiguousarray(it)")
        segment = segment.reshape(-1).view(np.uint8) if segment.size else b""
    view = memoryview(segment)
    if not view.c_contiguous:
        raise ValueError("a segment is not contiguous: send a copy of it")
    return view.cast("B") if view.nbytes else memoryview(b"")


class OutgoingMessage:
    """A message on its way out: `next_frame` returns its frames one after the other, the last when `is_finished`.

    The segments are referred to, not copied: they must not change until the frames have been written.
    Raise ValueError for one that is too large for the receiver (`limits` are the receiver's).
    """

    __slots__ = ("_at", "_head", "_parts", "body_bytes", "is_finished", "is_opened")

    def __init__(
        self,
        role: Role,
        metadata: Mapping[str, Any],
        segments: Iterable[Any],
        limits: LinkLimits,
        call: int = 0,
        deadline_ns: int = NEVER_NS,
    ) -> None:
        packed = msgpack.packb(metadata)
        views = [raw_view(segment) for segment in segments]
        if len(packed) > METADATA_BYTES_MAX:
            raise ValueError(f"the metadata of a message has {len(packed)} bytes, allowed are {METADATA_BYTES_MAX}")
        if len(views) > SEGMENT_COUNT_MAX:
            raise ValueError(
                f"a message of {len(views)} segments, allowed are {SEGMENT_COUNT_MAX}; send several messages"
            )
        self._parts: list[Buffer] = []
        size = 0
        for view in views:
            if pad := -size % ALIGNMENT:
                self._parts.append(_ZEROS[:pad])
            if view:
                self._parts.append(view)
            size += pad + len(view)
        if size > limits.message_bytes_max:
            raise ValueError(
                f"a message of {size} bytes, the receiver takes {limits.message_bytes_max} (message_bytes_max); "
                f"send several messages, or raise it there"
            )
        self.body_bytes = size
        self._head = b"".join(
            (
                HEAD.pack(role, 0, len(views), len(packed), call, size, deadline_ns),
                Struct(f"<{len(views)}Q").pack(*map(len, views)),
                packed,
            )
        )
        self._at = 0
        self.is_opened = False
        self.is_finished = False

    @property
    def is_small(self) -> bool:
        """Return whether the whole message is one small frame."""
        return len(self._head) + self.body_bytes <= SMALL_BYTES_MAX

    def next_frame(self, chunk_bytes: int) -> tuple[Kind, list[Buffer]]:
        """Return the next frame's kind and the parts of its payload, of about `chunk_bytes` at most in a CHUNK."""
        if not self.is_opened:
            self.is_opened = True
            if self.is_small:
                self.is_finished = True
                return Kind.OPEN, [b"".join((self._head, *self._parts))]
            self.is_finished = self.body_bytes == 0
            return Kind.OPEN, [self._head]
        parts = self._take(chunk_bytes)
        self.is_finished = not self._parts
        return Kind.CHUNK, parts

    def _take(self, count: int) -> list[Buffer]:
        taken: list[Buffer] = []
        used = 0
        parts = self._parts
        while used < len(parts) and count:
            part = memoryview(parts[used])[self._at :]
            if len(part) > count:
                taken.append(part[:count])
                self._at += count
                break
            taken.append(part)
            count -= len(part)
            self._at = 0
            used += 1
        del parts[:used]
        return taken if len(taken) <= PART_COUNT_MAX else [b"".join(taken)]


class _Assembly:
    """A message of which the rest is to come. `body` is None when nobody wants it."""

    __slots__ = ("body", "body_bytes", "filled", "message", "sizes")

    def __init__(self, message: Message, sizes: tuple[int, ...], body: memoryview, body_bytes: int) -> None:
        self.message = message
        self.sizes = sizes
        self.body = body
        self.body_bytes = body_bytes
        self.filled = 0


class Assembler:
    """Put together what a peer sends, within `limits`, which the peer knows."""

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self._assemblies: dict[int, _Assembly] = {}
        self.bytes = 0
        """Of all messages that have begun and are not whole."""

    @property
    def count(self) -> int:
        """Return how many messages have begun and are not whole."""
        return len(self._assemblies)

    def open(self, stream: int, payload: memoryview) -> Message | None:
        """Take an OPEN; return the message if that is all of it. Raise FrameError for one that lies or is too large."""
        if stream in self._assemblies:
            raise FrameError(f"stream {stream} is opened while it is open")
        message, sizes, body_bytes, inline = self._read_head(stream, payload)
        if len(inline) == body_bytes and body_bytes <= SMALL_BYTES_MAX:
            return _cut(message, sizes, _aligned_copy(inline))
        if inline:
            raise FrameError(f"stream {stream} opens with {len(inline)} of {body_bytes} bytes: expected all or none")
        limits = self._limits
        if len(self._assemblies) >= limits.stream_count_max or self.bytes + body_bytes > limits.assembly_bytes_max:
            raise FrameError(
                f"stream {stream} of {body_bytes} bytes is one too many: {len(self._assemblies)} others of "
                f"{self.bytes} bytes are open, allowed are {limits.stream_count_max} (stream_count_max) of "
                f"{limits.assembly_bytes_max} bytes together (assembly_bytes_max)"
            )
        self._assemblies[stream] = _Assembly(message, sizes, _aligned(body_bytes), body_bytes)
        self.bytes += body_bytes
        return None

    def place(self, stream: int, count: int) -> memoryview:
        """Return where the next `count` bytes of a stream belong. Raise FrameError if there is no such place."""
        assembly = self._assemblies.get(stream)
        if assembly is None:
            raise FrameError(f"a chunk of stream {stream}, which is not open")
        end = assembly.filled + count
        if end > assembly.body_bytes or not count:
            raise FrameError(
                f"a chunk of {count} bytes for stream {stream}, which wants {assembly.body_bytes - assembly.filled}"
            )
        return assembly.body[assembly.filled : end]

    def chunk(self, stream: int, count: int) -> Message | None:
        """Take note that `count` bytes are in the place given; return the message if it is whole with them."""
        assembly = self._assemblies[stream]
        assembly.filled += count
        if assembly.filled < assembly.body_bytes:
            return None
        self._forget(stream)
        return _cut(assembly.message, assembly.sizes, assembly.body)

    def abort(self, stream: int) -> None:
        """Forget a message that its sender gave up. Raise FrameError if it is not open."""
        if stream not in self._assemblies:
            raise FrameError(f"stream {stream} is given up, but is not open")
        self._forget(stream)

    def _forget(self, stream: int) -> None:
        self.bytes -= self._assemblies.pop(stream).body_bytes

    def _read_head(self, stream: int, payload: memoryview) -> tuple[Message, tuple[int, ...], int, memoryview]:
        if len(payload) < HEAD.size:
            raise FrameError(f"stream {stream} opens with {len(payload)} bytes, expected {HEAD.size} or more")
        code, zero, count, metadata_bytes, call, body_bytes, deadline_ns = HEAD.unpack_from(payload)
        role = _ROLES.get(code)
        if role is None or zero:
            raise FrameError(f"stream {stream} opens a message of role {code}, known are 0 to {max(_ROLES)}")
        if count > SEGMENT_COUNT_MAX or metadata_bytes > METADATA_BYTES_MAX:
            raise FrameError(
                f"stream {stream} announces {count} segments and {metadata_bytes} bytes of metadata, allowed are "
                f"{SEGMENT_COUNT_MAX} and {METADATA_BYTES_MAX}"
            )
        if body_bytes > self._limits.message_bytes_max:
            raise FrameError(
                f"stream {stream} announces {body_bytes} bytes, allowed are {self._limits.message_bytes_max} "
                f"(message_bytes_max)"
            )
        metadata_at = HEAD.size + 8 * count
        body_at = metadata_at + metadata_bytes
        if body_at > len(payload):
            raise FrameError(f"stream {stream} opens with {len(payload)} bytes, its head needs {body_at}")
        sizes = Struct(f"<{count}Q").unpack_from(payload, HEAD.size)
        if body_bytes != _body_bytes(sizes):
            raise FrameError(f"stream {stream} announces {body_bytes} bytes, its segments take {_body_bytes(sizes)}")
        metadata = _read_metadata(stream, payload[metadata_at:body_at])
        if role is Role.CALL:
            call = stream
        return Message(role, metadata, (), call, deadline_ns), sizes, body_bytes, payload[body_at:]


def _read_metadata(stream: int, packed: memoryview) -> Mapping[str, Any]:
    try:
        metadata = msgpack.unpackb(packed)
    except Exception as error:  # the library has many; each means that the text is at fault
        raise FrameError(
            f"the metadata of stream {stream} is not valid msgpack: {error or type(error).__name__}"
        ) from None
    if type(metadata) is not dict:
        raise FrameError(f"the metadata of stream {stream} is of type {type(metadata).__name__}, expected a map")
    return metadata


def _body_bytes(sizes: Iterable[int]) -> int:
    end = 0
    for size in sizes:
        end += -end % ALIGNMENT + size
    return end


def _aligned(count: int) -> memoryview:
    """Return `count` bytes of fresh memory at a 64-byte boundary, not cleared: each is written before it is read."""
    block = np.empty(count + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return memoryview(block.data)[start : start + count]


def _aligned_copy(raw: memoryview) -> memoryview:
    if not raw:
        return raw
    body = _aligned(len(raw))
    body[:] = raw
    return body


def _cut(message: Message, sizes: tuple[int, ...], body: memoryview) -> Message:
    if not sizes:
        return message
    body = body.toreadonly()
    starts = [0]
    for size in sizes:
        end = starts[-1] + size
        starts.append(end + -end % ALIGNMENT)
    segments = tuple(body[start : start + size] for (start, _), size in zip(pairwise(starts), sizes, strict=True))
    return Message(message.role, message.metadata, segments, message.call, message.deadline_ns)
