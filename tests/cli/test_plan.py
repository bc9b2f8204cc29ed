"""`symphony plan` answers, writes and draws, and says in one sentence why it cannot."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from symphony.cli.plan import plan_command
from symphony.cli.simulate import simulate_command
from symphony.errors import ConfigError
from symphony.workload import trace_line

WORKLOAD = """
duration_s = 3
[[gpus]]
count = 3
memory_mb = 8000
[[models]]
name = "resnet"
slo_ms = 25
rate = 2500
alpha_ms = 1.053
beta_ms = 5.072
memory_mb = 1000
[[models]]
name = "bert"
copies = 2
slo_ms = 100
rate = 300
alpha_ms = 2.0
beta_ms = 6.0
memory_mb = 3000
"""
KINDS = """
duration_s = 3
[[gpus]]
kind = "large"
count = 1
price = 4.0
[[gpus]]
kind = "small"
count = 1
price = 1.0
[[models]]
name = "big"
slo_ms = 60
rate = 900
[models.profiles.large]
alpha_ms = 0.8
beta_ms = 4.0
[models.profiles.small]
alpha_ms = 8.0
beta_ms = 30.0
[[models]]
name = "little"
slo_ms = 60
rate = 4000
[models.profiles.large]
alpha_ms = 0.3
beta_ms = 2.0
[models.profiles.small]
alpha_ms = 0.6
beta_ms = 3.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "workload.toml"
    path.write_text(WORKLOAD)
    return path


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(plan_command, [str(one) for one in arguments])
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def test_answer_is_shown_with_what_it_rests_on(file: Path, tmp_path: Path) -> None:
    shown = run(file, "--json", tmp_path / "p.json").stdout
    found = json.loads((tmp_path / "p.json").read_text())
    gpus = found["answers"][0]["gpus"]
    assert f"gpu: {gpus} GPUs; good " in shown
    assert f"with {gpus - 1} good " in shown
    assert "The file's 3 x gpu do not hold it." in shown
    assert f"seed 1, digest {found['digest']}" in shown
    for part in ("at other loads", "GPUs of kind gpu for other loads", "halved", "resnet", "bert"):
        assert part in shown
    assert run(file).stdout == shown


def test_example_of_the_docs_is_answered_as_they_say(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text()
    workload, shown = re.search(r"```toml\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    (tmp_path / "w.toml").write_text(workload)
    assert run(tmp_path / "w.toml", "--budget-s", 60).stdout.startswith(shown)


def test_simulate_agrees_with_the_answer(file: Path, tmp_path: Path) -> None:
    run(file, "--json", tmp_path / "p.json")
    gpus = json.loads((tmp_path / "p.json").read_text())["answers"][0]["gpus"]
    for count, is_held in ((gpus, True), (gpus - 1, False)):
        file.write_text(WORKLOAD.replace("count = 3", f"count = {count}").replace("duration_s = 3", "duration_s = 20"))
        CliRunner().invoke(simulate_command, [str(file), "--json", str(tmp_path / "s.json"), "--seed", "77"])
        report = json.loads((tmp_path / "s.json").read_text())
        assert (report["good_share"] >= 0.99 and report["worst_good_share"] >= 0.97) == is_held


def test_cells_are_listed_with_their_models(file: Path, tmp_path: Path) -> None:
    shown = run(file, "--cell-gpus-max", 3, "--json", tmp_path / "p.json").stdout
    answer = json.loads((tmp_path / "p.json").read_text())["answers"][0]
    assert "cells of gpu" in shown and "in " in shown
    assert answer["gpus"] == sum(cell["gpus"] for cell in answer["division"]["cells"])
    assert all(cell["gpus"] <= 3 and cell["memory_mb"] <= 8000 for cell in answer["division"]["cells"])


def test_kinds_are_compared_by_price_and_mixed(tmp_path: Path) -> None:
    file = tmp_path / "kinds.toml"
    file.write_text(KINDS)
    shown = run(file, "--json", tmp_path / "p.json").stdout
    found = json.loads((tmp_path / "p.json").read_text())
    assert {one["kind"] for one in found["answers"]} == {"large", "small"}
    assert "Cheapest mix: " in shown
    assert found["mix"]["price"] <= min(one["price"] for one in found["answers"])


def test_trace_beside_the_file_is_planned_and_simulated(file: Path, tmp_path: Path) -> None:
    text = WORKLOAD.replace("copies = 2\n", "").replace("rate = 2500\n", "").replace("rate = 300\n", "")
    file.write_text('trace = "t.csv"\n' + text)
    lines = [trace_line(number * 2_000_000, "bert" if number % 5 == 0 else "resnet") for number in range(1500)]
    (tmp_path / "t.csv").write_text("".join(lines))
    assert "gpu: 2 GPUs; good " in run(file).stdout
    result = CliRunner().invoke(simulate_command, [str(file), "--load", "2"])
    assert "1001.0 requests/s offered, 1000 judged" in result.stdout


def test_plot_is_a_picture(file: Path, tmp_path: Path) -> None:
    run(file, "--plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_budget_of_the_command_line_is_kept_and_what_it_cut_is_said(file: Path) -> None:
    file.write_text(WORKLOAD.replace("rate = 2500", "rate = 250000").replace("duration_s = 3", "duration_s = 30"))
    began_s = time.monotonic()
    shown = CliRunner().invoke(plan_command, [str(file), "--budget-s", "0.5"]).stdout
    assert time.monotonic() - began_s < 6.0
    assert "budget ended" in shown and "--budget-s" in shown


def test_run_that_was_cut_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symphony.plan.trials.RUN_REQUEST_COUNT_MAX", 28_000)
    file.write_text(WORKLOAD.replace("duration_s = 3", "duration_s = 60"))
    assert "Judged are the first 11.0 s of 60.0: a run has a limit of requests." in run(file).stdout


def test_idle_workload_is_planned_without_a_fault(file: Path) -> None:
    file.write_text(WORKLOAD.replace("rate = 2500", "rate = 0").replace("rate = 300", "rate = 0"))
    assert "gpu: 1 GPU;" in run(file).stdout


def test_workload_that_nothing_holds_ends_with_code_1(file: Path) -> None:
    file.write_text(WORKLOAD.replace("slo_ms = 25", "slo_ms = 5"))
    shown = run(file, code=1).stdout
    assert "no answer: model 'resnet': l(1) = 6.125 ms" in shown


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


def test_missing_trace_is_said(file: Path) -> None:
    text = WORKLOAD.replace("copies = 2\n", "").replace("rate = 2500\n", "").replace("rate = 300\n", "")
    file.write_text('trace = "gone.csv"\n' + text)
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.csv"):
        run(file)
