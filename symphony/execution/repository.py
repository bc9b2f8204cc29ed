"""Find the models in a folder: one folder per model, each with a model.toml."""

from __future__ import annotations

from pathlib import Path

from symphony.config import ModelConfig, parse_model_config
from symphony.errors import ConfigError

CONFIG_FILE = "model.toml"
CONFIG_BYTES_MAX = 1 << 20
FOLDER_COUNT_MAX = 4096


class Repository:
    """A folder of model folders. Nothing is remembered between scans."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def scan(self) -> list[tuple[ModelConfig, Path] | tuple[Path, ConfigError]]:
        """Return, by folder name, each model with its folder, or a folder with what is wrong with it.

        A folder without model.toml is no model. The same name and version in two folders is a fault of the later one.
        Raise ConfigError when the root itself cannot be read.
        """
        try:
            folders = sorted(path for path in self.root.iterdir() if (path / CONFIG_FILE).exists())
        except OSError as error:
            raise ConfigError(f"repository {self.root} cannot be read: {error.strerror or error}") from error
        if len(folders) > FOLDER_COUNT_MAX:
            raise ConfigError(f"repository {self.root} has {len(folders)} models, above {FOLDER_COUNT_MAX}; split it")
        found: list[tuple[ModelConfig, Path] | tuple[Path, ConfigError]] = []
        seen: dict[tuple[str, str], Path] = {}
        for folder in folders:
            try:
                config = self._read(folder)
                key = (config.name, config.version)
                if key in seen:
                    raise ConfigError(
                        f'{folder / CONFIG_FILE}: model "{config.name}" version {config.version} stands in {seen[key]} already; '
                        "change its name or version"
                    )
            except ConfigError as error:
                found.append((folder, error))
                continue
            seen[key] = folder
            found.append((config, folder))
        return found

    def _read(self, folder: Path) -> ModelConfig:
        file = folder / CONFIG_FILE
        if not file.resolve().is_relative_to(self.root.resolve()):
            raise ConfigError(f"{file} leads out of the repository {self.root}; copy the model into it")
        try:
            size = file.stat().st_size
            if size > CONFIG_BYTES_MAX:
                raise ConfigError(f"{file} has {size} bytes, allowed are {CONFIG_BYTES_MAX}; this is no model.toml")
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file} cannot be read: {error}") from error
        return parse_model_config(text, str(file))
