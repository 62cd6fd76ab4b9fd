"""Where the cycles of a step go: by phase, by node of the model, by kernel, against what the machine could do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tilegrad.planning.plan import Plan
from tilegrad.report.observe import UNITS, KernelProfile, StepProfile
from tilegrad.report.page import svg
from tilegrad.report.work import PASSES, multiply_adds

WIDTH = 1080.0
PHASES = ("forward", "backward", "optimizer")
#: What `KernelProfile.spent` is called on the page.
WORDS = {
    "FPU": "FPU",
    "L1": "loads",
    "L2": "L2",
    "control": "instructions",
    "code": "code fetch",
    "waiting": "imbalance",
    "callees": "functions called",
}
EXPLAINED = {
    "FPU": "float arithmetic, and waiting for the shared float units",
    "L1": "load and store instructions, waiting for their data and for busy banks",
    "L2": "waiting for accesses to L2",
    "control": "all other instructions, taken branches, integer products",
    "code": "waiting for instructions",
    "waiting": "waiting for the last core, or for events",
    "callees": "functions that kernels call, such as exp",
}


@dataclass(frozen=True)
class Row:
    """Cycles of a node or a phase.

    Attributes:
        name: of the node, or of the phase.
        phases: cycles by phase.
        multiply_adds: of its sums of products.
        bound: cycles in which the machine could start them, or None where that is not known.
        bar: its cycles by phase, and the bound, to the scale of all rows.
    """

    name: str
    phases: dict[str, int]
    multiply_adds: int
    bound: float | None
    bar: Markup | None = None

    @property
    def cycles(self) -> int:
        """All of them."""
        return sum(self.phases.values())

    @property
    def over_bound(self) -> str:
        """Cycles over the bound; empty where there is none."""
        return f"{self.cycles / self.bound:.2f}" if self.bound and self.cycles else ""

    @property
    def rate(self) -> str:
        """Multiply-adds in a cycle."""
        return f"{self.multiply_adds / self.cycles:.2f}" if self.multiply_adds and self.cycles else ""


def node_rows(profile: StepProfile, rate: float | None) -> list[Row]:
    """One row per node of the model, in the order in which the step first reaches them."""
    found: dict[str, dict[str, int]] = {}
    work: dict[str, int] = {}
    for kernel in profile.kernels:
        name = node_of(kernel)
        phases = found.setdefault(name, dict.fromkeys(PHASES, 0))
        phases[kernel.phase] = phases.get(kernel.phase, 0) + kernel.cycles
        work[name] = work.get(name, 0) + kernel.multiply_adds
    rows = [Row(name, phases, work[name], work[name] / rate if rate else None) for name, phases in found.items()]
    largest = max((row.cycles for row in rows), default=0)
    return [Row(r.name, r.phases, r.multiply_adds, r.bound, _bar(r, largest)) for r in rows]


def node_of(kernel: KernelProfile) -> str:
    """The node that a kernel counts for; the updates of all parameters count as one."""
    return "optimizer" if kernel.phase == "optimizer" else kernel.origin


def static_work(plan: Plan) -> list[tuple[str, int, int]]:
    """Nodes with multiply-adds: those of the forward pass and of the backward pass over one micro-batch."""
    found: dict[str, list[int]] = {}
    for entry in plan.entries:
        for kernel in entry.kernels:
            count = multiply_adds(kernel.op.nests) if entry.name in PASSES and kernel.op.phase != "optimizer" else 0
            if count:
                found.setdefault(kernel.op.origin, [0, 0])[kernel.op.phase == "backward"] += count
    return [(name, forward, backward) for name, (forward, backward) in found.items()]


def phase_rows(profile: StepProfile, rate: float | None) -> list[Row]:
    """One row per phase, and one for what lies between the kernels."""
    rows = []
    for phase, cycles in profile.phases.items():
        work = sum(kernel.multiply_adds for kernel in profile.kernels if kernel.phase == phase)
        rows.append(Row(phase, {phase: cycles}, work, work / rate if rate else None))
    return rows


def _bar(row: Row, largest: int) -> Markup:
    width, height = 230.0, 16.0
    scale = width / max(largest, 1)
    drawn, x = [], 0.0
    for phase, cycles in row.phases.items():
        if cycles:
            hint = svg.hint(f"{row.name}, {phase}: {cycles:,} cycles")
            drawn.append(svg.box(x, 2, cycles * scale, height - 4, hint, class_=f"phase p-{phase}"))
        x += cycles * scale
    if row.bound:
        words = svg.hint(f"bound: {row.bound:,.0f} cycles for {row.multiply_adds:,} multiply-adds")
        drawn.append(svg.box(row.bound * scale - 1, 0, 2.5, height, words, class_="bound"))
    return svg.tag(
        "svg", *drawn, viewBox=f"0 0 {width:.0f} {height:.0f}", class_="bar", aria_hidden="true",
        preserveAspectRatio="none",
    )  # fmt: skip


def split(parts: Mapping[str, float], words: Mapping[str, str], *, width: float = WIDTH, prefix: str = "u") -> Markup:
    """One bar that is divided: keys and amounts, largest labels written inside."""
    total = sum(parts.values()) or 1
    height, x = 30.0, 0.0
    drawn: list[Markup] = []
    for key, amount in parts.items():
        if not amount:
            continue
        part = amount / total * width
        label = f"{words[key]} {amount / total:.1%}"
        drawn.append(
            svg.box(x, 0, part, height, svg.hint(f"{label}: {amount:,.0f}"), class_=f"{prefix}-{key.split()[0]}")
        )
        shown = label if len(label) * 6.4 < part - 8 else svg.fit(words[key], part - 8)
        drawn.append(svg.text(x + 6, 19.5, shown, class_="inside"))
        x += part
    description = "; ".join(f"{words[key]} {amount / total:.1%}" for key, amount in parts.items() if amount)
    return svg.drawing(width, height, "Shares", description, *drawn)


def spent(kernels: Iterable[KernelProfile]) -> dict[str, int]:
    """Where all cores' cycles went, summed over kernels."""
    total = dict.fromkeys(UNITS, 0)
    for kernel in kernels:
        for unit, cycles in kernel.spent.items():
            total[unit] += cycles
    return total


def mini(kernel: KernelProfile) -> Markup:
    """Where the cycles of one kernel went, small."""
    width, height, x = 96.0, 12.0, 0.0
    total = max(sum(kernel.spent.values()), 1)
    drawn = []
    for unit, cycles in kernel.spent.items():
        part = cycles / total * width
        if part >= 0.5:
            hint = svg.hint(f"{WORDS[unit]} {cycles / total:.0%}")
            drawn.append(svg.box(x, 0, part, height, hint, class_=f"u-{unit}"))
        x += part
    return svg.tag("svg", *drawn, viewBox=f"0 0 {width:.0f} {height:.0f}", class_="mini", aria_hidden="true")


def limit(kernel: KernelProfile) -> str:
    """What limits a kernel, and how much of the cores' cycles that takes."""
    unit = kernel.bottleneck
    return f"{WORDS[unit]} {kernel.spent[unit] / max(kernel.core_cycles, 1):.0%}" if unit else "–"


def ranked(kernels: Sequence[KernelProfile]) -> list[KernelProfile]:
    """Those that take most cycles first."""
    return sorted(kernels, key=lambda kernel: -kernel.cycles)
