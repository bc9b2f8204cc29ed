"""One greedy caller is a trouble to itself alone: whoever keeps to his share is answered in time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.client.calls import Calls
from symphony.client.http import Address
from symphony.client.load import LoadRun
from symphony.client.report import Report, judge
from symphony.config import hash_key
from symphony.workload import Arrivals, make_schedule
from tests.server.conftest import write_echo

pytestmark = [pytest.mark.sockets, pytest.mark.slow]

SEED = 3
SLO_MS = 300.0
OTHERS = [f"other{number}" for number in range(4)]
RATE_OTHER = 30.0
CAPACITY = 400.0
"""Requests per second, about: l(b) = 4 b + 20 ms on two devices within half the SLO."""
RATE_GREEDY = 20 * CAPACITY / (1 + len(OTHERS))
DURATION_S = 6.0
BAD_SHARE_MAX = 0.01


async def run_callers(node: Any, rates: dict[str, float], priority: int | None = None) -> Report:
    """Let each caller send at its rate; return what became of their requests, by caller. `priority`: of the greedy."""
    schedule = make_schedule(Arrivals("poisson"), list(rates.values()), DURATION_S, SEED)
    address = Address.parse(node.url)
    x = np.full(8, 7, np.float32)
    bodies = []
    for name in rates:
        calls = Calls(address, "framed", api_key=f"key-of-{name}")
        wanted = priority if name == "greedy" else None
        bodies.append(calls.infer("echo", {"x": x}, None, None, wanted, None, None, None, None, ()))
    callers = schedule.models.tolist()
    run = LoadRun(address, schedule.at_ns, lambda position: bodies[callers[position]], 1024, 2.0)
    result = await run.run(64)
    return judge(result, schedule.at_ns, schedule.models, list(rates), [int(SLO_MS * 1e6)] * len(rates), 0)


@pytest.mark.parametrize("greedy", ["absent", "steady", "urgent"])
async def test_greedy_caller_at_twenty_times_its_share_costs_others_nothing(
    greedy: str, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """The first case, without it, shows what the machine itself costs. Counted from the first request on."""
    names = ["greedy", *OTHERS]
    file = tmp_path / "keys.toml"
    file.write_text("".join(f'[[keys]]\nname = "{n}"\nsha256 = "{hash_key(f"key-of-{n}")}"\n' for n in names))
    write_echo(tmp_path / "models", slo_ms=SLO_MS, alpha_ms=4.0, beta_ms=20.0)
    rates = ({} if greedy == "absent" else {"greedy": RATE_GREEDY}) | dict.fromkeys(OTHERS, RATE_OTHER)
    async with run_node("2xemulated", keys=file) as node:
        report = await run_callers(node, rates, 1 if greedy == "urgent" else None)
        print(f"seed {SEED}, {greedy}: {report.models}, reasons {report.reasons}, lag {report.lag_ms}")
        counts = [report.models[name]["outcomes"] for name in OTHERS]
        sent = sum(sum(outcomes.values()) for outcomes in counts)
        assert 1 - sum(outcomes["good"] for outcomes in counts) / sent <= BAD_SHARE_MAX
        if greedy != "absent":
            outcomes = report.models["greedy"]["outcomes"]
            answered = outcomes["good"] / DURATION_S
            assert answered > 0.5 * (CAPACITY - RATE_OTHER * len(OTHERS)), "what others leave is the greedy one's"
            assert outcomes["good"] < 0.5 * sum(outcomes.values()), "the overload was not there"
