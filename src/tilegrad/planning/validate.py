"""Re-derives what a plan must satisfy from the plan and its graphs alone; shares no code with the planner.

`fields` checks what the plan says of itself, `group` and `chains` evaluate its formulas for every tile, and `replay`
executes it symbolically: every element that a kernel reads must have been put there, finished, by the operation whose
value it expects. docs/plan.md says what that proves.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Graph, ReshapeOp, Value
from tilegrad.planning.plan import Plan, Storage
from tilegrad.planning.validation import fields
from tilegrad.planning.validation.contents import Elements
from tilegrad.planning.validation.entry import replay_entry
from tilegrad.targets.base import Target


def validate_plan(plan: Plan, graphs: Sequence[Graph], target: Target | None = None) -> None:
    """Check a plan against the graphs it was made from.

    Args:
        plan: the plan.
        graphs: one per entry point, as they were planned.
        target: the machine; without it, budgets, alignments and the number of cores are taken from the plan.

    Raises:
        InternalError: if a kernel, a transfer or a copy would read anything but the value it expects, memory is
            exceeded, or the plan does not say what its kernels do.
    """
    if [entry.name for entry in plan.entries] != [graph.name for graph in graphs]:
        raise InternalError("the entry points of the plan are not those of the program")
    fields.check_names(plan)
    statics = fields.check_statics(plan)
    round_up = None
    if target is not None:
        fields.check_target(plan, target)
        alignments = {memory.name: memory.alignment for memory in target.memories}

        def round_up(size: int, level: str) -> int:
            return -(-size // alignments[level]) * alignments[level]

    fields.check_memory(plan, round_up)
    needed: dict[Storage, int] = {}
    tenants: dict[Storage, dict[Value, None]] = {}
    for entry, graph in zip(plan.entries, graphs, strict=True):
        fields.check_storages(plan, entry, round_up)
        fields.check_levels(plan, entry)
        memory = replay_entry(entry, graph, statics, plan.cores, plan.level)
        used = memory.needed
        if {s for s in entry.storages if s.persistent is None} != {s for s in used if s.persistent is None}:
            raise InternalError(f"{entry.name} does not list the storages that it uses")
        if not {s for s in used if s.persistent is not None} <= set(entry.storages):
            raise InternalError(f"{entry.name} does not list the tensors that it uses")
        for storage, size in used.items():
            needed[storage] = max(needed.get(storage, 0), size)
        for storage, values in memory.tenants.items():
            tenants.setdefault(storage, {}).update(values)
    views = Elements([op for graph in graphs for op in graph.ops if isinstance(op, ReshapeOp)])
    fields.check_tenants([*statics.values(), *needed], needed, tenants, views.root)
