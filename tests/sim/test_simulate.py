"""The simulator runs the real core: alike from alike seeds, true to a slow twin, through deaths and slow GPUs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from symphony.config.workload import Fault, SimulatedGpus, SimulatedModel, Workload
from symphony.core import Scheduler
from symphony.sim import Outcome, report_on, simulate
from symphony.sim.report import busy_share, gpus_busy_over_time, started_ns
from symphony.sim.run import OUTCOMES, Simulation
from symphony.units import NS_PER_MS, NS_PER_S, ms_to_ns
from tests import virtual
from tests.sim.checkers import check, idle_gpus_are_the_highest

GOOD, LATE, WOULD_MISS = (OUTCOMES.index(name) for name in ("good", "late", "would_miss"))


def line(alpha_ms: float, beta_ms: float, size: int = 64) -> tuple[int, ...]:
    return tuple(ms_to_ns(alpha_ms * b + beta_ms) for b in range(1, size + 1))


def model(name: str = "m", rate: float = 1000.0, **changes) -> SimulatedModel:
    values = {"slo_ns": 50 * NS_PER_MS, "latency_ns": {"gpu": line(1.053, 5.072)}}
    return SimulatedModel(name=name, rate=rate, **(values | changes))


def workload(*models: SimulatedModel, gpus: int = 4, **changes) -> Workload:
    values = {"duration_ns": 2 * NS_PER_S, "warmup_ns": NS_PER_S // 4}
    return Workload(models=models or (model(),), gpus=(SimulatedGpus("gpu", gpus),), **(values | changes))


@pytest.mark.parametrize("policy", ["deferred", "eager", "timeout"])
@pytest.mark.parametrize("rate", [300.0, 2500.0, 6000.0])
def test_run_keeps_every_promise_at_any_load(policy: str, rate: float) -> None:
    outcome = simulate(workload(model(rate=rate), policy=policy))
    check(outcome)
    idle_gpus_are_the_highest(outcome)


@pytest.mark.parametrize(
    "arrivals", ["constant", "poisson", "gamma:0.1", "onoff:0.1:0.1", "diurnal:1:0.1", "burst:1:0.2:10"]
)
def test_every_kind_of_arrival_can_be_simulated(arrivals: str) -> None:
    outcome = simulate(workload(model(arrivals=arrivals, rate=2000.0)))
    check(outcome)
    assert len(outcome.requests) > 1000


def test_same_seed_gives_the_same_digest_and_another_does_not() -> None:
    first, second = (simulate(workload(jitter=0.1), seed=7).digest() for _ in range(2))
    assert first == second
    assert simulate(workload(jitter=0.1), seed=8).digest() != first


def test_progress_changes_nothing() -> None:
    heard: list[float] = []
    assert simulate(workload(), on_progress=heard.append).digest() == simulate(workload()).digest()
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.parametrize(("rate", "policy"), [(600.0, "deferred"), (3400.0, "deferred"), (3400.0, "eager")])
def test_run_equals_that_of_the_slow_twin(rate: float, policy: str) -> None:
    specs = (model("a", rate / 2), model("b", rate / 2, slo_ns=80 * NS_PER_MS, latency_ns={"gpu": line(0.3, 9.0)}))
    outcome = simulate(workload(*specs, gpus=3, policy=policy, control_ns=0))
    arrivals = [
        virtual.Arrival(int(at), int(number))
        for at, number in zip(outcome.requests.at_ns, outcome.requests.models, strict=True)
    ]
    twin = virtual.simulate(
        Scheduler(policy=policy, request_count_max=len(arrivals)),
        [virtual.ModelSpec(spec.slo_ns, spec.latency_ns["gpu"]) for spec in specs],
        3,
        arrivals,
    )
    assert (outcome.outcome == GOOD).sum() == twin.good_count
    batches = outcome.batches
    columns = ("gpu", "model", "size", "start_ns", "finish_ns")
    ours = list(zip(*(batches[name].tolist() for name in columns), strict=True))
    assert ours == [(one.gpu, one.model, one.size, one.started_ns, one.finished_ns) for one in twin.batches]


def test_requests_of_a_gpu_that_dies_run_elsewhere_if_time_allows() -> None:
    faults = (Fault(NS_PER_S, 0, 0.0), Fault(NS_PER_S, 1, 0.0))
    outcome = simulate(workload(model(rate=1200.0, slo_ns=100 * NS_PER_MS), faults=faults))
    check(outcome)
    batches = outcome.batches
    assert not np.isin(batches["gpu"][batches["start_ns"] > NS_PER_S], (0, 1)).any()
    lost = np.repeat(batches["fate"] == 2, batches["size"])
    caught = outcome.outcome[outcome.members[lost]]
    assert np.isin(caught, (GOOD, WOULD_MISS)).all()
    assert (caught == GOOD).mean() > 0.5
    assert report_on(outcome).batches_by_fate["lost"] >= 1


def test_pool_that_dies_whole_drops_everything_and_says_why() -> None:
    faults = tuple(Fault(NS_PER_S, gpu, 0.0) for gpu in range(4))
    outcome = simulate(workload(faults=faults))
    check(outcome)
    after = outcome.requests.at_ns > NS_PER_S
    assert (outcome.outcome[after] == OUTCOMES.index("no_gpu")).all()


def test_slow_gpu_makes_its_batches_late_until_it_is_well_again() -> None:
    faults = (Fault(NS_PER_S // 2, 0, 3.0), Fault(NS_PER_S, 0, 1.0))
    outcome = simulate(workload(model(rate=200.0), gpus=1, faults=faults))
    check(outcome)
    late = outcome.ended_ns[outcome.outcome == LATE]
    assert len(late) > 10
    assert late.min() >= NS_PER_S // 2
    assert late.max() < 1.3 * NS_PER_S


def test_jitter_spreads_batch_times_by_its_share() -> None:
    batches = simulate(workload(jitter=0.1)).batches
    ratio = (batches["finish_ns"] - batches["start_ns"]) / np.array(line(1.053, 5.072))[batches["size"] - 1]
    assert ratio.std() == pytest.approx(0.1, rel=0.2)
    assert ratio.mean() == pytest.approx(1.0, abs=0.02)


def test_reply_delay_counts_against_the_deadline() -> None:
    outcome = simulate(workload(reply_ns=10 * NS_PER_MS))
    check(outcome)
    assert outcome.ended_ns[outcome.outcome == GOOD].size > 0
    answered = outcome.outcome == GOOD
    assert (outcome.ended_ns[answered] + 10 * NS_PER_MS <= outcome.requests.deadlines_ns[answered]).all()


def test_kinds_of_gpu_take_their_own_time_and_models_stay_where_they_are_resident() -> None:
    fast, slow = line(0.5, 2.0), line(2.0, 8.0)
    specs = (
        model("both", latency_ns={"fast": fast, "slow": slow}),
        model("one", latency_ns={"slow": slow}, rate=100.0),
    )
    groups = (SimulatedGpus("fast", 1), SimulatedGpus("slow", 2))
    outcome = simulate(replace(workload(*specs), gpus=groups))
    check(outcome)
    batches = outcome.batches
    assert set(batches["gpu"][batches["model"] == 1]) <= {1, 2}
    on_fast = batches["gpu"] == 0
    took = batches["finish_ns"] - batches["start_ns"]
    np.testing.assert_array_equal(took[on_fast], np.array(fast)[batches["size"][on_fast] - 1])
    np.testing.assert_array_equal(took[~on_fast], np.array(slow)[batches["size"][~on_fast] - 1])


def test_priority_goes_first_under_overload() -> None:
    specs = (model("high", 1500.0, priority=1), model("low", 1500.0, priority=8))
    report = report_on(simulate(workload(*specs, gpus=1)))
    assert report.request_count > 0


def test_report_counts_what_the_arrays_hold() -> None:
    outcome = simulate(workload(model("m", 3600.0, copies=2)))
    report = report_on(outcome)
    judged = outcome.requests.at_ns >= outcome.workload.warmup_ns
    assert report.request_count == judged.sum() == sum(report.outcomes.values())
    assert report.good_share == pytest.approx((outcome.outcome[judged] == GOOD).mean())
    assert [one.name for one in report.models] == ["m.1", "m.2"]
    assert report.worst_good_share == min(one.good_share for one in report.models)
    assert report.latency_ms["max"] <= 50.0
    assert report.queueing_ms["p50"] < report.latency_ms["p50"]
    assert report.digest == outcome.digest()


def test_busy_time_over_the_run_adds_up() -> None:
    outcome = simulate(workload(model(rate=2000.0)))
    _, busy = gpus_busy_over_time(outcome, NS_PER_S // 8)
    assert (busy >= 0).all()
    assert (busy <= 4).all()
    assert busy[2:].mean() == pytest.approx(busy_share(outcome).sum(), rel=0.01)


def test_start_of_each_answer_is_that_of_its_batch() -> None:
    outcome = simulate(workload(model(rate=100.0)))
    first = outcome.members[0]
    assert started_ns(outcome)[first] == outcome.batches["start_ns"][0]


def test_load_proportional_use_of_gpus() -> None:
    used = [report_on(simulate(workload(model(rate=rate), gpus=8))).gpus_in_use for rate in (500.0, 2000.0, 5000.0)]
    assert used == sorted(used)
    assert used[0] <= 2
    assert used[-1] >= 6


def test_arrays_that_do_not_fit_are_refused() -> None:
    outcome = simulate(workload(duration_ns=NS_PER_S // 10, warmup_ns=0))
    requests = outcome.requests
    empty = np.zeros(0, np.int64)
    tables = np.zeros((1, 8, 2), np.int64)
    kinds, ones = np.zeros(1, np.int32), np.ones(1)

    def make(at=requests.at_ns, models=requests.models, table=tables, jitter=ones) -> Simulation:
        from symphony.sim.policy import SimPolicy

        rest = (empty, empty.astype(np.int32), empty.astype(float))
        return Simulation(
            SimPolicy(), at, models, requests.deadlines_ns, requests.priorities, kinds, table, jitter, empty, 0, *rest
        )

    for wrong in (
        {"at": requests.at_ns[:-1]},
        {"at": requests.at_ns[::-1].copy()},
        {"models": requests.models + 1},
        {"jitter": np.zeros(0)},
        {"table": tables[:, :4].copy()},
    ):
        with pytest.raises(ValueError, match="must"):
            make(**wrong)


def test_policy_that_decides_nothing_leaves_every_request_unfinished() -> None:
    from symphony.sim.policy import SimPolicy

    outcome: Outcome = simulate(workload(duration_ns=NS_PER_S // 10, warmup_ns=0), make_policy=lambda *_: SimPolicy())
    assert (outcome.outcome == OUTCOMES.index("unfinished")).all()


@pytest.mark.slow
def test_random_workloads_keep_every_promise() -> None:
    rng = np.random.default_rng(5)
    for seed in range(60):
        specs = tuple(
            model(
                f"m{number}",
                float(rng.uniform(20, 800)),
                slo_ns=int(rng.uniform(15, 200) * NS_PER_MS),
                latency_ns={
                    "gpu": line(float(rng.uniform(0.1, 2)), float(rng.uniform(0.5, 12)), int(rng.integers(1, 64)))
                },
                arrivals=str(rng.choice(["poisson", "gamma:0.2", "onoff:0.2:0.1", "constant"])),
                priority=int(rng.integers(1, 9)),
            )
            for number in range(rng.integers(1, 9))
        )
        gpus = int(rng.integers(1, 9))
        dying = [
            (int(at), int(gpu)) for at, gpu in zip(rng.integers(0, NS_PER_S, 2), rng.integers(0, gpus, 2), strict=True)
        ]
        faults = tuple(Fault(at, gpu, 0.0) for at, gpu in sorted(dying)) if seed % 2 else ()
        policy = str(rng.choice(["deferred", "eager", "timeout"]))
        check(simulate(workload(*specs, gpus=gpus, policy=policy, faults=faults, duration_ns=NS_PER_S), seed=seed))


def test_models_streams_do_not_depend_on_one_another() -> None:
    alone = simulate(workload(model("a"))).requests.at_ns
    beside = simulate(workload(model("a"), model("b", 77.0))).requests
    np.testing.assert_array_equal(beside.at_ns[beside.models == 0], alone)
    assert len(list(itertools.groupby(beside.models.tolist()))) > 10
