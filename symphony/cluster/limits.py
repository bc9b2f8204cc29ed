"""Bound everything that nodes and people may put into a coordinator, in one place."""

from __future__ import annotations

from typing import Final

NODE_ID_CHARS_MAX: Final = 128
ADDRESS_CHARS_MAX: Final = 256
FACTS_BYTES_MAX: Final = 16 * 1024
"""A node's facts, as JSON: every node keeps those of all."""
DOCUMENT_BYTES_MAX: Final = 256 * 1024
"""A model's document, as JSON. etcd refuses requests above 1.5 MiB, Kubernetes objects above 1 MiB."""
DOCUMENT_NAME_CHARS_MAX: Final = 257
ENTRY_COUNT_MAX: Final = 10_000
"""Entries of an area that are read; one with more is refused, so that a runaway writer does not fill every node."""
ENTRY_BYTES_MAX: Final = DOCUMENT_BYTES_MAX + 1024
"""The value of any entry as stored, with what is written around it."""
