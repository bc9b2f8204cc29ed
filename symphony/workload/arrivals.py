"""Say when requests are meant to be sent: arrival processes from a seed, as integer nanoseconds from the start.

Pure: randomness is an argument, the clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from symphony.errors import ConfigError
from symphony.units import NS_PER_S

REQUEST_COUNT_MAX = 50_000_000
GAMMA_SHAPE_MIN, GAMMA_SHAPE_MAX = 0.001, 1000.0
PERIOD_S_MIN, PERIOD_S_MAX = 0.01, 1e6
FACTOR_MAX = 1000.0
FORMS = {
    "constant": (),
    "poisson": (),
    "gamma": ("SHAPE",),
    "onoff": ("ON_S", "OFF_S"),
    "diurnal": ("PERIOD_S", "LOW"),
    "burst": ("AT_S", "FOR_S", "FACTOR"),
}
_LIMITS = {
    "SHAPE": (GAMMA_SHAPE_MIN, GAMMA_SHAPE_MAX),
    "ON_S": (PERIOD_S_MIN, PERIOD_S_MAX),
    "OFF_S": (PERIOD_S_MIN, PERIOD_S_MAX),
    "PERIOD_S": (PERIOD_S_MIN, PERIOD_S_MAX),
    "LOW": (0.0, 1.0),
    "AT_S": (0.0, PERIOD_S_MAX),
    "FOR_S": (PERIOD_S_MIN, PERIOD_S_MAX),
    "FACTOR": (0.0, FACTOR_MAX),
}

Instants = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests come, at a mean rate given elsewhere. `values` belong to `kind`:

    constant: equal gaps. poisson: exponential gaps. gamma SHAPE: gamma gaps, below 1 in bursts. onoff ON_S OFF_S: a
    Poisson stream that is interrupted, for exponential times of these means. diurnal PERIOD_S LOW: Poisson, its rate a
    sine that starts at its lowest, LOW of the mean. burst AT_S FOR_S FACTOR: Poisson, and FACTOR times its rate for a
    while.
    """

    kind: str = "poisson"
    values: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Arrivals:
        """Return the process that `text` names, such as `poisson` or `gamma:0.1`; raise ConfigError otherwise."""
        kind, *texts = text.split(":")
        names = FORMS.get(kind)
        try:
            values = tuple(float(one) for one in texts)
        except ValueError:
            values = (float("nan"),) * 9
        if names is None or len(values) != len(names):
            forms = ", ".join(":".join((name, *parts)) for name, parts in FORMS.items())
            raise ConfigError(f"arrivals {text!r} are unknown: write {forms} (gamma:0.1 is very bursty)")
        for name, value in zip(names, values, strict=True):
            low, high = _LIMITS[name]
            if not low <= value <= high:
                raise ConfigError(f"arrivals {text!r}: {name} is {value:g}: it must be from {low:g} to {high:g}")
        return cls(kind, values)

    def instants(self, rate: float, duration_s: float, rng: np.random.Generator) -> Instants:
        """Return the ascending instants in [0, duration_s) of a stream of `rate` requests per second on average."""
        expected = rate * duration_s
        if not 0 <= expected <= REQUEST_COUNT_MAX:
            raise ConfigError(
                f"{rate:g} requests/s for {duration_s:g} s are {expected:.0f} requests; allowed are "
                f"{REQUEST_COUNT_MAX}: take a lower rate or a shorter time"
            )
        if expected == 0:
            return np.empty(0, np.int64)
        if self.kind == "onoff":
            times_s = self._interrupted(rate, duration_s, rng)
        elif self.kind == "diurnal":
            times_s = self._rescaled(*self._diurnal(duration_s), rate, duration_s, rng)
        elif self.kind == "burst":
            times_s = self._rescaled(*self._burst(duration_s), rate, duration_s, rng)
        else:
            times_s = _renewals(lambda count: self._gaps(count, rng), expected) / rate
        times_ns: Instants = (times_s[times_s < duration_s] * NS_PER_S).astype(np.int64)
        return times_ns[times_ns < duration_s * NS_PER_S]

    def _gaps(self, count: int, rng: np.random.Generator) -> Any:
        """Return gaps whose mean is 1."""
        if self.kind == "constant":
            return np.ones(count)
        if self.kind == "gamma":
            return rng.gamma(self.values[0], 1 / self.values[0], count)
        return rng.exponential(1.0, count)

    def _interrupted(self, rate: float, duration_s: float, rng: np.random.Generator) -> Any:
        """Draw on and off times, lay a Poisson stream over the on times put together, and spread it out again."""
        on_s, off_s = self.values
        cycle_count = int(duration_s / (on_s + off_s) * 2) + 100  # far more than will be needed
        on = rng.exponential(on_s, cycle_count)
        off = rng.exponential(off_s, cycle_count)
        on_rate = rate * (on_s + off_s) / on_s
        ends = np.cumsum(on)
        on_s_max = float(min(ends[-1], duration_s))
        inside = _renewals(lambda count: rng.exponential(1.0, count), on_rate * on_s_max) / on_rate
        cycle = np.searchsorted(ends, inside, side="right")
        inside, cycle = inside[cycle < cycle_count], cycle[cycle < cycle_count]
        starts_off = rng.random() >= on_s / (on_s + off_s)
        pauses = np.concatenate(([float(rng.exponential(off_s)) if starts_off else 0.0], off[:-1]))
        return inside + np.cumsum(pauses)[cycle]

    def _diurnal(self, duration_s: float) -> tuple[Any, Any]:
        """Return a grid of times and the work, in units of the mean rate, done up to each."""
        period_s, low = self.values
        grid = np.linspace(0.0, duration_s, int(min(4e6, max(1e3, 200 * duration_s / period_s))))
        swing = 1.0 - low
        angle = 2 * np.pi * grid / period_s
        return grid, grid - swing * np.sin(angle) * period_s / (2 * np.pi)

    def _burst(self, duration_s: float) -> tuple[Any, Any]:
        at_s, for_s, factor = self.values
        grid = np.unique(np.clip([0.0, at_s, at_s + for_s, duration_s], 0.0, duration_s))
        inside = np.clip(grid - at_s, 0.0, for_s)
        return grid, grid + (factor - 1.0) * inside

    @staticmethod
    def _rescaled(grid: Any, work: Any, rate: float, duration_s: float, rng: np.random.Generator) -> Any:
        """Return a Poisson stream whose expected count up to grid[i] is rate * work[i]."""
        units = _renewals(lambda count: rng.exponential(1.0, count), rate * float(work[-1])) / rate
        return np.interp(units, work, grid, right=duration_s)


def _renewals(draw: Callable[[int], Any], until: float) -> Any:
    """Return the sums of gaps of mean 1 that `draw(count)` gives, up to `until` and somewhat beyond."""
    pieces: list[Any] = []
    last = 0.0
    while last < until:
        times = last + np.cumsum(draw(int((until - last) * 1.05) + 100))
        pieces.append(times)
        last = float(times[-1])
    return np.concatenate(pieces) if pieces else np.empty(0)
