"""Records: laid out as a C compiler would, as the page says, and refused unless whole."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest

from symphony.errors import Reason
from symphony.links.faults import FrameError
from symphony.links.frames import Kind
from symphony.links.records import (
    OUTCOME,
    REASON_NUMBERS,
    REASONS_BY_NUMBER,
    RECORDS,
    SUBMIT,
    read_records,
    write_records,
)

PAGE = (Path(__file__).parents[2] / "docs" / "cluster-wire.md").read_text()
FORMATS = {"u8": "B", "u32": "I", "u64": "Q", "i64": "q"}


def documented() -> dict[Kind, list[tuple[str, str, int]]]:
    """Return the fields of each record as the page has them: (name, format, offset), and at last ("", "", size)."""
    rows = re.findall(r"^\| (?:`(\w+)` (0x\w+) )?\| (\d+) \|(?: (\w+))? \| (\w+) \|", PAGE, re.MULTILINE)
    found: dict[Kind, list[tuple[str, str, int]]] = {}
    for name, code, offset, format_, field in rows:
        if name:
            kind = Kind(int(code, 16))
            assert kind.name == name
            found[kind] = []
        found[kind].append((field, format_, int(offset)))
    return found


def test_page_lists_every_record_as_it_is_laid_out() -> None:
    pages = documented()
    assert pages.keys() == RECORDS.keys()
    for kind, fields in pages.items():
        dtype = RECORDS[kind]
        assert fields.pop() == ("end", "", dtype.itemsize)
        assert [name for name, _, _ in fields] == list(dtype.names)
        for name, format_, offset in fields:
            field, at = dtype.fields[name]
            assert (np.dtype(f"<{FORMATS[format_]}"), offset) == (field, at)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.name)
def test_record_is_naturally_aligned(kind) -> None:
    dtype = RECORDS[kind]
    widest = 1
    for name in dtype.names:
        field, at = dtype.fields[name]
        assert at % field.itemsize == 0
        widest = max(widest, field.itemsize)
    assert dtype.itemsize % widest == 0


def test_page_numbers_every_reason_as_the_code_does() -> None:
    rows = re.findall(r"(\d+) `(\w+)`", PAGE.split("Reasons:")[1].split("\n\n")[0])
    assert {int(number): Reason.from_token(token) for number, token in rows} == REASONS_BY_NUMBER
    assert set(REASON_NUMBERS) == set(Reason)
    assert 0 not in REASONS_BY_NUMBER


def test_submits_are_read_without_copying() -> None:
    payload = memoryview(struct.pack("<QqIB3xQqIB3x", 7, -1, 3, 4, 2**64 - 1, 2**63 - 1, 2**32 - 1, 255))
    records = read_records(Kind.SUBMIT, payload)
    assert records.tolist() == [(7, -1, 3, 4), (2**64 - 1, 2**63 - 1, 2**32 - 1, 255)]
    assert np.shares_memory(records, np.frombuffer(payload, np.uint8))
    assert bytes(write_records(Kind.SUBMIT, records)) == bytes(payload)


def test_padding_is_sent_as_zeros() -> None:
    records = np.zeros(1, OUTCOME)
    records["request"], records["reason"] = 5, 8
    assert write_records(Kind.OUTCOME, records) == struct.pack("<QB7x", 5, 8)


def test_part_of_a_record_is_refused() -> None:
    assert len(read_records(Kind.SUBMIT, memoryview(b""))) == 0
    with pytest.raises(FrameError, match="25 bytes of SUBMIT records, which have 24 bytes each"):
        read_records(Kind.SUBMIT, memoryview(bytes(25)))


def test_array_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="CANCEL takes an array"):
        write_records(Kind.CANCEL, np.zeros(3, SUBMIT))
    with pytest.raises(ValueError, match="SUBMIT takes an array"):
        write_records(Kind.SUBMIT, np.zeros((1, 3), SUBMIT))
