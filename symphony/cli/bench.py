"""`symphony bench`: load a server, open loop, and report what was good."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from symphony.cli.workload_file import read_trace
from symphony.client.blocking import Client
from symphony.client.calls import Calls
from symphony.client.goodput import Probe, find_goodput
from symphony.client.http import Address, TransportError
from symphony.client.load import run_load
from symphony.client.report import GOOD_SHARE_MIN, LAG_P99_MS_MAX, Report, judge
from symphony.errors import ConfigError, SymphonyError
from symphony.units import ms_to_ns
from symphony.workload import Arrivals, Schedule, make_schedule

BODIES_PER_MODEL = 8
EXIT_INVALID = 3
KEY_VARIABLE = "SYMPHONY_API_KEY"
TABLE_WIDTH = 110
WARM_CONNECTIONS_MAX = 2048
_WORDS = [
    "please",
    "read",
    "this",
    "short",
    "sentence",
    "about",
    "trains",
    "bread",
    "rivers",
    "music",
    "stars",
    "and",
    "winter",
    "light",
]
_NUMPY = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "BF16": "<u2"}


@dataclass(slots=True)
class Target:
    """One model to load: its share of the rate, SLO and prepared requests."""

    name: str
    share: float
    slo_ns: int
    requests: list[bytes]


@click.command("bench")
@click.argument("url", default="http://127.0.0.1:8000")
@click.option("--model", "models", multiple=True, help="NAME, or NAME=WEIGHT of the rate. Repeatable.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=100.0, show_default=True, help="Requests/s."
)
@click.option("--duration-s", type=click.FloatRange(0.1, 86_400), default=10.0, show_default=True)
@click.option("--warmup-s", type=click.FloatRange(0, 3_600), default=2.0, show_default=True, help="Sent, not judged.")
@click.option(
    "--arrivals",
    default="poisson",
    show_default=True,
    help="constant, poisson, gamma:SHAPE, onoff:ON_S:OFF_S, diurnal:PERIOD_S:LOW, burst:AT_S:FOR_S:FACTOR, trace:FILE.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True)
@click.option("--slo-ms", type=click.FloatRange(min=0, min_open=True), help="Judge by this; default: each model's SLO.")
@click.option("--timeout-ms", type=click.FloatRange(min=0, min_open=True), help="Deadline sent with each request.")
@click.option("--form", type=click.Choice(["framed", "msgpack", "json"]), default="framed", show_default=True)
@click.option("--connections", type=click.IntRange(1, 20_000), default=4096, show_default=True, help="At most.")
@click.option("--search", is_flag=True, help="Find the goodput: the largest rate with 99 % good; --rate is the start.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write everything here.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def bench_command(
    url: str,
    models: tuple[str, ...],
    rate: float,
    duration_s: float,
    warmup_s: float,
    arrivals: str,
    seed: int,
    slo_ms: float | None,
    timeout_ms: float | None,
    form: str,
    connections: int,
    search: bool,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Load the server at URL, open loop: requests are sent at their instants whatever becomes of the others.

    Where the server needs an API key, it is the one in SYMPHONY_API_KEY. Latency counts from the intended
    instant. A run whose sender was late (p99 above 5 ms) is INVALID: exit code 3.
    """
    console = Console(stderr=True)
    models, trace = with_trace(models, arrivals)
    try:
        address = Address.parse(url)
        targets = find_targets(url, models, form, slo_ms, timeout_ms, seed)
    except TransportError as error:
        raise ConfigError(str(error)) from error
    except (ValueError, SymphonyError) as error:
        raise ConfigError(str(error)) from error
    process = Arrivals() if trace else Arrivals.parse(arrivals)
    bench = Bench(address, targets, duration_s, warmup_s, process, trace, connections, console, quiet)
    facts: dict[str, Any] = {"url": url, "models": list(models), "arrivals": arrivals, "seed": seed, "form": form}
    facts["machine"] = machine_facts()
    try:
        if search:
            facts |= search_goodput(bench, rate, seed)
            is_valid = True
        else:
            schedule = bench.schedule(rate, seed)
            report = bench.run(schedule)
            show(report, bench, console)
            facts |= {"schedule_digest": schedule.digest(), **report.as_dict()}
            is_valid = report.is_valid
    except TransportError as error:
        raise ConfigError(str(error)) from error
    if json_file is not None:
        json_file.write_text(json.dumps(facts, indent=1) + "\n")
    if not is_valid:
        sys.exit(EXIT_INVALID)


