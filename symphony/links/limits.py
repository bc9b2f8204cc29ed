"""Name what one node takes from another over a link. The two sides tell each other theirs when a link opens."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

KIB: Final = 1 << 10
MIB: Final = 1 << 20
METADATA_BYTES_MAX: Final = 64 * KIB
SEGMENT_COUNT_MAX: Final = 4096
"""Metadata and segments of one message: fixed in the protocol, so that what opens a message fits one frame."""
FRAME_BYTES_MIN: Final = 128 * KIB
HANDSHAKE_BYTES_MAX: Final = 1 * KIB
"""Payload of a frame whose sender has not yet shown who it is."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bound what a peer may send; whoever sends more breaks the protocol and is cut off.

    `frame_bytes_max`: payload of one frame. `message_bytes_max`: the segments of one message. `stream_count_max`:
    messages that arrive at the same time. `assembly_bytes_max`: of all those together. `call_count_max`: calls that are
    being answered.
    """

    frame_bytes_max: int = 256 * KIB
    message_bytes_max: int = 256 * MIB
    stream_count_max: int = 16
    assembly_bytes_max: int = 512 * MIB
    call_count_max: int = 1024

    def __post_init__(self) -> None:
        """Refuse limits under which some message could never be sent."""
        for each in fields(self):
            value = getattr(self, each.name)
            width = 64 if each.name in ("message_bytes_max", "assembly_bytes_max") else 32
            if not 0 < value < 1 << width:
                raise ValueError(f"link limit {each.name} must be above 0 and below 2**{width}, got {value}")
        if self.frame_bytes_max < FRAME_BYTES_MIN:
            raise ValueError(
                f"link limit frame_bytes_max must be {FRAME_BYTES_MIN} or more (metadata and the list of segments "
                f"share one frame), got {self.frame_bytes_max}"
            )
        if self.assembly_bytes_max < self.message_bytes_max:
            raise ValueError(
                f"link limit assembly_bytes_max = {self.assembly_bytes_max} is below message_bytes_max = "
                f"{self.message_bytes_max}, so a message of that size would never be sent; raise it"
            )


DEFAULT_LIMITS: Final = LinkLimits()
