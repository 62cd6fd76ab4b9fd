"""Watching a program on a simulated machine: a trace, and a profile by kernel."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilegrad.errors import RunError
from tilegrad.report.guard import guarded, present
from tilegrad.report.timeline import Execution, Timeline, read_trace
from tilegrad.report.work import PASSES, multiply_adds
from tilegrad.simulator.library import STALL_KINDS

if TYPE_CHECKING:
    from tilegrad.api import Batch, Build
    from tilegrad.planning.plan import EntryPlan, Kernel, Plan
    from tilegrad.simulator import Simulator
    from tilegrad.simulator.elf import Image
    from tilegrad.simulator.machine import FunctionProfile
    from tilegrad.targets import Session

#: What cores lose that are done with a kernel before the last one is.
IMBALANCE = "imbalance"
#: What a core's cycle can be spent on: float arithmetic and waiting for its units, loads and stores with their
#: conflicts, waiting for accesses to L2, all other instructions and branches, waiting for code, waiting for other cores
#: or events, and functions that the kernel calls.
UNITS = ("FPU", "L1", "L2", "control", "code", "waiting", "callees")

_COUNTS = ("instructions", "loads", "stores", "multiply_adds", "floats")


@dataclass(frozen=True)
class KernelProfile:
    """What one kernel took in one step.

    Attributes:
        name: its C function.
        origin: the node of the model it came from.
        phase: ``forward``, ``backward`` or ``optimizer``.
        calls: how often it ran: once for each tile.
        cycles: from the first core's entry to the last one's return, all calls together.
        multiply_adds: of its sums of products, terms that guards exclude not counted.
        share: its part of the step's cycles.
        core_cycles: cycles of all cores together, the waiting of early ones included.
        losses: of `core_cycles`, those that were lost, by cause; functions that it calls are not included.
        counts: what all cores executed: ``instructions``, and of these ``loads``, ``stores``, ``multiply_adds`` and
            other ``floats``; functions that it calls are not included.
    """

    name: str
    origin: str
    phase: str
    calls: int
    cycles: int
    multiply_adds: int
    share: float
    core_cycles: int
    losses: dict[str, int]
    counts: dict[str, int]

    @property
    def limit(self) -> str:
        """The cause of the largest loss; empty where nothing is lost."""
        cause = max(self.losses, key=lambda cause: self.losses[cause], default="")
        return cause if cause and self.losses[cause] else ""

    @property
    def limit_share(self) -> float:
        """The part of `core_cycles` that the largest loss takes."""
        return self.losses[self.limit] / self.core_cycles if self.limit and self.core_cycles else 0.0

    @property
    def spent(self) -> dict[str, int]:
        """Where `core_cycles` went, by the unit that was in use or waited for; see `UNITS`."""
        counts, losses = self.counts, self.losses
        moves = counts["loads"] + counts["stores"]
        arithmetic = counts["multiply_adds"] + counts["floats"]
        found = {
            "FPU": arithmetic + losses["FPU"] + losses["divider"],
            "L1": moves + losses["load use"] + losses["bank"],
            "L2": losses["memory"],
            "control": counts["instructions"] - moves - arithmetic + losses["control"] + losses["multiply"],
            "code": losses["fetch"],
            "waiting": losses["event"] + losses[IMBALANCE],
        }
        return found | {"callees": max(self.core_cycles - sum(found.values()), 0)}

    @property
    def bottleneck(self) -> str:
        """What takes most of the cores' cycles; empty where nothing was counted."""
        spent = self.spent
        unit = max(UNITS, key=lambda unit: spent[unit])
        return unit if spent[unit] else ""


@dataclass(frozen=True)
class StepProfile:
    """What one step took.

    Attributes:
        cycles: of the whole step: passes and optimizer.
        kernels: in execution order; those that did not run are left out.
        timeline: calls of the kernels (and with a guard of what moves their data) on every core, and the DMA's work.
    """

    cycles: int
    kernels: tuple[KernelProfile, ...]
    timeline: Timeline

    @property
    def phases(self) -> dict[str, int]:
        """Cycles by phase, and of what lies between the kernels."""
        found: dict[str, int] = {"forward": 0, "backward": 0, "optimizer": 0}
        for kernel in self.kernels:
            found[kernel.phase] = found.get(kernel.phase, 0) + kernel.cycles
        return found | {"between kernels": self.cycles - sum(found.values())}


