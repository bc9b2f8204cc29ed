"""A whole node over real sockets: right answers, refusals with reasons, failures contained, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from symphony.client import Ask, AsyncClient
from symphony.errors import Reason, SymphonyError
from symphony.execution.devices import DeviceLostError
from tests.server.conftest import write_echo

pytestmark = pytest.mark.sockets


def own_threads() -> list[str]:
    """Return the names of the node's threads, not of asyncio's pool."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if name.startswith(("launch-", "complete-", "schedule")))


async def test_each_request_gets_its_own_answer(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """200 at once, on two GPUs: answers are not mixed up, and all leave the gauges at zero."""
    write_echo(tmp_path / "models")
    async with run_node("2xemulated") as node:
        answers = await asyncio.gather(*(node.infer(number) for number in range(200)))
        for number, (status, output) in enumerate(answers):
            assert status == 200 and output.tolist() == [number, number]
        await node.assert_at_rest()
        metrics = await node.metrics()
        assert metrics["symphony_requests_total{model=echo,outcome=good,reason=,version=1}"] == 200
        assert metrics["symphony_batch_size_sum{model=echo,version=1}"] == 200


async def test_requests_are_batched(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Sixteen that arrive together run as few batches, not as sixteen."""
    write_echo(tmp_path / "models")
    async with run_node() as node:
        await asyncio.gather(*(node.infer(number) for number in range(16)))
        metrics = await node.metrics()
        assert metrics["symphony_batch_size_count{model=echo,version=1}"] <= 4


async def test_deadline_that_no_batch_can_meet_is_refused_with_the_reason(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """1 ms is below l(1) = 3.5 ms: 503 would_miss at once, and Retry-After is not promised where it cannot help."""
    write_echo(tmp_path / "models")
    async with run_node() as node:
        status, body = await node.infer(1, X_Request_Timeout_Ms="1")
        assert status == 503
        assert b"would_miss" in body and b"3.5 ms" in body
        await node.assert_at_rest()


async def test_overload_is_refused_within_the_slo_and_the_rest_is_good(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Three times what one GPU carries: most of its capacity stays good, refusals come before the deadline."""
    write_echo(tmp_path / "models", alpha_ms=4.0, beta_ms=4.0, slo_ms=100)
    async with run_node() as node:
        results: list[tuple[int, float]] = []

        async def one(number: int) -> None:
            began = time.monotonic()
            status, _ = await node.infer(number)
            results.append((status, time.monotonic() - began))

        tasks = []
        for number in range(900):  # 600 requests/s for 1.5 s; l(b) = 4 b + 4 ms carries 230 at most
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(0.0025 if number % 3 == 2 else 0)
        await asyncio.gather(*tasks)
        good = [wait for status, wait in results if status == 200]
        refused = [wait for status, wait in results if status == 503]
        assert len(good) + len(refused) == 900
        assert len(good) >= 100
        # The client shares this process: its own delays are in the figures, so the tail gets room.
        assert np.quantile(refused, 0.9) < 0.1
        assert max(refused) < 0.4
        await node.assert_at_rest()


async def test_client_that_disconnects_leaves_no_trace(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Its request is cancelled in the queue, or its answer thrown away; the gauges return to zero."""
    write_echo(tmp_path / "models", slo_ms=400, beta_ms=50.0)
    async with run_node() as node:
        host, port = node.url.removeprefix("http://").split(":")
        body = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [8], "data": [0.0] * 8}]}).encode()
        head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for _ in range(20):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head + body)
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.transport.abort()
        await node.assert_at_rest()
        metrics = await node.metrics()
        cancelled = metrics["symphony_requests_total{model=echo,outcome=cancelled,reason=cancelled,version=1}"]
        answered = metrics.get("symphony_requests_total{model=echo,outcome=good,reason=,version=1}", 0)
        assert cancelled >= 1 and cancelled + answered == 20


@pytest.mark.parametrize(
    ("fault", "text"),
    [("fail_every = 3", b"injected failure"), ("wrong_shape_every = 3", b"of shape")],
)
async def test_failing_batch_fails_only_its_own_requests(
    fault: str, text: bytes, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Every third batch: 500 worker_failed with the reason; the others and the other model are answered."""
    write_echo(tmp_path / "models", emulated_extra=fault, slo_ms=50)
    write_echo(tmp_path / "models", name="other", slo_ms=50)
    async with run_node() as node:
        outcomes = []
        for number in range(9):
            outcomes.append(await node.infer(number))
            assert (await node.infer(number, model="other"))[0] == 200
        failed = [body for status, body in outcomes if status == 500]
        assert len(failed) == 3 and all(text in body and b"worker_failed" in body for body in failed)
        assert [status for status, _ in outcomes].count(200) == 6
        await node.assert_at_rest()


async def test_batch_that_does_not_fit_is_answered_and_its_size_remembered(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """All are answered, and from the second batch on none is too large."""
    write_echo(tmp_path / "models", emulated_extra="memory_size_max = 5", slo_ms=300)
    async with run_node() as node:
        failed = "symphony_batches_failed_total{model=echo,version=1}"
        for round_ in range(4):
            answers = await asyncio.gather(*(node.infer(number) for number in range(16)))
            assert [status for status, _ in answers] == [200] * 16
            assert [answer[0] for _, answer in answers] == list(range(16))
            if round_ == 1:
                before = (await node.metrics())[failed]
        assert 1 <= before == (await node.metrics())[failed]
        await node.assert_at_rest()


async def test_outputs_that_are_no_numbers_fail_their_request_alone(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Where model.toml allows none."""
    write_echo(tmp_path / "models", emulated_extra="nan_every = 1", output_extra="allow_nan = false", slo_ms=100)
    write_echo(tmp_path / "models", name="lax", emulated_extra="nan_every = 1", slo_ms=100)
    async with run_node() as node:
        answers = await asyncio.gather(*(node.infer(number) for number in range(8)))
        failed = [body for status, body in answers if status == 500]
        assert failed and all(b"holds NaN or infinities" in body for body in failed)
        assert len(failed) + [status for status, _ in answers].count(200) == 8
        assert (await node.infer(1, model="lax"))[0] == 200
        await node.assert_at_rest()


async def test_requests_of_a_lost_device_are_answered_by_another(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """None fails; the node is told once that it must end."""
    write_echo(tmp_path / "models", emulated_extra="lost_after = 40", slo_ms=200)
    # Started at once, so that the deadline leaves time for another device: a deferred batch uses it up.
    async with run_node("3xemulated", policy="eager") as node:
        for _ in range(60):
            assert (await node.infer(7))[0] == 200
            if node.faults:
                break
        (fault,) = node.faults
        assert isinstance(fault, DeviceLostError) and "emulated:0 is lost" in str(fault)
        node.faults.clear()
        answers = await asyncio.gather(*(node.infer(number) for number in range(16)))
        assert [status for status, _ in answers] == [200] * 16
        assert (await node.metrics())["symphony_gpus_quarantined"] == 1
        await node.assert_at_rest()
        assert node.faults == []


async def test_device_lost_while_a_batch_is_run_again_is_noticed_with_that_batch(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Its requests are answered by the other device, no further batch is needed to notice."""
    write_echo(tmp_path / "models", emulated_extra="memory_size_max = 4\nlost_after = 3", slo_ms=400, alpha_ms=5.0)
    async with run_node("2xemulated") as node:
        for number in range(2):
            assert (await node.infer(number))[0] == 200
        # The third launch, of all eight, does not fit; the fourth, of the first half, loses the device.
        answers = await asyncio.gather(*(node.infer(number) for number in range(8)))
        (fault,) = node.faults
        assert isinstance(fault, DeviceLostError) and "emulated:0 is lost" in str(fault)
        assert [(status, answer[0]) for status, answer in answers] == [(200, number) for number in range(8)]
        node.faults.clear()
        await node.assert_at_rest()


NUMPY_MODEL = """
import numpy as np

class Odd:
    def predict(self, batch):
        first = float(batch["x"].reshape(-1)[0])
        if first == 13:
            raise SystemExit(13)
        return {"y": np.full((len(batch["x"]), 8), first, object if first == 14 else np.float32)}
"""


async def test_code_that_exits_or_returns_objects_fails_its_batch_and_the_device_goes_on(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Neither may end the thread that drives the device."""
    folder = tmp_path / "models" / "odd"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(
        'name = "odd"\nslo_ms = 2000\nmax_batch_size = 1\nformat = "python"\nentry = "model.py:Odd"\n'
        'devices = ["cpu"]\n[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [8]\n'
        '[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [8]\nallow_nan = false\n'
    )
    (folder / "model.py").write_text(NUMPY_MODEL)
    async with run_node("cpu", profile_budget_s=0.1) as node:
        for number, said in ((13, b"SystemExit(13)"), (14, b'output \\"y\\" as object')):
            status, body = await node.infer(number, model="odd")
            assert status == 500 and said in body, body
            assert (await node.infer(5, model="odd"))[0] == 200
        await node.assert_at_rest()


async def test_hanging_batch_fails_alone_and_the_device_goes_on(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """The request in it gets 500 after run_timeout_ms; the worker is replaced; other models are answered meanwhile."""
    write_echo(tmp_path / "models", emulated_extra="hang_every = 2", extra="run_timeout_ms = 100", slo_ms=50)
    write_echo(tmp_path / "models", name="other", slo_ms=500)
    async with run_node() as node:
        assert (await node.infer(1))[0] == 200
        hanging = asyncio.create_task(node.infer(2))
        await asyncio.sleep(0.06)
        behind = await node.infer(3, model="other")
        status, body = await hanging
        assert status == 500 and b"run_timeout_ms" in body
        assert behind[0] == 200
        assert (await node.infer(4, model="other"))[0] == 200
        assert (await node.metrics())["symphony_gpus_quarantined"] == 0
        await node.assert_at_rest()


async def test_batch_that_meets_a_new_worker_before_its_model_is_answered_by_another_device(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """It was on its way to a device whose worker was replaced because of another model's hang."""
    write_echo(tmp_path / "models", slo_ms=200)
    async with run_node("2xemulated") as node:
        asked = []

        class NotYet(dict[int, Any]):
            def get(self, model: int, default: Any = None) -> Any:
                node.node.loop.gpu_drained(0)  # as the node does before it takes the old worker's plans away
                asked.append(model)

        node.node._workers[0]._models = NotYet()
        assert (await node.infer(5))[0] == 200
        assert len(asked) == 1
        await node.assert_at_rest()


async def test_threads_and_slots_balance_after_many_batches(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Failures, hangs and replacements leave as many threads as before."""
    write_echo(
        tmp_path / "models", emulated_extra="fail_every = 5\nhang_every = 7", extra="run_timeout_ms = 40", slo_ms=30
    )
    async with run_node() as node:
        before = own_threads()
        assert before == ["complete-emulated:0", "launch-emulated:0", "schedule"]
        for _ in range(12):
            await node.infer(1)
        await asyncio.sleep(0.3)
        assert own_threads() == before
        await node.assert_at_rest()


async def test_node_that_stops_while_batches_hang_ends_its_threads(
    tmp_path: Path, run_node: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All devices together are waited for no longer than the limit."""
    monkeypatch.setattr("symphony.server.node.STOP_TIMEOUT_S", 0.3)
    for number in range(3):  # one model that hangs gets no second device
        write_echo(tmp_path / "models", name=f"echo{number}", emulated_extra="hang_every = 1", slo_ms=30)
    async with run_node("3xemulated") as node:
        hanging = []
        for number in range(3):
            hanging.append(asyncio.create_task(node.infer(number, f"echo{number}")))
            await asyncio.sleep(0.1)
        assert [worker.in_flight_count for worker in node.node._workers] == [1, 1, 1]
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    assert own_threads() == []
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_model_gets_no_further_device_while_its_batch_hangs_and_gets_them_back_after(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Another model keeps the other devices; once the hang is resolved, the first is served on all again."""
    write_echo(tmp_path / "models", emulated_extra="hang_every = 2", extra="run_timeout_ms = 1000", slo_ms=100)
    write_echo(tmp_path / "models", name="other", slo_ms=100)
    async with run_node("3xemulated") as node:
        assert (await node.infer(0))[0] == 200  # the second batch on the first device hangs
        hanging = asyncio.create_task(node.infer(1))
        while node.node._workers[0].suspect(time.monotonic_ns()) is None:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(node.infer(number)) for number in range(6)]
        for number in range(4):
            assert (await node.infer(number, "other"))[0] in (200, 503, 504)
            assert all(worker.suspect(time.monotonic_ns()) is None for worker in node.node._workers[1:])
        echo = node.node.find("echo", None).index
        assert node.node._holds._held[echo][1] == {1, 2}
        status, body = await hanging
        assert status == 500 and b"run_timeout_ms" in body
        await asyncio.gather(*waiting)
        await asyncio.sleep(0.05)
        assert node.node._holds._held[echo][1] == {1, 2}, "a model that hung keeps to one device at first"
        node.node.find("echo", None).probation_count = 1
        while (await node.infer(1))[0] != 200:
            pass
        while node.node._holds._held:
            await asyncio.sleep(0.01)
        answers = await asyncio.gather(*(node.infer(number, "other") for number in range(4)))
        assert [status for status, _ in answers] == [200] * 4
        node.node.loop.gpu_drained(0)
        assert (await node.infer(7))[0] == 200, "the model is resident on the other devices again"
        await node.assert_at_rest()


async def test_slow_batch_holds_its_model_back_no_longer_than_it_takes(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """A batch that was only slow: the model has its other device back at once, and nothing was refused."""
    write_echo(tmp_path / "models", emulated_extra="slow_device = 0\nslow_factor = 40", slo_ms=400)
    async with run_node("2xemulated") as node:
        slow = asyncio.create_task(node.infer(1))
        while not node.node._holds._held:
            await asyncio.sleep(0.005)
        assert (await slow)[0] == 200
        while node.node._holds._held:
            await asyncio.sleep(0.002)
        node.node.loop.gpu_drained(0)
        assert (await node.infer(2))[0] == 200


async def test_model_that_keeps_hanging_is_taken_out_with_the_reason(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """After three hangs: not_ready, which says so."""
    write_echo(tmp_path / "models", emulated_extra="hang_every = 1", extra="run_timeout_ms = 30", slo_ms=30)
    async with run_node() as node:
        for _ in range(3):
            assert (await node.infer(1))[0] == 500
        await asyncio.sleep(0.05)
        status, body = await node.infer(1)
        assert status == 503 and b"not_ready" in body and b"hung 3 times" in body


async def test_model_with_an_impossible_slo_is_unavailable_and_the_rest_is_served(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """The reason names the SLO, l(1) and the remedy."""
    write_echo(tmp_path / "models", name="slow", slo_ms=8, beta_ms=9.0)
    write_echo(tmp_path / "models")
    async with run_node() as node:
        status, body = await node.infer(1, model="slow")
        assert status == 503 and b"SLO 8 ms is below l(1) = 9.5 ms" in body and b"raise slo_ms" in body
        assert (await node.infer(1))[0] == 200


async def test_profile_follows_a_drift(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Batches come to take half as long again; the scheduler's table does, too."""
    write_echo(tmp_path / "models", emulated_extra="drift = 0.5\ndrift_s = 0.2", slo_ms=300)
    async with run_node() as node:
        entry = node.node.find("echo", "1")
        (key,) = entry.profiles
        before = entry.table_ns(key)
        for _ in range(150):
            assert (await node.infer(1))[0] == 200
        assert 1.4 < entry.table_ns(key)[0] / before[0] < 1.6
        assert entry.profiled_ns(key, 1) == before[0]


async def test_device_that_is_persistently_slow_gets_no_more_batches(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """One of three takes thrice as long: it is found, and the others serve on."""
    write_echo(tmp_path / "models", emulated_extra="slow_device = 1\nslow_factor = 3.0", slo_ms=500)
    async with run_node("3xemulated") as node:
        metrics: dict[str, float] = {}
        for _ in range(60):
            answers = await asyncio.gather(*(node.infer(number) for number in range(48)))
            assert [status for status, _ in answers] == [200] * 48
            metrics = await node.metrics()
            if metrics["symphony_gpus_quarantined"]:
                break
        assert metrics["symphony_gpus_quarantined"] == 1
        assert 2.5 < metrics["symphony_gpu_slowdown_ratio{gpu=emulated:1}"] < 3.5
        assert metrics["symphony_gpu_slowdown_ratio{gpu=emulated:0}"] < 1.25
        assert (await node.infer(1))[0] == 200
        await node.assert_at_rest()


async def test_limits_of_queue_and_slots_are_refused_above_and_taken_at_the_limit(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """queue_count_max of a model and request_count_max of the node."""
    write_echo(tmp_path / "models", slo_ms=400, beta_ms=100.0, extra="queue_count_max = 3")
    write_echo(tmp_path / "models", name="wide", slo_ms=400, beta_ms=100.0)
    async with run_node("2xemulated", request_count_max=5) as node:
        first = [asyncio.create_task(node.infer(n)) for n in range(4)]
        await asyncio.sleep(0.05)
        second = [asyncio.create_task(node.infer(n, model="wide")) for n in range(3)]
        statuses = [(await task)[0] for task in first]
        assert sorted(statuses) == [200, 200, 200, 503]
        refused = [(await task) for task in second]
        assert sorted(status for status, _ in refused) == [200, 200, 503]
        assert any(b"queue_full" in body for status, body in refused if status == 503)
        await node.assert_at_rest()


async def test_drain_refuses_new_requests_and_finishes_accepted_ones(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Ready turns 503 at once; every accepted request is answered."""
    write_echo(tmp_path / "models", slo_ms=300, beta_ms=60.0)
    async with run_node() as node:
        accepted = [asyncio.create_task(node.infer(n)) for n in range(10)]
        await asyncio.sleep(0.05)
        draining = asyncio.create_task(node.node.drain(5))
        await asyncio.sleep(0)
        async with node.session.get(f"{node.url}/v2/health/ready") as reply:
            assert reply.status == 503
        status, body = await node.infer(1)
        assert status == 503 and b"draining" in body
        assert [(await task)[0] for task in accepted] == [200] * 10
        assert await draining


async def test_priorities_protect_under_overload(tmp_path: Path, run_node: Callable[..., Any]) -> None:
    """Twice the capacity, half of it at priority 1: those are good, the others bear the refusals."""
    write_echo(tmp_path / "models", alpha_ms=4.0, beta_ms=4.0, slo_ms=100)
    async with run_node() as node:
        outcome: dict[int, list[int]] = {1: [], 8: []}

        async def one(priority: int) -> None:
            body = {
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [8], "data": [0.0] * 8}],
                "parameters": {"priority": priority},
            }
            async with node.session.post(f"{node.url}/v2/models/echo/infer", json=body) as reply:
                outcome[priority].append(reply.status)
                await reply.read()

        tasks = []
        for number in range(800):
            tasks.append(asyncio.create_task(one(8 if number % 4 else 1)))
            await asyncio.sleep(0.005 if number % 2 else 0)
        await asyncio.gather(*tasks)
        share = {priority: statuses.count(200) / len(statuses) for priority, statuses in outcome.items()}
        assert share[1] > 0.9 and share[8] < 0.75, share


async def test_python_model_on_cpu_is_served_profiled_and_profile_reused(
    tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Formats and devices together: answers equal numpy's, the saved profile is found again."""
    folder = tmp_path / "models" / "double"
    folder.mkdir(parents=True)
    (folder / "model.toml").write_text(
        'name = "double"\nslo_ms = 200\nmax_batch_size = 4\nformat = "python"\nentry = "model.py:Double"\n'
        'devices = ["cpu"]\n[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [8]\nallow_nan = false\n'
        '[[outputs]]\nname = "y"\ndatatype = "FP32"\nshape = [8]\n'
    )
    (folder / "model.py").write_text(
        "class Double:\n    def predict(self, batch):\n        return {'y': batch['x'] * 2}\n"
    )
    for _ in range(2):
        async with run_node("cpu", profile_budget_s=0.2) as node:
            answers = await asyncio.gather(*(node.infer(n, model="double") for n in range(20)))
            assert [output.tolist() for _, output in answers] == [[2.0 * n] * 8 for n in range(20)]
            status, body = await node.infer(np.nan, model="double")
            assert status == 400 and b"nan" in body.lower()
        files = list((folder / "profiles").glob("*.json"))
        assert len(files) == 1
        written = files[0].stat().st_mtime_ns
    assert files[0].stat().st_mtime_ns == written


@pytest.mark.parametrize("form", ["framed", "msgpack", "json"])
async def test_many_requests_of_a_body_are_batched_and_have_their_own_fate(
    form: str, tmp_path: Path, run_node: Callable[..., Any]
) -> None:
    """Sixteen in one body, every fourth with 1 ms to live: those are refused, the others share batches."""
    write_echo(tmp_path / "models")
    async with run_node() as node:
        asks = [
            Ask({"x": np.full(8, number, np.float32)}, timeout_ms=1 if number % 4 == 3 else None)
            for number in range(16)
        ]
        async with AsyncClient(node.url, form=form) as client:
            answers = await client.infer_many("echo", asks)
        for number, answer in enumerate(answers):
            if number % 4 == 3:
                assert isinstance(answer, SymphonyError) and answer.reason is Reason.WOULD_MISS
            else:
                assert answer["y"].tolist() == [number, number]
        await node.assert_at_rest()
        metrics = await node.metrics()
        assert metrics["symphony_batch_size_sum{model=echo,version=1}"] == 12
        assert metrics["symphony_batch_size_count{model=echo,version=1}"] <= 3
