"""`tilegrad targets`: the machines that programs are compiled for."""

from __future__ import annotations

import click


@click.command("targets")
def command() -> None:
    """List the targets and their memories."""
    from tilegrad.targets import list_targets

    for target in list_targets():
        click.echo(f"{target.name}: {target.summary}")
        for memory in target.memories:
            size = "no limit" if memory.capacity is None else f"{memory.capacity:,} bytes"
            largest = "" if memory.physical in (None, memory.capacity) else f" of {memory.physical:,}"
            reach = "" if memory.mapped else ", reached by transfers only"
            click.echo(f"    memory {memory.name}: {size}{largest}, alignment {memory.alignment}{reach}")
        counter = "yes" if target.has_cycle_counter else "no"
        click.echo(f"    cores: {target.cores}; cycle counter: {counter}")
        if target.runners:
            click.echo(f"    runners: {', '.join(target.runners)} [default: {target.runner}]")
        click.echo(f"    compilers: {', '.join(target.compilers)} [default: {target.default_compiler}]")
