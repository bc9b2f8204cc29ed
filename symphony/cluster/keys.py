"""Number requests so that a number is never mistaken for an earlier one: a slot of the table and its generation.

A key is 64 bits: the low ones the slot, in which the native loop and the node's own core find the request without a
look-up; the high ones how often the slot has been given away. A plan, an output or a drop that arrives late names a
generation that is over, and so names nothing. At a million requests a second over 65,536 slots a generation comes again
after two thousand years. Across nodes a request is (ingress node, key).
"""

from __future__ import annotations

from typing import Final

SLOT_BITS: Final = 24
SLOT_COUNT_MAX: Final = 1 << SLOT_BITS
GENERATION_COUNT: Final = 1 << 64 - SLOT_BITS


def make_key(slot: int, generation: int) -> int:
    """Return the key of the request that has `slot` in `generation` (counted modulo GENERATION_COUNT)."""
    return generation % GENERATION_COUNT << SLOT_BITS | slot


def slot_of(key: int) -> int:
    """Return the slot of a key."""
    return key & SLOT_COUNT_MAX - 1


def next_key(key: int) -> int:
    """Return the key of the next request in the same slot."""
    return make_key(slot_of(key), (key >> SLOT_BITS) + 1)
