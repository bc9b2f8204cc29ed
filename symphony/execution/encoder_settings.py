"""Read what `[parameters]` say about a text encoder, and hold model.toml against the network that was loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from symphony.config import ModelConfig
from symphony.execution.tokens import IDS, TYPES
from symphony.execution.trouble import ModelLoadError

AUTO_CLASSES = {
    "embedding": "AutoModel",
    "classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}
"""The class of transformers that reads the checkpoint for each task."""
POOLINGS = ("mean", "cls")
OUTPUT_DATATYPES = ("FP32", "FP16", "BF16")


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What `[parameters]` say."""

    task: str
    pooling: str = "mean"
    normalise: bool = True
    token_count: int | None = None
    package: str | None = None


_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (lambda value: value in AUTO_CLASSES, f"one of {[*AUTO_CLASSES]}"),
    "pooling": (lambda value: value in POOLINGS, f"one of {[*POOLINGS]}"),
    "normalise": (lambda value: isinstance(value, bool), "true or false"),
    "token_count": (lambda value: type(value) is int and value >= 1, "a whole number from 1"),
    "package": (lambda value: isinstance(value, str), "a text"),
}
_OF_EMBEDDINGS = ("pooling", "normalise")


def read_settings(config: ModelConfig) -> EncoderSettings:
    """Return what `[parameters]` say; raise ModelLoadError naming the one that is wrong."""
    given: Mapping[str, Any] = config.parameters
    if "task" not in given:
        raise _fault(config, f"parameters.task is missing; it must be {_KEYS['task'][1]}")
    for key, value in given.items():
        if key not in _KEYS:
            raise _fault(config, f"parameters.{key} is unknown to a text encoder; it knows {[*_KEYS]}")
        is_right, wanted = _KEYS[key]
        if not is_right(value):
            raise _fault(config, f"parameters.{key} is {value!r}; it must be {wanted}")
    idle = [key for key in _OF_EMBEDDINGS if key in given]
    if idle and given["task"] != "embedding":
        raise _fault(
            config,
            f'parameters.{idle[0]} does nothing with task = "{given["task"]}", which pools no tokens; leave it out',
        )
    return EncoderSettings(**given)


def check_fit(config: ModelConfig, task: str, token_count: int, network: Any, taken: Sequence[str]) -> None:
    """Raise ModelLoadError where model.toml declares what the network does not take or give.

    `taken` are the names of what its forward takes.
    """
    kind, declared = network.config.model_type, {spec.name for spec in config.inputs}
    reads_text = IDS in taken and getattr(network.config, "vocab_size", None) is not None
    if not reads_text or getattr(network.config, "is_encoder_decoder", False):
        raise _fault(config, f"a {kind} is no text encoder; write a model.py for it")
    if TYPES in declared and TYPES not in taken:
        raise _fault(config, f'a {kind} takes no "{TYPES}"; leave that input out')
    limit = position_limit(network)
    if limit is not None and token_count > limit:
        raise _fault(
            config, f"token_count is {token_count}, above the {limit} positions of the network; choose {limit} or less"
        )
    names, shape, why = _gives(task, token_count, network)
    for spec in config.outputs:
        if spec.name not in names:
            raise _fault(
                config,
                f'output "{spec.name}" is unknown with task = "{task}"; declare {" or ".join(map(repr, names))}',
            )
        if spec.shape != shape or spec.datatype not in OUTPUT_DATATYPES:
            raise _fault(
                config,
                f'output "{spec.name}" is declared {spec.datatype}{list(spec.shape)}, but {why}; declare it '
                f"{' or '.join(OUTPUT_DATATYPES)}, of shape {list(shape)}",
            )


def position_limit(network: torch.nn.Module) -> int | None:
    """Return the longest sequence that the network has positions for, None when it sets no limit."""
    for name, module in network.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding)
        if is_table and module.padding_idx is not None:
            # RoBERTa and its kind count positions from behind the padding's.
            return int(module.num_embeddings) - int(module.padding_idx) - 1
    limit = getattr(network.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def table_sizes(network: Any) -> dict[str, int]:
    """Return how many rows the network has for the ids and, where it has any, the types of tokens."""
    sizes = {IDS: network.config.vocab_size, TYPES: getattr(network.config, "type_vocab_size", 0)}
    return {name: size for name, size in sizes.items() if size}


def _gives(task: str, token_count: int, network: Any) -> tuple[tuple[str, ...], tuple[int, ...], str]:
    """Return the names of the task's outputs, their shape, and what that follows from."""
    if task == "embedding":
        size = network.config.hidden_size
        return ("embedding",), (size,), f"the network's hidden size is {size}"
    count = network.config.num_labels
    if task == "classification":
        return ("logits", "probabilities"), (count,), f"the network has {count} labels"
    why = f"the network has {count} labels for each of {token_count} tokens"
    return ("logits", "probabilities"), (token_count, count), why


def _fault(config: ModelConfig, text: str) -> ModelLoadError:
    return ModelLoadError(f'model "{config.name}": {text}')
