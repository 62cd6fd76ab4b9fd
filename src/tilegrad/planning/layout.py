"""What a group of operations needs under given tile sizes: ranges, windows, buffers, transfers, bytes and cycles.

Everything is derived from the indexing maps: the ranges of the iterators follow from the axes that the tile loops cut,
the window of an operand is the image of these ranges under its indices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Mapping_
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Nest, StructuredOp, Value
from tilegrad.planning.allocate import Buffer, lower_bound
from tilegrad.planning.axes import Axis, Views
from tilegrad.planning.mapping import Mapping
from tilegrad.planning.overwrite import may_overwrite
from tilegrad.planning.plan import Window
from tilegrad.planning.span import Span, TileLoop, image
from tilegrad.planning.timing import Timings
from tilegrad.targets.base import Memory, Target

#: Cycles of a tile beside its kernels and transfers: loop control, and the barriers around the transfers.
TILE_CYCLES = 80.0
#: Cycles in which core 0 issues one transfer.
ISSUE_CYCLES = 20.0
#: Cycles that each further line of a two-dimensional transfer costs beside its bytes.
LINE_CYCLES = 2.0
#: Register blocking loads an operand of a contraction once for so many elements of an iterator it does not depend on.
BLOCK_REUSE = 4


@dataclass(frozen=True)
class Access:
    """How an operation reads one tensor.

    Attributes:
        nest: position of the nest.
        value: the tensor or view.
        index: where; None where it may be anywhere, as in a looked-up table.
        loads: how often the nest loads an element.
    """

    nest: int
    value: Value
    index: tuple[Affine, ...] | None
    loads: int


@dataclass
class Part:
    """A tensor as the kernels of a group see it.

    Attributes:
        value: the tensor or view.
        window: the part that one tile needs.
        shape: elements of the window along every axis.
        bytes: of the window.
        lines: its contiguous pieces in the home.
        loads: how often the group reads an element of it.
        readers: positions of the operations that read it.
        direct: whether the kernels access it in its home instead of a copy.
    """

    value: Value
    window: Window
    shape: tuple[int, ...]
    bytes: int
    lines: int
    loads: int = 0
    readers: list[int] = field(default_factory=list)
    direct: bool = False


@dataclass(frozen=True)
class Footprint:
    """What one operation needs in a tile.

    Attributes:
        ranges: for every nest the range of every iterator.
        reads: the part of every tensor that a read touches, and how often it loads an element.
    """

    ranges: tuple[tuple[Span, ...], ...]
    reads: tuple[tuple[Value, tuple[Span, ...], int], ...]


@dataclass(frozen=True)
class Setting:
    """What a group's layout is computed for.

    Attributes:
        target: the machine.
        fast: the memory of the tile buffers.
        budget: bytes of it that the group may use.
        home: the memory of everything else.
        readers: the operations that read each tensor, itself or through views, by their `id`.
        kept: tensors that outlive the entry point.
        timings: cycles of nests.
        replaces: new state and the persistent tensor that it replaces.
        resident: tensors that stay in the fast memory between groups.
        far: the memory that only transfers reach, if there is one.
        distant: tensors whose home it is.
        price: cycles that a byte counts for which a group leaves in the home memory.
    """

    target: Target
    fast: Memory
    budget: int
    home: Memory
    readers: dict[Value, frozenset[int]]
    kept: frozenset[Value]
    timings: Timings
    replaces: Mapping_[Value, Value] = field(default_factory=dict)
    resident: frozenset[Value] = frozenset()
    far: Memory | None = None
    distant: frozenset[Value] = frozenset()
    price: float = 0.0


@dataclass
class Layout:
    """A group under given tile loops.

    Attributes:
        ops: its operations.
        axes: the axes that the loops cut, outermost first.
        loops: the tile loops.
        overlap: whether transfers and kernels overlap.
        ranges: for every nest the range of every iterator.
        inputs: what comes from outside, by tensor as seen.
        outputs: what the group computes.
        needed: outputs that something outside the group reads, or that are state.
        shared: outputs that take the buffer of an operand, and whose.
        need: bytes of tile buffers alive at one moment.
        cycles: estimated cycles of the whole group.
        mappings: for every nest the structure of its loops.
        forced: tensors that were told to stay in their homes.
    """

    ops: Sequence[StructuredOp]
    axes: tuple[Axis, ...]
    loops: tuple[TileLoop, ...]
    overlap: bool
    ranges: dict[tuple[int, int], tuple[Span, ...]]
    inputs: dict[Value, Part]
    outputs: dict[Value, Part]
    needed: frozenset[Value]
    shared: dict[Value, Value]
    need: int
    cycles: float
    mappings: dict[tuple[int, int], Mapping]
    forced: frozenset[Value] = frozenset()

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return math.prod(loop.count for loop in self.loops)

    def cut(self, position: int) -> tuple[int, ...]:
        """The loops that cut a reduction of an operation."""
        return tuple(k for k, axis in enumerate(self.axes) if position in axis.cuts)


class Layouts:
    """Computes layouts; remembers what does not depend on tile sizes.

    Args:
        views: the views of the graph.
        setting: the machine and its budget.
    """

    def __init__(self, views: Views, setting: Setting) -> None:
        self.views, self.setting = views, setting
        self._accesses: dict[int, list[Access]] = {}
        self._operands: dict[int, list[Value]] = {}
        self._overwrites: dict[tuple[int, Value, Value], bool] = {}
        self._footprints: dict[tuple[object, ...], Footprint] = {}
        self._keep: list[object] = []  # ids stay unique while the objects live
        self._free = setting.resident | setting.distant | setting.kept

    def layout(
        self, ops: Sequence[StructuredOp], axes: Sequence[Axis], steps: Sequence[int], *, overlap: bool,
        direct: frozenset[Value] = frozenset(),
    ) -> Layout:  # fmt: skip
        """The layout of a group for given axes and tile sizes; one that exceeds the budget is not timed."""
        loops = tuple(TileLoop(axis.extent, min(step, axis.extent)) for axis, step in zip(axes, steps, strict=True))
        tiles = math.prod(loop.count for loop in loops)
        prints = [
            self._footprint(
                op, tuple(tuple(axis.iterators[k, n] for axis in axes) for n in range(len(op.nests))), loops
            )
            for k, op in enumerate(ops)
        ]
        ranges = {(k, n): spans for k, found in enumerate(prints) for n, spans in enumerate(found.ranges)}
        outputs = self._outputs(ops, axes, loops)
        # An output that nobody reads has a home too where it is told to stay there.
        needed = self.needed(ops) | frozenset(output for output in outputs if output in direct)
        inputs = self._inputs(prints, loops, outputs)
        for part in inputs.values():
            part.direct = self._is_direct(part, loops, part.value in direct)
        layout = Layout(
            ops, tuple(axes), loops, overlap and tiles > 1, ranges, inputs, outputs, needed, {}, 0, math.inf, {}
        )
        layout.forced = direct
        for value, part in outputs.items():
            forced = value in direct and value in needed and value not in self.setting.distant
            part.direct = forced or value in self.setting.resident
        layout.shared = self._share(layout)
        layout.need = lower_bound([buffer for _, buffer in self.buffers(layout)])
        if layout.need <= self.setting.budget:
            self._estimate(layout)
        return layout

    def _footprint(
        self, op: StructuredOp, tiled: tuple[tuple[tuple[int, int], ...], ...], loops: tuple[TileLoop, ...]
    ) -> Footprint:
        """What one operation needs of its operands."""
        key = (id(op), tiled, loops)
        if key not in self._footprints:
            ranges = tuple(_ranges(nest, cut) for nest, cut in zip(op.nests, tiled, strict=True))
            reads = []
            for access in self.accesses(op):
                spans = [Span.whole(extent) for extent in access.value.shape]
                for axis, row in enumerate(access.index or ()):
                    spans[axis] = image(row, ranges[access.nest], spans[axis].extent) or spans[axis]
                reads.append((access.value, tuple(spans), access.loads))
            self._footprints[key] = Footprint(ranges, tuple(reads))
        return self._footprints[key]

    def untiled(self, ops: Sequence[StructuredOp]) -> Layout:
        """One tile in which the kernels work on the homes of all tensors."""
        values = frozenset(value for op in ops for value in (*op.operands, *op.outputs))
        return self.layout(ops, (), (), overlap=False, direct=values)

    def window_as(self, value: Value, part: Part, layout: Layout) -> Window:
        """The window of a part as an operation sees it: of a view, where it looks at one."""
        if value is part.value:
            return part.window
        spans = [Span.whole(extent) for extent in value.shape]
        for loop, axis in enumerate(layout.axes):
            if value in axis.dims:
                dim, scale = axis.dims[value]
                spans[dim] = Span.tile(loop, value.shape[dim], scale)
        return _part(value, spans, layout.loops).window

    def home_cycles(self, layout: Layout, part: Part) -> float:
        """Estimated cycles that a group spends on a tensor because it is in its home."""
        if not part.direct:
            return self.transfer_cycles(part, layout.loops) + ISSUE_CYCLES
        touched = part.loads or part.value.size
        return touched * (self.setting.home.load_cycles - self.setting.fast.load_cycles) / self.setting.target.cores

    def needed(self, ops: Sequence[StructuredOp]) -> frozenset[Value]:
        """The outputs of a group that must get to their homes."""
        inside = {id(op) for op in ops}
        readers, kept = self.setting.readers, self.setting.kept
        return frozenset(
            output
            for op in ops
            for output in op.outputs
            if output in kept or not readers.get(output, frozenset()) <= inside
        )

    # Windows

    def _outputs(
        self, ops: Sequence[StructuredOp], axes: Sequence[Axis], loops: tuple[TileLoop, ...]
    ) -> dict[Value, Part]:
        return {output: self._exact(output, axes, loops) for op in ops for output in op.outputs}

    def _exact(self, value: Value, axes: Sequence[Axis], loops: tuple[TileLoop, ...]) -> Part:
        spans = [Span.whole(extent) for extent in value.shape]
        for loop, axis in enumerate(axes):
            if value in axis.dims:
                dim, scale = axis.dims[value]
                spans[dim] = Span.tile(loop, value.shape[dim], scale)
        return _part(value, spans, loops)

    def _inputs(
        self, prints: Sequence[Footprint], loops: tuple[TileLoop, ...], outputs: dict[Value, Part]
    ) -> dict[Value, Part]:
        found: dict[Value, tuple[Sequence[Span], int, dict[int, None]]] = {}
        hull: Sequence[Span]
        for k, footprint in enumerate(prints):
            for value, spans, loads in footprint.reads:
                if self.views.root(value) in outputs:
                    continue
                if value in found:
                    before, others, readers = found[value]
                    hull = [_hull(a, b) for a, b in zip(before, spans, strict=True)]
                    found[value] = (hull, others + loads, readers | {k: None})
                else:
                    found[value] = (spans, loads, {k: None})
        parts = {}
        for value, (hull, loads, readers) in found.items():
            parts[value] = _part(value, hull, loops)
            parts[value].loads, parts[value].readers = loads, list(readers)
        return parts

    def operands(self, op: StructuredOp) -> list[Value]:
        """The tensors that an operation reads."""
        if id(op) not in self._operands:
            self._operands[id(op)] = op.operands
            self._keep.append(op)
        return self._operands[id(op)]

    def _may_overwrite(self, op: StructuredOp, output: Value, operand: Value) -> bool:
        key = (id(op), output, operand)
        if key not in self._overwrites:
            self._overwrites[key] = may_overwrite(op, output, operand)
        return self._overwrites[key]

    def accesses(self, op: StructuredOp) -> list[Access]:
        """The reads of an operation, those inside indices included."""
        if id(op) not in self._accesses:
            found = []
            for n, nest in enumerate(op.nests):
                for access in nest.accesses():
                    used = {k for row in access.index for k in row.iterators()}
                    unused = math.prod(nest.extents[k] for k in range(nest.parallel) if k not in used)
                    reuse = min(unused, BLOCK_REUSE) if nest.results[0].combiner == "dot" else 1
                    loads = max(math.prod(nest.extents[: max(used, default=-1) + 1]) // reuse, 1)
                    found.append(Access(n, access.value, access.index, loads))
                found.extend(Access(n, table, None, nest.points) for table in nest.tables())
            self._accesses[id(op)] = found
            self._keep.append(op)
        return self._accesses[id(op)]

    def _is_direct(self, part: Part, loops: tuple[TileLoop, ...], forced: bool) -> bool:
        """Whether reading a tensor where it lives costs less than copying it."""
        root = self.views.root(part.value)
        if root in self.setting.resident or not part.bytes:
            return True
        if root in self.setting.distant:
            return False
        if forced:
            return True
        cores = self.setting.target.cores
        reading = part.loads * (self.setting.home.load_cycles - self.setting.fast.load_cycles) / cores
        return reading < self.transfer_cycles(part, loops)

    # Buffers

    def _share(self, layout: Layout) -> dict[Value, Value]:
        """Outputs that are computed in the place of an operand which is not needed any more."""
        shared: dict[Value, Value] = {}
        last: dict[Value, int] = {}
        seen: dict[Value, set[Value]] = {}
        for k, op in enumerate(layout.ops):
            for access in self.accesses(op):
                root = self.views.root(access.value)
                last[root] = k
                seen.setdefault(root, set()).add(access.value)
        taken: set[Value] = set()
        for k, op in enumerate(layout.ops):
            for output in op.outputs:
                part = layout.outputs[output]
                if part.direct:
                    continue
                for operand in self.operands(op):
                    root = self.views.root(operand)
                    source = layout.outputs.get(root) or layout.inputs.get(operand)
                    if source is None or source.direct or root in taken or last[root] != k or seen[root] != {operand}:
                        continue
                    if root in layout.outputs and (root in layout.needed or layout.cut(_position(layout, root))):
                        continue
                    if root not in layout.outputs and source.window.depth != len(layout.loops):
                        continue
                    if source.bytes != part.bytes or source.shape != part.shape:
                        continue
                    if source.window.spans == part.window.spans and self._may_overwrite(op, output, operand):
                        shared[output] = operand
                        taken.add(root)
                        break
        return shared

    def buffers(self, layout: Layout) -> list[tuple[Value, Buffer]]:
        """The tile buffers of a group with their lifetimes in kernels of the group; shared ones count once."""
        count = len(layout.ops)
        alive: dict[Value, list[int]] = {}
        for value, part in layout.inputs.items():
            if not part.direct:
                kept = layout.tiles > 1 and (layout.overlap or part.window.depth < len(layout.loops))
                alive[value] = [0, count if kept else part.readers[-1] + 1]
        for k, op in enumerate(layout.ops):
            for output in op.outputs:
                part = layout.outputs[output]
                if part.direct:
                    continue
                kept = bool(layout.cut(k))
                stored = output in layout.needed
                alive[output] = [0 if kept or (stored and layout.tiles > 1) else k, count if kept or stored else k + 1]
        for k, op in enumerate(layout.ops):
            for access in self.accesses(op):
                root = self.views.root(access.value)
                if root in alive and root in layout.outputs:
                    alive[root][1] = max(alive[root][1], k + 1)
        holder = self.holders(layout)
        for output in layout.shared:
            first = holder[output]
            alive[first] = [min(alive[first][0], alive[output][0]), max(alive[first][1], alive[output][1])]
        found = []
        for value, (lower, upper) in alive.items():
            if holder.get(value, value) is value:
                part = layout.inputs.get(value) or layout.outputs[value]
                size = self.setting.fast.aligned(part.bytes) * self.copies(layout, value)
                found.append((value, Buffer(lower, upper, size)))
        return found

    def holders(self, layout: Layout) -> dict[Value, Value]:
        """For every output that shares a buffer, the tensor whose buffer it is: as seen if it comes from outside."""
        holder: dict[Value, Value] = {}
        for output, operand in layout.shared.items():
            source = self.views.root(operand)
            source = source if source in layout.outputs else operand
            holder[output] = holder.get(source, source)
        return holder

    def copies(self, layout: Layout, value: Value) -> int:
        """How many copies a tile buffer has: two where a transfer of another tile goes on beside the kernels."""
        if not layout.overlap:
            return 1
        holder = self.holders(layout)
        mine = [value, *(output for output, held in holder.items() if held is value)]
        for member in mine:
            part = layout.inputs.get(member) or layout.outputs[member]
            moves = member in layout.inputs or member in layout.needed
            if moves and part.window.depth > 0:
                return 2
        return 1

    # Cycles

    def transfer_cycles(self, part: Part, loops: tuple[TileLoop, ...]) -> float:
        """Cycles of the DMA for all copies of a window in a group."""
        times = math.prod(loop.count for loop in loops[: part.window.depth])
        home = self.setting.home
        lines = part.lines
        if home.dma_bytes_per_cycle is None:
            return 0.0
        once = home.dma_setup_cycles + part.bytes / home.dma_bytes_per_cycle + LINE_CYCLES * (lines - 1)
        far = self.setting.far
        if far is not None and far.dma_bytes_per_cycle and self.views.root(part.value) in self.setting.distant:
            once += lines * far.dma_setup_cycles + part.bytes / far.dma_bytes_per_cycle
        return times * once

    def _estimate(self, layout: Layout) -> None:
        target = self.setting.target
        compute = 0.0
        for k, op in enumerate(layout.ops):
            for n, nest in enumerate(op.nests):
                spans = layout.ranges[k, n]
                layout.mappings[k, n], cycles = self.setting.timings.of(nest, spans, layout.loops)
                compute += cycles
        home, fast = self.setting.home, self.setting.fast
        transfers = 0.0
        issues = 0
        for part in layout.inputs.values():
            if part.direct:
                if self.views.root(part.value) not in self.setting.resident:
                    compute += part.loads * (home.load_cycles - fast.load_cycles) / target.cores
                continue
            transfers += self.transfer_cycles(part, layout.loops)
            issues += math.prod(loop.count for loop in layout.loops[: part.window.depth])
        for value, part in layout.outputs.items():
            if value in layout.needed and not part.direct:
                transfers += self.transfer_cycles(part, layout.loops)
                issues += math.prod(loop.count for loop in layout.loops[: part.window.depth])
            elif part.direct and value not in self.setting.resident:
                compute += value.size * (home.load_cycles - fast.load_cycles) / target.cores
        compute += issues * ISSUE_CYCLES + layout.tiles * TILE_CYCLES
        if layout.overlap:
            edges = transfers / layout.tiles
            layout.cycles = max(compute, transfers) + edges
        else:
            layout.cycles = compute + transfers
        left = sum(value.bytes for value in layout.needed if value not in self._free)
        layout.cycles += self.setting.price * left


def _position(layout: Layout, value: Value) -> int:
    return next(k for k, op in enumerate(layout.ops) if value in op.outputs)


def _ranges(nest: Nest, tiled: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    spans = [Span.whole(extent) for extent in nest.extents]
    for loop, (iterator, scale) in enumerate(tiled):
        spans[iterator] = Span.tile(loop, nest.extents[iterator], scale)
    return tuple(spans)


@lru_cache(maxsize=1 << 16)
def _tidy(spans: tuple[Span, ...], loops: tuple[TileLoop, ...]) -> tuple[Window, tuple[int, ...], int]:
    """The window of some ranges, its shape and its contiguous pieces; axes that every tile needs all of do not move."""
    tidy = tuple(Span.whole(span.extent) if span.size(loops) >= span.extent else span for span in spans)
    shape = tuple(span.size(loops) for span in tidy)
    lines, inside = 1, True
    for span, size in zip(reversed(tidy), reversed(shape), strict=True):
        if not inside:
            lines *= size
        inside = inside and size == span.extent
    return Window(tidy, max((span.depth for span in tidy), default=0)), shape, lines


def _part(value: Value, spans: Sequence[Span], loops: tuple[TileLoop, ...]) -> Part:
    window, shape, lines = _tidy(tuple(spans), loops)
    return Part(value, window, shape, math.prod(shape) * value.dtype.size, lines)


def _hull(a: Span, b: Span) -> Span:
    if a == b:
        return a
    if a.terms != b.terms:
        return Span.whole(a.extent)
    offset = min(a.offset, b.offset)
    return Span(a.terms, offset, max(a.offset + a.extra, b.offset + b.extra) - offset, a.extent)
