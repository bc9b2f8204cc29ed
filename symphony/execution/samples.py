"""Make plausible inputs for warm-up and profiling."""

from __future__ import annotations

from typing import Any

import numpy as np

from symphony.config import ModelConfig, TensorSpec

_WORDS = ["a", "model", "serves", "many", "small", "requests", "within", "its", "latency", "objective", "while", "the", "queue", "keeps", "growing"]
_FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


def sample_inputs(
    config: ModelConfig, rng: np.random.Generator, count: int
) -> list[dict[str, np.ndarray[Any, np.dtype[Any]]]]:
    """Return inputs of `count` requests: normal floats, small integers, short sentences for BYTES."""
    return [{spec.name: _sample(spec, rng) for spec in config.inputs} for _ in range(count)]


def _sample(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[Any]]:
    if spec.datatype == "BYTES":
        texts = np.empty(spec.shape, dtype=object)
        for at in np.ndindex(*spec.shape):
            texts[at] = " ".join(rng.choice(_WORDS, int(rng.integers(4, 24)))).encode()
        return texts
    if spec.datatype in _FLOATS:
        return rng.standard_normal(spec.shape).astype(_FLOATS[spec.datatype])
    if spec.datatype == "BF16":
        bits = rng.standard_normal(spec.shape).astype(np.float32).view(np.uint32)
        return (bits >> 16).astype(np.uint16)
    if spec.datatype == "BOOL":
        return rng.integers(0, 2, spec.shape).astype(np.bool_)
    # Token ids, bytes, counts: 0 and 1 are valid whatever the integer means.
    return rng.integers(0, 2, spec.shape).astype(spec.datatype.lower())
