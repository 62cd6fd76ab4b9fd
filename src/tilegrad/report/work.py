"""How much arithmetic a program does, and how near its cycles are to what the machine could do."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.graph import Nest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tilegrad.api import Build, Run
    from tilegrad.planning.plan import Plan

#: Entry points that make up a pass over one micro-batch.
PASSES = ("train", "step")


def guarded_points(nest: Nest) -> int:
    """Points of a nest's box at which its terms exist.

    A guard whose index reads a tensor that is known only at run time counts as one that holds.
    """
    guards = [g for g in nest.guards if not g.always_holds(nest.extents) and _is_known(g.index)]
    count = 1
    used: set[int] = set()
    # Guards without a common iterator hold independently of each other: their counts multiply.
    for group in _connected(guards):
        iterators = sorted({iterator for guard in group for iterator in guard.index.iterators()})
        used.update(iterators)
        box = tuple(nest.extents[iterator] for iterator in iterators)
        grids = dict(zip(iterators, np.ogrid[tuple(slice(extent) for extent in box)], strict=True))
        holds = np.ones(box, bool)
        for guard in group:
            index = _evaluate(guard.index, grids)
            holds &= (index >= guard.lower) & (index < guard.upper)
        count *= int(np.count_nonzero(holds))
    return count * math.prod(extent for iterator, extent in enumerate(nest.extents) if iterator not in used)


def _is_known(index: Affine) -> bool:
    return all(table.is_constant and table.data is not None for table in index.tables())


def _connected(guards: Iterable[Guard]) -> list[list[Guard]]:
    """Guards in groups that share iterators, directly or through others."""
    groups: list[tuple[set[int], list[Guard]]] = []
    for guard in guards:
        iterators, members = set(guard.index.iterators()), [guard]
        apart = []
        for others, theirs in groups:
            if iterators & others:
                iterators |= others
                members = theirs + members
            else:
                apart.append((others, theirs))
        groups = [*apart, (iterators, members)]
    return [members for _, members in groups]


def _evaluate(index: Affine, grids: dict[int, NDArray[np.int64]]) -> NDArray[np.int64]:
    """The index over an open grid of its iterators."""
    total: NDArray[np.int64] = np.asarray(index.constant, np.int64)
    for iterator, coefficient in index.terms:
        total = total + grids[iterator] * coefficient
    for lookup in index.lookups:
        assert lookup.value.data is not None
        place = tuple(_evaluate(row, grids) for row in lookup.index)
        total = total + np.asarray(lookup.value.data[place], np.int64) * lookup.coefficient
    return total


def multiply_adds(nests: Iterable[Nest]) -> int:
    """Fused multiply-adds of all sums of products; terms that a guard excludes do not count."""
    total = 0
    for nest in nests:
        products = sum(len(result.outputs) for result in nest.results if result.combiner == "dot")
        total += products * guarded_points(nest) if products else 0
    return total


def pass_multiply_adds(plan: Plan) -> int:
    """Fused multiply-adds of the forward and backward pass over one micro-batch."""
    entries = [entry for entry in plan.entries if entry.name in PASSES]
    return sum(multiply_adds(kernel.op.nests) for entry in entries for kernel in entry.kernels)


def work_json(build: Build, run: Run, steps: int) -> dict[str, Any]:
    """Cycles by pass and by step, and the bound that the machine's multiply-adders set; None where it is not known.

    Args:
        build: what ran.
        run: what it took.
        steps: optimizer steps of the run.
    """
    work = pass_multiply_adds(build.plan)
    rate = build.target.multiply_adds_per_cycle
    bound = work / rate if rate else None
    cycles = None if run.train_cycles is None else run.train_cycles / (steps * build.accumulate)
    return {
        "multiply_adds": work,
        "bound_cycles": bound,
        "train_cycles_per_pass": cycles,
        "opt_cycles_per_step": None if run.opt_cycles is None else run.opt_cycles / steps,
        "cycles_over_bound": None if cycles is None or not bound else cycles / bound,
    }


def cycle_lines(build: Build, run: Run, steps: int) -> list[str]:
    """The same as text; nothing where the target does not count cycles."""
    found = work_json(build, run, steps)
    passed, optimized = found["train_cycles_per_pass"], found["opt_cycles_per_step"]
    if passed is None or optimized is None:
        return []
    total = passed * build.accumulate + optimized
    passes = f"{build.accumulate} x " if build.accumulate > 1 else ""
    lines = [f"cycles per step: {total:,.0f} (forward and backward {passes}{passed:,.0f}, optimizer {optimized:,.0f})"]
    if found["cycles_over_bound"] is not None:
        lines.append(
            f"multiply-adds of a forward and backward pass: {found['multiply_adds']:,}; the machine's bound is "
            f"{found['bound_cycles']:,.0f} cycles, {found['cycles_over_bound']:.2f} times that were taken"
        )
    return lines
