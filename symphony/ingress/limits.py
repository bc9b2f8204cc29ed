"""Name every size and count that a client controls, with its maximum."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class IngressLimits:
    """Bound what clients may send.

    `body_bytes_max`: one request body, as received and again after decompression. `body_bytes_total_max`: all
    bodies held at one time, being read or in flight. `in_flight_max`: infer calls accepted and not answered.
    `control_body_bytes_max`: bodies of the repository routes. `body_timeout_s`: from the headers to the last byte
    of a body; `header_timeout_s`: from the first byte of a head to its last. `timeout_ms_max`: the longest deadline
    a request may ask for. `header_line_bytes_max`, `header_count_max`: the request line and each header, and how
    many; `header_bytes_max`: all of a head. `connection_count_max`: open at one time, of all listening sockets.
    `lingering_s`: how long a refused body is still read, so that the client sees the answer before the connection
    closes.
    """

    body_bytes_max: int = 64 * MIB
    body_bytes_total_max: int = 2048 * MIB
    in_flight_max: int = 65_536
    control_body_bytes_max: int = MIB
    body_timeout_s: float = 30.0
    header_timeout_s: float = 10.0
    timeout_ms_max: float = 600_000.0
    header_line_bytes_max: int = 8_190
    header_count_max: int = 128
    header_bytes_max: int = 32_768
    connection_count_max: int = 10_000
    lingering_s: float = 2.0
    keepalive_timeout_s: float = 75.0
    request_id_chars_max: int = 128

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"ingress limit {name} must be above 0, got {getattr(self, name)}")
        if self.body_bytes_max > self.body_bytes_total_max:
            raise ValueError(
                f"ingress limit body_bytes_max {self.body_bytes_max} is above body_bytes_total_max "
                f"{self.body_bytes_total_max}; raise the latter"
            )
