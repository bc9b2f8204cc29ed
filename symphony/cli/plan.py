"""`symphony plan`: say how many GPUs of which kind a workload needs, and what its SLOs cost."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from symphony.cli.simulate import write
from symphony.cli.workload_file import read_workload
from symphony.config.workload import Workload
from symphony.config.workload_document import GPU_COUNT_MAX
from symphony.errors import ConfigError
from symphony.plan import Answer, Budget, Plan, make_plan
from symphony.plan.cells import Cell
from symphony.plan.trials import Pool
from symphony.sim.replay import LoadSource

BUDGET_S = 8.0
ROW_COUNT_MAX = 20
NAME_COUNT_MAX = 8
TABLE_WIDTH = 100
EXIT_NO_ANSWER = 1


@click.command("plan")
@click.argument("file", metavar="WORKLOAD_TOML", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0, 2**62), help="Of the first run; instead of the file's.")
@click.option("--budget-s", type=click.FloatRange(0.1, 86_400), default=BUDGET_S, show_default=True,
              help="Time the answer may take; what it cuts short is marked.")  # fmt: skip
@click.option("--cell-gpus-max", type=click.IntRange(0, GPU_COUNT_MAX), default=0, show_default=True,
              help="Most GPUs of one cell; 0: no limit.")  # fmt: skip
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures here.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Also draw it here (.png, .svg, .pdf).")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def plan_command(
    file: Path,
    seed: int | None,
    budget_s: float,
    cell_gpus_max: int,
    json_file: Path | None,
    plot_file: Path | None,
    quiet: bool,
) -> None:
    """Say how many GPUs hold a workload: 99 % of all requests good, and 97 % of each model's.

    The file is the one that `symphony simulate` takes, drawn or recorded; its numbers of GPUs are only compared with
    the answer. Exit code 1: no pool was found that holds it.
    """
    began_s = time.monotonic()
    for target in (json_file, plot_file):
        if target is not None and not target.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {target}: its folder does not exist; make it first")
    workload, source = read_workload(file)
    budget = Budget(budget_s - (time.monotonic() - began_s), time.monotonic)
    plan = plan_with_progress(workload, source, workload.seed if seed is None else seed, budget, cell_gpus_max, quiet)
    show(plan, workload)
    if json_file is not None:
        write(json_file, json.dumps({"digest": plan.digest(), **plan.as_dict()}, indent=1) + "\n")
    if plot_file is not None:
        try:
            from symphony.cli.plan_plot import plot_plan
        except ImportError as error:
            raise ConfigError(f"--plot needs matplotlib ({error}): pip install 'symphony-serve[plots]'") from error
        plot_plan(plan, plot_file)
    if plan.answer is None and not (plan.mix and plan.mix.pool):
        raise click.exceptions.Exit(EXIT_NO_ANSWER)


def plan_with_progress(
    workload: Workload, source: LoadSource, seed: int, budget: Budget, cell_gpus_max: int, is_quiet: bool
) -> Plan:
    """Plan under a progress bar on standard error."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=is_quiet or not console.is_terminal) as progress:
        task = progress.add_task("", total=1.0)
        return make_plan(
            workload,
            source,
            seed=seed,
            budget=budget,
            cell_gpus_max=cell_gpus_max,
            on_step=lambda text, share: progress.update(task, description=text, completed=share),
        )


def show(plan: Plan, workload: Workload) -> None:
    """Print the answer, and what it rests on."""
    for answer in plan.answers:
        click.echo(_sentence(answer))
        if answer.division is not None:
            _show_cells(answer)
    judged_s, whole_s = max(one.count.judged_s for one in plan.answers), workload.duration_ns / 1e9
    if 0.0 < judged_s < whole_s:
        click.echo(f"Judged are the first {judged_s:.1f} s of {whole_s:.1f}: a run has a limit of requests.")
    if plan.mix is not None:
        _show_mix(plan)
    if plan.is_present_held is not None:
        verb = "hold it" if plan.is_present_held else "do not hold it"
        click.echo(f"The file's {_pool_text(plan.present)} {verb}.")
    _show_loads(plan)
    _show_slo_costs(plan, workload)
    click.echo(f"seed {plan.seed}, digest {plan.digest()}")


