"""`tilegrad report`: train a few steps and write everything that is known about them as one page of HTML."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
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
    "report", cls=ModelCommand, epilog=MODEL_HELP, short_help="Train a few steps and write a page about them."
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
@click.option(
    "--guard", is_flag=True, help="Stop where a kernel touches memory that is not its own (simulated targets)."
)
@click.option("--date", is_flag=True, help="Put the date on the page; without it, equal runs give equal pages.")
@click.option(
    "--out", type=click.Path(), metavar="FILE", default="report.html", show_default=True, help="The page to write."
)
def command(
    model: str,
    batch: int | None,
    seed: int,
    steps: int,
    data: str | None,
    cc: str | None,
    sanitize: bool,
    guard: bool,
    date: bool,
    out: str,
    **values: Any,
) -> None:
    """Train MODEL for a few steps and write one self-contained page: memory, schedule, cycles, losses, comparison.

    On simulated targets one more step is watched for its cycles. Exits with 0 only if everything agrees with the
    reference, with 1 if it does not; the page is written in both cases and says what is wrong.
    """
    from tilegrad.cli.job import Request, train
    from tilegrad.cli.output import TextFile
    from tilegrad.cli.progress import Progress
    from tilegrad.report.page import Subject, render
    from tilegrad.report.tables import verdict_lines

    zoo, machine = take_zoo_options(values), take_machine(values)
    with TextFile(out) as file, tempfile.TemporaryDirectory(prefix="tilegrad-") as folder:
        request = Request(
            model=model,
            zoo=zoo,
            batch=batch,
            seed=seed,
            training=values,
            machine=machine,
            out=Path(folder) / "project",
            cc=cc,
            sanitize=sanitize,
            guard=guard,
            profile=machine.describe().simulated,
        )
        with Progress() as progress:
            outcome = train(request, steps=steps, data=data, progress=progress)
        note = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC" if date else ""
        subject = Subject(
            outcome.source.name, outcome.build, outcome.verification, outcome.samples.label, steps, outcome.profile,
            note,
        )  # fmt: skip
        file.write_text(render(subject))
    for line in verdict_lines(outcome.verification):
        click.echo(line)
    click.echo(f"The report is in {out}.")
    if not outcome.verification.ok:
        raise click.exceptions.Exit(1)
