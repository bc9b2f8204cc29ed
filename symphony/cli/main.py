"""Gather the commands. Each is imported only when it is called, so that `symphony --help` stays quick."""

from __future__ import annotations

import importlib
import sys

import click

from symphony.errors import ConfigError

COMMANDS = {
    "serve": ("symphony.cli.serve", "serve_command", "Serve a repository of models on this machine's devices."),
    "keys": ("symphony.cli.keys", "keys_command", "Make the API keys that callers of a node need."),
    "profile": ("symphony.cli.profile", "profile_command", "Measure how long a batch of each size takes."),
    "simulate": ("symphony.cli.simulate", "simulate_command", "Run a workload in virtual time."),
    "plan": ("symphony.cli.plan", "plan_command", "Say how many GPUs a workload needs, by simulation."),
    "bench": ("symphony.cli.bench", "bench_command", "Load a server, open loop, and report what was good."),
}


class _LazyGroup(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="symphony-serve", prog_name="symphony")
def cli() -> None:
    """Serve many DNN models on a pool of GPUs, each under its latency objective."""


def main() -> None:
    """Run the command line; a configuration that cannot be used ends with code 2 and one clear message."""
    try:
        cli()
    except ConfigError as error:
        click.echo(f"symphony: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