def _sentence(answer: Answer) -> str:
    count, kind = answer.count, answer.kind
    if not count.gpus:
        return f"{kind}: no answer: {count.why}."
    price = f", price {answer.price:g}" if answer.price is not None else ""
    name = "GPUs" if answer.gpus != 1 else "GPU"
    cells = f" in {len(answer.division.cells)} cells" if answer.division else ""
    said = f"{kind}: {answer.gpus} {name}{cells}{price}"
    if answer.division:
        said += f" (one cell of {count.gpus} would do if memory and cell sizes did not count)"
    if count.good_share:
        said += f"; good {count.good_share:.2%}, worst model {count.worst_good_share:.2%}"
    if count.good_share_below is not None:
        said += f"; with {count.gpus - 1} good {count.good_share_below:.2%}"
    if not count.is_settled:
        said += f"; NOT SETTLED: the budget ended, {count.missed} are too few; give more with --budget-s"
    return said + f" (first guess {count.guess}, no scheduler below {count.bound:.1f}; {count.run_count} runs)."


def _show_cells(answer: Answer) -> None:
    assert answer.division is not None
    table = Table(title=f"cells of {answer.kind} ({answer.division.method})")
    for heading in ("cell", "GPUs", "MB on each", "good", "models"):
        table.add_column(heading, justify="left" if heading == "models" else "right")
    for number, cell in enumerate(answer.division.cells[:ROW_COUNT_MAX], 1):
        mark = "" if cell.count.is_settled else " (not settled)" if cell.count.gpus else " (guess)"
        good = f"{cell.count.good_share:.2%}" if cell.count.good_share else "?"
        table.add_row(str(number), f"{cell.gpus}{mark}", f"{cell.memory_mb:g}", good, _parts_text(cell))
    _print(table)
    if len(answer.division.cells) > ROW_COUNT_MAX:
        click.echo(f"(the {ROW_COUNT_MAX} largest of {len(answer.division.cells)} cells)")


def _parts_text(cell: Cell) -> str:
    names = [
        part.model
        + (f" x{part.copies}" if part.copies > 1 else "")
        + (f" ({part.share:.0%} of it)" if part.share < 1.0 else "")
        for part in cell.parts[:NAME_COUNT_MAX]
    ]
    more = len(cell.parts) - NAME_COUNT_MAX
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _show_mix(plan: Plan) -> None:
    mix = plan.mix
    assert mix is not None
    if not mix.pool:
        click.echo("No mix of the kinds was found that holds it.")
        return
    mark = "" if mix.is_settled else "; NOT SETTLED: the budget ended before every exchange was tried"
    good = f"; good {mix.good_share:.2%}, worst model {mix.worst_good_share:.2%}" if mix.good_share else ""
    click.echo(f"Cheapest mix: {_pool_text(mix.pool)}, price {mix.price:g}{good}{mark}.")


def _pool_text(pool: Pool) -> str:
    return " + ".join(f"{count} x {kind}" for kind, count in pool)


def _show_loads(plan: Plan) -> None:
    if plan.curve:
        cell = ", all in one cell," if any(answer.division for answer in plan.answers) else ""
        table = Table(title=f"{_pool_text(plan.pool)}{cell} at other loads")
        for heading in ("load", "requests/s", "good/s", "good", "worst model", "GPUs in use"):
            table.add_column(heading, justify="right")
        for point in plan.curve:
            rates = [f"{point.load:g}", f"{point.offered_rate:.1f}", f"{point.good_rate:.1f}"]
            table.add_row(*rates, f"{point.good_share:.2%}", f"{point.worst_good_share:.2%}", str(point.gpus_in_use))
        _print(table)
    if plan.growth:
        needs = ", ".join(f"{one.load:g} times: {one.gpus}" for one in plan.growth)
        click.echo(f"GPUs of kind {plan.best} for other loads, give or take one: {needs}.")


def _show_slo_costs(plan: Plan, workload: Workload) -> None:
    if not plan.slo_costs:
        return
    by_model: dict[str, list[str]] = {}
    for cost in plan.slo_costs:
        text = (
            "impossible" if not cost.gpus else f"{cost.gpus} ({cost.change:+d}{'' if cost.is_simulated else ', guess'})"
        )
        by_model.setdefault(cost.model, []).append(text)
    slo_ms = {spec.name: spec.slo_ns / 1e6 for spec in workload.models}
    table = Table(title=f"GPUs of kind {plan.best} if one SLO were another")
    for heading in ("model", "SLO ms", "halved", "doubled"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, (halved, doubled) in list(by_model.items())[:ROW_COUNT_MAX]:
        table.add_row(name, f"{slo_ms[name]:g}", halved, doubled)
    _print(table)
    if len(by_model) > ROW_COUNT_MAX:
        click.echo(f"(the {ROW_COUNT_MAX} busiest of {len(by_model)} models)")


def _print(table: Table) -> None:
    Console(width=max(TABLE_WIDTH, Console().width)).print(table)
