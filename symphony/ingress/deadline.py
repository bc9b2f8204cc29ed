"""Turn what a client says about time into a duration. Pure."""

from __future__ import annotations

import math

from symphony.errors import Reason, SymphonyError
from symphony.units import NS_PER_MS, ms_to_ns, ns_to_ms

_NUMBER_CHARS_MAX = 32
_NUMBER_CHARS = frozenset("0123456789.+-eE")


def parse_timeout_ms(text: str, header: str, timeout_ns_max: int, model: str) -> int:
    """Return a header's milliseconds as nanoseconds.

    Raises SymphonyError `bad_input` unless `text` is a plain decimal number above 0 and at most `timeout_ns_max`.
    """
    text = text.strip()
    value = math.nan
    if len(text) <= _NUMBER_CHARS_MAX and _NUMBER_CHARS.issuperset(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
    if math.isnan(value):
        shown = text[:_NUMBER_CHARS_MAX]
        raise SymphonyError(
            Reason.BAD_INPUT,
            f'model "{model}": header {header} is {shown!r}, expected a number of milliseconds such as 50',
            model=model,
        )
    if value > ns_to_ms(timeout_ns_max) or value * NS_PER_MS < 1:
        _refuse(f"header {header} is {text} ms", timeout_ns_max, model)
    return ms_to_ns(value)


def check_timeout(timeout_ns: int, timeout_ns_max: int, model: str) -> int:
    """Return `timeout_ns`; raise SymphonyError `bad_input` unless it is above 0 and at most `timeout_ns_max`."""
    if not 0 < timeout_ns <= timeout_ns_max:
        _refuse(f"parameters.timeout is {timeout_ns // 1_000} us", timeout_ns_max, model)
    return timeout_ns


def _refuse(what: str, timeout_ns_max: int, model: str) -> None:
    raise SymphonyError(
        Reason.BAD_INPUT,
        f'model "{model}": {what}, allowed is above 0 and at most {ns_to_ms(timeout_ns_max):g} ms; '
        "leave it out to use the model's SLO",
        model=model,
    )
