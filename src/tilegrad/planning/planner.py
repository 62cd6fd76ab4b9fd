"""From graphs to a plan: groups, tiles, storages, in-place updates, lifetimes and addresses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.errors import DoesNotFitError
from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.ir.types import Kind
from tilegrad.planning.assembly import EntryAssembler
from tilegrad.planning.grouping import Cluster, Grouper
from tilegrad.planning.layout import Setting
from tilegrad.planning.limits import check_bytes, check_counts
from tilegrad.planning.names import Names
from tilegrad.planning.plan import EntryPlan, LevelUse, Plan, Storage
from tilegrad.planning.residence import keep_resident
from tilegrad.planning.schedule import schedule_updates
from tilegrad.planning.storages import HomeFinder, views_of
from tilegrad.targets.base import Memory, Target


@dataclass(frozen=True)
class Options:
    """What the user decides about the plan.

    Attributes:
        plain: loops in declared order, nothing blocked, fused or tiled: the bit oracle.
        tiled: whether groups run over tiles in the fast memory; without it kernels work on the homes of tensors.
        buffering: ``single``, ``double`` or ``auto``.
    """

    plain: bool = False
    tiled: bool = True
    buffering: str = "auto"


def plan_program(graphs: Sequence[Graph], target: Target, options: Options | None = None) -> Plan:
    """Plan the entry points of one program.

    Args:
        graphs: one per entry point; persistent tensors may occur in several.
        target: where the program will run.
        options: the user's choices.

    Raises:
        DoesNotFitError: if the tensors need more than the target's memory, or more than can be addressed.
    """
    options = options or Options()
    for graph in graphs:
        check_counts(graph)
    home = target.mapped_memories[-1]
    names = Names()
    statics: dict[Value, Storage] = {}
    constants: dict[Value, Storage] = {}
    for graph in graphs:
        for value in [*graph.inputs, *graph.persistent()]:
            table = constants if value.is_constant else statics
            if value.kind.persistent and value not in table:
                prefix = "k" if value.is_constant else value.kind.value
                name = names.unique(f"{prefix}_{value.name}")
                table[value] = Storage(name, value.bytes, home.name, [value], value)
    entries = [_plan_entry(graph, statics | constants, target, names, options) for graph in graphs]
    return _program(target, entries, list(statics.values()), list(constants.values()))


def _program(target: Target, entries: list[EntryPlan], statics: list[Storage], constants: list[Storage]) -> Plan:
    arenas: dict[str, int] = {}
    memory: dict[str, LevelUse] = {}
    for level in target.memories:
        fixed = sum(_aligned(s.bytes, level) for s in statics if s.level == level.name)
        arena = max((entry.arenas.get(level.name, 0) for entry in entries), default=0)
        bound = max((entry.lower_bounds.get(level.name, 0) for entry in entries), default=0)
        reserved = target.reserved.get(level.name, 0)
        if fixed or arena or reserved or level is target.mapped_memories[-1]:
            arenas[level.name] = arena
            memory[level.name] = LevelUse(
                fixed + arena + reserved, fixed + bound + reserved, level.capacity, fixed, reserved
            )
    total = sum(use.peak for use in memory.values())
    check_bytes(total + sum(storage.bytes for storage in constants))
    for name, use in memory.items():
        if use.capacity is not None and use.peak > use.capacity:
            raise DoesNotFitError(
                f"the tensors need {use.peak:,} bytes of {name}, which has {use.capacity:,}; "
                f"at least {use.lower_bound:,} bytes are alive at one moment"
            )
    home = target.mapped_memories[-1].name
    return Plan(target.name, home, entries, statics, constants, arenas, memory, target.cores)


def _plan_entry(
    graph: Graph, statics: dict[Value, Storage], target: Target, names: Names, options: Options
) -> EntryPlan:
    schedule_updates(graph)
    views = views_of(graph)
    ops = [op for op in graph.ops if isinstance(op, StructuredOp)]
    readers: dict[Value, frozenset[int]] = {}
    for op in ops:
        for operand in op.operands:
            root = views.root(operand)
            readers[root] = readers.get(root, frozenset()) | {id(op)}
    kept = frozenset(views.root(store.value) for store in graph.stores)
    fast, home = target.mapped_memories[0], target.mapped_memories[-1]
    budget = sys.maxsize if fast.capacity is None else fast.capacity - target.reserved.get(fast.name, 0)
    setting = Setting(target, fast, budget, home, readers, kept, plain=options.plain)
    grouper = Grouper(views, setting, options.buffering)
    tiled = options.tiled and not options.plain and fast is not home
    resident: dict[Value, None] = {}
    if tiled:
        clusters = grouper.groups(ops)
        clusters, resident, grouper.layouts = keep_resident(clusters, views, setting)
    else:
        clusters = [Cluster([op], grouper.layouts.untiled([op])) for op in ops]
    level = {output: fast.name if output in resident else home.name for op in ops for output in op.outputs}
    homes = HomeFinder(graph, clusters, views, statics, level, names).run()
    memories = {memory.name: memory for memory in target.memories}
    return EntryAssembler(graph, clusters, grouper.layouts, views, homes, memories, fast.name, names).plan()


def _aligned(size: int, memory: Memory) -> int:
    return -(-size // memory.alignment) * memory.alignment


def storage_kinds(plan: Plan, kind: Kind) -> list[Storage]:
    """The static storages of one kind of tensor."""
    return [s for s in plan.persistent if s.persistent is not None and s.persistent.kind is kind]
