"""What `tilegrad train` prints and writes when it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console, RenderableType
from rich.table import Table

from tilegrad.cli.job import Outcome
from tilegrad.report.profile import kernel_table, phase_table, profile_json
from tilegrad.report.tables import error_table, loss_table, memory_table, new_table, to_json, verdict_lines
from tilegrad.report.work import cycle_lines, work_json
from tilegrad.verification.harness import count_errors, harness_lines

if TYPE_CHECKING:
    from tilegrad.api import Build

#: Columns where the output is no terminal: wide enough for every table, so that nothing is cut off in a log.
_WIDTH = 120

_STAGES = {
    "load": "load the model",
    "import": "import it (torch.export or ONNX)",
    "derive": "derive the training graph",
    "plan": "optimise and plan",
    "write": "write C",
    "build": "build, beside the reference",
    "data": "prepare the data",
    "reference": "reference runs",
    "run": "run in C, after the build",
}


def show(outcome: Outcome) -> None:
    """Print losses, errors, memory, time and the lines that scripts parse."""
    build, verification = outcome.build, outcome.verification
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    program = build.program
    click.echo(f"model: {outcome.source.name}, {sum(p.size for p in build.parameters.values()):,} parameters")
    click.echo(f"data: {outcome.samples.label}")
    team = f" with {build.target.cores} of {most} cores" if (most := build.target.most_cores) else ""
    click.echo(f"target: {build.target.name}{team}, built with {program.compiler}")
    for notice in program.notices:
        click.echo(f"note: {notice}")
    for table in (loss_table(verification), error_table(verification), memory_table(build.memory)):
        _print(console, table)
    for line in memory_notes(build):
        click.echo(line)
    _print(console, _times(outcome))
    if outcome.profile is not None:
        for table in (phase_table(outcome.profile), kernel_table(outcome.profile)):
            _print(console, table)
    click.echo(f"C files compiled: {program.compiled}, the others came from the cache")
    click.echo(f"time inside the training program: {verification.run.seconds * 1e3:.1f} ms")
    click.echo()
    for line in verdict_lines(verification):
        click.echo(line)
    if not build.target.has_cycle_counter:
        click.echo(f"the target {build.target.name} has no cycle counter: the next lines give 0 cycles")
    for line in cycle_lines(build, verification.run, outcome.steps):
        click.echo(line)
    for line in harness_lines(verification, verification.run, build.weight_bytes):
        click.echo(line)


def memory_notes(build: Build) -> list[str]:
    """What belongs to the table of memories: what was done for the budgets; code and constants; the sum of it all."""
    lines = plan_notes(build)
    code, constants = build.program.code_bytes, build.program.constant_bytes
    if code is None or constants is None:
        return lines
    tensors = sum(use.peak for use in build.memory.values())
    return [
        *lines,
        f"code {code:,} and constants {constants:,} bytes beside the tensors in {build.plan.level}; all memories "
        f"together {tensors:,} bytes, with code and constants {tensors + code + constants:,}",
    ]


def plan_notes(build: Build, limit: int = 8) -> list[str]:
    """What was done to stay within the budgets: at most `limit` lines, then how many more there are."""
    notes = build.plan.notes
    lines = [f"for the budget: {note}" for note in notes[:limit]]
    if len(notes) > limit:
        lines.append(f"for the budget: {len(notes) - limit} more; `tilegrad inspect --plan` lists all")
    return lines


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that was found, for ``--json``."""
    build, verification = outcome.build, outcome.verification
    found = to_json(verification, verification.run, build.memory, build.weight_bytes, outcome.seconds["total"])
    return {
        **found,
        "errors": count_errors(verification),
        "tensor_errors": found["errors"],
        "plan_notes": list(build.plan.notes),
        "code_bytes": build.program.code_bytes,
        "constant_bytes": build.program.constant_bytes,
        "model": outcome.source.name,
        "options": dict(outcome.source.options),
        "steps": outcome.steps,
        "data": outcome.samples.label,
        "synthetic": outcome.samples.synthetic,
        "target": build.target.name,
        "cores": build.target.cores,
        "profile": None if outcome.profile is None else profile_json(outcome.profile),
        "work": work_json(build, verification.run, outcome.steps),
        "compiler": build.program.compiler,
        "run_seconds": verification.run.seconds,
        "seconds_by_stage": outcome.seconds,
    }


def _times(outcome: Outcome) -> Table:
    table = new_table("Time in seconds")
    table.add_column("stage")
    table.add_column("time", justify="right")
    for key, text in _STAGES.items():
        if key in outcome.seconds:
            table.add_row(text, f"{outcome.seconds[key]:.2f}")
    table.add_row("all", f"{outcome.seconds['total']:.2f}")
    return table


def _print(console: Console, table: RenderableType) -> None:
    console.print()
    console.print(table)
