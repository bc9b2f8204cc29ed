"""`symphony keys`: make API keys. A key is shown once; only its hash is kept."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import click

from symphony.config import hash_key, parse_keys
from symphony.errors import ConfigError

KEY_PREFIX = "sym_"
"""Lets people and secret scanners see what it is."""
KEY_RANDOM_BYTES = 32
FILE_BYTES_MAX = 4 << 20


@click.group("keys")
def keys_command() -> None:
    """Make the API keys of `symphony serve --keys FILE`."""


@keys_command.command("new")
@click.argument("name")
@click.option(
    "--file", "file", type=click.Path(path_type=Path), help="keys.toml to add it to; made if it is not there."
)
@click.option("--scope", "scopes", multiple=True, help='"infer" (default), "manage" or "metrics"; may be repeated.')
@click.option("--model", "models", multiple=True, help="Pattern of model names it may use; may be repeated. Default: *")
@click.option("--rate", type=float, help="Requests per second. Default: no limit.")
@click.option("--burst", type=float, help="Requests at once. Default: one second's worth.")
@click.option("--in-flight-max", type=int, help="Calls not answered yet. Default: no limit.")
@click.option("--weight", type=float, help="Its share of an overloaded model, relative to others. Default: 1.")
def new_command(name: str, file: Path | None, **rights: object) -> None:
    """Make a key for NAME: the key goes to standard output, once, its hash and rights into the file.

    Without --file the entry goes to standard error, to be put where it belongs. A node that serves takes it up by
    itself within a second or two.
    """
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_RANDOM_BYTES)
    entry = toml_entry(name, hash_key(key), {name: value for name, value in rights.items() if value not in (None, ())})
    old = "" if file is None else _read(file)
    where = "symphony keys new" if file is None else str(file)
    parse_keys(f"{old}\n{entry}" if old else entry, where)  # says what is wrong before anything is written
    if file is None:
        click.echo(entry, err=True, nl=False)
    else:
        _write(file, f"{old.rstrip()}\n\n{entry}" if old.strip() else entry)
    click.echo(key)


def toml_entry(name: str, sha256: str, rights: dict[str, object]) -> str:
    """Return a [[keys]] table."""
    lines = ["[[keys]]", f"name = {json.dumps(name)}", f'sha256 = "{sha256}"']
    lines += [f"{key} = {json.dumps(value)}" for key, value in rights.items()]  # JSON's form of these is TOML's
    return "\n".join(lines) + "\n"


def _read(file: Path) -> str:
    try:
        if not file.exists():
            return ""
        if file.stat().st_size > FILE_BYTES_MAX:
            raise ConfigError(f"{file} has more than {FILE_BYTES_MAX} bytes: this is no keys.toml")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


def _write(file: Path, text: str) -> None:
    """Replace the file at once, so that a node never reads half of it; nobody but its owner may read it."""
    beside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.new")
    try:
        beside.touch(0o600, exist_ok=False)
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {file}: {error.strerror or error}; choose another --file") from error
