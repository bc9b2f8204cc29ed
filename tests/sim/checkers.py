"""Check a whole simulated run against what must always hold, apart from what any policy decides."""

from __future__ import annotations

import numpy as np

from symphony.sim import Outcome
from symphony.sim.run import FATES, OUTCOMES

GOOD, LATE = OUTCOMES.index("good"), OUTCOMES.index("late")


def check(outcome: Outcome) -> None:
    """Raise AssertionError at the first broken promise."""
    ends_once(outcome)
    one_batch_at_a_time(outcome)
    batches_hold_one_model(outcome)
    if not outcome.workload.jitter and not outcome.workload.faults:
        nothing_is_late(outcome)


def ends_once(outcome: Outcome) -> None:
    """Every request ended, and those answered were in exactly one batch that ran."""
    assert not (outcome.outcome == OUTCOMES.index("unfinished")).any()
    ran = np.repeat(outcome.batches["fate"] == FATES.index("ran"), outcome.batches["size"])
    answered = np.flatnonzero(np.isin(outcome.outcome, (GOOD, LATE)))
    np.testing.assert_array_equal(np.sort(outcome.members[ran]), answered)
    assert (outcome.ended_ns >= outcome.requests.at_ns).all()


def one_batch_at_a_time(outcome: Outcome) -> None:
    """No GPU ran two batches at once, and none began before it was decided."""
    batches = outcome.batches
    assert (batches["start_ns"] >= batches["decided_ns"]).all() or FATES.index("lost") in batches["fate"]
    assert (batches["finish_ns"] >= batches["start_ns"]).all()
    for gpu in np.unique(batches["gpu"]):
        own = batches["gpu"] == gpu
        starts, ends = batches["start_ns"][own], batches["finish_ns"][own]
        assert (starts[1:] >= ends[:-1]).all(), f"GPU {gpu} ran two batches at once"


def batches_hold_one_model(outcome: Outcome) -> None:
    """A batch holds requests of its model, and no more than its largest size."""
    batches = outcome.batches
    models = np.repeat(batches["model"], batches["size"])
    np.testing.assert_array_equal(outcome.requests.models[outcome.members], models)
    sizes = np.array([spec.batch_size_max for spec in outcome.workload.models for _ in range(spec.copies)])
    assert (batches["size"] >= 1).all()
    assert (batches["size"] <= sizes[batches["model"]]).all()


def nothing_is_late(outcome: Outcome) -> None:
    """Where batches take what the profile says, what is run is answered in time."""
    assert not (outcome.outcome == LATE).any()


def idle_gpus_are_the_highest(outcome: Outcome) -> None:
    """One kind of GPU, every model everywhere: a batch goes to the lowest id that is idle."""
    batches = outcome.batches
    order = np.argsort(batches["decided_ns"], kind="stable")
    free_ns = np.zeros(len(outcome.workload.gpu_kinds), np.int64)
    for at in order:
        gpu, decided = batches["gpu"][at], batches["decided_ns"][at]
        assert (free_ns[:gpu] > decided).all(), f"a GPU below {gpu} was idle at {decided} ns"
        free_ns[gpu] = batches["finish_ns"][at]
