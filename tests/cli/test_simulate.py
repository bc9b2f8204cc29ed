"""`symphony simulate` prints, writes and draws a run, and says in one sentence why it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from symphony.cli.simulate import simulate_command
from symphony.errors import ConfigError

WORKLOAD = """
duration_s = 1
warmup_s = 0.25
[[gpus]]
count = 3
[[models]]
name = "resnet"
copies = 2
slo_ms = 50
rate = 1500
alpha_ms = 1.053
beta_ms = 5.072
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "workload.toml"
    path.write_text(WORKLOAD)
    return path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(simulate_command, [str(one) for one in arguments])
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_run_is_shown_with_its_seed_and_digest(file: Path) -> None:
    shown = run(file).stdout
    for part in ("resnet.1", "resnet.2", "good ", "of 3 GPUs in use", "seed 1, digest "):
        assert part in shown
    assert run(file).stdout == shown


def test_seed_policy_and_load_of_the_command_line_count(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    run(file, "--seed", 9, "--policy", "eager", "--load", 3, "--json", target)
    found = json.loads(target.read_text())
    assert (found["seed"], found["policy"]) == (9, "eager")
    assert found["offered_rate"] == pytest.approx(4500, rel=0.1)
    assert found["good_share"] < 0.99


def test_plot_is_a_picture(file: Path, tmp_path: Path) -> None:
    run(file, "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_timeline_has_a_bar_for_each_batch_on_its_gpu(file: Path, tmp_path: Path) -> None:
    run(file, "--timeline", tmp_path / "t.json", "--json", tmp_path / "r.json", "--load", 3)
    trace = json.loads((tmp_path / "t.json").read_text())
    bars = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {bar["tid"] for bar in bars} == {0, 1, 2}
    assert {bar["name"] for bar in bars} == {"resnet.1", "resnet.2"}
    assert sum(bar["args"]["size"] for bar in bars) > 1000
    assert [event for event in trace["traceEvents"] if event["ph"] == "i" and event["name"] == "would_miss"]
    assert trace["otherData"]["batches_left_out"] == 0
    rows = {(event["tid"], event["args"]["name"]) for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert rows == {(gpu, f"GPU {gpu} (gpu)") for gpu in range(3)}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["missing.toml"], "cannot read missing.toml"),
        (["FILE", "--json", "no/such/folder/r.json"], "its folder does not exist; make it first"),
        (["FILE", "--plot", "p.xyz"], "name a .png, .svg or .pdf"),
    ],
)
def test_what_cannot_be_done_is_said(file: Path, tmp_path: Path, monkeypatch, arguments: list[str], part: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        run(*(str(file) if one == "FILE" else one for one in arguments))
    assert part in str(caught.value)
