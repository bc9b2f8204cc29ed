"""A workload.toml: what it says, and what is refused with which remedy."""

from __future__ import annotations

import pytest

from symphony.config.workload import Fault
from symphony.config.workload_document import GPU_COUNT_MAX, parse_workload
from symphony.errors import ConfigError

GPUS = "[[gpus]]\ncount = 2\n"
MODEL = '[[models]]\nname = "m"\nslo_ms = 25\nrate = 10\nalpha_ms = 1\nbeta_ms = 5\n'


def parse(text: str):
    return parse_workload(text, "workload.toml")


def test_smallest_workload_has_the_defaults() -> None:
    found = parse(GPUS + MODEL)
    assert (found.policy, found.seed, found.duration_ns, found.warmup_ns) == ("deferred", 1, 10**10, 10**9)
    assert (found.control_ns, found.data_ns, found.reply_ns, found.jitter) == (50_000, 0, 0, 0.0)
    assert found.gpu_kinds == ("gpu", "gpu")
    assert found.models[0].latency_ns["gpu"][:2] == (6_000_000, 7_000_000)
    assert found.models[0].batch_size_max == 256


def test_kinds_of_gpu_have_their_own_profiles() -> None:
    text = (
        '[[gpus]]\nkind = "big"\ncount = 1\n[[gpus]]\nkind = "small"\ncount = 2\n'
        '[[models]]\nname = "m"\nslo_ms = 25\nrate = 10\n'
        "[models.profiles.big]\nlatency_ms = [1.0, 1.5]\n[models.profiles.small]\nalpha_ms = 2\nbeta_ms = 3\n"
    )
    found = parse(text)
    assert found.gpu_kinds == ("big", "small", "small")
    assert found.models[0].latency_ns["big"] == (1_000_000, 1_500_000)
    assert found.models[0].batch_size_max == 2


def test_memory_and_prices_are_those_of_models_and_kinds() -> None:
    found = parse(GPUS + "price = 2.5\nmemory_mb = 16000\n" + MODEL + "memory_mb = 800\n")
    assert (found.gpus[0].price, found.gpus[0].memory_mb, found.models[0].memory_mb) == (2.5, 16000, 800)


def test_trace_gives_rates_and_duration() -> None:
    found = parse('trace = "t.csv"\n' + GPUS + MODEL.replace("rate = 10\n", ""))
    assert (found.trace, found.duration_ns, found.models[0].rate) == ("t.csv", 0, 0.0)
    assert parse('trace = "t.csv"\nduration_s = 3\n' + GPUS + MODEL.replace("rate = 10\n", "")).duration_ns == 3 * 10**9


def test_faults_are_sorted_by_time() -> None:
    text = '[[faults]]\nat_s = 2\ngpu = 1\n[[faults]]\nat_s = 1.5\ngpu = 0\naction = "slow"\nslowness = 3\n'
    assert parse(GPUS + MODEL + text).faults == (Fault(1_500_000_000, 0, 3.0), Fault(2_000_000_000, 1, 0.0))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (MODEL, "key 'gpus' is missing; add it"),
        (GPUS, "key 'models' is missing; add it"),
        (f"[[gpus]]\ncount = {GPU_COUNT_MAX + 1}\n{MODEL}", f"at most {GPU_COUNT_MAX}"),
        (f"[[gpus]]\ncount = {GPU_COUNT_MAX}\n{GPUS}{MODEL}", "makes 8194 GPUs"),
        (GPUS + MODEL + MODEL, "model 'm' stands twice; rename one, or set copies"),
        ("duration_s = 1\nwarmup_s = 1\n" + GPUS + MODEL, "it must be below duration_s = 1; shorten it"),
        (GPUS + MODEL + "latency_ms = [1.0]\n", "not both"),
        (GPUS + MODEL.replace("beta_ms = 5\n", ""), "alpha_ms and beta_ms must both be given"),
        (GPUS + MODEL.replace("alpha_ms = 1\nbeta_ms = 5\n", ""), "give one profile"),
        (
            GPUS + MODEL.replace("alpha_ms = 1\nbeta_ms = 5\n", "latency_ms = [2.0, 1.0]\n"),
            "never fall; mend the table",
        ),
        (GPUS + MODEL + "[models.profiles.tpu]\nalpha_ms = 1\nbeta_ms = 1\n", "there is no such GPU; known are gpu"),
        (GPUS + MODEL + "[[faults]]\nat_s = 1\ngpu = 2\n", "names GPU 2: there are 2, from 0"),
        (GPUS + MODEL + "sloms = 3\n", "did you mean 'slo_ms'?"),
        ('policy = "lifo"\n' + GPUS + MODEL, "key 'policy' is 'lifo'"),
        (GPUS + MODEL.replace("rate = 10", "rate = -1"), "key 'models[0].rate' is -1: it must be at least 0"),
        (GPUS + MODEL.replace("rate = 10", "rate = nan"), "finite"),
        ("[[gpus]", "is not valid TOML"),
        (GPUS + MODEL.replace("rate = 10\n", ""), "model 'm' has no key 'rate'; add it"),
        ('trace = "t.csv"\n' + GPUS + MODEL, "the key 'rate', but the trace has it; remove one of the two"),
        ('trace = "t.csv"\n' + GPUS + MODEL + 'arrivals = "poisson"\n', "the key 'arrivals', but the trace has them"),
        ('trace = "t.csv"\n' + GPUS + MODEL + "copies = 2\n", "a trace cannot tell them apart; name each model"),
        (GPUS + "price = 1\n" + GPUS + "price = 2\n" + MODEL, "kind 'gpu' has the price 1 and 2: a kind has one"),
        (GPUS + "price = 1\n" + GPUS + 'kind = "b"\n' + MODEL, "kind 'b' has no price, but others have"),
        (GPUS + "memory_mb = -1\n" + MODEL, "key 'gpus[0].memory_mb' is -1: it must be at least 0"),
    ],
)
def test_faulty_workload_is_refused_with_its_remedy(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert part in str(caught.value)
    assert "workload.toml" in str(caught.value)
