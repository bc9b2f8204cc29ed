"""Turn an output into its highest elements, as Triton's classification extension says them. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from symphony.wire import bf16_to_fp32

Array = np.ndarray[Any, Any]


def classify(output: Array, class_count: int, has_batch: bool, is_bf16: bool) -> Array:
    """Return the `class_count` highest elements as texts `score:index`, an object array of bytes [k], or [n, k].

    `has_batch`: the first dimension counts requests, each of which has its own classes. The others are taken as one,
    in C order. k is at most how many elements there are. Of equal elements the first comes first; NaN ranks as minus
    infinity. Floating scores have six decimals, as C's `%f`. One sort of the elements.
    """
    if is_bf16:
        output = bf16_to_fp32(output)
    scores = output.reshape(len(output) if has_batch else 1, -1)
    element_count = scores.shape[1]
    keys = np.where(np.isnan(scores), -np.inf, scores) if scores.dtype.kind == "f" else scores
    # Sorted from behind and turned around, so that equal elements stay in order.
    order = element_count - 1 - np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :class_count]
    texts = np.empty(order.shape, object)
    is_float = scores.dtype.kind == "f"
    for row, places in enumerate(order.tolist()):
        for rank, place in enumerate(places):
            score = scores[row, place].item()
            texts[row, rank] = (f"{score:f}:{place}" if is_float else f"{score}:{place}").encode()
    return texts if has_batch else texts[0]
