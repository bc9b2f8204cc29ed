"""While one model fails, hangs or returns wrong shapes all the time, another on the same devices keeps its goodput."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.client.calls import Calls
from symphony.client.http import Address
from symphony.client.load import LoadRun
from symphony.client.report import Report, judge
from symphony.workload import Arrivals, make_schedule
from tests.server.conftest import write_echo

pytestmark = [pytest.mark.sockets, pytest.mark.slow]

SEED = 5
SLO_MS = 150.0
RATE_STEADY, RATE_FAULTY = 200.0, 40.0
"""Requests per second: with l(b) = 0.5 b + 3 ms on two devices, a third of what they carry."""
DURATION_S = 5.0
RUN_TIMEOUT_MS = 20.0
"""A hang holds its device that long, and until the node looks (0.01 s); what was handed over behind it must still be in
time after that. (It gets no second device while it hangs; docs/models.md says what longer limits cost.)"""
BAD_SHARE_MAX = 0.01


async def run_both(node: Any) -> Report:
    """Load both models with Poisson arrivals; return what became of the requests."""
    schedule = make_schedule(Arrivals("poisson"), [RATE_STEADY, RATE_FAULTY], DURATION_S, SEED)
    names = ["steady", "faulty"]
    calls = Calls(Address.parse(node.url), "framed")
    x = np.full(8, 7, np.float32)
    bodies = [calls.infer(name, {"x": x}, None, None, None, None, None, None, None, ()) for name in names]
    models = schedule.models.tolist()
    run = LoadRun(Address.parse(node.url), schedule.at_ns, lambda position: bodies[models[position]], 256, 2.0)
    result = await run.run(64)
    return judge(result, schedule.at_ns, schedule.models, names, [int(SLO_MS * 1e6)] * 2, 500_000_000)


@asynccontextmanager
async def kept_in_service(node: Any) -> AsyncIterator[list[float]]:
    """Load the faulty model again whenever it is taken out of service for hanging; yield the instants of that."""
    loads: list[float] = []

    async def look() -> None:
        while True:
            if node.node.find("faulty", None).state != "READY":
                await node.node.load("faulty")
                loads.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.02)

    task = asyncio.create_task(look())
    try:
        yield loads
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("fault", ["", "fail_every = 2", "wrong_shape_every = 2", "hang_every = 2"])
async def test_other_model_keeps_its_goodput_while_one_faults_in_every_second_batch(
    fault: str, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """The first case, without a fault, shows what the machine itself costs."""
    write_echo(tmp_path / "models", name="steady", slo_ms=SLO_MS)
    extra = f"run_timeout_ms = {RUN_TIMEOUT_MS}" if "hang" in fault else ""
    write_echo(tmp_path / "models", name="faulty", slo_ms=SLO_MS, extra=extra, emulated_extra=fault)
    async with run_node("2xemulated") as node, kept_in_service(node) as loads:
        report = await run_both(node)
        steady, faulty = report.models["steady"], report.models["faulty"]
        print(
            f"seed {SEED}, {fault or 'no fault'}: {report.models}, reasons {report.reasons}, loaded again {len(loads)} "
            f"times, lag {report.lag_ms}"
        )
        assert faulty["outcomes"]["failed"] >= (20 if fault else 0), "the fault was not there"
        assert ("hang" in fault) == bool(loads)
        assert steady["outcomes"]["failed"] == 0
        assert 1 - steady["good_share"] <= BAD_SHARE_MAX
        await node.assert_at_rest()
