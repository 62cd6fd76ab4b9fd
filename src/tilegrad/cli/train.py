"""`tilegrad train`: compile, build, run, and compare every number with the reference."""

from __future__ import annotations

import contextlib
import tempfile
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


@click.command(
    "train", cls=ModelCommand, epilog=MODEL_HELP, short_help="Train a model in generated C and check every number."
)
@model_options()
@click.option("--steps", type=click.IntRange(1), metavar="N", default=4, show_default=True, help="Optimizer steps.")
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help=".npz with x and y, or a SilentWear recording (.h5). [default: synthetic data]",
)
@training_options()
@target_option()
@click.option("--cc", metavar="COMPILER", help="C compiler: zig, gcc, clang, or a path. [default: the target's]")
@click.option("--sanitize", is_flag=True, help="Build with sanitizers: address and UB with gcc or clang, UB with zig.")
@click.option("--profile", is_flag=True, help="Tell which kernel takes the cycles, and why (simulated targets).")
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write a trace of the first step for Perfetto (simulated targets).",
)
@click.option(
    "--guard", is_flag=True, help="Stop where a kernel touches memory that is not its own (simulated targets)."
)
@click.option("--out", type=click.Path(), metavar="DIR", help="Keep the C project in this folder.")
@click.option("--json", "json_file", type=click.Path(), metavar="FILE", help="Write all results to this file.")
def command(
    model: str,
    batch: int | None,
    seed: int,
    steps: int,
    data: str | None,
    cc: str | None,
    sanitize: bool,
    profile: bool,
    trace: Path | None,
    guard: bool,
    out: str | None,
    json_file: str | None,
    **values: Any,
) -> None:
    """Train MODEL in generated C for a few steps and compare every number with PyTorch.

    Exits with 0 only if losses, gradients, weights and statistics all agree, with 1 if they do not.
    """
    from tilegrad.cli.job import Request, train
    from tilegrad.cli.output import JsonFile
    from tilegrad.cli.progress import Progress
    from tilegrad.cli.summary import as_json, show

    zoo, machine = take_zoo_options(values), take_machine(values)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(JsonFile(json_file)) if json_file is not None else None
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tilegrad-"))) / "project"
        request = Request(
            model=model,
            zoo=zoo,
            batch=batch,
            seed=seed,
            training=values,
            machine=machine,
            out=Path(out) if out is not None else folder,
            cc=cc,
            sanitize=sanitize,
            guard=guard,
            profile=profile,
            trace=trace,
        )
        with Progress() as progress:
            outcome = train(request, steps=steps, data=data, progress=progress)
        show(outcome)
        if out is not None:
            click.echo(f"The C project is in {out}.")
        if trace is not None:
            click.echo(f"The trace is in {trace}; https://ui.perfetto.dev shows it, one microsecond for each cycle.")
        if file is not None:
            file.write(as_json(outcome))
    if not outcome.verification.ok:
        raise click.exceptions.Exit(1)
