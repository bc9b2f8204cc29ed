"""A recorded workload is read as it was written, and what is no trace is refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symphony.errors import ConfigError
from symphony.workload.trace import HEADER, parse_trace, trace_line


def test_trace_is_sorted_and_names_models() -> None:
    trace = parse_trace("# a comment\n2.5,b\n\n1,a\n 1.5 , b\n", "t.csv", ["a", "b"])
    assert trace.at_ns.tolist() == [1_000_000_000, 1_500_000_000, 2_500_000_000]
    assert trace.models.tolist() == [0, 1, 1]
    assert trace.slo_ns.tolist() == [0, 0, 0]


def test_trace_without_models_is_for_the_first() -> None:
    assert parse_trace("0\n0.25\n", "t.csv", ["a", "b"]).models.tolist() == [0, 0]


def test_models_nobody_listed_are_taken_in_the_order_met() -> None:
    trace = parse_trace("1,b\n0,a\n2,b\n", "t.csv")
    assert (trace.names, trace.models.tolist()) == (("b", "a"), [1, 0, 0])


def test_slo_of_a_request_goes_before_its_models() -> None:
    assert parse_trace("0,a,12.5\n1,a,\n2,a\n", "t.csv").slo_ns.tolist() == [12_500_000, 0, 0]


@given(
    st.lists(
        st.tuples(st.integers(0, 10**15), st.sampled_from(["a", "resnet-50", "b.c_d"]), st.integers(0, 60_000 * 1000)),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_written_is_read_back(requests: list[tuple[int, str, int]]) -> None:
    written = sorted(((at_ns, name, slo_us * 1000) for at_ns, name, slo_us in requests), key=lambda one: one[0])
    trace = parse_trace(HEADER + "".join(trace_line(*one) for one in written), "t.csv")
    read = zip(trace.at_ns.tolist(), trace.models.tolist(), trace.slo_ns.tolist(), strict=True)
    assert [(at_ns, trace.names[model], slo_ns) for at_ns, model, slo_ns in read] == written


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x\n", "line 1: 'x' is no time"),
        ("1\n-1\n", "line 2: '-1' is no time"),
        ("nan\n", "no time"),
        ("1,c\n", "model 'c' is not among a, b"),
        ("1,a,fast\n", "'fast' is no SLO in ms"),
        ("1,a,-1\n", "'-1' is no SLO in ms"),
        ("1,a,5,7\n", "4 columns; write seconds"),
        ("# only a comment\n", "holds no request"),
    ],
)
def test_faulty_trace_is_refused_with_its_line(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        parse_trace(text, "t.csv", ["a", "b"])
    assert "t.csv" in str(caught.value)