def with_trace(models: tuple[str, ...], arrivals: str) -> tuple[tuple[str, ...], Schedule | None]:
    """Return the models to load, and the schedule of the trace that `arrivals` names, None if it names none.

    Without models a trace is for those it names. Raise ConfigError when there is neither, or the trace cannot be used.
    """
    if not arrivals.startswith("trace:"):
        if not models:
            raise ConfigError("no model to load; name one with --model")
        return models, None
    names = [text.partition("=")[0] for text in models]
    trace = read_trace(Path(arrivals.removeprefix("trace:")), names or None)
    return models or trace.names, Schedule(trace.at_ns, trace.models)


class Bench:
    """Everything about a load but its rate and seed."""

    def __init__(
        self,
        address: Address,
        targets: list[Target],
        duration_s: float,
        warmup_s: float,
        arrivals: Arrivals,
        trace: Schedule | None,
        connection_count_max: int,
        console: Console,
        is_quiet: bool,
    ) -> None:
        self.address = address
        self.targets = targets
        self.names = [target.name for target in targets]
        self.slo_ns = [target.slo_ns for target in targets]
        self.total_s = duration_s + warmup_s
        self.warmup_ns = round(warmup_s * 1e9)
        self._connection_count_max = connection_count_max
        self._console = console
        self._is_quiet = is_quiet
        self._arrivals = arrivals
        self._trace = trace

    @property
    def has_trace(self) -> bool:
        """Return whether the instants come from a file, whatever the rate."""
        return self._trace is not None

    def schedule(self, rate: float, seed: int) -> Schedule:
        """Return what to send at `rate` requests per second in all."""
        if self._trace is not None:
            return self._trace
        total = sum(target.share for target in self.targets)
        rates = [rate * target.share / total for target in self.targets]
        return make_schedule(self._arrivals, rates, self.total_s, seed)

    def run(self, schedule: Schedule) -> Report:
        """Send the schedule and return the report."""
        grace_s = max(self.slo_ns) / 1e9 + 2.0
        last_s = int(schedule.at_ns[-1]) / 1e9 if len(schedule) else 0.0
        rate = len(schedule) / max(last_s, 1e-9)
        warm = min(WARM_CONNECTIONS_MAX, self._connection_count_max, round(rate * max(self.slo_ns) / 1e9 * 1.5) + 16)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}"), TimeRemainingColumn())
        with Progress(
            *columns, console=self._console, transient=True, auto_refresh=False, disable=self._is_quiet
        ) as progress:
            task = progress.add_task(f"{rate:.0f} requests/s", total=len(schedule))

            def on_progress(sent: int) -> None:
                progress.update(task, completed=sent, refresh=True)

            result = run_load(
                self.address,
                schedule.at_ns,
                [target.requests for target in self.targets],
                schedule.models,
                connection_count_max=self._connection_count_max,
                warm_connection_count=warm,
                grace_s=grace_s,
                on_progress=None if self._is_quiet or not self._console.is_terminal else on_progress,
            )
        return judge(result, schedule.at_ns, schedule.models, self.names, self.slo_ns, self.warmup_ns)


def search_goodput(bench: Bench, start_rate: float, seed: int) -> dict[str, Any]:
    """Search and print each probe; return the goodput and the probes as plain values."""
    if bench.has_trace:
        raise ConfigError("--search varies the rate, a trace has its own: leave one of them out")
    reports: list[dict[str, Any]] = []

    def probe(rate: float, with_seed: int) -> Probe:
        schedule = bench.schedule(rate, with_seed)
        report = bench.run(schedule)
        reports.append({"rate": rate, "seed": with_seed, "schedule_digest": schedule.digest(), **report.as_dict()})
        is_held = report.good_share >= GOOD_SHARE_MIN
        verdict = "held" if is_held else "not held"
        if not report.is_valid:
            verdict = f"INVALID: sender late by {report.lag_ms['p99']:.1f} ms (p99)"
        shares = "  ".join(
            f"{name} {count / max(1, report.request_count):.2%}" for name, count in report.outcomes.items()
        )
        click.echo(f"{rate:9.1f}/s  {shares}  p99 {report.latency_ms['p99']:.1f} ms  {verdict}")
        return Probe(is_held, report.is_valid)

    goodput = find_goodput(probe, start_rate, seed)
    click.echo(f"goodput {goodput:.1f} requests/s (largest rate with at least {GOOD_SHARE_MIN:.0%} good)")
    return {"goodput": goodput, "probes": reports}


