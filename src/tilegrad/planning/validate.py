"""Re-derives what a plan must satisfy from its kernels alone; shares no code with the planner.

Every byte that a kernel reads must have been written last by the operation whose value it expects; that one question
finds overlapping buffers, lifetimes that end too early, wrong orders and stores that come too soon.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Graph, Nest, ReshapeOp, StructuredOp, Value
from tilegrad.planning.plan import Copy, EntryPlan, Kernel, Plan, Storage

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def validate_plan(plan: Plan, graphs: Sequence[Graph]) -> None:
    """Check a plan against the graphs it was made from.

    Raises:
        InternalError: if a kernel or a copy would read anything but the value it expects, memory is exceeded, or the
            plan does not say what its kernels do.
    """
    _check_memory(plan)
    _check_statics([*plan.persistent, *plan.constants])
    statics = {storage.persistent: storage for storage in [*plan.persistent, *plan.constants]}
    names = [kernel.name for entry in plan.entries for kernel in entry.kernels]
    _check_names(names)
    if [entry.name for entry in plan.entries] != [graph.name for graph in graphs]:
        raise InternalError("the entry points of the plan are not those of the program")
    for entry, graph in zip(plan.entries, graphs, strict=True):
        _Replay(entry, graph, plan.arenas[plan.level], statics).run()


def _check_memory(plan: Plan) -> None:
    for use in plan.memory.values():
        if use.capacity is not None and use.peak > use.capacity:
            raise InternalError(f"the plan uses {use.peak} bytes of a memory that has {use.capacity}")
        if use.lower_bound > use.peak:
            raise InternalError(f"the plan claims {use.peak} bytes, fewer than its lower bound {use.lower_bound}")
    size = plan.arenas[plan.level]
    arena = max((entry.arenas[plan.level] for entry in plan.entries), default=0)
    if arena > size:
        raise InternalError(f"an entry point needs {arena} bytes of an arena of {size}")
    static = sum(storage.bytes for storage in plan.persistent)
    if static + size > plan.memory[plan.level].peak:
        raise InternalError(f"the plan claims fewer bytes of {plan.level} than its storages have")


def _check_statics(storages: Sequence[Storage]) -> None:
    _check_names([storage.name for storage in storages])
    for storage in storages:
        if storage.persistent is None or storage.offset is not None or storage.bytes != storage.persistent.bytes:
            raise InternalError(f"the static storage {storage.name} is not the place of one persistent tensor")


def _check_names(names: Sequence[str]) -> None:
    if any(_IDENTIFIER.fullmatch(name) is None for name in names) or len({n.lower() for n in names}) != len(names):
        raise InternalError("the names of storages or kernels are not distinct C identifiers")


class _Replay:
    """Executes an entry point symbolically: who wrote each byte last."""

    def __init__(self, entry: EntryPlan, graph: Graph, arena_bytes: int, statics: dict[Value | None, Storage]) -> None:
        self.entry, self.graph, self.arena_bytes, self.statics = entry, graph, arena_bytes, statics
        self.root = {op.output: op.source for op in graph.ops if isinstance(op, ReshapeOp)}
        #: Contents of the arena as disjoint pieces (begin, end) -> value.
        self.arena: dict[tuple[int, int], Value] = {}
        #: Contents of the static storages that were written.
        self.written: dict[Storage, Value] = {}
        self.moment = 0

    def origin(self, value: Value) -> Value:
        """The value behind any number of views."""
        while value in self.root:
            value = self.root[value]
        return value

    def run(self) -> None:
        planned = sorted(id(kernel.op) for kernel in self.entry.kernels)
        if planned != sorted(id(op) for op in self.graph.ops if isinstance(op, StructuredOp)):
            raise InternalError(f"the kernels of {self.entry.name} are not the operations of its graph")
        for kernel in self.entry.kernels:
            self.kernel(kernel)
            self.moment += 1
        for copy in self.entry.copies:
            self.copy(copy)
        self.check_stores()

    def kernel(self, kernel: Kernel) -> None:
        if set(kernel.reads) != set(kernel.op.operands) or set(kernel.writes) != set(kernel.op.outputs):
            raise InternalError(f"kernel {kernel.name} does not access the tensors of its operation")
        if set(kernel.in_place) != set(kernel.reads.values()) & set(kernel.writes.values()):
            raise InternalError(f"kernel {kernel.name} does not say what it overwrites")
        for value, storage in kernel.reads.items():
            self.check_overlap(kernel, value, storage)
            self.expect(kernel.name, self.origin(value), storage, value.bytes)
        for value, storage in kernel.writes.items():
            others = [other for output, other in kernel.writes.items() if output is not value]
            if any(other is storage or _overlap(other, storage) for other in others):
                raise InternalError(f"kernel {kernel.name} writes two outputs to one place")
            self.write(kernel.name, value, storage, value.bytes)

    def copy(self, copy: Copy) -> None:
        if copy.bytes > copy.source.bytes or copy.bytes != copy.target.bytes:
            raise InternalError(f"a copy of {copy.bytes} bytes to {copy.target.name} does not fill it")
        held = self.held(copy.source, copy.bytes)
        if held is None:
            raise InternalError(f"a copy to {copy.target.name} reads what nothing has written")
        self.check_use(f"a copy to {copy.target.name}", held, copy.source, copy.bytes)
        self.write(f"a copy to {copy.target.name}", held, copy.target, copy.bytes)

    def check_stores(self) -> None:
        """At the end every persistent tensor holds what its store says, or what it held before."""
        values = {store.target: store.value for store in self.graph.stores}
        for target, storage in self.statics.items():
            assert target is not None
            value = values.get(target, target)
            self.expect(f"{target.name} at the end of {self.entry.name}", self.origin(value), storage, target.bytes)

    def check_overlap(self, kernel: Kernel, operand: Value, storage: Storage) -> None:
        """A kernel may overwrite an operand only where each element is read for the element that replaces it."""
        for output, target in kernel.writes.items():
            if target is not storage:
                if _overlap(target, storage):
                    raise InternalError(f"kernel {kernel.name}: {target.name} overlaps its operand {storage.name}")
                continue
            nests = kernel.op.nests
            rows = {_plain(r.index, nest) for nest in nests for r in nest.results if output in r.outputs}
            reads = {_plain(a.index, nest) for nest in nests for a in nest.accesses() if a.value is operand}
            tables = {table for nest in nests for row in nest.indices() for table in row.tables()}
            alone = len(nests) == 1 and len(kernel.writes) == 1 and not nests[0].scatter and kernel.op.init is None
            fits = operand.strides == output.strides and operand.dtype is output.dtype
            if not alone or not fits or operand in tables or not reads <= rows:
                raise InternalError(f"kernel {kernel.name} overwrites {operand.name} while it still reads it")

    def write(self, who: str, value: Value, storage: Storage, size: int) -> None:
        self.check_use(who, value, storage, size)
        if storage.offset is None:
            if storage.persistent is not None and storage.persistent.is_constant:
                raise InternalError(f"{who} writes the constant {storage.name}")
            self.written[storage] = value
            return
        begin, end = storage.offset, storage.offset + size
        self.arena = {
            span: held for span, held in self.arena.items() if span[1] <= begin or end <= span[0]
        }  # what it overlaps is gone
        self.arena[begin, end] = value

    def expect(self, who: str, value: Value, storage: Storage, size: int) -> None:
        self.check_use(who, value, storage, size)
        found = self.held(storage, size)
        if found is not value and size:
            held = "nothing" if found is None else found.name
            raise InternalError(f"{who} expects {value.name} in {storage.name}, which holds {held} by then")

    def held(self, storage: Storage, size: int) -> Value | None:
        """The value that was written last to the first bytes of a storage, if it is one."""
        if storage.offset is None:
            return self.written.get(storage, storage.persistent)
        return self.arena.get((storage.offset, storage.offset + size))

    def check_use(self, who: str, value: Value, storage: Storage, size: int) -> None:
        """A storage must be large enough, known, aligned, inside the arena and alive."""
        if size > storage.bytes:
            raise InternalError(f"{who} uses {size} bytes of {storage.name}, which has {storage.bytes}")
        if storage.offset is None:
            if self.statics.get(storage.persistent) is not storage:
                raise InternalError(f"{who} uses {storage.name}, which is not among the static storages")
            return
        limit = min(self.arena_bytes, self.entry.arenas[storage.level])
        if storage.offset < 0 or storage.offset + storage.bytes > limit:
            raise InternalError(f"{storage.name} lies outside the arena")
        if storage.offset % value.dtype.size:
            raise InternalError(f"{storage.name} is not aligned to its elements")
        if not storage.lower <= self.moment < storage.upper:
            raise InternalError(f"{who} uses {storage.name} in kernel {self.moment}, outside its life")


def _plain(index: Sequence[Affine], nest: Nest) -> tuple[Affine, ...]:
    """An index without the iterators that are always 0."""
    still = {k: Affine() for k, extent in enumerate(nest.extents) if extent == 1}
    return tuple(row.substitute(still) for row in index)


def _overlap(a: Storage, b: Storage) -> bool:
    """True where two different ranges of the arena share bytes."""
    if a is b or a.offset is None or b.offset is None:
        return False
    return a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes
