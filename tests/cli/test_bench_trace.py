"""`symphony bench` sends a recorded workload: for the models it names, or for those of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from symphony.cli.bench import with_trace
from symphony.errors import ConfigError
from symphony.workload.trace import HEADER, trace_line


@pytest.fixture
def arrivals(tmp_path: Path) -> str:
    lines = [trace_line(number * 1_000_000, "ba"[number % 2], 7_000_000) for number in range(4)]
    (tmp_path / "t.csv").write_text(HEADER + "".join(lines) + "# complete\n")
    return f"trace:{tmp_path / 't.csv'}"


def test_models_of_the_trace_are_loaded_when_none_is_named(arrivals: str) -> None:
    models, schedule = with_trace((), arrivals)
    assert models == ("b", "a")
    assert schedule is not None
    assert (schedule.at_ns.tolist(), schedule.models.tolist()) == ([0, 10**6, 2 * 10**6, 3 * 10**6], [0, 1, 0, 1])


def test_models_named_are_in_the_order_named(arrivals: str) -> None:
    models, schedule = with_trace(("a=2", "b", "c"), arrivals)
    assert models == ("a=2", "b", "c")
    assert schedule is not None and schedule.models.tolist() == [1, 0, 1, 0]


def test_model_of_the_trace_that_is_not_named_is_refused(arrivals: str) -> None:
    with pytest.raises(ConfigError, match="model 'b' is not among a"):
        with_trace(("a",), arrivals)


def test_neither_model_nor_trace_is_refused() -> None:
    with pytest.raises(ConfigError, match="name one with --model"):
        with_trace((), "poisson")
