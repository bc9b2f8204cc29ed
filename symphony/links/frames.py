"""Cut a byte stream into frames and back: a 32-byte header that guards itself, then a payload (docs/cluster-wire.md).

Sans-I/O: the decoder says where the next received bytes belong, so that the kernel writes large payloads straight to
their place; the encoder returns parts and joins nothing. Both number the frames: one that is lost, repeated, moved or
altered on the way is refused, and so is everything behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from symphony.links.faults import FrameError

MAGIC: Final = 0x5953
"""The bytes "SY"."""
VERSION: Final = 1
HEADER: Final = Struct("<HBBHHIIQI")
"""magic, version, kind, flags, zero, sequence, payload bytes, stream, payload's CRC-32; its own CRC-32 follows."""
CHECK: Final = Struct("<I")
HEADER_BYTES: Final = HEADER.size + CHECK.size
SEQUENCE_COUNT: Final = 1 << 32
SMALL_BYTES_MAX: Final = 16 * 1024
"""Payloads up to this size are received many at a time and copied once; larger ones are received in place."""
SCRATCH_BYTES: Final = 64 * 1024
BULK_READ_BYTES: Final = 4 * 1024
"""What is read at once while payloads in place follow each other: so much of each next one is copied, the rest not."""

Buffer = bytes | bytearray | memoryview


class Kind(IntEnum):
    """Say what a frame is. Numbers are fixed for ever; 0x20 to 0x2f carry records."""

    HELLO = 0x01
    WELCOME = 0x02
    PROOF = 0x03
    READY = 0x04
    CLOSE = 0x05
    PING = 0x10
    PONG = 0x11
    TAKEN = 0x12
    SUBMIT = 0x20
    CANCEL = 0x21
    OUTCOME = 0x22
    BATCH_STARTED = 0x23
    BATCH_FINISHED = 0x24
    OPEN = 0x30
    CHUNK = 0x31
    ABORT = 0x32
    DROP = 0x33


class Flag(IntFlag):
    """Say how a frame is to be read."""

    CHECKED = 1
    """The payload's CRC-32 stands in the header. TLS guards payloads better, so it is left out there."""


_KINDS: Final = {int(kind): kind for kind in Kind}
_CHECKED: Final = int(Flag.CHECKED)
_FLAGS: Final = _CHECKED


class Frame(NamedTuple):
    """One received frame. `payload` shares memory with no other frame, so it may be kept."""

    kind: Kind
    stream: int
    payload: memoryview


Place = Callable[[int, int], memoryview | None]
"""(stream, bytes) -> where the payload of a CHUNK belongs; None when it is to be dropped. May raise FrameError."""


class FrameEncoder:
    """Write the frames of one direction of a connection, in the order in which they are encoded."""

    __slots__ = ("_is_checked", "_sequence")

    def __init__(self, is_checked: bool = True) -> None:
        self._is_checked = is_checked
        self._sequence = 0

    def encode(self, kind: Kind, stream: int, parts: Sequence[Buffer]) -> list[Buffer]:
        """Return the header and the `parts` themselves. The caller keeps to the receiver's limit of a payload."""
        check = length = flags = 0
        for part in parts:
            length += len(part)
        if self._is_checked:
            flags = _CHECKED
            for part in parts:
                check = crc32(part, check)
        header = HEADER.pack(MAGIC, VERSION, kind, flags, 0, self._sequence, length, stream, check)
        self._sequence = (self._sequence + 1) % SEQUENCE_COUNT
        return [header + CHECK.pack(crc32(header)), *parts]


