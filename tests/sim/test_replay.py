"""A recorded workload runs again as it was: all of it, faster, in part, or with other SLOs."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.errors import ConfigError
from symphony.plan import Budget, make_plan
from symphony.sim import draw_requests, simulate
from symphony.sim.replay import Replay, drawn
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns
from symphony.workload import Trace, parse_trace, trace_line

TABLE = {"gpu": tuple(ms_to_ns(1.0 * size + 5.0) for size in range(1, 65))}


def workload(*names: str, **changes) -> Workload:
    models = tuple(SimulatedModel(name, 50 * NS_PER_MS, 0.0, TABLE) for name in names)
    return Workload(models, (SimulatedGpus("gpu", 2),), duration_ns=0, trace="t.csv", **changes)


def trace_of(text: str) -> Trace:
    return parse_trace(text, "t.csv")


LONG = trace_of("".join(trace_line(i * 10_000_000, "ab"[i % 4 == 0]) for i in range(1000)))
"""Ten seconds of 100 requests a second, a quarter of them for b."""


def test_replay_gives_rates_and_duration() -> None:
    found = Replay(workload("a", "b", "c"), LONG).workload
    assert found.duration_ns == 999 * 10_000_000 + 1
    assert [round(one.rate) for one in found.models] == [75, 25, 0]


def test_recorded_run_has_the_digest_of_the_run_it_was_recorded_from() -> None:
    """What simulate draws, written as a trace and replayed, decides alike."""
    models = tuple(SimulatedModel(name, 50 * NS_PER_MS, rate, TABLE) for name, rate in (("a", 300.0), ("b", 200.0)))
    original = Workload(models, (SimulatedGpus("gpu", 2),), duration_ns=3 * NS_PER_S)
    requests = draw_requests(original, 1)
    names = [models[number].name for number in requests.models.tolist()]
    text = "".join(trace_line(at, name) for at, name in zip(requests.at_ns.tolist(), names, strict=True))
    replay = Replay(replace(original, trace="t.csv", duration_ns=0), trace_of(text))
    again = simulate(replay.workload, requests=replay(replay.workload, 1.0, 1)[1])
    assert again.digest() == simulate(original, seed=1).digest()


def test_requests_keep_their_instants_models_and_slos() -> None:
    replay = Replay(workload("b", "a", warmup_ns=0), trace_of("0.5,a\n1,b,20\n2,a\n"))
    _, requests = replay(replay.workload, 1.0, 1)
    assert requests.at_ns.tolist() == [500_000_000, 1_000_000_000, 2_000_000_000]
    assert requests.models.tolist() == [1, 0, 1]
    assert ((requests.deadlines_ns - requests.at_ns) // NS_PER_MS).tolist() == [50, 20, 50]


def test_changed_slo_takes_those_of_its_requests_along() -> None:
    replay = Replay(workload("a", "b", warmup_ns=0), trace_of("0,a\n1,a,20\n2,b,20\n"))
    changed = replace(replay.workload.models[0], slo_ns=100 * NS_PER_MS)
    _, requests = replay(replace(replay.workload, models=(changed, replay.workload.models[1])), 1.0, 1)
    assert ((requests.deadlines_ns - requests.at_ns) // NS_PER_MS).tolist() == [100, 40, 20]


def test_more_load_plays_the_trace_faster() -> None:
    replay = Replay(workload("a", "b"), LONG)
    faster, requests = replay(replay.workload, 4.0, 1)
    assert len(requests) == 1000
    assert faster.duration_ns == pytest.approx(replay.workload.duration_ns / 4, rel=1e-6)
    assert faster.warmup_ns == replay.workload.warmup_ns / 4
    assert requests.at_ns[-1] < faster.duration_ns
    assert faster.models[0].rate == pytest.approx(300, rel=0.01)


def test_part_of_the_models_gets_its_requests_only() -> None:
    replay = Replay(workload("a", "b"), LONG)
    _, requests = replay(replace(replay.workload, models=replay.workload.models[1:]), 1.0, 1)
    assert len(requests) == 250
    assert set(requests.models.tolist()) == {0}


def test_share_of_a_model_is_chosen_by_the_seed() -> None:
    replay = Replay(workload("a", "b"), LONG)
    fewer = replace(replay.workload.models[0], rate=replay.workload.models[0].rate / 2)
    half = replace(replay.workload, models=(fewer, replay.workload.models[1]))
    counts = [np.bincount(replay(half, 1.0, seed)[1].models).tolist() for seed in (1, 1, 2)]
    assert counts[0] == counts[1] != counts[2]
    assert counts[0][1] == 250
    assert counts[0][0] == pytest.approx(375, abs=60)


def test_shorter_duration_cuts_the_trace() -> None:
    replay = Replay(replace(workload("a", "b"), duration_ns=2 * NS_PER_S), LONG)
    assert len(replay(replay.workload, 1.0, 1)[1]) == 200


@pytest.mark.parametrize(
    ("names", "text", "part"),
    [
        (("a",), "0,a\n2,c\n", "asks for 1 models that the workload lacks, 'c' first"),
        (("a",), "0,a\n0.5,a\n", "must be above warmup_s = 1"),
    ],
)
def test_trace_that_does_not_go_with_the_workload_is_refused(names: tuple[str, ...], text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        Replay(workload(*names), trace_of(text))


def test_recorded_workload_is_planned() -> None:
    rng = np.random.default_rng(1)
    at_ns = np.sort(rng.integers(0, 4 * NS_PER_S, 2400))
    replay = Replay(workload("a"), trace_of("".join(trace_line(int(at), "a") for at in at_ns)))
    plan = make_plan(replay.workload, replay, seed=1, budget=Budget(20.0, time.monotonic))
    drawn_plan = make_plan(replace(replay.workload, trace=""), drawn, seed=1, budget=Budget(20.0, time.monotonic))
    assert plan.answer is not None and drawn_plan.answer is not None
    assert plan.answer.gpus == drawn_plan.answer.gpus == 1
    assert [point.gpus for point in plan.growth][-1] > 1
    assert plan.answers[0].count.run_count == 2  # with two GPUs and with one, once each