def find_targets(
    url: str, models: tuple[str, ...], form: str, slo_ms: float | None, timeout_ms: float | None, seed: int
) -> list[Target]:
    """Ask the server about each model and prepare its requests with random inputs."""
    targets: list[Target] = []
    with Client(url, api_key=os.environ.get(KEY_VARIABLE)) as client:
        for text in models:
            name, _, weight = text.partition("=")
            try:
                share = float(weight) if weight else 1.0
            except ValueError:
                share = -1.0
            if not 0 < share <= 1e9:
                raise ConfigError(f"--model {text}: {weight!r} is no weight; write NAME or NAME=2.5")
            metadata = client.model_metadata(name)
            own_slo_ms = slo_ms if slo_ms is not None else slo_of(client.model_config(name), name)
            rng = np.random.default_rng((seed, len(targets)))
            calls = Calls(Address.parse(url), form, os.environ.get(KEY_VARIABLE))
            requests = [
                calls.infer(name, random_inputs(metadata, rng), None, timeout_ms, None, None, None, None, None)
                for _ in range(BODIES_PER_MODEL)
            ]
            targets.append(Target(name, share, ms_to_ns(own_slo_ms), requests))
    return targets


def slo_of(config: Any, name: str) -> float:
    """Return the SLO in ms that a model's configuration names; raise ConfigError when it names none."""
    try:
        return float(config["parameters"]["slo_ms"]["string_value"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(f'the server does not say the SLO of model "{name}"; give it with --slo-ms') from None


def random_inputs(metadata: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Return one request's inputs by a model's metadata: normal floats, integers 0 and 1, sentences for BYTES."""
    inputs: dict[str, Any] = {}
    for tensor in metadata["inputs"]:
        shape = tuple(1 if size == -1 else size for size in tensor["shape"])
        if tensor["shape"] and tensor["shape"][0] == -1:
            shape = shape[1:]
        datatype = tensor["datatype"]
        if datatype == "BYTES":
            texts = [" ".join(rng.choice(_WORDS, 8)).encode() for _ in range(int(np.prod(shape)))]
            inputs[tensor["name"]] = np.array(texts, dtype=object).reshape(shape)
        elif datatype in ("FP16", "FP32", "FP64"):
            inputs[tensor["name"]] = rng.standard_normal(shape).astype(_NUMPY[datatype])
        else:
            inputs[tensor["name"]] = rng.integers(0, 2, shape).astype(_NUMPY.get(datatype, datatype.lower()))
    return inputs


def machine_facts() -> dict[str, Any]:
    """Return what a figure should be read with."""
    return {
        "cpu_count": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "system": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def show(report: Report, bench: Bench, console: Console) -> None:
    """Print the table of one run."""
    table = Table(title=f"{report.offered_rate:.1f} requests/s offered, {report.request_count} judged")
    for heading in ("model", "SLO ms", "good", "late", "dropped", "rejected", "failed", "p50 ms", "p99 ms", "p99.9 ms"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    rows = [(name, report.models[name], slo) for name, slo in zip(bench.names, bench.slo_ns, strict=True)]
    for name, one, slo_ns in rows:
        total = max(1, one["request_count"])
        shares = [f"{one['outcomes'][key] / total:.2%}" for key in ("good", "late", "dropped", "rejected", "failed")]
        times = [f"{one['latency_ms'][key]:.1f}" for key in ("p50", "p99", "p99.9")]
        table.add_row(name, f"{slo_ns / 1e6:g}", *shares, *times)
    Console(width=max(TABLE_WIDTH, console.width)).print(table)
    if report.reasons:
        click.echo(
            "not answered: " + ", ".join(f"{reason} {count}" for reason, count in sorted(report.reasons.items()))
        )
        click.echo(
            f"for example: {report.first_fault}" if report.first_fault else "some requests got no answer in time"
        )
    click.echo(
        f"good {report.good_share:.2%} = {report.offered_rate * report.good_share:.1f} requests/s; sender lag p50 "
        f"{report.lag_ms['p50']:.2f} ms, p99 {report.lag_ms['p99']:.2f} ms; "
        f"sender used {report.cpu_share:.0%} of a core"
    )
    if not report.is_valid:
        console.print(
            f"[bold red]INVALID[/]: the sender's lag p99 is above {LAG_P99_MS_MAX:g} ms; lower the rate or free a core"
        )
