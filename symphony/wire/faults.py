"""Word what is wrong with a message, safely: whatever a client sent may end up in these texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from symphony.errors import Reason, SymphonyError

SHOWN_LENGTH_MAX: Final = 64
"""Characters of a client's text that an error repeats."""
EARLIEST_MS_MAX: Final = 1e12


def bad_input(message: str) -> SymphonyError:
    """Return the error for a message that cannot be taken."""
    return SymphonyError(Reason.BAD_INPUT, message)


def quoted(name: str) -> str:
    """Return a name in double quotes, cut to `SHOWN_LENGTH_MAX` characters, escaped if it is not printable."""
    text = name if len(name) <= SHOWN_LENGTH_MAX else name[: SHOWN_LENGTH_MAX - 3] + "..."
    return f'"{text if text.isprintable() else ascii(text)[1:-1]}"'


def shown(value: Any) -> str:
    """Return a decoded value for an error text: scalars as they are, cut; containers by their kind only."""
    # Never repr a container: it may be huge, or nested deeper than the interpreter's stack.
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN_LENGTH_MAX:
        return f"an integer of {value.bit_length()} bits"  # whose digits the interpreter may refuse to write
    if value is None or isinstance(value, int | float):
        text = repr(value)
        return text if len(text) <= SHOWN_LENGTH_MAX else text[: SHOWN_LENGTH_MAX - 3] + "..."
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} raw bytes"
    return f"a value of type {type(value).__name__}"


def earliest_ms_of(fields: Mapping[Any, Any]) -> float | None:
    """Return the `earliest_ms` of an error's map, None where it has no sensible one."""
    found: Any = fields.get("earliest_ms")
    return found if type(found) in (int, float) and 0 <= found < EARLIEST_MS_MAX else None
