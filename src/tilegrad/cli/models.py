"""`tilegrad models`: the zoo."""

from __future__ import annotations

import click


@click.command("models", short_help="List the models of the zoo.")
def command() -> None:
    """List the models of the zoo and their options."""
    from tilegrad.models import list_models

    for entry in list_models():
        click.echo(f"{entry.name}: {entry.summary}")
        for option in entry.options:
            choices = f" ({', '.join(map(str, option.choices))})" if option.choices else ""
            click.echo(f"    --{option.name:<11} {option.help}{choices} [default: {option.default}]")
        click.echo(f"    data: {entry.data_summary}")
