"""Describe one API key as keys.toml does: who may ask for what, and how much of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

SCOPES = ("infer", "manage", "metrics")
"""What a key may be for: models and what is known of them; loading and unloading; metrics and statistics."""


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """One key. It is stored as the SHA-256 of its text, in lower-case hexadecimal digits, and nowhere else.

    A key is 32 random bytes (see `symphony keys new`), so a fast hash keeps it as well as a slow one would.
    `models`: patterns (`*`, `?`, `[seq]`) of model names. `rate`: requests per second, `burst`: how many may come at
    once, `in_flight_max`: calls not answered yet; 0 means no limit, for `burst` one second's worth. `weight`: its share
    of an overloaded model, relative to those of others.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...] = ("infer",)
    models: tuple[str, ...] = ("*",)
    rate: float = 0.0
    burst: float = 0.0
    in_flight_max: int = 0
    weight: float = 1.0


def hash_key(key: str) -> str:
    """Return the form in which a key is stored."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
