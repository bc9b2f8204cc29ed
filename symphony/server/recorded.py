"""Describe a node's models and devices as the workload.toml that goes with a recording, profiles as measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from symphony.server.served import ModelEntry

KIND_CHARS_MAX = 64
KIND_COUNT_MAX = 8
MB = 1_000_000
SHORT_S = 10.0
"""A recording up to this long is judged from its beginning."""


def workload_text(
    entries: Iterable[ModelEntry], device_keys: Sequence[str], trace: str, duration_s: float, policy: str
) -> str:
    """Return a workload.toml for the trace: READY models, a profile for each kind of device that holds them.

    `device_keys`: the profile key of each device of the node. Of several versions of a model the last one counts.
    Margins that the node learnt are not in it: the simulator has its own. "" if no model is ready.
    """
    kinds = list(dict.fromkeys(device_keys))[:KIND_COUNT_MAX]
    models = {
        entry.config.name: entry for entry in entries if entry.state == "READY" and set(kinds) & set(entry.profiles)
    }
    if not models:
        return ""
    lines = [f"# Models and devices of the node that recorded {trace}; see docs/plan.md.", f"trace = {_quoted(trace)}"]
    lines += [f"policy = {_quoted(policy)}"]
    if duration_s <= SHORT_S:
        lines.append("warmup_s = 0.0")
    held = {kind for entry in models.values() for kind in entry.profiles}
    for kind in kinds:
        if kind in held:
            count = device_keys.count(kind)
            lines += ["", "[[gpus]]", f"kind = {_quoted(kind[:KIND_CHARS_MAX])}", f"count = {count}"]
    for entry in models.values():
        config = entry.config
        lines += ["", "[[models]]", f"name = {_quoted(config.name)}", f"slo_ms = {config.slo_ms!r}"]
        lines += [f"max_batch_size = {config.batch_size_max}", f"priority = {config.priority_default}"]
        memory = max(profile.memory_bytes for profile in entry.profiles.values())
        if memory:
            lines.append(f"memory_mb = {memory / MB:.1f}")
        for kind in kinds:
            if kind in entry.profiles:
                table = ", ".join(f"{value / 1e6:.6f}" for value in entry.table_ns(kind))
                lines += [f"[models.profiles.{_quoted(kind[:KIND_CHARS_MAX])}]", f"latency_ms = [{table}]"]
    return "\n".join(lines) + "\n"


def write_new(file: Path, text: str) -> None:
    """Write a file that is not there yet; raise OSError if it is, or cannot be written."""
    with file.open("x", encoding="utf-8") as target:
        target.write(text)


def _quoted(text: str) -> str:
    """Return the text as a TOML string: JSON's escapes are TOML's, as long as characters stand as themselves."""
    return json.dumps(text, ensure_ascii=False)
