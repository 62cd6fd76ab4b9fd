"""The plan: everything that code generation needs to know and does not decide.

It is data: it prints as text and saves as JSON. Every tensor has a storage. Every entry point is a list of groups in
execution order; a group is one loop nest over tiles, whose body is a list of kernels that share buffers in the fast
memory, with the transfers that fill and empty these buffers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tilegrad.ir.graph import StructuredOp, Value
from tilegrad.planning.mapping import Mapping
from tilegrad.planning.span import Span, TileLoop

#: Bytes of the home memory through which the program copies or clears state that only transfers reach; there are two.
FAR_BUFFER_BYTES = 256


@dataclass(eq=False)
class Storage:
    """A range of memory that one or several values occupy, one after the other or as views.

    Attributes:
        name: C identifier, unique in the project.
        bytes: the size of one copy.
        level: name of the memory it lives in.
        values: the tensors that occupy it.
        persistent: the persistent tensor it belongs to, or None for a range of the arena.
        offset: byte offset in the arena of its level; for a persistent one, None: the linker places it by name.
        lower: first kernel of the entry point that uses it.
        upper: first kernel after its life.
        copies: 2 where two tiles take turns in it, so that one is filled while the other is in use.
        stride: bytes from one copy to the next.
    """

    name: str
    bytes: int
    level: str
    values: list[Value] = field(default_factory=list)
    persistent: Value | None = None
    offset: int | None = None
    lower: int = 0
    upper: int = 0
    copies: int = 1
    stride: int = 0

    @property
    def total(self) -> int:
        """Bytes of all copies."""
        return self.bytes + (self.copies - 1) * self.stride


@dataclass(frozen=True)
class Window:
    """The part of a tensor that a storage holds, dense and row-major.

    Attributes:
        spans: the range along every axis of the tensor; element 0 of the storage is their `Span.origin`.
        depth: how many of the outermost tile loops it moves with; it changes where one of them goes on.
    """

    spans: tuple[Span, ...]
    depth: int

    def shape(self, loops: Sequence[TileLoop]) -> tuple[int, ...]:
        """Elements along every axis of the storage."""
        return tuple(span.size(loops) for span in self.spans)

    def strides(self, loops: Sequence[TileLoop]) -> tuple[int, ...]:
        """Distance in elements between neighbours along every axis of the storage."""
        strides, step = [], 1
        for size in reversed(self.shape(loops)):
            strides.append(step)
            step *= size
        return tuple(reversed(strides))


@dataclass(eq=False)
class Kernel:
    """One C function: the nests of one operation over one tile.

    Attributes:
        name: C identifier.
        op: the operation.
        reads: the storage behind every operand.
        writes: the storage behind every output.
        in_place: storages that are both read and written.
        windows: the part that the storage of an operand or output holds; without one it holds all of the tensor.
        ranges: for every nest, the range of each of its iterators in a tile.
        mappings: for every nest, the structure of its loops.
        cut: tile loops that cut a reduction: the sums continue from tile to tile in the outputs' storages.
        filled: where elements exist that no nest writes, the part of every output that one tile initialises.
    """

    name: str
    op: StructuredOp
    reads: dict[Value, Storage]
    writes: dict[Value, Storage]
    in_place: list[Storage]
    windows: dict[Value, Window] = field(default_factory=dict)
    ranges: tuple[tuple[Span, ...], ...] = ()
    mappings: tuple[Mapping, ...] = ()
    cut: tuple[int, ...] = ()
    filled: dict[Value, tuple[Span, ...]] = field(default_factory=dict)


@dataclass(eq=False)
class Transfer:
    """A copy of the part of a tensor that a tile needs or has finished.

    Attributes:
        storage: the tile buffer.
        home: where the whole tensor lives.
        value: the tensor, as the kernels see it: row-major in its home.
        window: the part.
        inward: True from the home to the tile buffer.
        via: buffer of the size of `storage` in the memory between the two, where no DMA reaches across, or None.
    """

    storage: Storage
    home: Storage
    value: Value
    window: Window
    inward: bool
    via: Storage | None = None


@dataclass(eq=False)
class Group:
    """Kernels that run tile by tile.

    Attributes:
        name: C identifier.
        loops: the tile loops, outermost first; none where there is one tile.
        kernels: the body, in order.
        loads: what comes in before the first kernel of a tile.
        stores: what goes out behind the last one.
        overlap: whether the loads of the next tile go on while the kernels of this one run.
        cycles: estimated cycles of the whole group.
        reason: why these loops were chosen, for readers.
    """

    name: str
    loops: tuple[TileLoop, ...]
    kernels: list[Kernel]
    loads: list[Transfer] = field(default_factory=list)
    stores: list[Transfer] = field(default_factory=list)
    overlap: bool = False
    cycles: float = 0.0
    reason: str = ""

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return math.prod(loop.count for loop in self.loops)


@dataclass(frozen=True)
class Copy:
    """A persistent tensor is replaced by a copy at the end of the entry point."""

    target: Storage
    source: Storage
    bytes: int


@dataclass(eq=False)
class EntryPlan:
    """One entry point of the generated program.

    Attributes:
        name: ``train``, ``optimize``, ``predict``.
        groups: in execution order.
        copies: executed after the last kernel.
        storages: all storages it uses.
        arenas: for every level, the bytes of its arena that it needs.
        lower_bounds: for every level, the most bytes of its arena that are alive at one moment.
    """

    name: str
    groups: list[Group]
    copies: list[Copy]
    storages: list[Storage]
    arenas: dict[str, int]
    lower_bounds: dict[str, int]

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels, in order."""
        return [kernel for group in self.groups for kernel in group.kernels]


@dataclass(frozen=True)
class LevelUse:
    """Memory of one level, in bytes.

    Attributes:
        peak: static tensors, arena and what the runtime reserves.
        lower_bound: the same with the most bytes alive at one moment in place of the arena.
        capacity: the budget, or None for no limit.
        static: bytes of the static tensors.
        reserved: bytes that the target's runtime and the stacks take.
    """

    peak: int
    lower_bound: int
    capacity: int | None
    static: int = 0
    reserved: int = 0


@dataclass(eq=False)
class Plan:
    """The plan of a whole program.

    Attributes:
        target: name of the target.
        level: name of the memory that holds the tensors unless something else is said.
        cores: how many cores execute every kernel together.
        entries: the entry points.
        persistent: storage of every persistent tensor, in a fixed order.
        constants: storage of every constant tensor.
        arenas: for every level, the size of its arena, shared by the entry points.
        memory: use of every level.
        far: levels that only transfers reach.
        notes: what was done to stay within the budgets, for readers.
    """

    target: str
    level: str
    entries: list[EntryPlan]
    persistent: list[Storage]
    constants: list[Storage]
    arenas: dict[str, int]
    memory: dict[str, LevelUse]
    cores: int = 1
    far: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON-compatible data."""
        from tilegrad.planning.text import plan_json

        return plan_json(self)

    def as_text(self) -> str:
        """The plan as text: memories, storages with lifetimes, groups with their transfers and kernels."""
        from tilegrad.planning.text import plan_text

        return plan_text(self)
