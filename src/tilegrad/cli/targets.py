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
            click.echo(f"    memory {memory.name}: {size}, alignment {memory.alignment}")
        counter = "yes" if target.has_cycle_counter else "no"
        click.echo(f"    cores: {target.cores}; cycle counter: {counter}")
        click.echo(f"    compilers: {', '.join(target.compilers)} [default: {target.default_compiler}]")
