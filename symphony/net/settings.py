"""Name every size, count and time of a node's links."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from symphony.links.clocks import DRIFT_PPM
from symphony.links.limits import DEFAULT_LIMITS, KIB, MIB, LinkLimits

TAKEN_BYTES: Final = 256 * KIB
"""A receiver says how much it has read whenever it is so much more."""
WINDOW_BYTES_MIN: Final = 2 * TAKEN_BYTES


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Say how a node keeps its links. Times in seconds, sizes in bytes.

    `limits`: what each peer may send (told to it). `chunk_bytes`: how long a large message holds up a small one.
    `window_bytes`: of messages that have left and that the peer has not read; a record sent next comes behind them
    (1 MiB: 1 ms at 1 GB/s), and a round trip carries no more. Raise it where a round trip takes longer than 1 ms.
    `control_bytes_max`: records and urgent messages that wait to be written, per link. `send_count_max`: messages whose
    senders wait, per link. `answering_bytes_max`: segments of calls that are being answered, per link; calls beyond are
    answered with an error. `ping_s`: between pings, which compare the clocks, too. `peer_timeout_s`: a ping unanswered
    for so long ends the link. `connect_timeout_s`, `handshake_timeout_s`: of an attempt. `backoff_min_s`,
    `backoff_max_s`: between attempts, doubled each time and drawn at random between half and all of it.
    `stranger_count_max`: accepted connections that have not shown who they are; beyond, the oldest goes.
    `member_count_max`: nodes of a cluster, so links of a node.
    `close_timeout_s`: to let what is queued leave when links close. `drift_ppm`: see `LinkClock`.
    """

    limits: LinkLimits = DEFAULT_LIMITS
    chunk_bytes: int = 128 * KIB
    window_bytes: int = 1 * MIB
    control_bytes_max: int = 4 * MIB
    send_count_max: int = 1024
    answering_bytes_max: int = 512 * MIB
    ping_s: float = 0.2
    peer_timeout_s: float = 3.0
    connect_timeout_s: float = 2.0
    handshake_timeout_s: float = 2.0
    backoff_min_s: float = 0.05
    backoff_max_s: float = 5.0
    stranger_count_max: int = 64
    member_count_max: int = 4096
    close_timeout_s: float = 1.0
    drift_ppm: int = DRIFT_PPM

    def __post_init__(self) -> None:
        """Refuse settings under which no link could be kept."""
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in ("limits", "drift_ppm") and value <= 0:
                raise ValueError(f"link setting {each.name} must be above 0, got {value}")
        if self.window_bytes < WINDOW_BYTES_MIN:
            raise ValueError(
                f"link setting window_bytes must be {WINDOW_BYTES_MIN} or more (peers tell what they have read every "
                f"{TAKEN_BYTES} bytes), got {self.window_bytes}"
            )
        if self.peer_timeout_s < 2 * self.ping_s:
            raise ValueError(
                f"link setting peer_timeout_s = {self.peer_timeout_s} is below two pings of {self.ping_s} s; raise it"
            )
        if self.backoff_max_s < self.backoff_min_s:
            raise ValueError(f"link setting backoff_max_s = {self.backoff_max_s} is below backoff_min_s; raise it")


DEFAULT_SETTINGS: Final = LinkSettings()
