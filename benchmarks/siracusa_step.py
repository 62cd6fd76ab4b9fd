"""One training step of SpeechNet on the simulated Siracusa cluster: cycles and memory, under several plans.

    python benchmarks/siracusa_step.py [--pool max avg] [--update fused separate] [--cores 8]

For every kind of pooling: the default plan, smaller budgets of L2, single and double buffering, and no tiles; SGD with
the update behind each gradient (fused) and in an entry point of its own (separate). Cycles are those of a whole step,
update included, and deterministic. `/ bound` divides them by the cycles that the machine's multiply-adders need at
least for the network; what a small budget makes the backward pass compute again is not in the bound. RAM is the sum of
all levels, with the stacks in L1. Every row ends with the command that repeats it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.report.work import work_json
from tilegrad.targets import get_target


@dataclass(frozen=True)
class Variant:
    """A way to plan the program.

    Attributes:
        budget: bytes of L2, or None for the target's.
        buffering: ``auto``, ``single`` or ``double``.
        tiled: whether kernels work on tiles in L1.
    """

    budget: int | None = None
    buffering: str = "auto"
    tiled: bool = True

    @property
    def options(self) -> list[str]:
        """The same for the command line."""
        found = [] if self.budget is None else ["--l2", str(self.budget)]
        found += [] if self.buffering == "auto" else ["--buffering", self.buffering]
        return [*found, *([] if self.tiled else ["--untiled"])]


VARIANTS = (
    Variant(), Variant(322_000), Variant(256_000), Variant(224_000), Variant(buffering="double"),
    Variant(buffering="single"), Variant(tiled=False),
)  # fmt: skip


def measure(pool: str, variant: Variant, *, fused: bool, cores: int, bound: float | None) -> tuple[list[str], float]:
    """The cells of a row but for the command, notes last, and the bound in cycles.

    A budget that cannot be met gives the reason; without `bound` it is that of this plan.
    """
    target = get_target("siracusa").with_cores(cores)
    if variant.budget is not None:
        target = target.with_memory("L2", variant.budget)
    module, inputs = build_model("speechnet", pool=pool)
    try:
        build = tg.compile(
            module.train(), inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3), target=target, fuse_update=fused,
            buffering=variant.buffering, tiled=variant.tiled,
        )  # fmt: skip
    except tg.DoesNotFitError as error:
        return ["does not fit", "", "", "", "", "", "", str(error)], bound or 0.0
    x, y = synthetic_data("speechnet", 1, pool=pool)
    run = build.run([(x, y)], 1)
    assert run.train_cycles is not None and run.opt_cycles is not None
    cycles = run.train_cycles + run.opt_cycles
    stacks = target.reserved["L1"]
    l1, l2 = build.memory["L1"].peak - stacks, build.memory["L2"].peak
    ram = sum(use.peak for use in build.memory.values())
    least = bound or float(work_json(build, run, 1)["bound_cycles"])
    cells = [
        f"{cycles:,}", f"{cycles / least:.2f}", f"{l1:,}", f"{stacks:,}", f"{l2:,}", f"{ram:,}",
        f"{build.program.code_bytes or 0:,}", "; ".join(build.plan.notes),
    ]  # fmt: skip
    return cells, least


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", nargs="+", choices=["max", "avg"], default=["max", "avg"])
    parser.add_argument("--update", nargs="+", choices=["fused", "separate"], default=["fused", "separate"])
    parser.add_argument("--cores", type=int, default=8)
    options = parser.parse_args()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=180)
    for pool in options.pool:
        for update in options.update:
            table = Table(title=f"SpeechNet, {pool} pooling, {update} update, {options.cores} cores", box=SIMPLE)
            table.title_justify = "left"
            for heading in ("cycles", "/ bound", "L1 buffers", "stacks", "L2", "RAM", "code"):
                table.add_column(heading, justify="right", no_wrap=True)
            table.add_column("tilegrad train speechnet --target siracusa --steps 1 ...", overflow="fold")
            notes = []
            bound = None
            for variant in VARIANTS:
                found, bound = measure(pool, variant, fused=update == "fused", cores=options.cores, bound=bound)
                *cells, note = found
                words = [*variant.options, *(["--fuse-update"] if update == "fused" else [])]
                words += ["--pool", pool] if pool != "max" else []
                words += ["--cores", str(options.cores)] if options.cores != target_cores() else []
                table.add_row(*cells, " ".join(words))
                if note:
                    notes.append(f"{' '.join(variant.options)}: {note}")
            console.print(table)
            for line in notes:
                console.print(line, soft_wrap=True)


def target_cores() -> int:
    """Cores that a program has where nobody says how many."""
    return get_target("siracusa").cores


if __name__ == "__main__":
    main()
