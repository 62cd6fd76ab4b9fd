"""Re-derives what a plan must satisfy from its kernels alone; shares no code with the planner.

Every byte that a kernel reads must have been written last by the operation whose value it expects; that one question
finds overlapping buffers, lifetimes that end too early, wrong orders and stores that come too soon.
"""

from __future__ import annotations

from tilegrad.errors import InternalError
from tilegrad.ir.graph import Graph, ReshapeOp, Value
from tilegrad.planning.plan import EntryPlan, Kernel, Plan, Storage


def validate_plan(plan: Plan, graphs: list[Graph]) -> None:
    """Check a plan against the graphs it was made from.

    Raises:
        InternalError: if a kernel or a copy would read anything but the value it expects, or memory is exceeded.
    """
    for use in plan.memory.values():
        if use.capacity is not None and use.peak > use.capacity:
            raise InternalError(f"the plan uses {use.peak} bytes of a memory that has {use.capacity}")
    arena = max((entry.arena_bytes for entry in plan.entries), default=0)
    if arena > plan.arena_bytes:
        raise InternalError(f"an entry point needs {arena} bytes of an arena of {plan.arena_bytes}")
    for entry, graph in zip(plan.entries, graphs, strict=True):
        _Replay(entry, graph, plan.arena_bytes).run()


class _Replay:
    """Executes an entry point symbolically: who wrote each byte last."""

    def __init__(self, entry: EntryPlan, graph: Graph, arena_bytes: int) -> None:
        self.entry, self.graph, self.arena_bytes = entry, graph, arena_bytes
        self.root = {op.output: op.source for op in graph.ops if isinstance(op, ReshapeOp)}
        #: Contents of the arena as disjoint pieces (begin, end) -> value.
        self.arena: dict[tuple[int, int], Value] = {}
        self.static: dict[str, Value] = {}

    def origin(self, value: Value) -> Value:
        """The value behind any number of views."""
        while value in self.root:
            value = self.root[value]
        return value

    def run(self) -> None:
        written: set[Value] = set()
        for kernel in self.entry.kernels:
            if set(kernel.reads) != set(kernel.op.operands) or set(kernel.writes) != set(kernel.op.outputs):
                raise InternalError(f"kernel {kernel.name} does not access the tensors of its operation")
            for value, storage in kernel.reads.items():
                self.check_overlap(kernel, value, storage)
                self.expect(kernel.name, self.origin(value), storage, value.bytes)
            for value, storage in kernel.writes.items():
                self.write(kernel.name, value, storage, value.bytes)
                written.add(value)
        for copy in self.entry.copies:
            if copy.bytes > min(copy.source.bytes, copy.target.bytes):
                raise InternalError(f"a copy to {copy.target.name} exceeds one of its ends")
        for store in self.graph.stores:
            copies = [c for c in self.entry.copies if c.target.persistent is store.target]
            home = copies[0].source if copies else self.home(store.target)
            self.expect(f"store of {store.target.name}", self.origin(store.value), home, store.value.bytes)

    def check_overlap(self, kernel: Kernel, operand: Value, storage: Storage) -> None:
        """A kernel may overwrite an operand only where each element is read for the element that replaces it."""
        for output, target in kernel.writes.items():
            if target is not storage:
                if target.offset is None or storage.offset is None:
                    continue
                below = target.offset + target.bytes <= storage.offset
                if not below and storage.offset + storage.bytes > target.offset:
                    raise InternalError(f"kernel {kernel.name}: {target.name} overlaps its operand {storage.name}")
                continue
            nests = kernel.op.nests
            rows = {result.index for nest in nests for result in nest.results if output in result.outputs}
            reads = {access.index for nest in nests for access in nest.accesses() if access.value is operand}
            tables = {x.value for nest in nests for row in nest.indices() for x in row.lookups}
            alone = len(nests) == 1 and len(kernel.writes) == 1 and not nests[0].scatter and kernel.op.init is None
            if not alone or operand in tables or not reads <= rows or operand.strides != output.strides:
                raise InternalError(f"kernel {kernel.name} overwrites {operand.name} while it still reads it")

    def home(self, value: Value) -> Storage:
        for storage in self.entry.storages:
            if storage.persistent is value:
                return storage
        raise InternalError(f"{value.name} has no storage")

    def write(self, who: str, value: Value, storage: Storage, size: int) -> None:
        if size > storage.bytes:
            raise InternalError(f"{who} writes {size} bytes into {storage.name}, which has {storage.bytes}")
        if storage.offset is None:
            self.static[storage.name] = value
            return
        begin, end = storage.offset, storage.offset + size
        if begin < 0 or end > self.arena_bytes:
            raise InternalError(f"{who} writes outside the arena: [{begin}, {end})")
        self.arena = {
            span: held for span, held in self.arena.items() if span[1] <= begin or end <= span[0]
        }  # what it overlaps is gone
        self.arena[begin, end] = value

    def expect(self, who: str, value: Value, storage: Storage, size: int) -> None:
        if size > storage.bytes:
            raise InternalError(f"{who} reads {size} bytes of {storage.name}, which has {storage.bytes}")
        if storage.offset is None:
            found = self.static.get(storage.name, storage.persistent)
        else:
            found = self.arena.get((storage.offset, storage.offset + size))
        if found is not value:
            held = "nothing" if found is None else found.name
            raise InternalError(f"{who} expects {value.name} in {storage.name}, which holds {held} by then")
