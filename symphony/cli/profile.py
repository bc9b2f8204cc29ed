"""`symphony profile`: measure one model's latency profile by hand, and show it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from symphony.client import Client
from symphony.config import ModelConfig, parse_devices
from symphony.errors import ConfigError, SymphonyError
from symphony.execution.batch_sizes import batch_sizes_to_measure
from symphony.execution.devices import Device, DeviceError, LoadedModel, Timing, make_devices
from symphony.execution.devices.emulated import latency_table_ns
from symphony.execution.profiler import ProfileStore, fingerprint, measure_profile
from symphony.execution.repository import read_model_config
from symphony.execution.samples import sample_inputs
from symphony.profiles import LatencyProfile, staggered_bound
from symphony.units import ms_to_ns, ns_to_ms

NODE_TIMEOUT_S = 3_600.0
"""How long a node may take to measure a model: so many batches of each size, on each kind of device."""
GPU_COUNTS = (1, 2, 4, 8)
"""For so many GPUs the staggered bound is shown."""
ROW_COUNT_MAX = 32
TABLE_WIDTH = 100
REFRESH_EVERY_S = 0.1


@click.command("profile")
@click.argument("folder", metavar="MODEL_FOLDER", type=click.Path(path_type=Path))
@click.option("--url", help="Have this running node measure MODEL_FOLDER again, which is then the name of a model.")
@click.option("--device", "device_text", help='Where to measure: "cpu", "cuda:0". Default: cpu.')
@click.option("--length", type=int, help="Which of its length_buckets, where lengths vary. Default: the longest.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of a cpu device. Default: all cores but one.")
@click.option("--budget-s", type=click.FloatRange(0.1, 3_600), default=20.0, show_default=True, help="Time to spend.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Also draw it here (.png, .svg, .pdf).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write all figures here.")
@click.option("--quiet", is_flag=True, help="No progress bar.")
def profile_command(
    folder: Path,
    url: str | None,
    device_text: str | None,
    length: int | None,
    threads: int | None,
    budget_s: float,
    plot_file: Path | None,
    json_file: Path | None,
    quiet: bool,
) -> None:
    """Measure how long a batch of each size takes on a device, show it, and save it beside the model.

    `symphony serve` uses the saved profile as long as the model's files, the device and torch's version are the same.
    The profile of an emulated model is what its model.toml declares; nothing is measured or saved.

    With --url a running node does it, on one of its devices while it serves on the others, and uses the result at once.
    """
    for file in (plot_file, json_file):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigError(f"cannot write {file}: its folder does not exist; make it first")
    if url is not None:
        for name, value in (("--device", device_text), ("--threads", threads), ("--plot", plot_file)):
            if value is not None:
                raise ConfigError(f"{name} {value} does not go with --url: the node decides; leave one of them out")
        _measure_on_node(url, str(folder), json_file, Console(width=TABLE_WIDTH))
        return
    if plot_file is not None:
        _load_plotting()  # before a minute is spent on measuring
    config = _at_length(read_model_config(folder, folder).network, length)
    saved: Path | None = None
    if config.format == "emulated":
        if device_text not in (None, "emulated"):
            raise ConfigError(
                f'--device {device_text}: model "{config.name}" is emulated: its profile is declared, not measured; '
                "leave --device out"
            )
        profile = LatencyProfile.from_table(latency_table_ns(config), config.name, config.version)
    else:
        device = _device_for(config, device_text or "cpu", threads)
        profile = _measure(config, folder, device, budget_s, Console(stderr=True), quiet)
        saved = ProfileStore(folder, config.length).save(profile)
    facts = describe(profile, config)
    _show(profile, config, facts, saved, Console(width=TABLE_WIDTH))
    if json_file is not None:
        _write_json(json_file, facts)
    if plot_file is not None:
        _load_plotting()(profile, config, plot_file)


def _at_length(config: ModelConfig, length: int | None) -> ModelConfig:
    """Return the model for requests of one length; itself where none vary."""
    buckets = config.length_buckets
    if not buckets and length is None:
        return config
    if not buckets or length not in (None, *buckets):
        wanted = f"choose one of {list(buckets)}" if buckets else "its requests do not vary in length; leave it out"
        raise ConfigError(f'--length {length}: model "{config.name}": {wanted}')
    return config.at_length(buckets[-1] if length is None else length)


def _measure_on_node(url: str, name: str, json_file: Path | None, console: Console) -> None:
    """Let the node at `url` measure the model again and show what it found."""
    try:
        with Client(url, timeout_s=NODE_TIMEOUT_S) as client:
            found = client.profile(name)
    except (SymphonyError, OSError, ValueError) as error:
        raise ConfigError(f"{url}: {error}") from error
    for values in found:
        profile = LatencyProfile.from_json(json.dumps(values), url)
        title = f"{profile.model} version {profile.version}, on {profile.device}"
        console.print(_table(profile, set(profile.batch_sizes), title, False))
    if json_file is not None:
        _write_json(json_file, {"profiles": found})


def describe(profile: LatencyProfile, config: ModelConfig) -> dict[str, Any]:
    """Return everything that follows from the profile, as JSON values; durations in milliseconds, rates per second."""
    alpha_ns, beta_ns = profile.fit()
    table = profile.table_ns(config.batch_size_max)
    bounds = []
    for count in GPU_COUNTS:
        size, rate = staggered_bound(table, ms_to_ns(config.slo_ms), count)
        bounds.append({"gpu_count": count, "batch_size": size, "rate": rate})
    return {
        "profile": json.loads(profile.to_json()),
        "slo_ms": config.slo_ms,
        "alpha_ms": alpha_ns / 1e6,
        "beta_ms": beta_ns / 1e6,
        "jitter_ms": ns_to_ms(profile.jitter_ns()),
        "table_ms": [ns_to_ms(value) for value in table],
        "staggered_bounds": bounds,
    }


def _device_for(config: ModelConfig, text: str, threads: int | None) -> Device:
    specs = parse_devices(text, "--device")
    if len(specs) != 1:
        raise ConfigError(f"--device {text} names {len(specs)} devices; a profile is measured on one, name one")
    (spec,) = specs
    if spec.kind not in config.device_kinds:
        raise ConfigError(
            f'--device {text}: model "{config.name}" may run on {", ".join(config.device_kinds)}; name one of them, or '
            "change devices in model.toml"
        )
    if threads is not None and spec.kind != "cpu":
        raise ConfigError(f"--threads {threads} is for cpu devices, not for {text}; leave it out")
    (device,) = make_devices(specs, threads or 0)
    return device


def _measure(
    config: ModelConfig, folder: Path, device: Device, budget_s: float, console: Console, is_quiet: bool
) -> LatencyProfile:
    """Load the model, warm it up and measure it under a progress bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # A thread that refreshes the bar would be measured, too: it is drawn between batches.
    with Progress(*columns, console=console, transient=True, auto_refresh=False, disable=is_quiet) as progress:
        task = progress.add_task(f"loading on {device.name}", total=None)
        progress.refresh()
        device.enter_thread()
        loaded = device.load(config, folder)
        inputs = sample_inputs(config, np.random.default_rng(0), config.batch_size_max, loaded.sample)
        progress.update(task, description=f"warming up on {device.name}", refresh=True)
        try:
            loaded.prepare(None)
        except DeviceError as error:
            raise ConfigError(str(error)) from error

        def run(size: int) -> Timing:
            return _run_batch(loaded, inputs[:size], device)

        progress.update(task, description=f"measuring on {device.name}", total=1.0, refresh=True)
        refresh_at_s = time.monotonic()

        def on_progress(share: float) -> None:
            nonlocal refresh_at_s
            is_due = time.monotonic() >= refresh_at_s
            if is_due:
                refresh_at_s = time.monotonic() + REFRESH_EVERY_S
            progress.update(task, completed=share, refresh=is_due)

        return measure_profile(
            run,
            config,
            buckets=loaded.buckets,
            memory_bytes=loaded.memory_bytes,
            device=device.model,
            torch_version=torch.__version__,
            fingerprint=fingerprint(config, folder),
            clock_ns=time.perf_counter_ns,
            budget_s=budget_s,
            on_progress=on_progress,
        )


