"""A verdict is given when it is sure, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from symphony.plan.tally import BLOCK_COUNT, Tally, Verdict
from symphony.sim import Outcome, Requests
from symphony.units import NS_PER_S
from tests.plan.workloads import model, on_gpus

WORKLOAD = on_gpus(model("a", 50, 1, 1, 5), model("b", 50, 1, 1, 5), duration_ns=9 * NS_PER_S, warmup_ns=NS_PER_S)


def run(bad_by_block: list[int], per_block: int = 1000, rare_bad: int = 0, rare: int = 0) -> Outcome:
    """Return a run with so many requests of model a in each block, some not good; of b `rare` in the first block."""
    at, models, outcome = [], [], []
    for block, bad in enumerate(bad_by_block):
        for number in range(per_block):
            at.append(NS_PER_S * (block + 1) + number)
            models.append(0)
            outcome.append(3 if number < bad else 1)
    for number in range(rare):
        at.append(NS_PER_S + number)
        models.append(1)
        outcome.append(3 if number < rare_bad else 1)
    at.append(0)  # in the warm-up
    models.append(0)
    outcome.append(3)
    at_ns = np.array(at, np.int64)
    requests = Requests(at_ns, np.array(models, np.int32), at_ns, np.zeros(len(at), np.uint8))
    return Outcome(WORKLOAD, requests, np.array(outcome, np.uint8), at_ns, {}, np.empty(0), 0)


def tally_of(*runs: Outcome) -> Tally:
    tally = Tally(2)
    for one in runs:
        tally.add(one)
    return tally


def test_shares_are_over_all_runs_without_the_warm_up() -> None:
    tally = tally_of(run([0] * 8), run([20] * 8, rare=10, rare_bad=1))
    assert (tally.run_count, tally.request_count) == (2, 16_010)
    assert tally.good_share == pytest.approx(1 - 161 / 16_010)
    assert tally.worst_good_share == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("bad_by_block", "verdict"),
    [
        ([5] * 8, Verdict.HELD),
        ([15] * 8, Verdict.MISSED),
        ([0, 0, 0, 0, 0, 0, 0, 60], Verdict.UNSURE),
        ([0, 0, 0, 0, 0, 0, 50, 60], Verdict.UNSURE),
        ([40, 50] * 4, Verdict.MISSED),
    ],
)
def test_verdict_follows_how_much_the_blocks_differ(bad_by_block: list[int], verdict: Verdict) -> None:
    assert tally_of(run(bad_by_block)).verdict is verdict


def test_one_model_below_its_bar_is_missed_though_all_together_are_good() -> None:
    tally = tally_of(*(run([0] * 8, rare=20, rare_bad=2) for _ in range(4)))
    assert tally.good_share > 0.998
    assert not tally.is_held


def test_more_runs_make_it_sure() -> None:
    block = [0, 0, 0, 0, 0, 0, 0, 50]
    assert tally_of(run(block)).verdict is Verdict.UNSURE
    assert tally_of(*(run(block) for _ in range(40))).verdict is Verdict.HELD


def test_share_at_the_very_border_is_not_held_with_care() -> None:
    tally = tally_of(run([0, 20] * 4))
    assert tally.is_held and not tally.is_held_with_care
    assert tally_of(run([10] * 8)).is_held_with_care  # no block differs: nothing speaks against it


def test_no_request_is_no_fault() -> None:
    tally = tally_of(run([0] * BLOCK_COUNT, per_block=0))
    assert (tally.good_share, tally.worst_good_share, tally.verdict) == (1.0, 1.0, Verdict.HELD)
