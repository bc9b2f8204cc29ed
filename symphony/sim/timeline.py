"""Write a run as a timeline in the Chrome trace format, which ui.perfetto.dev opens: a row a GPU, a bar a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from symphony.sim.report import model_names
from symphony.sim.run import FATES, OUTCOMES
from symphony.sim.scenario import Outcome

BATCH_COUNT_MAX = 500_000
"""A viewer does not open more; later batches are left out, and the file says so."""
_ANSWERED_MAX = OUTCOMES.index("late")


def write_timeline(outcome: Outcome, file: IO[str]) -> int:
    """Write the events to an open text file; return how many batches were left out because there were too many."""
    file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
    file.write(",\n".join(json.dumps(event, separators=(",", ":")) for event in _events(outcome)))
    left_out = max(0, len(outcome.batches["gpu"]) - BATCH_COUNT_MAX)
    other = {"seed": outcome.workload.seed, "policy": outcome.workload.policy, "batches_left_out": left_out}
    file.write(f'\n], "otherData": {json.dumps(other)}}}\n')
    return left_out


def _events(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yield metadata, then batches (times in microseconds), then drops as instants."""
    names, batches = model_names(outcome), outcome.batches
    yield {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "GPUs"}}
    yield {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "drops"}}
    for gpu, kind in enumerate(outcome.workload.gpu_kinds):
        args = {"name": f"GPU {gpu} ({kind})"}
        yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": gpu, "args": args}
        yield {"ph": "M", "name": "thread_sort_index", "pid": 0, "tid": gpu, "args": {"sort_index": gpu}}
    count = min(BATCH_COUNT_MAX, len(batches["gpu"]))
    rows = zip(*(batches[name][:count].tolist() for name in _COLUMNS), strict=True)
    end_ns = 0
    for gpu, model, size, decided_ns, start_ns, finish_ns, fate in rows:
        end_ns = max(end_ns, finish_ns)
        yield {
            "ph": "X",
            "name": names[model],
            "cat": FATES[fate],
            "pid": 0,
            "tid": gpu,
            "ts": start_ns / 1e3,
            "dur": (finish_ns - start_ns) / 1e3,
            "args": {"size": size, "decided_us_before": (start_ns - decided_ns) / 1e3, "fate": FATES[fate]},
        }
    for request in np.flatnonzero((outcome.outcome > _ANSWERED_MAX) & (outcome.ended_ns <= end_ns)).tolist():
        yield {
            "ph": "i",
            "s": "t",
            "name": OUTCOMES[outcome.outcome[request]],
            "pid": 1,
            "tid": int(outcome.requests.models[request]),
            "ts": int(outcome.ended_ns[request]) / 1e3,
        }


_COLUMNS = ("gpu", "model", "size", "decided_ns", "start_ns", "finish_ns", "fate")
