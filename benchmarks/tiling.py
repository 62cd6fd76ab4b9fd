"""What the planner makes of larger networks: how long it takes, and how good its plans are on the simulated cluster.

    python benchmarks/tiling.py [--models speechnet resnet8 mobilenet transformer] [--l2 512000] [--plan-only]

Prints for every model the processor time of planning (the rest of compiling apart), groups and tiles, the peak of every
memory level, and the cycles of a step of SGD with fused updates as a share of the bound that the machine's
multiply-adders set. SpeechNet is planned for all of L2, the others for `--l2` bytes. Cycles and bytes are
deterministic, seconds are not: they are for comparing, and nothing depends on them.
"""

from __future__ import annotations

import argparse
import time

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.report.work import work_json
from tilegrad.targets import get_target

MODELS = ("speechnet", "resnet8", "mobilenet", "transformer")


def measure(name: str, l2: int | None, *, run: bool) -> tuple[list[str], tuple[str, ...]]:
    """The cells of a row, and what was done for the budget."""
    target = get_target("siracusa")
    if l2 is not None:
        target = target.with_memory("L2", l2)
    module, inputs = build_model(name)
    marks: list[tuple[str, float]] = []
    try:
        build = tg.compile(
            module.train(), inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3), target=target, fuse_update=True,
            progress=lambda line: marks.append((line, time.process_time())),
        )  # fmt: skip
    except tg.DoesNotFitError as error:
        return [name, "does not fit"], (str(error),)
    times = dict(marks)
    seconds = times["writing C"] - times["optimising and planning"]
    groups = [group for entry in build.plan.entries for group in entry.groups]
    peaks = [f"{build.memory[level].peak:,}" if level in build.memory else "" for level in ("L1", "L2", "L3")]
    cells = [name, f"{seconds:.1f}", str(len(groups)), str(sum(group.tiles for group in groups)), *peaks]
    if not run:
        return cells, build.plan.notes
    x, y = synthetic_data(name, inputs[0].shape[0])
    done = build.run([(x, y)], 1)
    work = work_json(build, done, 1)
    assert done.train_cycles is not None and done.opt_cycles is not None
    cycles = done.train_cycles + done.opt_cycles
    cells += [f"{work['multiply_adds']:,}", f"{cycles:,}", f"{work['bound_cycles'] / cycles:.1%}"]
    return cells, build.plan.notes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--l2", type=int, default=512_000, help="budget of L2 for all but SpeechNet")
    parser.add_argument("--plan-only", action="store_true", help="plan, but simulate nothing")
    options = parser.parse_args()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=150)
    table = Table(box=SIMPLE)
    table.add_column("model")
    for heading in ("planned in s", "groups", "tiles", "L1", "L2", "L3", "MAC", "cycles", "of the bound"):
        table.add_column(heading, justify="right", no_wrap=True)
    notes = []
    for name in options.models:
        cells, found = measure(name, None if name == "speechnet" else options.l2, run=not options.plan_only)
        table.add_row(*cells)
        if found:
            again = sum(" is computed again" in note for note in found)
            moved = sum(" lives in " in note for note in found)
            notes.append(f"{name}: {again} tensors computed again, {moved} moved to L3" if again + moved else found[0])
    console.print(table)
    for line in notes:
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    main()
