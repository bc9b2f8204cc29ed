"""Read a keys.toml into `KeyConfig`s, or say everything that is wrong with it. No message shows a hash."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from symphony.config.document import Document, check_document, parse_toml
from symphony.config.keys import KeyConfig
from symphony.config.model_document import Number

KEY_COUNT_MAX = 4096
PATTERN_COUNT_MAX = 256
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class KeyDocument(Document):
    """One [[keys]] table."""

    name: str = Field(max_length=64)
    sha256: str
    scopes: list[Literal["infer", "manage", "metrics"]] = Field(default=["infer"], min_length=1, max_length=3)
    models: list[_Text] = Field(default=["*"], max_length=PATTERN_COUNT_MAX)
    rate: Number = Field(default=0.0, ge=0.0, le=1e7)
    burst: Number = Field(default=0.0, ge=0.0, le=1e7)
    in_flight_max: int = Field(default=0, ge=0, le=1 << 24)
    weight: Number = Field(default=1.0, ge=0.001, le=1000.0)


class KeysDocument(Document):
    """A whole keys.toml."""

    keys: list[KeyDocument] = Field(default=[], max_length=KEY_COUNT_MAX)

    @classmethod
    def cross_faults(cls, raw: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with names and hashes: each must be well-formed and there once."""
        tables = raw.get("keys")
        tables = [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
        faults = []
        for place, table in enumerate(tables):
            name, digest = table.get("name"), table.get("sha256")
            if isinstance(name, str) and not re.fullmatch(NAME_PATTERN, name):
                faults.append(
                    f"key 'keys[{place}].name' must be 1 to 64 of A-Z a-z 0-9 _ . - and begin with a letter or digit; "
                    "rename it"
                )
            if isinstance(digest, str) and not _SHA256.fullmatch(digest):
                # Its value is not shown: it may be the key itself, put there by mistake.
                faults.append(
                    f"key 'keys[{place}].sha256' is no SHA-256: it must be 64 digits of 0-9 a-f; make one with "
                    "`symphony keys new`"
                )
            if table.get("burst") and not table.get("rate"):
                faults.append(f"key 'keys[{place}].burst' needs a rate beside it; add rate, or take burst out")
        for what in ("name", "sha256"):
            values = Counter(table[what] for table in tables if isinstance(table.get(what), str))
            if any(count > 1 for count in values.values()):
                faults.append(f"two keys have the same {what}; give each its own")
        return faults


def parse_keys(text: str, file: str) -> tuple[KeyConfig, ...]:
    """Return the keys that `text`, the contents of `file`, holds; raise ConfigError with every fault."""
    document = check_document(KeysDocument, parse_toml(text, file), file)
    return tuple(
        KeyConfig(**(key.model_dump() | {"scopes": tuple(key.scopes), "models": tuple(key.models)}))
        for key in document.keys
    )
