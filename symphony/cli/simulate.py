"""`symphony simulate`: run a workload in virtual time, and say what came of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from symphony.cli.workload_file import read_workload
from symphony.config.workload import Workload
from symphony.config.workload_document import POLICIES
from symphony.errors import ConfigError
from symphony.sim import Outcome, Requests, SimReport, report_on, simulate
from symphony.sim.timeline import write_timeline

ROW_COUNT_MAX = 40
TABLE_WIDTH = 100


@click.command("simulate")
@click.argument("file", metavar="WORKLOAD_TOML", type=click.Path(path_type=Path))
@click.option("--policy", type=click.Choice(POLICIES), help="Instead of the file's.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Instead of the file's.")
@click.option("--load", type=click.FloatRange(0, 1000), default=1.0, show_default=True, help="Times the file's rates.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures here.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Also draw it here (.png, .svg, .pdf).")
@click.option("--timeline", "timeline_file", type=click.Path(path_type=Path), help="Also write it for ui.perfetto.dev.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def simulate_command(
    file: Path,
    policy: str | None,
    seed: int | None,
    load: float,
    json_file: Path | None,
    plot_file: Path | None,
    timeline_file: Path | None,
    quiet: bool,
) -> None:
    """Run a workload in virtual time: the scheduler that the live node runs, against GPUs that take l(b).

    The same file and seed give the same digest on every machine.
    """
    for target in (json_file, plot_file, timeline_file):
        if target is not None and not target.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {target}: its folder does not exist; make it first")
    workload, source = read_workload(file)
    workload = changed(workload, policy, seed)
    outcome = run_with_progress(*source(workload, load, workload.seed), quiet)
    report = report_on(outcome)
    show(report)
    if json_file is not None:
        write(json_file, json.dumps(report.as_dict(), indent=1) + "\n")
    if timeline_file is not None:
        write_trace(timeline_file, outcome)
    if plot_file is not None:
        try:
            from symphony.cli.simulate_plot import plot_run
        except ImportError as error:
            raise ConfigError(f"--plot needs matplotlib ({error}): pip install 'symphony-serve[plots]'") from error
        plot_run(outcome, report, plot_file)


def changed(workload: Workload, policy: str | None, seed: int | None) -> Workload:
    """Return the workload with what the command line says instead."""
    return replace(
        workload,
        policy=workload.policy if policy is None else policy,
        seed=workload.seed if seed is None else seed,
    )


def run_with_progress(workload: Workload, requests: Requests, is_quiet: bool) -> Outcome:
    """Run it under a progress bar on standard error."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=is_quiet or not console.is_terminal) as progress:
        task = progress.add_task(f"{workload.duration_ns / 1e9:g} s of virtual time", total=1.0)
        return simulate(workload, requests=requests, on_progress=lambda share: progress.update(task, completed=share))


def show(report: SimReport) -> None:
    """Print the table and the lines below it."""
    table = Table(title=f"{report.policy}: {report.offered_rate:.1f} requests/s offered, {report.request_count} judged")
    for heading in ("model", "requests", "good", "mean batch", "p50 ms", "p99 ms", "p99.9 ms"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    worst_first = sorted(report.models, key=lambda model: model.good_share)
    for model in worst_first[:ROW_COUNT_MAX]:
        times = [f"{model.latency_ms[key]:.1f}" for key in ("p50", "p99", "p99.9")]
        shares = [str(model.request_count), f"{model.good_share:.2%}", f"{model.batch_size_mean:.1f}"]
        table.add_row(model.name, *shares, *times)
    Console(width=max(TABLE_WIDTH, Console().width)).print(table)
    if len(report.models) > ROW_COUNT_MAX:
        click.echo(f"(the {ROW_COUNT_MAX} worst of {len(report.models)} models)")
    bad = ", ".join(f"{name} {count}" for name, count in report.outcomes.items() if count and name != "good")
    click.echo(f"good {report.good_share:.3%} = {report.good_rate:.1f} requests/s, worst model "
               f"{report.worst_good_share:.2%}; not good: {bad or 'none'}")  # fmt: skip
    click.echo(
        f"queueing p50 {report.queueing_ms['p50']:.2f} ms, p99 {report.queueing_ms['p99']:.2f} ms; "
        f"{report.batch_count} batches of {report.batch_size_mean:.1f} on average"
    )
    click.echo(
        f"{report.gpus_in_use} of {report.gpu_count} GPUs in use, {report.busy_share:.1%} busy; "
        f"seed {report.seed}, digest {report.digest}"
    )


def write(file: Path, text: str) -> None:
    """Write a text file; raise ConfigError if that fails."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error


def write_trace(file: Path, outcome: Outcome) -> None:
    """Write the timeline; raise ConfigError if that fails."""
    try:
        with file.open("w", encoding="utf-8") as target:
            left_out = write_timeline(outcome, target)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error
    if left_out:
        click.echo(f"{left_out} batches were too many for {file}; take a shorter duration_s to see all")
