"""A group in numbers: where every kernel and transfer finds its tensors, and what it touches, in every tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Nest, Value
from tilegrad.planning.plan import Group, Kernel, Storage, Transfer, Window
from tilegrad.planning.validation import footprint
from tilegrad.planning.validation.chains import Chain, chain_of
from tilegrad.planning.validation.mappings import check_mapping
from tilegrad.planning.validation.tiles import Numbers, Tiles

Coordinates = list[list[int]]


class Place:
    """Where a kernel or a transfer finds a tensor: its storage and the local index of every element, tile by tile.

    Attributes:
        value: the tensor or view.
        storage: where it is.
        window: the part that the storage holds, or None for all of it.
        shape: elements along every axis of the storage.
        natural: whether the storage holds the whole tensor in order.
        count: elements of the storage that are used.
        origins: global index of the first element along every axis, ``[tile][axis]``.
        copy: which copy of the storage.
        first: first element of the part that belongs to the tile, and `last` the one behind its last.
    """

    def __init__(self, value: Value, storage: Storage, window: Window | None, tiles: Tiles, where: str) -> None:
        self.value, self.storage, self.window = value, storage, window
        self.item = value.dtype.size
        self.shape: tuple[int, ...] = value.shape
        origins = np.zeros((tiles.count, value.rank), np.int64)
        first = origins
        last = np.broadcast_to(np.array(value.shape, np.int64), origins.shape)
        copies: Numbers = np.zeros(tiles.count, np.int64)
        if window is not None:
            tiles.window(window, value.shape, where)
            self.shape = tuple(tiles.size(span) for span in window.spans)
            if window.spans:
                origins = np.stack([tiles.origin(span) for span in window.spans], 1)
                bounds = [tiles.bounds(span) for span in window.spans]
                first = np.stack([bound[0] for bound in bounds], 1)
                last = np.stack([bound[1] for bound in bounds], 1)
            copies = tiles.prefix(window.depth) % storage.copies
        elif storage.copies != 1:
            raise InternalError(f"{where}: {storage.name} has copies, but {value.name} does not move in it")
        self.natural = self.shape == value.shape
        self.count = int(np.prod(self.shape, dtype=object))
        if self.count * self.item > storage.bytes:
            raise InternalError(f"{where}: {self.count * self.item} bytes in {storage.name}, which has {storage.bytes}")
        self.origin_array: Numbers = origins
        self.origins: Coordinates = origins.tolist()
        self.first: Coordinates = first.tolist()
        self.last: Coordinates = last.tolist()
        self.copy: list[int] = copies.tolist()

    @property
    def needed(self) -> int:
        """Bytes of one copy of the storage that are used."""
        return self.count * self.item


@dataclass
class Reading:
    """One read of a kernel: which box of which tensor, tile by tile."""

    place: Place
    phase: str
    low: Coordinates
    high: Coordinates
    active: list[bool]
    seen: dict[Any, int] = field(default_factory=dict)


@dataclass
class KernelTiles:
    """A kernel in numbers.

    Attributes:
        kernel: the kernel.
        chain: which part of its sums belongs to every tile.
        readings: what it reads.
        operands: where its operands are.
        outputs: where its outputs are.
        begins: for every nest the first index of every iterator, ``[tile][iterator]``, and `ends` behind the last.
        whole: tiles that compute all of the operation.
        owned: for every output of an operation with `init`, which elements a nest defines, in the shape of the output.
        filled: for every such output, the box that is initialised, first and behind the last along every axis, by tile.
    """

    kernel: Kernel
    chain: Chain
    readings: list[Reading]
    operands: dict[Value, Place]
    outputs: dict[Value, Place]
    begins: list[Coordinates]
    ends: list[Coordinates]
    whole: list[bool]
    owned: dict[Value, footprint.Flags]
    filled: dict[Value, tuple[Coordinates, Coordinates]]


def kernel_tiles(kernel: Kernel, tiles: Tiles, cores: int) -> KernelTiles:
    """Evaluate the ranges, windows and footprints of a kernel for all tiles.

    Raises:
        InternalError: if a range is not one of its iterator, a tile cuts a sum against its order, a mapping does not
            fit, or a tile touches elements outside a window.
    """
    nests = kernel.op.nests
    if len(kernel.ranges) != len(nests) or len(kernel.mappings) != len(nests):
        raise InternalError(f"kernel {kernel.name} does not have ranges and loops for each of its nests")
    begins, ends = [], []
    for nest, spans, mapping in zip(nests, kernel.ranges, kernel.mappings, strict=True):
        if len(spans) != len(nest.extents):
            raise InternalError(f"kernel {kernel.name}: a nest does not have a range for each of its iterators")
        for span, extent in zip(spans, nest.extents, strict=True):
            tiles.check(span, extent, f"kernel {kernel.name}")
        bounds = [tiles.bounds(span) for span in spans]
        shape = (tiles.count, len(spans))
        begins.append(np.stack([b for b, _ in bounds], 1) if bounds else np.zeros(shape, np.int64))
        ends.append(np.stack([e for _, e in bounds], 1) if bounds else np.zeros(shape, np.int64))
        check_mapping(kernel, nest, mapping, cores)
    chain = chain_of(kernel, tiles, begins, ends)
    places = _places(kernel, tiles)
    outputs = {output: places[output] for output in kernel.op.outputs}
    whole = [bool(chain.length == 1)] * tiles.count
    for nest, first, last in zip(nests, begins, ends, strict=True):
        every: footprint.Flags = np.all((first == 0) & (last == np.array(nest.extents, np.int64)), axis=1)
        whole = [mine and bool(other) for mine, other in zip(whole, every, strict=True)]
    return KernelTiles(
        kernel, chain, _readings(kernel, tiles, places, begins, ends),
        {operand: places[operand] for operand in kernel.op.operands}, outputs,
        [first.tolist() for first in begins], [last.tolist() for last in ends], whole,
        _owned(kernel) if kernel.op.init is not None and not all(whole) else {}, _filled(kernel, tiles),
    )  # fmt: skip


def _filled(kernel: Kernel, tiles: Tiles) -> dict[Value, tuple[Coordinates, Coordinates]]:
    """The boxes that are initialised, by output."""
    outputs = kernel.op.outputs if kernel.op.init is not None else ()
    if list(kernel.filled) != list(outputs):
        raise InternalError(f"kernel {kernel.name} does not say where it initialises its outputs")
    found = {}
    for output, spans in kernel.filled.items():
        if len(spans) != output.rank:
            raise InternalError(f"kernel {kernel.name}: {output.name} is not initialised along each of its axes")
        for span, extent in zip(spans, output.shape, strict=True):
            tiles.check(span, extent, f"kernel {kernel.name}, {output.name}")
        bounds = [tiles.bounds(span) for span in spans]
        shape = (tiles.count, 0)
        first = np.stack([b for b, _ in bounds], 1) if bounds else np.zeros(shape, np.int64)
        last = np.stack([e for _, e in bounds], 1) if bounds else np.zeros(shape, np.int64)
        found[output] = (first.tolist(), last.tolist())
    return found


def _places(kernel: Kernel, tiles: Tiles) -> dict[Value, Place]:
    places = {}
    accessed = {**kernel.reads, **kernel.writes}
    if not set(kernel.windows) <= set(accessed):
        raise InternalError(f"kernel {kernel.name} has windows into tensors that it does not access")
    for value, storage in accessed.items():
        where = f"kernel {kernel.name}, {value.name}"
        places[value] = Place(value, storage, kernel.windows.get(value), tiles, where)
    return places


def _readings(
    kernel: Kernel, tiles: Tiles, places: dict[Value, Place], begins: Sequence[Numbers], ends: Sequence[Numbers]
) -> list[Reading]:
    readings = []
    for nest, first, last in zip(kernel.op.nests, begins, ends, strict=True):
        columns = range(len(nest.extents))
        for read in footprint.reads(nest, [first[:, k] for k in columns], [last[:, k] for k in columns], tiles.count):
            place = places[read.value]
            ends_of = place.origin_array + np.array(place.shape, np.int64)
            inside: footprint.Flags = np.all((read.low >= place.origin_array) & (read.high < ends_of), axis=1)
            outside: footprint.Flags = read.active & ~inside
            if outside.any():
                tile = int(np.flatnonzero(outside)[0])
                box = ", ".join(f"{a}..{b}" for a, b in zip(read.low[tile], read.high[tile], strict=True))
                held = ", ".join(
                    f"{o}..{o + n - 1}" for o, n in zip(place.origins[tile], place.shape, strict=True)
                )  # fmt: skip
                raise InternalError(
                    f"kernel {kernel.name} reads {read.value.name}[{box}] in tile {tile}, where "
                    f"{place.storage.name} has [{held}]"
                )
            readings.append(
                Reading(place, read.phase, read.low.tolist(), read.high.tolist(), read.active.tolist())
            )  # fmt: skip
    return readings


def _owned(kernel: Kernel) -> dict[Value, footprint.Flags]:
    """Which elements of its outputs the nests of an operation define; the others are initialised only."""
    owned = {output: np.zeros(output.shape, bool) for output in kernel.op.outputs}
    for nest in kernel.op.nests:
        for result in nest.results:
            for output in result.outputs:
                found = footprint.written(nest, result.index, output.shape, [0] * len(nest.extents), nest.extents)
                if found is not None:
                    owned[output][found.axes if found.slices is None else found.slices] = True
    return owned


def check_overwriting(kernel: Kernel) -> None:
    """A kernel may overwrite an operand only where each element is read for nothing but the one that replaces it.

    Raises:
        InternalError: if it may not, or if the plan does not say that it does.
    """
    if set(kernel.reads) != set(kernel.op.operands) or set(kernel.writes) != set(kernel.op.outputs):
        raise InternalError(f"kernel {kernel.name} does not access the tensors of its operation")
    both = set(kernel.reads.values()) & set(kernel.writes.values())
    if set(kernel.in_place) != both or len(kernel.in_place) != len(both):
        raise InternalError(f"kernel {kernel.name} does not say what it overwrites")
    if len(set(kernel.writes.values())) != len(kernel.writes):
        raise InternalError(f"kernel {kernel.name} writes two outputs to one place")
    for output, storage in kernel.writes.items():
        for operand in [value for value, home in kernel.reads.items() if home is storage]:
            alone = len(kernel.writes) == 1 and kernel.op.init is None
            mine, other = kernel.windows.get(output), kernel.windows.get(operand)
            same = operand.strides == output.strides if mine is None and other is None else mine == other
            apart = all(_reads_where_it_writes(nest, output, operand) for nest in kernel.op.nests)
            if not (alone and same and operand.dtype is output.dtype and apart):
                raise InternalError(f"kernel {kernel.name} overwrites {operand.name} while it still reads it")


def _reads_where_it_writes(nest: Nest, output: Value, operand: Value) -> bool:
    """True where every iteration reads the operand at nothing but the element of the output that it writes."""
    written = {_plain(result.index, nest) for result in nest.results if output in result.outputs}
    read = {_plain(access.index, nest) for access in nest.accesses() if access.value is operand}
    tables = {table for row in nest.indices() for table in row.tables()}
    return not nest.scatter and operand not in tables and read <= written


def _plain(index: Sequence[Affine], nest: Nest) -> tuple[Affine, ...]:
    """An index without the iterators that are always 0."""
    still = {k: Affine() for k, extent in enumerate(nest.extents) if extent == 1}
    return tuple(row.substitute(still) for row in index)


@dataclass
class TransferTiles:
    """A transfer in numbers.

    Attributes:
        transfer: the transfer.
        place: the part of the tensor in the tile buffer.
        home: the tensor in its home.
        changes: for a load, tiles whose part is not that of the tile before; for a store, of the tile behind.
    """

    transfer: Transfer
    place: Place
    home: Place
    changes: list[bool]

    def box(self, tile: int) -> tuple[slice, ...]:
        """What the tile buffer holds of the tensor."""
        return tuple(slice(o, o + n) for o, n in zip(self.place.origins[tile], self.place.shape, strict=True))


def transfer_tiles(transfer: Transfer, group: Group, tiles: Tiles) -> TransferTiles:
    """Evaluate the window of a transfer for all tiles.

    Raises:
        InternalError: if it does not lie inside its source and its destination.
    """
    where = f"{group.name}, a transfer of {transfer.value.name}"
    place = Place(transfer.value, transfer.storage, transfer.window, tiles, where)
    home = Place(transfer.value, transfer.home, None, tiles, where)
    shape = np.array(transfer.value.shape, np.int64)
    low, high = place.origin_array, place.origin_array + np.array(place.shape, np.int64)
    if (low < 0).any() or (high > shape).any():
        raise InternalError(f"{where} leaves the tensor")
    if transfer.via is not None and transfer.via.bytes < place.needed:
        raise InternalError(f"{where} does not fit into {transfer.via.name}")
    prefix = tiles.prefix(transfer.window.depth)
    steps = np.diff(prefix) != 0
    edge = np.ones(1, bool)
    changes = np.concatenate([edge, steps] if transfer.inward else [steps, edge])
    return TransferTiles(transfer, place, home, changes.tolist())
