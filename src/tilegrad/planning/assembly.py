"""One entry point's plan: from groups with layouts to storages, kernels, transfers and addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.planning.allocate import Buffer, allocate, lower_bound
from tilegrad.planning.axes import Views
from tilegrad.planning.grouping import Cluster
from tilegrad.planning.layout import Layouts, Part
from tilegrad.planning.names import Names
from tilegrad.planning.plan import EntryPlan, Group, Kernel, Storage, Transfer
from tilegrad.planning.storages import Homes
from tilegrad.targets.base import Memory


@dataclass
class EntryAssembler:
    """Turns the groups of an entry point into its plan.

    Attributes:
        graph: the entry point.
        clusters: its groups.
        layouts: what computed their layouts.
        views: its views.
        homes: the homes of tensors.
        memories: the levels by name.
        fast: the level of tile buffers.
        between: the level of buffers between it and one that only transfers reach.
        names: identifiers in use.
    """

    graph: Graph
    clusters: Sequence[Cluster]
    layouts: Layouts
    views: Views
    homes: Homes
    memories: dict[str, Memory]
    fast: str
    between: str
    names: Names

    def plan(self) -> EntryPlan:
        """The plan, with addresses."""
        groups: list[Group] = []
        self.storages: dict[Storage, None] = {}
        position = 0
        for number, cluster in enumerate(self.clusters):
            groups.append(self._group(cluster, number, position))
            position += len(cluster.ops)
        for copy in self.homes.copies:
            self.storages |= {copy.target: None, copy.source: None}
        self._home_lives(position)
        entry = EntryPlan(self.graph.name, groups, self.homes.copies, list(self.storages), {}, {})
        self._addresses(entry)
        return entry

    def _group(self, cluster: Cluster, number: int, first: int) -> Group:
        layout = cluster.layout
        buffers = self._buffers(cluster, first)
        loads, stores = [], []
        bounces = first, first + len(cluster.ops)
        for value, part in layout.inputs.items():
            if not part.direct:
                home = self.homes.of[self.views.root(value)]
                via = self._bounce(home, value, part, bounces)
                loads.append(Transfer(buffers[value], home, value, part.window, True, via))
        for value, part in layout.outputs.items():
            if value in layout.needed and not part.direct:
                home = self.homes.of[value]
                via = self._bounce(home, value, part, bounces)
                stores.append(Transfer(buffers[value], home, value, part.window, False, via))
        kernels = [self._kernel(cluster, k, op, first + k, buffers) for k, op in enumerate(cluster.ops)]
        name = self.names.unique(f"{self.graph.name}_group_{number:03d}")
        for transfer in (*loads, *stores):
            self.storages[transfer.home] = None
        return Group(name, layout.loops, kernels, loads, stores, layout.overlap, layout.cycles)

    def _bounce(self, home: Storage, value: Value, part: Part, life: tuple[int, int]) -> Storage | None:
        """The buffer between a tile buffer and a home that the DMA of the fast memory does not reach, or None."""
        if self.memories[home.level].mapped:
            return None
        storage = Storage(self.names.unique(f"via_{value.name}"), part.bytes, self.between, [value])
        storage.lower, storage.upper = life
        self.storages[storage] = None
        return storage

    def _buffers(self, cluster: Cluster, first: int) -> dict[Value, Storage]:
        """The tile buffers of a group by tensor; outputs that share one have the same."""
        layout = cluster.layout
        found: dict[Value, Storage] = {}
        for value, buffer in self.layouts.buffers(layout):
            part = layout.inputs.get(value) or layout.outputs[value]
            storage = Storage(self.names.unique(f"tile_{value.name}"), part.bytes, self.fast, [value])
            storage.copies = self.layouts.copies(layout, value)
            storage.stride = self.memories[self.fast].aligned(part.bytes) if storage.copies > 1 else 0
            storage.lower, storage.upper = first + buffer.lower, first + buffer.upper
            found[value] = storage
            self.storages[storage] = None
        for output, holder in self.layouts.holders(layout).items():
            found[output] = found[holder]
            found[holder].values.append(output)
        return found

    def _kernel(
        self, cluster: Cluster, k: int, op: StructuredOp, position: int, buffers: dict[Value, Storage]
    ) -> Kernel:
        layout = cluster.layout
        reads: dict[Value, Storage] = {}
        writes: dict[Value, Storage] = {}
        windows = {}

        def place(value: Value, part: Part, key: Value) -> Storage:
            if part.direct:
                home = self.homes.of[self.views.root(value)]
                self.storages[home] = None
                return home
            window = self.layouts.window_as(value, part, layout)
            if window.depth or any(not span.is_whole for span in window.spans):
                windows[value] = window
            return buffers[key]

        for operand in op.operands:
            root = self.views.root(operand)
            if root in layout.outputs:
                reads[operand] = place(operand, layout.outputs[root], root)
            else:
                reads[operand] = place(operand, layout.inputs[operand], operand)
        for output in op.outputs:
            writes[output] = place(output, layout.outputs[output], output)
        both = [storage for storage in dict.fromkeys(reads.values()) if storage in writes.values()]
        name = self.names.unique(f"{self.graph.name}_{position:03d}_{op.phase}_{op.origin}")
        nests = range(len(op.nests))
        filled = {} if op.init is None else {output: layout.outputs[output].window.spans for output in op.outputs}
        return Kernel(
            name, op, reads, writes, both, windows, tuple(layout.ranges[k, n] for n in nests),
            tuple(layout.mappings[k, n] for n in nests), layout.cut(k), filled,
        )  # fmt: skip

    def _home_lives(self, end: int) -> None:
        """Lifetimes of homes in kernels: from the first group that touches one to the end of the last."""
        bounds = []
        position = 0
        for cluster in self.clusters:
            bounds.append((position, position + len(cluster.ops)))
            position += len(cluster.ops)
        touched: dict[Storage, list[int]] = {}
        for cluster, (first, last) in zip(self.clusters, bounds, strict=True):
            for k, op in enumerate(cluster.ops):
                for value in (*op.operands, *op.outputs):
                    home = self.homes.of.get(self.views.root(value))
                    if home is None or home.persistent is not None:
                        continue
                    exact = self._touches_directly(cluster, value)
                    lower, upper = (first + k, first + k + 1) if exact else (first, last)
                    life = touched.setdefault(home, [lower, upper])
                    touched[home] = [min(life[0], lower), max(life[1], upper)]
        for storage, (lower, upper) in touched.items():
            storage.lower, storage.upper = lower, upper
        for copy in self.homes.copies:
            copy.source.upper = max(copy.source.upper, end + 1)

    def _touches_directly(self, cluster: Cluster, value: Value) -> bool:
        """True where a home is touched by the kernel itself, in a group of one tile, so that its life can end there."""
        layout = cluster.layout
        part = layout.outputs.get(self.views.root(value)) or layout.inputs.get(value)
        return part is not None and part.direct and layout.tiles == 1

    def _addresses(self, entry: EntryPlan) -> None:
        for level, memory in self.memories.items():
            mine = [s for s in entry.storages if s.persistent is None and s.level == level]
            buffers = [Buffer(s.lower, s.upper, memory.aligned(s.total)) for s in mine]
            offsets = allocate(buffers)
            for storage, offset in zip(mine, offsets, strict=True):
                storage.offset = offset
            if mine or level == self.fast:
                entry.arenas[level] = max(
                    (offset + b.size for offset, b in zip(offsets, buffers, strict=True)), default=0
                )
                entry.lower_bounds[level] = lower_bound(buffers)