def _run_batch(loaded: LoadedModel, inputs: list[dict[str, np.ndarray[Any, Any]]], device: Device) -> Timing:
    try:
        flight = loaded.launch(inputs)
        flight.wait()
        return flight.timing
    except Exception as error:
        raise ConfigError(
            f'model "{loaded.config.name}": a batch of {len(inputs)} failed on {device.name}: '
            f"{type(error).__name__}: {error}; mend the model or its model.toml"
        ) from error


def _show(
    profile: LatencyProfile, config: ModelConfig, facts: dict[str, Any], saved: Path | None, console: Console
) -> None:
    is_declared = config.format == "emulated"
    title = f"{config.name} version {config.version}, " + ("declared" if is_declared else f"on {profile.device}")
    shown = set(profile.batch_sizes)
    if len(shown) > ROW_COUNT_MAX:
        shown &= set(batch_sizes_to_measure(config.batch_size_max))
    console.print(_table(profile, shown, title, is_declared))
    lines = []
    if len(shown) < len(profile.batch_sizes):
        lines.append(f"{len(shown)} of {len(profile.batch_sizes)} sizes shown; --json writes all")
    if not is_declared and min(profile.sample_counts) < 100:
        lines.append("p99 of fewer than 100 samples is the largest of them; a larger --budget-s takes more")
    lines.append(f"l(b) = alpha b + beta: alpha {facts['alpha_ms']:.3f} ms per request, beta {facts['beta_ms']:.3f} ms")
    lines += [_bound_line(bound, config.slo_ms) for bound in facts["staggered_bounds"]]
    if saved is not None:
        lines.append(f"saved in {saved}")
    elif not is_declared:
        lines.append("not saved: neither the model's folder nor the cache folder can be written")
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _table(profile: LatencyProfile, shown: set[int], title: str, is_declared: bool) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("batch size", "median ms", "p99 ms", "samples", "ms per item", "items/s"):
        table.add_column(heading, justify="right")
    columns = (profile.batch_sizes, profile.median_ns, profile.p99_ns, profile.sample_counts)
    for size, median_ns, p99_ns, count in zip(*columns, strict=True):
        if size in shown:
            table.add_row(
                str(size),
                f"{median_ns / 1e6:.3f}",
                f"{p99_ns / 1e6:.3f}",
                "-" if is_declared else str(count),
                f"{median_ns / size / 1e6:.3f}",
                f"{size * 1e9 / median_ns:.0f}",
            )
    return table


def _bound_line(bound: dict[str, Any], slo_ms: float) -> str:
    count = bound["gpu_count"]
    where = f"staggered on {count} such device" + ("s" if count > 1 else "")
    if bound["batch_size"] == 0:
        return f"{where}: no batch size has (1 + 1/{count}) l(b) <= SLO {slo_ms:g} ms"
    return f"{where}: batches of {bound['batch_size']}, {bound['rate']:.0f} requests/s at SLO {slo_ms:g} ms"


def _write_json(file: Path, facts: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}; name another file") from error


def _load_plotting() -> Any:
    """Return the function that draws; raise ConfigError where matplotlib is not installed."""
    try:
        from symphony.cli.profile_plot import plot_profile
    except ImportError as error:
        raise ConfigError(
            f"--plot needs matplotlib ({error}); install it with: pip install 'symphony-serve[plots]', or leave "
            "--plot out"
        ) from error
    return plot_profile
