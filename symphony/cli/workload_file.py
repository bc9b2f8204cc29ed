"""Read a workload.toml and, where it names one, its trace."""

from __future__ import annotations

from pathlib import Path

from symphony.config.workload import Workload
from symphony.config.workload_document import parse_workload
from symphony.errors import ConfigError
from symphony.sim.replay import LoadSource, Replay, drawn
from symphony.workload import Trace, parse_trace

FILE_BYTES_MAX = 64 << 20
TRACE_BYTES_MAX = 1 << 30


def read_workload(file: Path) -> tuple[Workload, LoadSource]:
    """Return the workload that a file describes, and where its requests come from: a seed, or its trace.

    The trace's path counts from the file's folder. Raise ConfigError when either cannot be read or used.
    """
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{file} has more than {FILE_BYTES_MAX} bytes; describe models alike with copies")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}; name a workload.toml") from error
    workload = parse_workload(text, str(file))
    if not workload.trace:
        return workload, drawn
    replay = Replay(workload, read_trace(file.parent / workload.trace))
    return replay.workload, replay


def read_trace(file: Path, names: list[str] | None = None) -> Trace:
    """Return the trace in a file, of these models or of whatever it names; raise ConfigError when it cannot be read."""
    try:
        if file.stat().st_size > TRACE_BYTES_MAX:
            raise ConfigError(f"{file} has more than {TRACE_BYTES_MAX} bytes; split it")
        return parse_trace(file.read_text(encoding="utf-8"), str(file), names)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
