"""Draw a simulated run. Needs matplotlib, which only this module imports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from symphony.errors import ConfigError
from symphony.sim import Outcome, SimReport
from symphony.sim.report import GOOD, gpus_busy_over_time
from symphony.units import NS_PER_MS, NS_PER_S

SIZE_INCHES = (11.0, 7.0)
STEP_COUNT = 200


def plot_run(outcome: Outcome, report: SimReport, file: Path) -> None:
    """Draw load and goodput, GPUs in use, batch sizes and latency; raise ConfigError if `file` cannot be written."""
    workload, requests = outcome.workload, outcome.requests
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    (load, gpus), (sizes, latency) = figure.subplots(2, 2)
    step_ns = max(1, workload.duration_ns // STEP_COUNT)
    edges = np.arange(0, workload.duration_ns + step_ns, step_ns)
    seconds = edges[:-1] / NS_PER_S
    good = outcome.outcome == GOOD
    for mask, label in ((slice(None), "offered"), (good, "good")):
        counts, _ = np.histogram(requests.at_ns[mask], edges)
        load.plot(seconds, counts * NS_PER_S / step_ns, linewidth=1, label=label)
    load.set(xlabel="s", ylabel="requests/s", ylim=(0, None), title=f"{report.good_share:.2%} good")
    load.legend(fontsize="small")
    gpus.plot(*gpus_busy_over_time(outcome, step_ns), linewidth=1)
    gpus.axhline(report.gpu_count, color="gray", linewidth=1, linestyle="--")
    gpus.set(xlabel="s", ylabel="GPUs busy", ylim=(0, None), title=f"{report.gpus_in_use} of {report.gpu_count} in use")
    counts = np.bincount(outcome.batches["size"])
    sizes.bar(np.arange(len(counts)), counts, width=1.0)
    sizes.set(xlabel="batch size", ylabel="batches", title=f"mean {report.batch_size_mean:.1f}")
    answered = np.sort((outcome.ended_ns - requests.at_ns)[good | (outcome.outcome == GOOD + 1)]) / NS_PER_MS
    if len(answered):
        latency.plot(answered, np.linspace(0, 1, len(answered)))
    latency.set(
        xlabel="latency in ms", ylabel="share of answers", ylim=(0, 1), title=f"p99 {report.latency_ms['p99']:.1f} ms"
    )
    figure.suptitle(f"{report.policy}, seed {report.seed}, digest {report.digest}")
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot draw {file}: {error}; name a .png, .svg or .pdf file that can be written") from error
