"""Check a TOML document against a pydantic schema and say every fault in words: file, key, value, limit, remedy."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from symphony.errors import ConfigError

VALUE_CHARS_SHOWN_MAX = 80
FAULTS_SHOWN_MAX = 20


class Document(BaseModel):
    """Base of all schemas: exact types, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def cross_faults(cls, raw: Mapping[str, Any]) -> list[str]:
        """Return one sentence for each way in which keys of `raw` do not go together.

        `raw` is not checked yet, so that faults of single keys do not hide these: a value of the wrong type is skipped.
        """
        return []


Checked = TypeVar("Checked", bound=Document)


def read_document(schema: type[Checked], text: str, file: str) -> Checked:
    """Return `text` as a checked `schema`; raise ConfigError that lists every fault on a line of its own."""
    return check_document(schema, parse_toml(text, file), file)


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """Return the TOML in `text`; raise ConfigError when it is none."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside TOMLDecodeError: integers of thousands of digits
        raise ConfigError(f"{file} is not valid TOML: {error}; mend that place") from error


def check_document(schema: type[Checked], raw: dict[str, Any], where: str) -> Checked:
    """Return `raw` as a checked `schema`; raise ConfigError that lists every fault on a line of its own."""
    checked, faults = None, []
    try:
        checked = schema.model_validate(raw)
    except ValidationError as error:
        faults = [_sentence(schema, fault, raw) for fault in error.errors(include_url=False)]
    faults += schema.cross_faults(raw)
    if checked is not None and not faults:
        return checked
    if len(faults) > FAULTS_SHOWN_MAX:
        faults = [*faults[:FAULTS_SHOWN_MAX], f"and {len(faults) - FAULTS_SHOWN_MAX} more faults; mend these first"]
    raise ConfigError("\n".join(f"{where}: {fault}" for fault in faults))


def shown(value: Any) -> str:
    """Return `value` as a message may show it: its TOML-like form, cut to `VALUE_CHARS_SHOWN_MAX`."""
    text = repr(value)
    return text if len(text) <= VALUE_CHARS_SHOWN_MAX else text[:VALUE_CHARS_SHOWN_MAX] + "..."


_WHAT_IT_MUST_BE = {
    "int_type": "it must be a whole number; write it without quotes and without a decimal point",
    "float_type": "it must be a number; write it without quotes",
    "finite_number": "it must be a finite number; give one",
    "bool_type": "it must be true or false; write it without quotes",
    "string_type": "it must be text; put it in quotes",
    "list_type": "it must be a list; put it in square brackets",
    "dict_type": "it must be a table of keys and values",
    "model_type": "it must be a table of keys and values",
    "greater_than_equal": "it must be at least {ge}; raise it",
    "less_than_equal": "it must be at most {le}; lower it",
    "string_too_short": "it must have at least {min_length} character; fill it in",
    "string_too_long": "it must have at most {max_length} characters; shorten it",
    "too_short": "it must have at least {min_length} entry; add one",
    "too_long": "it must have at most {max_length} entries; leave some out",
    "literal_error": "it must be {expected}; choose one",
}


def _sentence(schema: type[Document], fault: Any, raw: Any) -> str:
    path = list(fault["loc"])
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    kind = fault["type"]
    if kind == "extra_forbidden":
        known = _keys_at(schema, path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, 1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"key {key!r} is unknown; {remedy}"
    if kind == "missing":
        return f"key {key!r} is missing; add it"
    if kind == "list_type" and isinstance(fault["input"], dict):
        return f"key {key!r} is one table: it must be a list of tables; write [[{key}]] above each"
    if kind in _WHAT_IT_MUST_BE:
        limits = fault.get("ctx", {}).items()
        plain = {
            name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit for name, limit in limits
        }
        message = _WHAT_IT_MUST_BE[kind].format(**plain)
    else:
        message = fault["msg"].removeprefix("Value error, ")
    for part in path:  # as it was written: the schema may have made 50.0 of 50
        raw = raw[part]
    return f"key {key!r} is {shown(raw)}: {message}"


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
