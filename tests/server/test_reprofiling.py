"""Measuring a served model again: on one device, while the others serve; the new profile replaces the old one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from symphony.cli.profile import profile_command
from symphony.client import AsyncClient
from symphony.errors import ConfigError, Reason, SymphonyError
from tests.server.conftest import Running, write_echo

pytestmark = pytest.mark.sockets

KEY = "emulated/emulated"
DRIFTED = "drift = 1.0\ndrift_s = 0.05"
"""Within 50 ms of the first batch, batches take twice as long as model.toml declares."""


async def measure_again(node: Running, model: str = "echo") -> tuple[int, Any]:
    """Ask for it; return (status, body)."""
    async with node.session.post(f"{node.url}/v2/repository/models/{model}/profile", json={}) as reply:
        return reply.status, await reply.json()


async def test_profile_measured_again_replaces_the_old_one_while_the_other_device_serves(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_echo(tmp_path / "models", slo_ms=60, emulated_extra=DRIFTED)
    async with run_node("2xemulated", profile_budget_s=0.5) as node:
        entry = node.node.find("echo", "1")
        declared_ns = entry.profiled_ns(KEY, 1)
        assert (await node.infer(0))[0] == 200
        task = asyncio.create_task(measure_again(node))
        served = 0
        while not task.done():
            await asyncio.sleep(0.001)
            if node.node._reprofiler.held:
                assert (await node.infer(1))[0] == 200
                served += 1
                assert node.node._workers[1].in_flight_count == 0
        status, body = await task
        assert status == 200 and served > 3
        (profile,) = body["profiles"]
        assert profile["device"] == "emulated" and profile["sample_counts"][0] >= 5
        assert 1.9 < entry.profiled_ns(KEY, 1) / declared_ns < 2.2
        assert KEY not in entry.drifts or 0.9 < entry.drifts[KEY].factor < 1.1
        assert entry.alone_ns == entry.table_ns(KEY)[0]
        assert not (tmp_path / "models" / "echo" / "profiles").exists(), "an emulated model's profile is declared"
        answers = await asyncio.gather(*(node.infer(number) for number in range(8)))
        assert [status for status, _ in answers] == [200] * 8
        assert (await node.metrics())["symphony_gpus_idle"] == 2
        await node.assert_at_rest()


async def test_batches_in_flight_on_the_device_end_before_anything_is_measured_there(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Under load on one device: no sample holds another batch's time, and all that was accepted is answered."""
    write_echo(tmp_path / "models", slo_ms=3000, beta_ms=40)
    async with run_node(profile_budget_s=0.2) as node:
        entry = node.node.find("echo", "1")
        held = [asyncio.create_task(node.infer(number)) for number in range(40)]
        await asyncio.sleep(0.05)
        status, body = await measure_again(node)
        assert status == 200
        assert body["profiles"][0]["p99_ns"][0] < 1.1 * 40.5e6
        assert [status for status, _ in await asyncio.gather(*held)] == [200] * 40
        assert entry.pause == ""
        await node.assert_at_rest()


