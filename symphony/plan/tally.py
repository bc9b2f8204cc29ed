"""Count what was good over several runs, and say how sure the verdict is.

The bar is the project's (symphony/sim/sweep.py): 99 % of all requests good, 97 % of each model's. Each run is cut into
blocks of time; how much the blocks differ says how far the shares may be from those of endless runs.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from symphony.sim import Outcome
from symphony.sim.report import GOOD
from symphony.sim.scenario import Array
from symphony.sim.sweep import GOOD_SHARE_MIN, WORST_SHARE_MIN

BLOCK_COUNT = 8
ERRORS_SURE = 3.0
"""A share so many standard errors from its bar is on that side of it for sure."""
ERRORS_LIKELY, LIKELY_RUN_COUNT = 1.5, 4
"""Below the bar so many errors are enough after so many runs: to be wrong there costs a GPU, above it requests."""
CAUTION_MAX = 0.001
WORST_CAUTION_MAX = 0.005
"""At the border shares must lie above their bars by a standard error, but by no more than this."""


class Verdict(Enum):
    """Whether the bar is reached."""

    HELD = "held"
    MISSED = "missed"
    UNSURE = "unsure"


class Tally:
    """Requests and good ones by block of time and model, over the runs added so far."""

    def __init__(self, model_count: int) -> None:
        self._totals = np.zeros((0, model_count))
        self._goods = np.zeros((0, model_count))
        self.run_count = 0

    def add(self, outcome: Outcome) -> None:
        """Count a run; its warm-up is left out."""
        workload, requests = outcome.workload, outcome.requests
        judged = requests.at_ns >= workload.warmup_ns
        span_ns = max(1, workload.duration_ns - workload.warmup_ns)
        blocks = np.minimum(BLOCK_COUNT - 1, (requests.at_ns[judged] - workload.warmup_ns) * BLOCK_COUNT // span_ns)
        model_count = self._totals.shape[1]
        cells = blocks * model_count + requests.models[judged]
        good = outcome.outcome[judged] == GOOD
        shape = (BLOCK_COUNT, model_count)
        length = BLOCK_COUNT * model_count
        self._totals = np.vstack((self._totals, np.bincount(cells, minlength=length).reshape(shape)))
        self._goods = np.vstack((self._goods, np.bincount(cells[good], minlength=length).reshape(shape)))
        self.run_count += 1

    @property
    def request_count(self) -> int:
        """Return how many requests were judged."""
        return int(self._totals.sum())

    @property
    def good_share(self) -> float:
        """Return the share of all requests that were good; 1 without requests."""
        return float(_shares(self._goods.sum(), self._totals.sum()))

    @property
    def worst_good_share(self) -> float:
        """Return the smallest of the models' shares."""
        return float(_shares(self._goods.sum(axis=0), self._totals.sum(axis=0)).min())

    @property
    def error(self) -> float:
        """Return the standard error of `good_share`."""
        return float(_errors(self._goods.sum(axis=1, keepdims=True), self._totals.sum(axis=1, keepdims=True))[0])

    @property
    def is_held(self) -> bool:
        """Return whether the bar is reached by what was counted, be it by luck."""
        return self.good_share >= GOOD_SHARE_MIN and self.worst_good_share >= WORST_SHARE_MIN

    @property
    def is_held_with_care(self) -> bool:
        """Return the same, but a share at the very border does not count as held."""
        shares = _shares(self._goods.sum(axis=0), self._totals.sum(axis=0))
        spare = np.minimum(WORST_CAUTION_MAX, _errors(self._goods, self._totals))
        is_each_held = bool((shares >= WORST_SHARE_MIN + spare).all())
        return is_each_held and self.good_share >= GOOD_SHARE_MIN + min(CAUTION_MAX, self.error)

    @property
    def verdict(self) -> Verdict:
        """Return what is sure: both bars are cleared by far, or one is missed by far."""
        shares = _shares(self._goods.sum(axis=0), self._totals.sum(axis=0))
        errors, error = _errors(self._goods, self._totals), self.error
        many = ERRORS_SURE if self.run_count < LIKELY_RUN_COUNT else ERRORS_LIKELY
        if self.good_share + many * error < GOOD_SHARE_MIN or (shares + many * errors < WORST_SHARE_MIN).any():
            return Verdict.MISSED
        is_each_held = bool((shares - ERRORS_SURE * errors >= WORST_SHARE_MIN).all())
        if is_each_held and self.good_share - ERRORS_SURE * error >= GOOD_SHARE_MIN:
            return Verdict.HELD
        return Verdict.UNSURE


def _shares(goods: Array, totals: Array) -> Array:
    shares: Array = np.divide(goods, totals, out=np.ones(np.shape(totals)), where=np.asarray(totals) > 0)
    return shares


def _errors(goods: Array, totals: Array) -> Array:
    """Return the standard error of each column's share, goods / totals, from how its blocks differ."""
    count = len(totals)
    if count < 2:
        return np.zeros(totals.shape[1])
    sums = totals.sum(axis=0)
    rest = goods - totals * _shares(goods.sum(axis=0), sums)
    spread = np.sqrt((rest**2).sum(axis=0) * count / (count - 1))
    errors: Array = np.divide(spread, sums, out=np.zeros(len(sums)), where=sums > 0)
    return errors
