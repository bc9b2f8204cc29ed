"""Know every version of every model: which there are, which index the scheduler has for it, which is the latest."""

from __future__ import annotations

from collections.abc import Iterator

from symphony.ingress.service import unknown_model
from symphony.server.served import ModelEntry

MODEL_COUNT_MAX = 4096
NO_INDEX = -1
"""The index of a model that the scheduler does not know."""


class Catalog:
    """Entries by name and version, and by the scheduler's index."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], ModelEntry] = {}
        self.by_index: dict[int, ModelEntry] = {}
        self._latest: dict[str, ModelEntry] = {}
        self._free_indices = list(range(MODEL_COUNT_MAX - 1, -1, -1))

    def __iter__(self) -> Iterator[ModelEntry]:
        """Iterate over every version known, in any state, by name and version."""
        return iter([self.entries[key] for key in sorted(self.entries)])

    @property
    def free_count(self) -> int:
        """Return how many more models the scheduler can take."""
        return len(self._free_indices)

    def take_index(self) -> int:
        """Return a free index; there must be one."""
        return self._free_indices.pop()

    def give_back_index(self, entry: ModelEntry) -> None:
        """Let the entry's index be used again."""
        self.by_index.pop(entry.index, None)
        self._free_indices.append(entry.index)
        entry.index = NO_INDEX

    def publish(self, entry: ModelEntry) -> None:
        """Let the entry be found, in place of another of its name and version."""
        self.entries[(entry.config.name, entry.config.version)] = entry
        self.by_index[entry.index] = entry
        self.choose_latest(entry.config.name)

    def choose_latest(self, name: str) -> None:
        """Let requests that name no version go to the highest that is ready, else to the highest."""
        versions = self.of_name(name)
        self._latest[name] = max(versions, key=lambda entry: (entry.state == "READY", int(entry.config.version)))

    def of_name(self, name: str) -> list[ModelEntry]:
        """Return all versions of a model, none if it is unknown."""
        return [entry for (known, _), entry in self.entries.items() if known == name]

    def find(self, name: str, version: str | None) -> ModelEntry:
        """Return the model's version (the latest when None); raise SymphonyError `unknown_model`."""
        entry = self._latest.get(name) if version is None else self.entries.get((name, version))
        if entry is None:
            raise unknown_model(name, version, self._latest)
        return entry
