"""`symphony serve`: run a node."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from symphony.config import parse_node_config
from symphony.errors import ConfigError

CONFIG_BYTES_MAX = 1 << 20


@click.command("serve")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="symphony.toml; flags go before it.")
@click.option("--repository", help="Folder with one folder per model.")
@click.option("--devices", help='Where models run: "cpu", "2xcpu", "cuda:0,cuda:1", "4xemulated". Default: cpu.')
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one. Default: 8000.")
@click.option(
    "--grpc-port", type=int, help="Port for gRPC (needs the extra grpc; no TLS); 0: a free one. Default: none."
)
@click.option("--policy", type=click.Choice(["deferred", "eager", "timeout"]), help="Scheduling policy.")
@click.option("--poll-s", type=float, help="Look for changes in the repository this often. Default: 0, never.")
@click.option(
    "--device-memory-mb",
    type=float,
    help="Memory of each GPU for models; they share it by demand. Default: 0, all of them must fit.",
)
@click.option("--keys", help="keys.toml with the API keys that callers need. Default: none is needed.")
@click.option("--tls-cert", help="PEM file of the certificate chain; with --tls-key the node speaks TLS only.")
@click.option("--tls-key", help="PEM file of the certificate's private key.")
@click.option("--tls-client-ca", help="PEM file of who must have signed the certificates that clients must show.")
@click.option("--management-port", type=int, help="Port for loading, unloading and metrics alone. Default: --port.")
@click.option("--management-host", help="Address of that port. Default: 127.0.0.1.")
@click.option("--record", help="Write when which model is asked into this file, to simulate, plan or bench it.")
@click.option("--record-mb-max", type=int, help="Largest size of that file. Default: 1000.")
@click.option("--drain-timeout-s", type=float, help="How long SIGTERM waits for accepted requests.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve_command(config_file: Path | None, log_level: str, **flags: Any) -> None:
    """Serve a repository of models: each under the latency objective its model.toml names."""
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr
    )
    changes = {name: value for name, value in flags.items() if value is not None}
    text = "" if config_file is None else _read(config_file)
    config = parse_node_config(text, "symphony serve" if config_file is None else str(config_file), changes)
    if not config.repository.is_dir():
        raise ConfigError(
            f"repository {config.repository} is not a folder; name one with --repository (try examples/models)"
        )
    from symphony.server import serve

    sys.exit(serve(config))


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > CONFIG_BYTES_MAX:
            raise ConfigError(f"{file} has more than {CONFIG_BYTES_MAX} bytes: this is no symphony.toml")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error
