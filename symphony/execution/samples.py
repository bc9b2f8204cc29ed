"""Make plausible inputs for warm-up and profiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from symphony.config import ModelConfig, TensorSpec
from symphony.execution.trouble import ModelLoadError
from symphony.wire.tensors import NUMPY_DTYPES

WORD_COUNT_MIN, WORD_COUNT_MAX = 4, 23
_WORDS = [
    *("a", "model", "serves", "many", "small", "requests", "within", "its", "latency", "objective"),
    *("while", "the", "queue", "keeps", "growing"),
]

Array = np.ndarray[Any, np.dtype[Any]]


def sample_inputs(
    config: ModelConfig,
    rng: np.random.Generator,
    count: int,
    sample: Callable[[np.random.Generator], Mapping[str, Any]] | None = None,
) -> list[dict[str, Array]]:
    """Return inputs of `count` requests, each of one request's shape and the declared datatype.

    Normal floats, zeros and ones for integers, short texts for BYTES; or what the model's own `sample(rng)` gives.
    BF16 is raw uint16 bits. Raise ModelLoadError when `sample` gives what model.toml does not declare.
    """
    if sample is None:
        return [{spec.name: _draw(spec, rng) for spec in config.inputs} for _ in range(count)]
    return [_checked(config, sample(rng)) for _ in range(count)]


def _draw(spec: TensorSpec, rng: np.random.Generator) -> Array:
    if spec.datatype == "BYTES":
        texts = np.empty(spec.shape, dtype=object)
        for at in np.ndindex(*spec.shape):
            texts[at] = " ".join(rng.choice(_WORDS, int(rng.integers(WORD_COUNT_MIN, WORD_COUNT_MAX + 1)))).encode()
        return texts
    if spec.datatype == "BF16":
        # The upper half of a float32's bits is the bfloat16 next to it towards zero.
        bits = np.asarray(rng.standard_normal(spec.shape), dtype=np.float32).view(np.uint32)
        return np.asarray(bits >> 16).astype(np.uint16)
    dtype = np.dtype(NUMPY_DTYPES[spec.datatype])
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(spec.shape)).astype(dtype)
    # Token ids, bytes, counts, truths: 0 and 1 are valid whatever the integer means.
    return np.asarray(rng.integers(0, 2, spec.shape)).astype(dtype)


def _checked(config: ModelConfig, given: Mapping[str, Any]) -> dict[str, Array]:
    """Return the declared inputs among `given` as arrays; raise ModelLoadError naming the one that is not right."""
    arrays: dict[str, Array] = {}
    for spec in config.inputs:
        if not isinstance(given, Mapping) or spec.name not in given:
            raise ModelLoadError(f'model "{config.name}": sample(rng) gave no input "{spec.name}"; return every input')
        wanted = np.dtype(NUMPY_DTYPES[spec.datatype])
        array = _stretched(np.asarray(given[spec.name]), spec.shape) if config.length else np.asarray(given[spec.name])
        if array.shape != spec.shape or array.dtype != wanted:
            raise ModelLoadError(
                f'model "{config.name}": sample(rng) gave input "{spec.name}" as {array.dtype}{list(array.shape)}: '
                f"model.toml declares {spec.datatype}{list(spec.shape)} for one request, a numpy array of {wanted}; "
                "change one of them"
            )
        arrays[spec.name] = array
    return arrays


def _stretched(array: Array, shape: tuple[int, ...]) -> Array:
    """Return the array cut or repeated to `shape` along the one dimension in which it differs; itself if in several."""
    axes = [axis for axis, size in enumerate(shape) if array.ndim == len(shape) and array.shape[axis] != size]
    if len(axes) != 1 or not array.size:
        return array
    places = np.arange(shape[axes[0]]) % array.shape[axes[0]]
    return np.asarray(np.take(array, places, axis=axes[0]))
