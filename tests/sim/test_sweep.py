"""Goodput over several seeds is a border: held below, not above."""

from __future__ import annotations

import pytest

from symphony.config.workload import SimulatedGpus, SimulatedModel, Workload
from symphony.profiles import staggered_bound
from symphony.sim.sweep import find_goodput, scaled, sweep
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns

TABLE = tuple(ms_to_ns(1.053 * size + 5.072) for size in range(1, 65))


def workload(rate: float, gpus: int = 2, **changes) -> Workload:
    model = SimulatedModel("m", 50 * NS_PER_MS, rate, {"gpu": TABLE}, **changes)
    return Workload((model,), (SimulatedGpus("gpu", gpus),), duration_ns=3 * NS_PER_S)


@pytest.mark.parametrize("rate", [200.0, 1400.0, 4000.0])
def test_goodput_is_found_from_any_rate_and_lies_under_the_bound(rate: float) -> None:
    goodput = find_goodput(workload(rate), seeds=(1, 2), resolution=0.02) * rate
    bound = staggered_bound(TABLE, 50 * NS_PER_MS, 2)[1]
    assert 0.85 * bound < goodput < bound
    assert sweep(workload(goodput), 1.0, (1, 2)).is_held
    assert not sweep(workload(goodput), 1.1, (1, 2)).is_held


def test_load_that_nothing_holds_has_no_goodput() -> None:
    model = SimulatedModel("m", 5 * NS_PER_MS, 100.0, {"gpu": TABLE})
    hopeless = Workload((model,), (SimulatedGpus("gpu", 1),), duration_ns=2 * NS_PER_S)
    assert find_goodput(hopeless, seeds=(1,)) == 0.0


def test_scaling_multiplies_every_rate() -> None:
    assert [one.rate for one in scaled(workload(10.0), 2.5).models] == [25.0]


def test_seeds_are_judged_together() -> None:
    found = sweep(workload(500.0), 1.0, (1, 2, 3))
    assert len(found.gpus_in_use) == len(set(found.digests)) == 3
    assert found.offered_rate == pytest.approx(500, rel=0.1)