def record_step(
    build: Build, batches: Sequence[Batch], *, trace: Path | None = None, guard: bool = False
) -> StepProfile:
    """Run the first step once more and watch it: watching changes neither results nor cycles.

    Args:
        build: a build for a simulated target.
        batches: micro-batches, as for `Build.run`.
        trace: file for a trace that Perfetto and chrome://tracing show, or None.
        guard: guard the kernels meanwhile.

    Raises:
        RunError: the program fails.
        UserError: the target is not simulated, or the trace cannot be written.
    """
    kernels = {k.name: k for entry in build.plan.entries for k in entry.kernels}
    functions: list[FunctionProfile] = []
    timeline = Timeline((), ())

    @contextlib.contextmanager
    def observe(session: Session) -> Iterator[None]:
        nonlocal timeline
        simulator = session.simulator
        simulator.kernels(_functions(build.plan, simulator.image))
        simulator.trace()
        simulator.profile()
        yield
        functions.extend(simulator.profiles())
        timeline = _timeline(simulator, trace)

    before = build.observe, build.program
    build.observe = observe
    try:
        if guard:
            guarded(build)
        run = build.run(batches, 1)
    finally:
        build.observe, build._program = before
    cycles = (run.train_cycles or 0) + (run.opt_cycles or 0)
    ran = dict.fromkeys(execution.function for execution in timeline.executions)
    inside = timeline.of(name for name in ran if name in kernels).executions
    order = [kernel for name, kernel in kernels.items() if name in ran]
    return StepProfile(cycles, tuple(_profiles(build, order, inside, functions, cycles)), timeline)


def _timeline(simulator: Simulator, trace: Path | None) -> Timeline:
    """What was recorded; also written to a file if one is given."""
    with tempfile.TemporaryDirectory(prefix="tilegrad-") as folder:
        path = trace or Path(folder) / "trace.json"
        simulator.write_trace(path)
        return read_trace(json.loads(path.read_text()))


def _profiles(
    build: Build, kernels: Iterable[Kernel], executions: Iterable[Execution], functions: Iterable[FunctionProfile],
    step: int,
) -> Iterator[KernelProfile]:  # fmt: skip
    passes = {kernel.name: _passes(build, entry) for entry in build.plan.entries for kernel in entry.kernels}
    by_core: dict[str, dict[int, list[Execution]]] = defaultdict(lambda: defaultdict(list))
    for execution in executions:
        by_core[execution.function][execution.core].append(execution)
    stalls: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(STALL_KINDS, 0))
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
    for function in functions:
        for cause, count in function.counters.stalls.items():
            stalls[function.function][cause] += count
        for name in _COUNTS:
            counts[function.function][name] += getattr(function.counters, name)
    for kernel in kernels:
        calls = _calls(kernel.name, by_core[kernel.name])
        cycles = sum(max(s.end for s in call) - min(s.begin for s in call) for call in calls)
        team = len(by_core[kernel.name])
        inside = sum(execution.end - execution.begin for call in calls for execution in call)
        yield KernelProfile(
            name=kernel.name,
            origin=kernel.op.origin,
            phase=kernel.op.phase,
            calls=len(calls),
            cycles=cycles,
            multiply_adds=multiply_adds(kernel.op.nests) * passes[kernel.name],
            share=cycles / step if step else 0.0,
            core_cycles=cycles * team,
            losses={**stalls[kernel.name], IMBALANCE: cycles * team - inside},
            counts=dict(counts[kernel.name]),
        )


def _passes(build: Build, entry: EntryPlan) -> int:
    """How often one step calls an entry point."""
    return build.accumulate if entry.name in PASSES else 1


def _calls(name: str, by_core: Mapping[int, list[Execution]]) -> list[tuple[Execution, ...]]:
    """What the cores did in each call of a kernel: all of the team take part in every one."""
    counts = {len(executions) for executions in by_core.values()}
    if len(counts) != 1:
        raise RunError(f"the cores did not run kernel {name!r} equally often: {sorted(counts)} times")
    return list(zip(*by_core.values(), strict=True))


def _functions(plan: Plan, image: Image) -> list[str]:
    """What is watched: the kernels."""
    return [kernel.name for entry in plan.entries for kernel in present(entry, image)]
