"""See what changed in the repository's folder since the last look: models that came, changed or went.

Polling, not inotify: repositories lie on network file systems and mounted volumes, which tell nobody of changes. A
change counts once two looks in a row saw the same: a folder that is still being copied is left alone. What a look
found is remembered whatever becomes of it, so a model that cannot be loaded is not tried again until it changes, and
one that was unloaded by hand stays so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from symphony.config import ModelConfig
from symphony.errors import ConfigError
from symphony.execution.profile_store import PROFILE_FOLDER
from symphony.execution.repository import Repository

FILE_COUNT_MAX = 100_000
"""Files of one model that are looked at; a folder with more is seen to change when one of these does."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Changes:
    """What to do: versions to load (again) from their folders, versions that are gone, folders that are faulty."""

    to_load: list[tuple[ModelConfig, Path]] = field(default_factory=list)
    to_unload: list[Key] = field(default_factory=list)
    faults: list[ConfigError] = field(default_factory=list)


class RepositoryWatch:
    """Compare the repository with what it was. One thread at a time; `look` blocks on the file system."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._known = self._marks()
        self._seen = dict(self._known)

    def look(self, served: Mapping[Key, Path]) -> Changes:
        """Return what changed; `served` maps the versions in service to the folders that they were loaded from.

        Raise ConfigError when the repository itself cannot be read: then nothing is taken to be gone.
        """
        before, self._seen = self._seen, self._marks()
        settled = {folder for folder, mark in self._seen.items() if before.get(folder) == mark}
        changed = {folder for folder in settled if self._known.get(folder) != self._seen[folder]}
        gone = {folder for folder in self._known if folder not in self._seen and folder not in before}
        if not changed and not gone:
            return Changes()
        changes = Changes()
        found: dict[Key, Path] = {}
        for item in self._repository.scan():
            if isinstance(item[1], ConfigError):
                if item[0] in changed:
                    changes.faults.append(item[1])
                continue
            config, folder = item
            found[(config.name, config.version)] = folder
            if folder in changed:
                changes.to_load.append((config, folder))
        for key, folder in served.items():
            # A faulty folder goes on being served as it was loaded; one that now holds something else does not.
            is_other = folder in changed and folder in found.values() and key not in found
            if folder in gone or is_other:
                changes.to_unload.append(key)
        for folder in changed:
            self._known[folder] = self._seen[folder]
        for folder in gone:
            del self._known[folder]
        return changes

    def _marks(self) -> dict[Path, str]:
        """Return for each model's folder a text that changes with its files."""
        folders = [item[1] if isinstance(item[1], Path) else item[0] for item in self._repository.scan()]
        return {folder: _mark(folder) for folder in folders if isinstance(folder, Path)}


def _mark(folder: Path) -> str:
    digest = hashlib.sha256()
    for count, file in enumerate(sorted(folder.rglob("*"))):
        relative = file.relative_to(folder)
        if relative.parts[0] == PROFILE_FOLDER or "__pycache__" in relative.parts:
            continue
        if count >= FILE_COUNT_MAX:
            break
        try:
            status = file.stat()
        except OSError:
            continue  # it went while we looked; the next look sees it
        if file.is_file():
            digest.update(f"{relative}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
