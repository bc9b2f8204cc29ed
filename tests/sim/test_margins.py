"""Margins follow how much batches overrun their profile: enough to keep answers in time, and no more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from symphony.config.workload import Fault
from symphony.sim import make_core_policy, simulate
from symphony.sim.run import OUTCOMES
from symphony.units import NS_PER_S
from tests.sim.test_simulate import model, workload

GOOD, LATE = OUTCOMES.index("good"), OUTCOMES.index("late")
STIFF = partial(make_core_policy, adapt=False)
JITTERY = workload(model(rate=2600.0), jitter=0.1, duration_ns=6 * NS_PER_S, warmup_ns=2 * NS_PER_S)


def late_share(outcome, after_ns: int = 2 * NS_PER_S) -> float:
    judged = outcome.requests.at_ns >= after_ns
    return float((outcome.outcome[judged] == LATE).mean())


def test_jitter_makes_batches_late_until_the_margin_is_learnt() -> None:
    stiff, learnt = simulate(JITTERY, make_policy=STIFF), simulate(JITTERY)
    assert late_share(stiff) > 0.03
    assert late_share(learnt) < 0.01
    assert (learnt.outcome == GOOD).mean() > (stiff.outcome == GOOD).mean()


def test_batches_that_take_what_the_profile_says_change_nothing() -> None:
    exact = replace(JITTERY, jitter=0.0)
    assert simulate(exact).digest() == simulate(exact, make_policy=STIFF).digest()


def test_margin_is_no_larger_than_a_high_quantile_asks_for() -> None:
    learnt, wide = simulate(JITTERY), simulate(replace(JITTERY, margin_ns=12_000_000), make_policy=STIFF)
    assert np.mean(learnt.batches["size"]) > np.mean(wide.batches["size"])


@pytest.mark.parametrize("slowness", [1.2, 0.9])
def test_margin_follows_a_drift_of_all_gpus(slowness: float) -> None:
    faults = tuple(Fault(NS_PER_S, gpu, slowness) for gpu in range(4))
    outcome = simulate(replace(JITTERY, jitter=0.02, faults=faults))
    assert late_share(outcome, 3 * NS_PER_S) < 0.01


def test_one_gpu_that_is_twice_as_slow_does_not_shrink_the_batches_of_the_others() -> None:
    faulty = replace(JITTERY, jitter=0.0, faults=(Fault(NS_PER_S, 0, 2.0),))
    sizes = {}
    for name, spec in (("well", replace(faulty, faults=())), ("faulty", faulty)):
        batches = simulate(spec).batches
        sizes[name] = np.mean(batches["size"][(batches["gpu"] != 0) & (batches["start_ns"] > 2 * NS_PER_S)])
    assert sizes["faulty"] > 0.8 * sizes["well"]
