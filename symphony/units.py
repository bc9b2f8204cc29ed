"""Convert between the integer nanoseconds used inside and the units people write. Pure arithmetic, no clock."""

from __future__ import annotations

from typing import Final

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
BYTES_PER_MB = 1_000_000
NS_PER_S: Final = 1_000_000_000
NEVER_NS: Final = 2**63 - 1
"""An instant that does not come: the `wakeup_ns` of a scheduler with nothing to wait for."""


def ms_to_ns(value_ms: float) -> int:
    """Return `value_ms` milliseconds as whole nanoseconds, rounded to the nearest."""
    return round(value_ms * NS_PER_MS)


def us_to_ns(value_us: float) -> int:
    """Return `value_us` microseconds as whole nanoseconds, rounded to the nearest."""
    return round(value_us * NS_PER_US)


def ns_to_ms(value_ns: int) -> float:
    """Return `value_ns` nanoseconds in milliseconds."""
    return value_ns / NS_PER_MS


def ns_to_s(value_ns: int) -> float:
    """Return `value_ns` nanoseconds in seconds."""
    return value_ns / NS_PER_S
