"""A node writes down what arrives, within limits, and what it wrote can be simulated as it stands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TextIO

import pytest

from symphony.cli.workload_file import read_trace, read_workload
from symphony.errors import ConfigError
from symphony.server.recorder import NOTE_BYTES, Recorder
from symphony.sim import report_on, simulate
from symphony.workload.trace import HEADER
from tests.server.conftest import write_echo


async def test_arrivals_are_written_from_the_first_on(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    recorder = Recorder(file, 1 << 20)
    for number in range(3):
        recorder.arrived("ab"[number % 2], 5_000_000_000 + number * 1_000_000, 20_000_000 if number == 2 else 0)
    await recorder.close()
    assert file.read_text() == HEADER + "0.000000000,a\n0.001000000,b\n0.002000000,a,20\n# complete\n"
    assert (recorder.count, recorder.left_out_count) == (3, 0)


@pytest.mark.parametrize(("bytes_max", "count_max", "kept"), [(1 << 20, 5, 5), (len(HEADER) + NOTE_BYTES + 29, 99, 2)])
async def test_limit_ends_the_recording_and_what_is_left_out_is_noted(
    tmp_path: Path, bytes_max: int, count_max: int, kept: int
) -> None:
    file = tmp_path / "t.csv"
    recorder = Recorder(file, bytes_max, count_max)
    for number in range(8):
        recorder.arrived("a", 1_000_000_000 + number)
    await recorder._write()
    recorder.arrived("a", 2_000_000_000)
    await recorder.close()
    assert len(read_trace(file)) == recorder.count == kept
    assert recorder.left_out_count == 9 - kept
    assert f"# left out: {9 - kept} requests: the recording reached its limit ({kept} requests" in file.read_text()
    assert file.stat().st_size <= bytes_max


async def test_requests_that_wait_for_a_slow_disk_are_bounded(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("symphony.server.recorder.WAITING_COUNT_MAX", 4)
    recorder = Recorder(tmp_path / "t.csv", 1 << 20)
    for number in range(10):
        recorder.arrived("a", 1 + number)
    await recorder.close()
    assert (recorder.count, recorder.left_out_count) == (4, 6)
    assert "left out: 6 requests: more than 4 requests waited" in (tmp_path / "t.csv").read_text()


def full_disk() -> TextIO:
    return Path("/dev/full").open("w")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_full_disk_ends_the_recording_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(tmp_path / "t.csv", 1 << 20)
    recorder._target.close()
    recorder._target = full_disk()
    recorder.arrived("a", 1)
    await recorder._write()
    recorder.arrived("a", 2)
    await recorder.close()
    assert (recorder.count, recorder.left_out_count) == (0, 2)
    assert "the node serves on" in caplog.text


async def test_restart_leaves_older_recordings_alone(tmp_path: Path) -> None:
    for number in range(3):
        recorder = Recorder(tmp_path / "t.csv", 1 << 20)
        for _ in range(number + 1):
            recorder.arrived("a", 1)
        await recorder.close()
    assert [len(read_trace(tmp_path / name)) for name in ("t.csv", "t-1.csv", "t-2.csv")] == [1, 2, 3]


async def test_file_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot record into .*; name another file"):
        Recorder(tmp_path / "no" / "t.csv", 1 << 20)


@pytest.mark.sockets
async def test_recording_of_a_node_is_simulated_as_it_stands(tmp_path: Path, run_node) -> None:
    write_echo(tmp_path / "models")
    write_echo(tmp_path / "models", name="other", slo_ms=60)
    file = tmp_path / "day.csv"
    async with run_node("2xemulated", record=file) as running:
        await running.infer(1.0, "other")
        await asyncio.gather(*(running.infer(float(number)) for number in range(20)))
        await running.infer(2.0, X_Request_Timeout_Ms="40")
        assert (await running.infer(3.0, X_Request_Timeout_Ms="1"))[0] == 503  # refused, but part of the load
    workload, source = read_workload(tmp_path / "day.toml")
    assert {one.name: (one.slo_ns, one.latency_ns["emulated/emulated"][0]) for one in workload.models} == {
        "echo": (100_000_000, 3_500_000),
        "other": (60_000_000, 3_500_000),
    }
    assert [(group.kind, group.count) for group in workload.gpus] == [("emulated/emulated", 2)]
    workload, requests = source(workload, 1.0, 1)
    assert len(requests) == 23
    slos = sorted((requests.deadlines_ns - requests.at_ns).tolist())
    assert slos[:3] == [1_000_000, 40_000_000, 60_000_000] and set(slos[3:]) == {100_000_000}
    report = report_on(simulate(workload, requests=requests))
    assert report.outcomes["good"] == 22


@pytest.mark.sockets
async def test_requests_refused_unread_are_recorded(tmp_path: Path, run_node) -> None:
    write_echo(tmp_path / "models")
    file = tmp_path / "day.csv"
    async with run_node("1xemulated", record=file) as running:
        (entry,) = running.node.models()
        entry.door.shares.of("peer:127.0.0.1", 1.0).refused_share = 1.0
        assert (await running.infer(1.0))[0] == 503
    assert len(read_trace(file)) == 1
