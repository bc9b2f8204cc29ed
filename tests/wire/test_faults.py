"""Error texts stay short and can be written anywhere, whatever a client sent."""

from __future__ import annotations

import pytest

from symphony.wire.faults import quoted, shown


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (7, "7"),
        (1.5, "1.5"),
        ("a", '"a"'),
        (b"abc", "3 raw bytes"),
        ([1, 2], "a list of 2"),
        ((1,), "a list of 1"),
        ({"a": 1}, "a map"),
        (object(), "a value of type object"),
        (10**5000, "an integer of 16610 bits"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_value_is_shown(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, "\ud800" * 100, "\0\n\x1b[31m", 2**255, -(2**255), 1e300, [0] * 10**5, nested(100_000), {"a": {}}],
    ids=lambda value: type(value).__name__,
)
def test_what_is_shown_is_short_printable_and_can_be_encoded(value: object) -> None:
    text = shown(value)
    assert len(text) < 500
    assert text.isprintable()
    text.encode()


def test_long_name_is_cut() -> None:
    assert quoted("n" * 100) == '"' + "n" * 61 + '..."'
    assert quoted("n" * 64) == '"' + "n" * 64 + '"'
