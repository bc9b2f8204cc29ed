"""Check a TOML document against a pydantic schema and say every fault in words: file, key, value, limit, remedy."""

from __future__ import annotations

import difflib
import tomllib
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from symphony.errors import ConfigError

VALUE_CHARS_SHOWN_MAX = 80
FAULTS_SHOWN_MAX = 20


class Document(BaseModel):
    """Base of all schemas: exact types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Checked = TypeVar("Checked", bound=Document)


def read_document(schema: type[Checked], text: str, file: str) -> Checked:
    """Return `text` as a checked `schema`; raise ConfigError that lists every fault on a line of its own."""
    return check_document(schema, parse_toml(text, file), file)


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """Return the TOML in `text`; raise ConfigError when it is none."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}; mend that place") from error


def check_document(schema: type[Checked], raw: dict[str, Any], where: str) -> Checked:
    """Return `raw` as a checked `schema`; raise ConfigError that lists every fault on a line of its own."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        faults = [_sentence(schema, fault, where) for fault in error.errors(include_url=False)]
        if len(faults) > FAULTS_SHOWN_MAX:
            faults = [*faults[:FAULTS_SHOWN_MAX], f"{where}: and {len(faults) - FAULTS_SHOWN_MAX} more faults"]
        raise ConfigError("\n".join(faults)) from None


def _sentence(schema: type[Document], fault: Any, file: str) -> str:
    path = [part for part in fault["loc"] if part != "function-wrap"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    kind = fault["type"]
    if kind == "extra_forbidden":
        known = _keys_at(schema, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, 1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{file}: key {key!r} is unknown; {remedy}"
    if kind == "missing":
        return f"{file}: key {key!r} is missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not key:
        return f"{file}: {message}"
    shown = repr(fault["input"])
    if len(shown) > VALUE_CHARS_SHOWN_MAX:
        shown = shown[:VALUE_CHARS_SHOWN_MAX] + "..."
    return f"{file}: key {key!r} is {shown}: {message}"


def _keys_at(schema: type[Document], path: list[Any]) -> list[str]:
    """Return the keys known at `path` of the schema."""
    current: Any = schema
    for part in path:
        if isinstance(part, int):
            continue
        for name, info in current.model_fields.items():
            if part in (name, info.alias):
                inner = [info.annotation, *getattr(info.annotation, "__args__", ())]
                inner += [deep for one in inner for deep in getattr(one, "__args__", ())]
                found = [one for one in inner if isinstance(one, type) and issubclass(one, Document)]
                if not found:
                    return []
                current = found[0]
                break
    return [info.alias or name for name, info in current.model_fields.items()]
