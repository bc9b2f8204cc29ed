"""Measure a latency profile and keep it beside the model.

Sizes are interleaved (1, 2, 4, ..., 1, 2, 4, ...) so that a drift of clocks or of a neighbour's load touches all of them
alike. All sizes are measured while that is cheap; else powers of two and the points between them, the model's largest
always among them.
"""

from __future__ import annotations

import datetime
import hashlib
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from symphony.config import ModelConfig
from symphony.errors import ConfigError
from symphony.profiles import LatencyProfile

_log = logging.getLogger(__name__)

ALL_SIZES_MAX = 16
"""Up to this max_batch_size every size is measured."""
SAMPLE_COUNT_MIN, SAMPLE_COUNT_MAX = 5, 200
PROFILE_BYTES_MAX = 4 << 20
DIGEST_BYTES_MAX = 64 << 20
"""Larger files count into the fingerprint by size and modification time only."""
PROFILE_FOLDER = "profiles"


def measure_profile(
    run: Callable[[int], object],
    config: ModelConfig,
    *,
    device: str,
    torch_version: str,
    fingerprint: str,
    clock_ns: Callable[[], int],
    budget_s: float,
    on_progress: Callable[[float], None] = lambda share: None,
) -> LatencyProfile:
    """Return l(b) measured by `run(b)`, which runs one whole batch of b (already warm), within about `budget_s`.

    `on_progress` hears the share of the work done, from 0 to 1. At least `SAMPLE_COUNT_MIN` rounds are made even if they
    take longer than the budget.
    """
    sizes = batch_sizes_to_measure(config.batch_size_max)
    samples: dict[int, list[int]] = {size: [] for size in sizes}
    began_ns = clock_ns()
    for round_number in range(SAMPLE_COUNT_MAX):
        for size in sizes:
            start_ns = clock_ns()
            run(size)
            samples[size].append(max(1, clock_ns() - start_ns))
        spent_s = (clock_ns() - began_ns) / 1e9
        done = max(
            (round_number + 1) / SAMPLE_COUNT_MAX, min(spent_s / budget_s, (round_number + 1) / SAMPLE_COUNT_MIN)
        )
        on_progress(min(1.0, done))
        if spent_s >= budget_s and round_number + 1 >= SAMPLE_COUNT_MIN:
            break
    on_progress(1.0)
    return LatencyProfile(
        batch_sizes=tuple(sizes),
        median_ns=tuple(quantile(samples[size], 0.5) for size in sizes),
        p99_ns=tuple(quantile(samples[size], 0.99) for size in sizes),
        sample_counts=tuple(len(samples[size]) for size in sizes),
        model=config.name,
        version=config.version,
        device=device,
        torch_version=torch_version,
        measured_on=datetime.date.today().isoformat(),
        fingerprint=fingerprint,
    )


def batch_sizes_to_measure(batch_size_max: int) -> list[int]:
    """Return the sizes to measure, from 1 to `batch_size_max`: all, or powers of two and points between them."""
    if batch_size_max <= ALL_SIZES_MAX:
        return list(range(1, batch_size_max + 1))
    sizes = {1, batch_size_max}
    power = 1
    while power < batch_size_max:
        sizes |= {power, power + power // 2}
        power *= 2
    return sorted(size for size in sizes if 1 <= size <= batch_size_max)


def quantile(samples: Sequence[int], share: float) -> int:
    """Return the sample at or just above the quantile: an actual measurement, the largest for few samples."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def fingerprint(config: ModelConfig, folder: Path) -> str:
    """Return a digest of what the latencies depend on: the configuration and the folder's files, profiles left out."""
    digest = hashlib.sha256()
    digest.update(repr((config.format, config.entry, config.inputs, config.outputs, config.batch_size_max)).encode())
    digest.update(repr(sorted(config.parameters.items())).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = file.relative_to(folder)
        if relative.parts[0] == PROFILE_FOLDER or "__pycache__" in relative.parts or relative.name == "model.toml":
            continue
        status = file.stat()
        digest.update(f"{relative}:{status.st_size}:".encode())
        if status.st_size <= DIGEST_BYTES_MAX:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            digest.update(str(status.st_mtime_ns).encode())
    return digest.hexdigest()[:32]


class ProfileStore:
    """The saved profiles of one model: `profiles/<device>.json` in its folder, or in the user's cache if that is read-only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self._places = [folder / PROFILE_FOLDER, cache / "symphony" / PROFILE_FOLDER / key]

    def load(self, device: str, torch_version: str, mark: str) -> LatencyProfile | None:
        """Return the saved profile for this device, torch and fingerprint; None if there is none, or an unreadable one."""
        for place in self._places:
            file = place / _file_name(device)
            try:
                if not file.is_file() or file.stat().st_size > PROFILE_BYTES_MAX:
                    continue
                profile = LatencyProfile.from_json(file.read_text(encoding="utf-8"), str(file))
            except (OSError, UnicodeDecodeError, ConfigError) as error:
                _log.warning("saved profile ignored: %s", error)
                continue
            if profile.matches(device, torch_version, mark):
                return profile
        return None

    def save(self, profile: LatencyProfile) -> Path | None:
        """Write the profile in one step; return where, or None (and say so in the log) if no place is writable."""
        for place in self._places:
            file = place / _file_name(profile.device)
            try:
                place.mkdir(parents=True, exist_ok=True)
                draft = file.with_suffix(f".{os.getpid()}.tmp")
                draft.write_text(profile.to_json(), encoding="utf-8")
                draft.replace(file)
            except OSError as error:
                _log.warning("profile not saved in %s: %s", place, error.strerror or error)
                continue
            return file
        return None


def _file_name(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"
