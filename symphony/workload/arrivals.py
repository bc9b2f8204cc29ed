"""Say when requests are meant to be sent: arrival processes from a seed, as integer nanoseconds from the start.

Pure: randomness is an argument, the clock is the caller's.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from symphony.errors import ConfigError
from symphony.units import NS_PER_S

REQUEST_COUNT_MAX = 50_000_000
GAMMA_SHAPE_MIN, GAMMA_SHAPE_MAX = 0.001, 1000.0
KINDS = ("constant", "poisson", "gamma")

Instants = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A renewal process: gaps that are constant, exponential ("poisson"), or gamma with `shape` (below 1: bursty)."""

    kind: str = "poisson"
    shape: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Arrivals:
        """Return the process that `text` names: `constant`, `poisson` or `gamma:SHAPE`; raise ConfigError otherwise."""
        kind, _, shape_text = text.partition(":")
        try:
            shape = float(shape_text) if shape_text else 1.0
        except ValueError:
            shape = -1.0
        if kind not in KINDS or (shape_text and kind != "gamma") or not GAMMA_SHAPE_MIN <= shape <= GAMMA_SHAPE_MAX:
            raise ConfigError(
                f"arrivals {text!r} are unknown: write constant, poisson or gamma:SHAPE with a shape from "
                f"{GAMMA_SHAPE_MIN} to {GAMMA_SHAPE_MAX:g} (0.1 is very bursty)"
            )
        return cls(kind, shape)

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
        mean_gap_ns = NS_PER_S / rate
        end_ns = duration_s * NS_PER_S
        pieces: list[Any] = []
        last_ns = 0.0
        while last_ns < end_ns:
            count = int((end_ns - last_ns) / mean_gap_ns * 1.05) + 100
            times = last_ns + np.cumsum(self._gaps(mean_gap_ns, count, rng))
            pieces.append(times)
            last_ns = float(times[-1])
        times = np.concatenate(pieces)
        return times[times < end_ns].astype(np.int64)

    def _gaps(self, mean_gap_ns: float, count: int, rng: np.random.Generator) -> Any:
        if self.kind == "constant":
            return np.full(count, mean_gap_ns)
        if self.kind == "poisson":
            return rng.exponential(mean_gap_ns, count)
        return rng.gamma(self.shape, mean_gap_ns / self.shape, count)


def parse_trace(text: str, file: str, model_names: list[str]) -> tuple[Instants, np.ndarray[Any, np.dtype[np.int32]]]:
    """Return (instants, index into `model_names`) from CSV lines `seconds[,model]`, sorted by time.

    Without a model column every request is for the first model. Lines that start with # are comments. Raise ConfigError
    naming file, line and what is wrong.
    """
    instants: list[int] = []
    models: list[int] = []
    index = {name: number for number, name in enumerate(model_names)}
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if not row or row[0].lstrip().startswith("#"):
            continue
        try:
            seconds = float(row[0])
        except ValueError:
            seconds = -1.0
        if not 0.0 <= seconds <= 1e6:
            raise ConfigError(f"{file}, line {number}: {row[0]!r} is no time in seconds from 0 to 1,000,000")
        name = row[1].strip() if len(row) > 1 else model_names[0]
        if name not in index:
            raise ConfigError(
                f"{file}, line {number}: model {name!r} is not among {', '.join(model_names)}; name it with --model"
            )
        if len(instants) >= REQUEST_COUNT_MAX:
            raise ConfigError(f"{file} has more than {REQUEST_COUNT_MAX} requests; split it")
        instants.append(round(seconds * NS_PER_S))
        models.append(index[name])
    if not instants:
        raise ConfigError(f"{file} holds no request: write lines of seconds[,model]")
    order = np.argsort(np.array(instants, np.int64), kind="stable")
    return np.array(instants, np.int64)[order], np.array(models, np.int32)[order]
