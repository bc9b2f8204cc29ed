"""What nodes may say about themselves and about models, and what is made of what others wrote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.cluster import NodeRecord, RecordError, model_document_name
from symphony.cluster.limits import ADDRESS_CHARS_MAX, ENTRY_BYTES_MAX, FACTS_BYTES_MAX, NODE_ID_CHARS_MAX
from symphony.cluster.records import checked_document_name, decode_document, encode_document

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=10), JSON, max_size=5))
def test_record_is_what_it_was_when_it_is_read_back(facts: dict[str, object]) -> None:
    record = NodeRecord("n1", "10.0.0.1:8000", facts)
    assert NodeRecord.decode(record.encode()) == record
    assert decode_document(encode_document("m/1", facts, "w")) == (facts, "w")


def test_equal_records_are_equal_bytes() -> None:
    assert NodeRecord("n", "a", {"x": 1, "y": 2}).encode() == NodeRecord("n", "a", {"y": 2, "x": 1}).encode()


@pytest.mark.parametrize("node_id", ["a", "x" * NODE_ID_CHARS_MAX, "A-1_b.c:8000"])
def test_node_id_within_the_limits_is_taken(node_id: str) -> None:
    assert NodeRecord(node_id, "a").id == node_id


@pytest.mark.parametrize("node_id", ["", "x" * (NODE_ID_CHARS_MAX + 1), "a/b", "-a", "a b", "é", "a\n", 3, None])
def test_node_id_that_is_none_is_refused(node_id: str) -> None:
    with pytest.raises(RecordError, match="choose another"):
        NodeRecord(node_id, "a")


@pytest.mark.parametrize("address", ["", "x" * (ADDRESS_CHARS_MAX + 1), "a b", "a\n", None])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(RecordError, match="give host:port"):
        NodeRecord("n", address)


@pytest.mark.parametrize("facts", [[], "x", {1: 2}, {"x": object()}, {"x": float("nan")}, {"x": {1, 2}}])
def test_facts_that_json_cannot_write_are_refused(facts: dict[str, object]) -> None:
    with pytest.raises(RecordError, match="node n: its facts"):
        NodeRecord("n", "a", facts)


def test_facts_without_an_end_are_refused() -> None:
    facts: dict[str, object] = {}
    facts["self"] = facts
    with pytest.raises(RecordError):
        NodeRecord("n", "a", facts)


def test_facts_are_taken_up_to_the_limit() -> None:
    room = FACTS_BYTES_MAX - len('{"x":""}')
    NodeRecord("n", "a", {"x": "y" * room})
    with pytest.raises(RecordError, match=f"{FACTS_BYTES_MAX + 1} bytes as JSON; the limit is {FACTS_BYTES_MAX}"):
        NodeRecord("n", "a", {"x": "y" * (room + 1)})


def test_document_is_named_by_model_and_version() -> None:
    assert model_document_name("resnet-50", "2.1_b") == "resnet-50/2.1_b"
    assert checked_document_name("x" * 128 + "/" + "y" * 128)


@pytest.mark.parametrize("name", ["", "m", "/1", "m/", "m/1/2", "../1", "m /1", "m/1\n", "é/1", "x" * 129 + "/1", None])
def test_document_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(RecordError, match="MODEL/VERSION"):
        checked_document_name(name)


@given(st.binary(max_size=200) | JSON.map(lambda value: repr(value).encode()))
def test_any_bytes_are_a_record_or_refused(value: bytes) -> None:
    for decode in (NodeRecord.decode, decode_document):
        try:
            decode(value)
        except RecordError:
            continue


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 100_000,
        b'{"id":"n","address":"a"}',
        b'{"id":"n","address":"a","facts":[]}',
        b'{"id":"n","address":"a","facts":{},"more":1}',
        b'{"id":{},"address":"a","facts":{}}',
        b'{"id":"n","address":"a","facts":{"x":NaN}}',
        b" " * (ENTRY_BYTES_MAX + 1),
    ],
)
def test_record_that_others_damaged_is_refused(value: bytes) -> None:
    with pytest.raises(RecordError):
        NodeRecord.decode(value)
