"""Keep measured latency profiles beside their model, and tell when one may be used again."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
from pathlib import Path

from symphony.config import ModelConfig
from symphony.errors import ConfigError
from symphony.execution.formats.onnx import runtime_version
from symphony.profiles import LatencyProfile

_log = logging.getLogger(__name__)

PROFILE_BYTES_MAX = 4 << 20
DIGEST_BYTES_MAX = 64 << 20
"""Larger files count into the fingerprint by size and modification time only."""
PROFILE_FOLDER = "profiles"
_DIGEST_CHARS = 32


def fingerprint(config: ModelConfig, folder: Path) -> str:
    """Return a digest of what the latencies depend on: the configuration and the folder's files, profiles left out.

    Of a model in a package it is the module's file that counts, of one in ONNX the runtime's version too (torch's is
    kept beside the fingerprint). Raise OSError when a file cannot be read.
    """
    digest = hashlib.sha256()
    digest.update(repr((config.format, config.entry, config.inputs, config.outputs, config.batch_size_max)).encode())
    digest.update(repr((sorted(config.parameters.items()), config.execution)).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = file.relative_to(folder)
        if (
            relative.parts[0] != PROFILE_FOLDER
            and "__pycache__" not in relative.parts
            and relative.name != "model.toml"
        ):
            digest.update(f"{relative}:{_content_mark(file)}".encode())
    module_file = _module_file(config)
    if module_file is not None:
        digest.update(_content_mark(module_file).encode())
    if config.format == "onnx":
        digest.update(f"onnxruntime {runtime_version()}".encode())
    return digest.hexdigest()[:_DIGEST_CHARS]


class ProfileStore:
    """The saved profiles of one model: `profiles/<device>.json` in its folder, or in the user's cache if read-only.

    `length`: the one of the buckets that it is about, where the model's requests vary in length.
    """

    def __init__(self, folder: Path, length: int = 0) -> None:
        self._folder = folder
        self._suffix = f"-length-{length}" if length else ""
        self._places = [folder / PROFILE_FOLDER]
        cache = _cache_folder()
        if cache is not None:
            key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
            self._places.append(cache / "symphony" / PROFILE_FOLDER / key)

    def load(self, device: str, torch_version: str, mark: str) -> LatencyProfile | None:
        """Return the saved profile for this device, torch and fingerprint; None without one that can be read."""
        for place in self._places:
            file = place / _file_name(device, self._suffix)
            try:
                if not file.is_file():
                    continue
                if file.stat().st_size > PROFILE_BYTES_MAX:
                    raise ConfigError(f"{file} has more than {PROFILE_BYTES_MAX} bytes: this is no latency profile")
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
            file = place / _file_name(profile.device, self._suffix)
            draft = file.with_suffix(f".{os.getpid()}.tmp")
            try:
                place.mkdir(parents=True, exist_ok=True)
                draft.write_text(profile.to_json(), encoding="utf-8")
                draft.replace(file)
            except OSError as error:
                _log.warning("profile not saved in %s: %s", place, error.strerror or error)
                _remove(draft)
                continue
            return file
        return None


def _content_mark(file: Path) -> str:
    """Return a text that changes with the file: size and digest, for a large file size and modification time."""
    status = file.stat()
    if status.st_size > DIGEST_BYTES_MAX:
        return f"{status.st_size}:{status.st_mtime_ns}"
    return f"{status.st_size}:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def _module_file(config: ModelConfig) -> Path | None:
    """Return the file of the module that a `package.module:Class` entry names, None for other entries."""
    if config.format != "python" or ".py:" in config.entry:
        return None
    try:
        spec = importlib.util.find_spec(config.entry.rsplit(":", 1)[0])
    except (ImportError, ValueError):
        return None  # loading the model says so
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    return Path(spec.origin)


def _cache_folder() -> Path | None:
    """Return the user's cache folder, None where there is no home (a container with an unknown user)."""
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        return None


def _file_name(device: str, suffix: str) -> str:
    return (re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "device") + suffix + ".json"


def _remove(draft: Path) -> None:
    """Remove what a failed save may have left."""
    try:
        draft.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s not removed: %s", draft, error.strerror or error)