async def test_model_without_another_device_is_refused_with_the_reason_meanwhile(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_echo(tmp_path / "models", slo_ms=200)
    write_echo(tmp_path / "models", name="other", slo_ms=200)
    async with run_node(profile_budget_s=0.3) as node:
        task = asyncio.create_task(measure_again(node))
        while not node.node._reprofiler.held:
            await asyncio.sleep(0.001)
        for model in ("echo", "other"):
            status, body = await node.infer(1, model)
            text = json.loads(body) if isinstance(body, bytes) and body[:1] == b"{" else {"error": str(body)}
            assert status == 503 and "its only device, measures" in text["error"]
        assert (await task)[0] == 200
        assert (await node.infer(1))[0] == (await node.infer(1, "other"))[0] == 200


async def test_second_measurement_and_unknown_models_are_refused(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_echo(tmp_path / "models", slo_ms=200)
    async with run_node("2xemulated", profile_budget_s=0.5) as node:
        task = asyncio.create_task(measure_again(node))
        while not node.node._reprofiler.held:
            await asyncio.sleep(0.001)
        status, body = await measure_again(node)
        assert (status, body["reason"]) == (503, "queue_full")
        status, body = await measure_again(node, "nothing")
        assert (status, body["reason"]) == (404, "unknown_model")
        assert (await task)[0] == 200
        await node.node.unload("echo")
        status, body = await measure_again(node)
        assert (status, body["reason"]) == (503, "not_ready")


@pytest.mark.parametrize("fault", ["fail_every = 3", "hang_every = 3"])
async def test_device_serves_on_after_a_measurement_that_failed(
    fault: str, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_echo(tmp_path / "models", slo_ms=200, emulated_extra=fault, extra="run_timeout_ms = 100")
    write_echo(tmp_path / "models", name="other", slo_ms=200)
    async with run_node("1xemulated", profile_budget_s=0.3) as node:
        before = node.node.find("echo", "1").table_ns(KEY)
        status, body = await measure_again(node)
        assert (status, body["reason"]) == (500, "worker_failed") and "was not measured again" in body["error"]
        assert node.node.find("echo", "1").table_ns(KEY) == before
        assert (await node.infer(1, "other"))[0] == 200


async def test_client_that_goes_away_leaves_the_device_in_service(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_echo(tmp_path / "models", slo_ms=200)
    async with run_node(profile_budget_s=0.3) as node:
        task = asyncio.create_task(measure_again(node))
        while not node.node._reprofiler.held:
            await asyncio.sleep(0.001)
        task.cancel()
        while node.node._reprofiler.held:
            await asyncio.sleep(0.01)
        assert (await node.infer(1))[0] == 200


async def test_model_whose_memory_is_shared_by_demand_is_measured_beside_the_others(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_echo(tmp_path / "models", slo_ms=300, emulated_extra="memory_mb = 60\nload_ms = 5")
    write_echo(tmp_path / "models", name="other", slo_ms=300, emulated_extra="memory_mb = 60\nload_ms = 5")
    async with run_node(profile_budget_s=0.2, device_memory_mb=100) as node:
        assert (await node.infer(1, "other"))[0] == 200
        assert (await measure_again(node))[0] == 200
        assert (await node.infer(1))[0] == (await node.infer(1, "other"))[0] == 200
        await node.assert_at_rest()


async def test_device_that_gets_a_new_worker_is_not_given_batches_while_it_is_held(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """A batch hangs on the device that is about to measure: its replacement leaves it drained."""
    write_echo(tmp_path / "models", slo_ms=200)
    write_echo(
        tmp_path / "models", name="hangs", slo_ms=200, emulated_extra="hang_every = 1", extra="run_timeout_ms = 80"
    )
    async with run_node(profile_budget_s=0.2) as node:
        hanging = asyncio.create_task(node.infer(1, "hangs"))
        while not node.node._workers[0].in_flight_count:
            await asyncio.sleep(0.001)
        status, _ = await measure_again(node)
        assert status == 200
        assert (await hanging)[0] == 500
        assert (await node.infer(1))[0] == 200


async def test_profile_of_a_real_model_is_saved_and_kept(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    folder = tmp_path / "models" / "sum"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("class M:\n    def predict(self, batch):\n        return {'y': batch['x'] + 1}\n")
    (folder / "model.toml").write_text(
        'name = "sum"\nslo_ms = 200\nmax_batch_size = 4\nformat = "python"\nentry = "model.py:M"\ndevices = ["cpu"]\n'
        '[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [8]\n'
        '[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [8]\n'
    )
    async with run_node("1xcpu", profile_budget_s=0.2) as node:
        (file,) = (folder / "profiles").iterdir()
        first = file.read_text()
        (profile,) = await node.node.profile("sum")
        assert json.loads(file.read_text()) == profile != json.loads(first)
        (key,) = node.node.find("sum", None).profiles
        assert json.loads(node.node.find("sum", None).profiles[key].to_json()) == profile


async def test_missing_device_is_said(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    write_echo(tmp_path / "models", slo_ms=200)
    async with run_node() as node:
        node.node.stats.gpus[0].is_quarantined = True
        with pytest.raises(SymphonyError, match="no usable emulated/emulated holds it now") as raised:
            await node.node.profile("echo")
        assert raised.value.reason is Reason.NO_GPU


async def test_command_has_a_running_node_measure_and_shows_the_profile(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    write_echo(tmp_path / "models", slo_ms=200)
    file = tmp_path / "found.json"
    async with run_node("2xemulated", profile_budget_s=0.2) as node:
        arguments = ["echo", "--url", node.url, "--json", str(file)]
        done = await asyncio.to_thread(CliRunner().invoke, profile_command, arguments)
        assert done.exception is None, done.output
        assert "echo version 1, on emulated" in done.output and "median ms" in done.output
        (profile,) = json.loads(file.read_text())["profiles"]
        assert profile["model"] == "echo"
        done = await asyncio.to_thread(CliRunner().invoke, profile_command, ["nothing", "--url", node.url])
        assert isinstance(done.exception, ConfigError) and '"nothing" is not served here' in str(done.exception)
        async with AsyncClient(node.url) as client:
            (again,) = await client.profile("echo")
            assert again["device"] == "emulated"


def test_options_of_measuring_here_do_not_go_with_a_node() -> None:
    done = CliRunner().invoke(profile_command, ["echo", "--url", "http://127.0.0.1:1", "--device", "cpu"])
    assert isinstance(done.exception, ConfigError) and "does not go with --url" in str(done.exception)
