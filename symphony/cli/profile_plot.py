"""Draw a latency profile. Needs matplotlib, which only this module imports."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from symphony.config import ModelConfig
from symphony.errors import ConfigError
from symphony.profiles import LatencyProfile

SIZE_INCHES = (10.0, 4.2)


def plot_profile(profile: LatencyProfile, config: ModelConfig, file: Path) -> None:
    """Draw l(b) with p99, fit and SLO, and items per second; raise ConfigError if `file` cannot be written."""
    sizes = profile.batch_sizes
    median_ms = [value / 1e6 for value in profile.median_ns]
    p99_ms = [value / 1e6 for value in profile.p99_ns]
    alpha_ns, beta_ns = profile.fit()
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    latency, throughput = figure.subplots(1, 2)
    latency.fill_between(sizes, median_ms, p99_ms, alpha=0.2, label="up to p99")
    latency.plot(sizes, median_ms, marker="o", markersize=3, label="median")
    line_ms = [(alpha_ns * size + beta_ns) / 1e6 for size in sizes]
    label = f"{alpha_ns / 1e6:.3g} b {beta_ns / 1e6:+.3g} ms"
    latency.plot(sizes, line_ms, linestyle="--", linewidth=1, color="gray", label=label)
    if config.slo_ms <= 2.0 * max(p99_ms):  # farther up it would flatten all the rest
        latency.axhline(config.slo_ms, color="red", linewidth=1, label=f"SLO {config.slo_ms:g} ms")
    latency.set(xlabel="batch size b", ylabel="l(b) in ms")
    latency.set_ylim(bottom=0.0)
    latency.legend(fontsize="small")
    throughput.plot(sizes, [size * 1e3 / value for size, value in zip(sizes, median_ms, strict=True)], marker="o")
    throughput.set(xlabel="batch size b", ylabel="items per second")
    throughput.set_ylim(bottom=0.0)
    figure.suptitle(f"{profile.model} version {profile.version}, {profile.device} {profile.measured_on}".rstrip())
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot draw {file}: {error}; name a .png, .svg or .pdf file that can be written") from error
