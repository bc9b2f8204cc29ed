"""The goodput search finds the border, asks twice, and is not led astray by a sender that could not keep up."""

from __future__ import annotations

import itertools

import pytest

from symphony.client.goodput import PROBE_COUNT_MAX, REPEAT_COUNT_MAX, RESOLUTION, Probe, find_goodput


class Server:
    """Hold every rate up to `border`, less with the second seed; note what was asked."""

    def __init__(self, border: float, second_border: float | None = None, seed: int = 1) -> None:
        self.borders = {seed: border, seed + 1: border if second_border is None else second_border}
        self.asked: list[tuple[float, int]] = []

    def __call__(self, rate: float, seed: int) -> Probe:
        self.asked.append((rate, seed))
        return Probe(rate <= self.borders[seed])


@pytest.mark.parametrize("start", [10.0, 900.0, 1000.0, 5000.0, 100_000.0])
def test_border_is_found_from_any_start(start: float) -> None:
    server = Server(1000.0)
    found = find_goodput(server, start, 1)
    assert 1000 * (1 - RESOLUTION) <= found <= 1000
    assert server.asked[-1] == (found, 2)


def test_result_holds_with_another_seed_too() -> None:
    server = Server(1000.0, second_border=950.0)
    found = find_goodput(server, 800.0, 1)
    assert 950 * (1 - 2 * RESOLUTION) <= found <= 950


def test_server_that_holds_nothing_has_no_goodput() -> None:
    server = Server(0.0)
    assert find_goodput(server, 1000.0, 1) == 0.0
    assert len(server.asked) < 15


def test_search_ends_when_everything_holds() -> None:
    server = Server(float("inf"))
    assert find_goodput(server, 1.0, 1) > 1.0
    assert len(server.asked) <= PROBE_COUNT_MAX


def test_invalid_probe_is_made_again_and_decides_nothing() -> None:
    server = Server(1000.0)
    turns = itertools.count()

    def probe(rate: float, seed: int) -> Probe:
        if next(turns) % 2 == 0:
            return Probe(is_held=False, is_valid=False)
        return server(rate, seed)

    assert 1000 * (1 - RESOLUTION) <= find_goodput(probe, 900.0, 1) <= 1000


def test_probe_that_is_never_valid_counts_as_not_held() -> None:
    asked: list[float] = []

    def probe(rate: float, _: int) -> Probe:
        asked.append(rate)
        return Probe(is_held=True, is_valid=rate <= 1000.0)

    assert 1000 * (1 - RESOLUTION) <= find_goodput(probe, 700.0, 1) <= 1000
    assert max(asked.count(rate) for rate in asked if rate > 1000.0) == REPEAT_COUNT_MAX
