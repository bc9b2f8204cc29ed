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
            folders = sorted(path for path in self.root.iterdir() if _has_config(path))
        except OSError as error:
            raise ConfigError(
                f"repository {self.root} cannot be read: {error.strerror or error}; name a folder of model folders"
            ) from error
        if len(folders) > FOLDER_COUNT_MAX:
            raise ConfigError(f"repository {self.root} has {len(folders)} models, above {FOLDER_COUNT_MAX}; split it")
        found: list[tuple[ModelConfig, Path] | tuple[Path, ConfigError]] = []
        seen: dict[tuple[str, str], Path] = {}
        for folder in folders:
            try:
                config = read_model_config(folder, self.root)
                key = (config.name, config.version)
                if key in seen:
                    raise ConfigError(
                        f'{folder / CONFIG_FILE}: model "{config.name}" version {config.version} stands in '
                        f"{seen[key] / CONFIG_FILE} already; change the name or the version of one"
                    )
            except ConfigError as error:
                found.append((folder, error))
                continue
            seen[key] = folder
            found.append((config, folder))
        return found


def read_model_config(folder: Path, root: Path) -> ModelConfig:
    """Return what the folder's model.toml says; raise ConfigError, also if it leads out of `root`."""
    file = folder / CONFIG_FILE
    try:
        if not file.resolve().is_relative_to(root.resolve()):
            raise ConfigError(f"{file} leads out of {root}; copy the model into it")
        if not file.is_file():
            raise ConfigError(f"{file} is not a file; a model's folder needs one")
        size = file.stat().st_size
        if size > CONFIG_BYTES_MAX:
            raise ConfigError(f"{file} has {size} bytes, above {CONFIG_BYTES_MAX}; this is no model.toml")
        text = file.read_text(encoding="utf-8")
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: links that go round in a circle
        raise ConfigError(f"{file} cannot be read: {error}; it must be a readable text file in UTF-8") from error
    return parse_model_config(text, str(file))


def _has_config(folder: Path) -> bool:
    """Return whether there is a model.toml, be it a link that leads nowhere or one that may not be looked at."""
    try:
        (folder / CONFIG_FILE).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # reading it will say what is wrong
    return True
