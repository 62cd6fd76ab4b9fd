"""From graphs to a plan: groups, tiles, storages, in-place updates, lifetimes and addresses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.errors import DoesNotFitError
from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.planning.assembly import EntryAssembler
from tilegrad.planning.budget import BudgetSearch, Decision
from tilegrad.planning.grouping import Cluster, Grouper
from tilegrad.planning.layout import Setting
from tilegrad.planning.limits import check_bytes, check_counts
from tilegrad.planning.names import Names
from tilegrad.planning.plan import FAR_BUFFER_BYTES, EntryPlan, LevelUse, Plan, Storage
from tilegrad.planning.rematerialise import rematerialise
from tilegrad.planning.residence import keep_resident
from tilegrad.planning.schedule import schedule_updates
from tilegrad.planning.storages import HomeFinder, views_of
from tilegrad.planning.timing import Timings
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

    Where the tensors exceed the home memory, the backward pass computes activations again, and tensors move to a memory
    that only transfers reach, if there is one: whatever costs least for the bytes that it frees. The graphs then have
    the operations that the plan has.

    Args:
        graphs: one per entry point; persistent tensors may occur in several.
        target: where the program will run.
        options: the user's choices.

    Raises:
        DoesNotFitError: if the tensors need more than the target's memory, or more than can be addressed.
    """
    for graph in graphs:
        check_counts(graph)
    return BudgetSearch(ProgramPlanner(graphs, target, options or Options())).run()


class ProgramPlanner:
    """Plans a program under given decisions.

    Args:
        graphs: one per entry point.
        target: where the program will run.
        options: the user's choices.
    """

    def __init__(self, graphs: Sequence[Graph], target: Target, options: Options) -> None:
        self.graphs, self.target, self.options = graphs, target, options
        self.home = target.mapped_memories[-1]
        self.fast = target.mapped_memories[0]
        self.far = next((memory for memory in target.memories if not memory.mapped), None)
        self.timings = Timings(target, plain=options.plain)
        self.tiled = options.tiled and not options.plain and self.fast is not self.home
        self.originals = [list(graph.ops) for graph in graphs]
        self.clones: dict[Value, Value] = {}

    def plan(self, decision: Decision) -> Plan:
        """The plan under a decision; levels may be exceeded. The graphs get the operations of the plan.

        Raises:
            DoesNotFitError: a group cannot run within the fast memory.
        """
        names = Names()
        self.clones = {}
        statics: dict[Value, Storage] = {}
        constants: dict[Value, Storage] = {}
        for graph, ops in zip(self.graphs, self.originals, strict=True):
            graph.ops = list(ops)
            self.clones |= rematerialise(graph, decision.recomputed)
            schedule_updates(graph)
            for value in [*graph.inputs, *graph.persistent()]:
                table = constants if value.is_constant else statics
                if value.kind.persistent and value not in table:
                    prefix = "k" if value.is_constant else value.kind.value
                    name = names.unique(f"{prefix}_{value.name}")
                    table[value] = Storage(name, value.bytes, self._level(value, decision), [value], value)
        entries = [self._entry(graph, statics | constants, names, decision) for graph in self.graphs]
        plan = self._program(entries, list(statics.values()), list(constants.values()))
        plan.notes = decision.notes
        return plan

    def _level(self, value: Value, decision: Decision) -> str:
        return self.far.name if self.far is not None and value in decision.distant else self.home.name

    def _entry(
        self, graph: Graph, statics: dict[Value, Storage], names: Names, decision: Decision
    ) -> EntryPlan:  # fmt: skip
        views = views_of(graph)
        ops = [op for op in graph.ops if isinstance(op, StructuredOp)]
        readers: dict[Value, frozenset[int]] = {}
        for op in ops:
            for operand in op.operands:
                root = views.root(operand)
                readers[root] = readers.get(root, frozenset()) | {id(op)}
        kept = frozenset(views.root(store.value) for store in graph.stores)
        distant = {store_value for store in graph.stores if store.target in decision.distant
                   for store_value in [views.root(store.value)]}  # fmt: skip
        reserved = self.target.reserved.get(self.fast.name, 0)
        budget = sys.maxsize if self.fast.capacity is None else self.fast.capacity - reserved
        setting = Setting(
            self.target, self.fast, budget, self.home, readers, kept, self.timings,
            replaces={views.root(store.value): store.target for store in graph.stores}, far=self.far,
            distant=decision.distant | frozenset(distant), price=decision.price,
        )  # fmt: skip
        grouper = Grouper(views, setting, self.options.buffering)
        resident: dict[Value, None] = {}
        if self.tiled:
            clusters = grouper.groups(ops)
            for cluster in clusters:
                if cluster.layout.need > budget:
                    raise DoesNotFitError(_too_small(cluster, self.fast, reserved))
            clusters, resident, grouper.layouts = keep_resident(clusters, views, setting)
        else:
            clusters = [Cluster([op], grouper.layouts.untiled([op])) for op in ops]
        level = {
            output: self.fast.name
            if output in resident
            else (self.far.name if self.far is not None and output in setting.distant else self.home.name)
            for op in ops
            for output in op.outputs
        }
        homes = HomeFinder(graph, clusters, views, statics, level, names).run()
        memories = {memory.name: memory for memory in self.target.memories}
        return EntryAssembler(
            graph, clusters, grouper.layouts, views, homes, memories, self.fast.name, self.home.name, names
        ).plan()

    def _program(self, entries: list[EntryPlan], statics: list[Storage], constants: list[Storage]) -> Plan:
        target = self.target
        arenas: dict[str, int] = {}
        memory: dict[str, LevelUse] = {}
        for level in target.memories:
            fixed = sum(level.aligned(s.bytes) for s in statics if s.level == level.name)
            arena = max((entry.arenas.get(level.name, 0) for entry in entries), default=0)
            bound = max((entry.lower_bounds.get(level.name, 0) for entry in entries), default=0)
            reserved = target.reserved.get(level.name, 0)
            if level is self.home and self.far is not None and any(s.level == self.far.name for s in statics):
                reserved += 2 * FAR_BUFFER_BYTES
            if fixed or arena or reserved or level is self.home:
                arenas[level.name] = arena
                memory[level.name] = LevelUse(
                    fixed + arena + reserved, fixed + bound + reserved, level.capacity, fixed, reserved
                )
        check_bytes(sum(use.peak for use in memory.values()) + sum(storage.bytes for storage in constants))
        far = tuple(level.name for level in target.memories if not level.mapped)
        return Plan(target.name, self.home.name, entries, statics, constants, arenas, memory, target.cores, far)


def _too_small(cluster: Cluster, fast: Memory, reserved: int) -> str:
    op = cluster.ops[0]
    return (
        f"node {op.origin or op.outputs[0].name!r} needs {cluster.layout.need + reserved:,} bytes of {fast.name} for "
        f"its smallest tile, stacks included, which has {fast.capacity:,}: give {fast.name} a larger budget"
    )
