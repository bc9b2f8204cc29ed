"""Say why a model could not be loaded."""

from __future__ import annotations

from pathlib import Path

from symphony.errors import ConfigError


class ModelLoadError(ConfigError):
    """Report a model whose files cannot be used: which file, what happened, what to do."""


def file_in(folder: Path, name: str, model: str) -> Path:
    """Return the model's file; raise ModelLoadError if it is missing or leads out of the folder."""
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ModelLoadError(f'model "{model}": {file} leads out of its folder; copy the file into it')
    if not file.is_file():
        raise ModelLoadError(f'model "{model}": {file} does not exist; put it there or change entry in model.toml')
    return file
