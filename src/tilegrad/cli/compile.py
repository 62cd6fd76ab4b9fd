"""`tilegrad compile`: the C project alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tilegrad.cli.options import (
    MODEL_HELP,
    ModelCommand,
    model_options,
    take_machine,
    take_zoo_options,
    target_option,
    training_options,
)


@click.command("compile", cls=ModelCommand, epilog=MODEL_HELP, short_help="Write the C project without running it.")
@model_options()
@training_options()
@target_option()
@click.option("--out", type=click.Path(), metavar="DIR", help="Folder of the C project. [default: ./NAME_c]")
@click.option("--inference", is_flag=True, help="Compile inference alone; training options mean nothing.")
def command(
    model: str,
    batch: int | None,
    seed: int,
    out: str | None,
    inference: bool,
    **values: Any,
) -> None:
    """Write the C project for MODEL without building or running it.

    A generated project that is there already is replaced; any other folder is left alone.
    """
    from tilegrad.cli.job import Request, compile_request
    from tilegrad.cli.progress import Progress
    from tilegrad.cli.summary import plan_notes

    zoo, machine = take_zoo_options(values), take_machine(values)
    name = Path(model.rpartition(":")[2] if ".py:" in model else model).stem
    folder = Path(out) if out is not None else Path(f"{name}_c")
    request = Request(
        model=model,
        zoo=zoo,
        batch=batch,
        seed=seed,
        training=None if inference else values,
        machine=machine,
        out=folder,
    )
    with Progress() as progress:
        _, build = compile_request(request, progress)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    click.echo(f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes of text")
    for path in files:
        click.echo(f"    {path.relative_to(folder)}")
    for level, use in build.memory.items():
        click.echo(f"memory {level}: peak {use.peak:,} bytes, lower bound {use.lower_bound:,} bytes")
    for line in plan_notes(build):
        click.echo(line)
    click.echo(f"The interface is {folder / 'include' / 'tilegrad_model.h'}; `cmake -S {folder} -B build` builds it.")
