"""From graphs to a plan: kernels, storages, in-place updates, lifetimes and addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tilegrad.errors import DoesNotFitError, InternalError
from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Graph, ReshapeOp, StructuredOp, Value
from tilegrad.ir.types import Kind
from tilegrad.planning.allocate import Buffer, allocate, lower_bound
from tilegrad.planning.limits import check_bytes, check_counts
from tilegrad.planning.mapping import choose_mapping, plain_mapping
from tilegrad.planning.plan import Copy, EntryPlan, Group, Kernel, LevelUse, Plan, Storage
from tilegrad.planning.schedule import last_readers, schedule_updates, with_sources
from tilegrad.planning.span import Span
from tilegrad.targets.base import Memory, Target
from tilegrad.transforms.inline import reads_of


def plan_program(graphs: Sequence[Graph], target: Target, *, plain: bool = False) -> Plan:
    """Plan the entry points of one program.

    Args:
        graphs: one per entry point; persistent tensors may occur in several.
        target: where the program will run.
        plain: loops in declared order, nothing blocked, fused or tiled: the bit oracle.

    Raises:
        DoesNotFitError: if the tensors need more than the target's memory, or more than can be addressed.
    """
    for graph in graphs:
        check_counts(graph)
    memory = target.mapped_memories[-1]
    names = _Names()
    statics: dict[Value, Storage] = {}
    constants: dict[Value, Storage] = {}
    for graph in graphs:
        for value in [*graph.inputs, *graph.persistent()]:
            table = constants if value.is_constant else statics
            if value.kind.persistent and value not in table:
                prefix = "k" if value.is_constant else value.kind.value
                name = names.unique(f"{prefix}_{value.name}")
                table[value] = Storage(name, value.bytes, memory.name, [value], value)
    entries = [_plan_entry(graph, statics | constants, memory, names, target, plain) for graph in graphs]
    arena = max((entry.arenas[memory.name] for entry in entries), default=0)
    fixed = sum(_aligned(storage.bytes, memory) for storage in statics.values())
    bound = fixed + max((entry.lower_bounds[memory.name] for entry in entries), default=0)
    use = LevelUse(fixed + arena, bound, memory.capacity, fixed)
    check_bytes(use.peak + sum(_aligned(storage.bytes, memory) for storage in constants.values()))
    if use.capacity is not None and use.peak > use.capacity:
        raise DoesNotFitError(
            f"the tensors need {use.peak:,} bytes of {memory.name}, which has {use.capacity:,}; "
            f"at least {use.lower_bound:,} bytes are alive at one moment"
        )
    return Plan(
        target.name, memory.name, entries, list(statics.values()), list(constants.values()), {memory.name: arena},
        {memory.name: use}, target.cores,
    )  # fmt: skip


def _aligned(size: int, memory: Memory) -> int:
    return -(-size // memory.alignment) * memory.alignment


@dataclass
class _Names:
    """C identifiers from names that are data: sanitised, of bounded length, unique whatever their case."""

    taken: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        base = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60] or "t"
        if base[0].isdigit():
            base = f"t_{base}"
        count = self.counts.get(base.lower(), 0) + 1
        while (candidate := base if count == 1 else f"{base}_{count}").lower() in self.taken:
            count += 1
        self.counts[base.lower()] = count
        self.taken.add(candidate.lower())
        return candidate


def _plan_entry(
    graph: Graph, statics: dict[Value, Storage], memory: Memory, names: _Names, target: Target, plain: bool
) -> EntryPlan:
    schedule_updates(graph)
    homes, copies = _assign_storages(graph, statics, memory, names)
    structured = [op for op in graph.ops if isinstance(op, StructuredOp)]
    step = {id(op): position for position, op in enumerate(structured)}
    storages = list(dict.fromkeys(homes.values()))
    transient = [storage for storage in storages if storage.persistent is None]
    for storage in transient:
        storage.lower, storage.upper = len(structured), 0
    for op in structured:
        position = step[id(op)]
        for value in [*op.operands, *op.outputs]:
            home = homes[value]
            home.lower, home.upper = min(home.lower, position), max(home.upper, position + 1)
    for copy in copies:
        copy.source.upper = max(copy.source.upper, len(structured) + 1)
    buffers = [Buffer(s.lower, s.upper, _aligned(s.bytes, memory)) for s in transient]
    offsets = allocate(buffers)
    for storage, offset in zip(transient, offsets, strict=True):
        storage.offset = offset
    kernels = [_kernel(op, homes, graph.name, position, names) for position, op in enumerate(structured)]
    arena = max((offset + b.size for offset, b in zip(offsets, buffers, strict=True)), default=0)
    for kernel in kernels:
        nests = kernel.op.nests
        kernel.ranges = tuple(tuple(Span.whole(extent) for extent in nest.extents) for nest in nests)
        kernel.mappings = tuple(
            plain_mapping(nest, target.cores) if plain else choose_mapping(nest, target) for nest in nests
        )
    groups = [Group(f"{kernel.name}_tile", (), [kernel]) for kernel in kernels]
    bound = lower_bound(buffers)
    return EntryPlan(graph.name, groups, copies, storages, {memory.name: arena}, {memory.name: bound})


def _kernel(op: StructuredOp, homes: dict[Value, Storage], entry: str, position: int, names: _Names) -> Kernel:
    reads = {value: homes[value] for value in op.operands}
    writes = {value: homes[value] for value in op.outputs}
    both = [storage for storage in dict.fromkeys(reads.values()) if storage in writes.values()]
    name = names.unique(f"{entry}_{position:03d}_{op.phase}_{op.origin}")
    return Kernel(name, op, reads, writes, both)


def _assign_storages(
    graph: Graph, statics: dict[Value, Storage], memory: Memory, names: _Names
) -> tuple[dict[Value, Storage], list[Copy]]:
    """Decide which values share memory: views, state replaced in place, dying operands overwritten."""
    homes = dict(statics)
    readers = _readers(graph)
    direct = _direct_stores(graph, readers)
    for position, op in enumerate(graph.ops):
        if isinstance(op, ReshapeOp):
            homes[op.output] = homes[op.source]
            homes[op.output].values.append(op.output)
            continue
        for output in op.outputs:
            in_place = output in direct
            home = statics[direct[output]] if in_place else _dying_operand(op, output, position, homes, readers)
            if home is None:
                home = Storage(names.unique(output.name), output.bytes, memory.name)
            home.values.append(output)
            homes[output] = home
    copies = []
    for store in graph.stores:
        if store.value not in homes:
            raise InternalError(f"{store.value.name} is stored but never computed")
        if homes[store.value] is not homes[store.target]:
            copies.append(Copy(homes[store.target], homes[store.value], store.target.bytes))
    return homes, _ordered(copies)


def _ordered(copies: list[Copy]) -> list[Copy]:
    """Copies in an order in which none overwrites what another one still reads."""
    ordered: list[Copy] = []
    while copies:
        sources = {copy.source for copy in copies}
        ready = [copy for copy in copies if copy.target not in sources]
        if not ready:
            raise InternalError(f"stores exchange the contents of {', '.join(copy.target.name for copy in copies)}")
        ordered.extend(ready)
        copies = [copy for copy in copies if copy not in ready]
    return ordered


def _readers(graph: Graph) -> dict[Value, int]:
    """The last operation that reads each value, itself or through a view; stores read behind the last one."""
    last = last_readers(graph.ops)
    views = {op.output: op.source for op in graph.ops if isinstance(op, ReshapeOp)}
    for store in graph.stores:
        for value in with_sources(store.value, views):
            last[value] = len(graph.ops)
    return last


def _direct_stores(graph: Graph, readers: dict[Value, int]) -> dict[Value, Value]:
    """Values that may be computed in the place of the persistent tensor they replace."""
    producer = graph.producers()
    position = {id(op): k for k, op in enumerate(graph.ops)}
    views = {op.output: op.source for op in graph.ops if isinstance(op, ReshapeOp)}
    direct: dict[Value, Value] = {}
    for store in graph.stores:
        value = store.value
        op = producer.get(value)
        while isinstance(op, ReshapeOp):  # what the target takes is a view: then the tensor behind it moves there
            value = op.source
            op = producer.get(value)
        if not isinstance(op, StructuredOp) or value in direct or store.target.bytes != value.bytes:
            continue
        at = position[id(op)]
        last = readers.get(store.target, -1)
        in_view = any(o is not store.target and store.target in with_sources(o, views) for o in op.operands)
        if last < at or (last == at and not in_view and _overwrites(op, value, store.target)):
            direct[value] = store.target
    return direct


def _overwrites(op: StructuredOp, output: Value, operand: Value) -> bool:
    """True where every element of `operand` is read only for the element of `output` that takes its place."""
    if len(op.nests) != 1 or len(op.outputs) != 1 or op.init is not None or op.nests[0].scatter:
        return False
    if output.shape != operand.shape or output.dtype is not operand.dtype:
        return False
    nest = op.nests[0]
    if operand in nest.tables():
        return False
    unit = {k: Affine() for k, extent in enumerate(nest.extents) if extent == 1}

    def rows(index: Sequence[Affine]) -> list[Affine]:
        return [row.substitute(unit) for row in index]

    index = rows(nest.results[0].index)
    return all(rows(read) == index for read in reads_of(op, operand))


def _dying_operand(
    op: StructuredOp, output: Value, position: int, homes: dict[Value, Storage], readers: dict[Value, int]
) -> Storage | None:
    """The storage of an operand that this operation reads last and may overwrite."""
    if not op.is_elementwise:
        return None
    for operand in op.operands:
        home = homes[operand]
        if home.persistent is not None or home.bytes != output.bytes:
            continue
        alive = max(readers.get(value, -1) for value in home.values)
        if (
            alive == position
            and all(home is not homes[o] or o is operand for o in op.operands)
            and _overwrites(op, output, operand)
        ):
            return home
    return None


def storage_kinds(plan: Plan, kind: Kind) -> list[Storage]:
    """The static storages of one kind of tensor."""
    return [s for s in plan.persistent if s.persistent is not None and s.persistent.kind is kind]
