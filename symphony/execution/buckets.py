"""Choose the batch sizes for which a device is prepared in advance; a batch between two is padded to the larger."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

PER_OCTAVE = 8
"""So many candidates lie between one power of two and the next: padding adds at most an eighth."""
GAIN_MIN = 0.02
"""A bucket must be this much quicker than the next larger one, else its batches are padded to that."""


def bucket_candidates(batch_size_max: int) -> list[int]:
    """Return the sizes worth trying, from 1 to `batch_size_max`: all up to 16, then eight to the octave."""
    sizes = {batch_size_max}
    size = 1
    while size < batch_size_max:
        sizes.add(size)
        size += max(1, (1 << (size.bit_length() - 1)) // PER_OCTAVE)
    return sorted(sizes)


def choose_buckets(duration_ns: Mapping[int, int]) -> tuple[int, ...]:
    """Return those of the measured sizes that are worth a bucket of their own, ascending; the largest always is."""
    kept: list[int] = []
    for size in sorted(duration_ns, reverse=True):
        if not kept or duration_ns[size] < (1.0 - GAIN_MIN) * duration_ns[kept[-1]]:
            kept.append(size)
    return tuple(reversed(kept))


def bucket_of(buckets: Sequence[int], size: int) -> int:
    """Return the smallest bucket that holds a batch of `size`, at most the largest bucket."""
    return buckets[bisect_left(buckets, size)]
