"""The first guess is the arithmetic of docs/plan.md, and never below what any scheduler needs."""

from __future__ import annotations

import pytest

from symphony.plan.demand import gathered_batch_size, guess, is_possible, least_work, work
from tests.plan.workloads import model, on_gpus, random_workload


def test_work_of_a_busy_model_is_at_ninety_percent_of_its_staggered_batch() -> None:
    # 25 ms less 0.05: on 8 GPUs the largest b with (9 / 8) l(b) <= 24.95 is 16, nine tenths of it 14, l(14) = 19.814.
    one = model("m", 25, 5300, 1.053, 5.072)
    found = work(on_gpus(one), one, "gpu")
    assert found == pytest.approx(5300 * 19.814e-3 / 14, rel=1e-6)
    assert guess([found]) == 9


def test_work_of_copies_is_that_of_each_times_their_number() -> None:
    alone = model("m", 100, 300, 1.0, 5.0)
    many = model("m", 100, 6000, 1.0, 5.0, copies=20)
    assert work(on_gpus(many), many, "gpu") == pytest.approx(20 * work(on_gpus(alone), alone, "gpu"))


def test_idle_model_needs_nothing() -> None:
    one = model("m", 25, 0, 1.0, 5.0)
    assert work(on_gpus(one), one, "gpu") == least_work(on_gpus(one), one, "gpu") == 0.0


@pytest.mark.parametrize(("rate_per_s", "size"), [(0, 1), (50, 3), (1000, 20)])
def test_rare_model_gathers_what_arrives_while_it_may_wait(rate_per_s: float, size: int) -> None:
    # l(b) = b + 5 ms: 50 requests/s bring 2.6 more in the 52 ms that a batch of 3 leaves of 60, and not 3 in 51.
    table = [(b + 5) * 1_000_000 for b in range(1, 21)]
    assert gathered_batch_size(table, rate_per_s / 1e9, 60_000_000) == size


def test_slo_below_one_batch_of_one_is_impossible() -> None:
    one = model("m", 6, 10, 1.0, 5.0)
    assert not is_possible(on_gpus(one, control_ns=50_000), one, "gpu")
    assert is_possible(on_gpus(one, control_ns=0), one, "gpu")
    assert work(on_gpus(one, control_ns=50_000), one, "gpu") == float("inf")


@pytest.mark.parametrize("seed", range(20))
def test_no_scheduler_needs_more_than_the_work(seed: int) -> None:
    workload = random_workload(seed, 20, (100, 50_000))
    for one in workload.models:
        assert 0 < least_work(workload, one, "gpu") <= work(workload, one, "gpu")
