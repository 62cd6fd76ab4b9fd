"""`tilegrad inspect`: any stage of the compilation, as text."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from tilegrad.api import Build

STAGES = ("graph", "training", "plan", "c")


@click.command("inspect", cls=ModelCommand, epilog=MODEL_HELP, short_help="Print any stage of the compilation.")
@model_options()
@click.option(
    "--stage",
    "stages",
    type=click.Choice(STAGES),
    multiple=True,
    help="What to print; may be repeated. graph: the imported model; training: with the backward pass; "
    "plan: kernels, lifetimes, addresses; c: the C. [default: graph]",
)
@click.option("--graph", is_flag=True, help="The same as --stage graph.")
@click.option("--training", is_flag=True, help="The same as --stage training.")
@click.option("--plan", is_flag=True, help="The same as --stage plan.")
@click.option("--c", is_flag=True, help="The same as --stage c.")
@training_options()
@target_option()
def command(
    model: str,
    batch: int | None,
    seed: int,
    stages: tuple[str, ...],
    **values: Any,
) -> None:
    """Print any stage of compiling MODEL."""
    from tilegrad.cli.job import Request, compile_request
    from tilegrad.cli.progress import Progress

    shown = [*stages, *(stage for stage in STAGES if values.pop(stage))] or ["graph"]
    zoo, machine = take_zoo_options(values), take_machine(values)
    with tempfile.TemporaryDirectory(prefix="tilegrad-") as folder:
        request = Request(
            model=model,
            zoo=zoo,
            batch=batch,
            seed=seed,
            training=None if set(shown) == {"graph"} else values,
            machine=machine,
            out=Path(folder) / "project",
        )
        with Progress() as progress:
            _, build = compile_request(request, progress)
        for stage in dict.fromkeys(shown):
            click.echo(_text(stage, build), nl=False)


def _text(stage: str, build: Build) -> str:
    from tilegrad.ir.printer import format_graph

    if stage == "graph":
        return format_graph(build.inference)
    if stage == "training":
        return format_graph(build.training_graph)
    if stage == "plan":
        return build.plan.as_text()
    folder = build.c_project
    paths = sorted([*folder.glob("include/*.h"), *folder.glob("src/tilegrad_*.c")])
    return "".join(f"/* ---- {path.relative_to(folder)} ---- */\n{path.read_text()}\n" for path in paths)
