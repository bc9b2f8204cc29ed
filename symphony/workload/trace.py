"""Hold a recorded workload: when which model was asked, and with what time allowed. No payloads.

The file is CSV, a line for each request: `seconds[,model[,slo_ms]]`, seconds from the start with up to nine decimals.
Lines that start with # are comments. Pure: text in, arrays out, and back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from symphony.errors import ConfigError
from symphony.units import NS_PER_MS, NS_PER_S
from symphony.workload.arrivals import REQUEST_COUNT_MAX, Instants

SECONDS_MAX = 1e6
SLO_MS_MAX = 3_600_000.0
COLUMN_COUNT_MAX = 3
NAMES_SHOWN_MAX = 20
HEADER = (
    "# symphony trace: seconds,model,slo_ms\n"
    "# One line for each request; slo_ms only where it is not the model's own.\n"
)


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of time: instants from the start, index into `names`, time allowed (0: the model's SLO)."""

    names: tuple[str, ...]
    at_ns: Instants
    models: np.ndarray[Any, np.dtype[np.int32]]
    slo_ns: Instants

    def __len__(self) -> int:
        """Return how many requests there are."""
        return len(self.at_ns)


def trace_line(at_ns: int, model: str, slo_ns: int = 0) -> str:
    """Return the line of one request; `slo_ns` 0: the model's own."""
    line = f"{at_ns // NS_PER_S}.{at_ns % NS_PER_S:09d},{model}"
    return f"{line},{slo_ns / NS_PER_MS:.10g}\n" if slo_ns else line + "\n"


def parse_trace(text: str, file: str, model_names: Sequence[str] | None = None) -> Trace:
    """Return the requests that the lines of `text`, the contents of `file`, name, sorted by time.

    `model_names` are the models allowed; None: whatever stands there, in the order met. Without a model column every
    request is for the first model ("" if none is given). Raise ConfigError naming file, line and what is wrong.
    """
    index = {name: number for number, name in enumerate(model_names or ())}
    instants: list[int] = []
    models: list[int] = []
    slos: list[int] = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if not row or row[0].lstrip().startswith("#"):
            continue
        where = f"{file}, line {number}"
        if len(row) > COLUMN_COUNT_MAX:
            raise ConfigError(f"{where}: {len(row)} columns; write seconds[,model[,slo_ms]]")
        seconds = _number(row[0])
        if not 0.0 <= seconds <= SECONDS_MAX:
            raise ConfigError(f"{where}: {row[0]!r} is no time in seconds from 0 to {SECONDS_MAX:,.0f}")
        name = row[1].strip() if len(row) > 1 else (model_names[0] if model_names else "")
        if name not in index:
            if model_names is not None:
                raise ConfigError(
                    f"{where}: model {name!r} is not among {_shown(model_names)}; add it, or leave it out"
                )
            index[name] = len(index)
        slo_ms = _number(row[2]) if len(row) == COLUMN_COUNT_MAX and row[2].strip() else 0.0
        if not 0.0 <= slo_ms <= SLO_MS_MAX:
            raise ConfigError(f"{where}: {row[2]!r} is no SLO in ms from 0 to {SLO_MS_MAX:,.0f}")
        if len(instants) >= REQUEST_COUNT_MAX:
            raise ConfigError(f"{file} has more than {REQUEST_COUNT_MAX} requests; split it")
        instants.append(round(seconds * NS_PER_S))
        models.append(index[name])
        slos.append(round(slo_ms * NS_PER_MS))
    if not instants:
        raise ConfigError(f"{file} holds no request: write lines of seconds[,model[,slo_ms]]")
    at_ns = np.array(instants, np.int64)
    order = np.argsort(at_ns, kind="stable")
    return Trace(tuple(index), at_ns[order], np.array(models, np.int32)[order], np.array(slos, np.int64)[order])


def _number(text: str) -> float:
    """Return the number in `text`, NaN if there is none: it is within no limits."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return ", ".join(names[:NAMES_SHOWN_MAX]) + more