class FrameDecoder:
    """Read the frames of one direction of a connection.

    `get_buffer` is where the next bytes go, `advance` says how many came, `next_frame` returns what is whole. The three
    do not block and, payloads in place aside, take constant memory. After a FrameError the decoder must not be used.

    `payload_bytes_max` may be changed between frames: it is small until the peer has shown who it is.
    """

    __slots__ = (
        "_end",
        "_filled",
        "_head",
        "_is_bulk",
        "_is_checked",
        "_place",
        "_scratch",
        "_sequence",
        "_start",
        "_target",
        "payload_bytes_max",
    )

    def __init__(self, payload_bytes_max: int, place: Place, is_checked: bool = True) -> None:
        """Refuse payloads without a CRC-32 if `is_checked`."""
        self.payload_bytes_max = payload_bytes_max
        self._place = place
        self._is_checked = is_checked
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._start = self._end = 0
        self._sequence = 0
        self._head: tuple[Kind, int, int, int, int] | None = None  # kind, flags, stream, length, CRC-32
        self._target: memoryview | None = None
        self._filled = 0
        self._is_bulk = False

    def get_buffer(self) -> memoryview:
        """Return where the next bytes are to be written; never empty once `next_frame` has returned None."""
        if self._target is not None:
            return self._target[self._filled :]
        if self._start == self._end:
            self._start = self._end = 0
            if self._is_bulk:
                return self._scratch[:BULK_READ_BYTES]
        elif SCRATCH_BYTES - self._start < HEADER_BYTES + SMALL_BYTES_MAX:
            # What is left over is less than one small frame: move it to the front.
            left = self._end - self._start
            self._scratch[:left] = bytes(self._scratch[self._start : self._end])
            self._start, self._end = 0, left
        return self._scratch[self._end :]

    def advance(self, count: int) -> None:
        """Take note that `count` bytes were written to what `get_buffer` returned."""
        if self._target is not None:
            self._filled += count
        else:
            self._end += count

    def next_frame(self) -> Frame | None:
        """Return the next whole frame, None if more bytes are needed. Raise FrameError for anything else."""
        if self._head is None:
            if self._end - self._start < HEADER_BYTES:
                return None
            self._head = self._read_header()
        kind, flags, stream, length, check = self._head
        if self._target is None:
            held = self._end - self._start
            if kind is not Kind.CHUNK and length <= SMALL_BYTES_MAX:
                if held < length:
                    return None
                payload = memoryview(bytes(self._scratch[self._start : self._start + length]))
                self._start += length
                return self._finish(kind, flags, stream, payload, check)
            target = self._place(stream, length) if kind is Kind.CHUNK else None
            if target is None:
                target = memoryview(bytearray(length))
            count = min(held, length)
            target[:count] = self._scratch[self._start : self._start + count]
            self._start += count
            self._target, self._filled = target, count
        if self._filled < length:
            return None
        payload, self._target = self._target, None
        return self._finish(kind, flags, stream, payload, check)

    def feed(self, data: Buffer) -> list[Frame]:
        """Take a copy of `data` and return the frames that are whole with it: for tests and for slow paths."""
        frames = []
        rest = memoryview(data)
        while True:
            while (frame := self.next_frame()) is not None:
                frames.append(frame)
            if not rest:
                return frames
            buffer = self.get_buffer()
            count = min(len(buffer), len(rest))
            buffer[:count] = rest[:count]
            self.advance(count)
            rest = rest[count:]

    def _finish(self, kind: Kind, flags: int, stream: int, payload: memoryview, check: int) -> Frame:
        if flags & _CHECKED and crc32(payload) != check:
            raise FrameError(
                f"{self._name(kind, stream)}: its {len(payload)} bytes were altered on the way (CRC-32 differs)"
            )
        self._head = None
        self._is_bulk = kind is Kind.CHUNK and len(payload) > BULK_READ_BYTES
        self._sequence = (self._sequence + 1) % SEQUENCE_COUNT
        return Frame(kind, stream, payload.toreadonly())

    def _read_header(self) -> tuple[Kind, int, int, int, int]:
        raw = self._scratch[self._start : self._start + HEADER_BYTES]
        self._start += HEADER_BYTES
        magic, version, code, flags, zero, sequence, length, stream, check = HEADER.unpack_from(raw)
        if magic != MAGIC:
            raise FrameError(
                f"frame {self._sequence} begins with {bytes(raw[:4])!r}, expected {CHECK.pack(MAGIC)[:2]!r}"
            )
        if crc32(raw[: HEADER.size]) != CHECK.unpack_from(raw, HEADER.size)[0]:
            raise FrameError(f"the header of frame {self._sequence} was altered on the way (CRC-32 differs)")
        if version != VERSION:
            raise FrameError(f"a frame of version {version}, known is {VERSION}: run the same release on all nodes")
        kind = _KINDS.get(code)
        if kind is None or flags & ~_FLAGS or zero:
            raise FrameError(
                f"a frame of kind {code:#04x} with flags {flags:#x}, which version {VERSION} does not have"
            )
        if sequence != self._sequence:
            raise FrameError(
                f"{self._name(kind, stream)} came as number {sequence}: frames were lost, repeated or moved on the way"
            )
        if length > self.payload_bytes_max:
            raise FrameError(
                f"{self._name(kind, stream)} declares {length} bytes, allowed are {self.payload_bytes_max} "
                f"here and now (frame_bytes_max)"
            )
        if self._is_checked and not flags & _CHECKED:
            raise FrameError(f"{self._name(kind, stream)} brings no CRC-32, which a connection without TLS needs")
        return kind, flags, stream, length, check

    def _name(self, kind: Kind, stream: int) -> str:
        return f"frame {self._sequence} ({kind.name}, stream {stream})"
