"""What a nest touches in every tile, from its indexing maps: elements read with their reason, and elements written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import Expr, walk
from tilegrad.ir.graph import Nest, Value
from tilegrad.planning.validation.tiles import Numbers, interval

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Read:
    """The box of elements of one tensor that one index expression may touch, tile by tile.

    Attributes:
        value: the tensor.
        phase: ``term``; ``start`` for what only the first tile of a sum reads; ``final`` for only the last.
        low: first element, ``[tile, axis]``.
        high: last element, inclusive.
        active: tiles in which there is anything to read.
    """

    value: Value
    phase: str
    low: Numbers
    high: Numbers
    active: Flags


@dataclass(frozen=True)
class Index:
    """An index of a nest into one tensor, with the guards that protect it."""

    value: Value
    rows: tuple[Affine, ...]
    phase: str
    guards: tuple[Guard, ...]


def indices(nest: Nest) -> list[Index]:
    """Every distinct place in which a nest reads a tensor, tables inside indices included."""
    found: list[Index] = []
    for result in nest.results:
        for expr in result.exprs:
            found.extend(_reads(expr, "term", nest.guards))
        for outer, phase in ((result.start, "start"), (result.final, "final")):
            if outer is not None:
                found.extend(_reads(outer, phase, ()))
        guarded = nest.guards if nest.scatter or result.combiner == "assign" else ()
        for row in result.index:
            found.extend(_tables(row, "term", guarded))
    for guard in nest.guards:
        earlier = tuple(g for g in nest.guards if g.index.depth < guard.index.depth)
        found.extend(_tables(guard.index, "term", earlier))
    return list(dict.fromkeys(found))


def _reads(root: Expr, phase: str, guards: tuple[Guard, ...]) -> Iterator[Index]:
    for node in walk(root):
        if node.op == "read":
            yield Index(node.attr.value, node.attr.index, phase, guards)
            for row in node.attr.index:
                yield from _tables(row, phase, guards)
        elif node.op == "index":
            yield from _tables(node.attr, phase, guards)


def _tables(row: Affine, phase: str, guards: tuple[Guard, ...]) -> Iterator[Index]:
    for lookup in row.lookups:
        yield Index(lookup.value, lookup.index, phase, guards)
        for inner in lookup.index:
            yield from _tables(inner, phase, guards)


def reads(nest: Nest, begins: Sequence[Numbers], ends: Sequence[Numbers], count: int) -> list[Read]:
    """What a nest reads while its iterators run over ``[begin, end)``, in each of `count` tiles."""
    everywhere = np.ones(count, bool)
    outer = everywhere.copy()
    for begin, end in list(zip(begins, ends, strict=True))[: nest.parallel]:
        outer &= end > begin
    inner = outer.copy()
    for begin, end in list(zip(begins, ends, strict=True))[nest.parallel :]:
        inner &= end > begin
    found = []
    for index in indices(nest):
        active = (inner if index.phase == "term" else outer).copy()
        low = np.zeros((count, index.value.rank), np.int64)
        high = np.zeros((count, index.value.rank), np.int64)
        for axis, (row, extent) in enumerate(zip(index.rows, index.value.shape, strict=True)):
            first, last = _axis(row, extent, index.guards, begins, ends)
            low[:, axis], high[:, axis] = first, last
            active &= high[:, axis] >= low[:, axis]
        found.append(Read(index.value, index.phase, low, high, active))
    return found


def _axis(
    row: Affine, extent: int, guards: Sequence[Guard], begins: Sequence[Numbers], ends: Sequence[Numbers]
) -> tuple[Numbers | int, Numbers | int]:
    """The elements along one axis: the image of the ranges, cut by the guards of the same index."""
    found = interval(row, begins, ends)
    low, high = (0, extent - 1) if found is None else found
    for guard in guards:
        shift = row - guard.index
        if shift.is_constant or guard.index == row:
            distance = shift.constant if shift.is_constant else 0
            low = np.maximum(low, guard.lower + distance)
            high = np.minimum(high, guard.upper - 1 + distance)
    return low, high


@dataclass(frozen=True)
class Written:
    """The elements of one output that a nest defines in one tile.

    Attributes:
        slices: along every axis, where they form a strided box.
        axes: else their index along every axis, point by point.
    """

    slices: tuple[slice, ...] | None
    axes: tuple[NDArray[np.int64], ...] = ()


def written(
    nest: Nest, rows: Sequence[Affine], shape: Sequence[int], begins: Sequence[int], ends: Sequence[int]
) -> Written | None:
    """The elements that the points of a box define; of a scatter nest, those that it may add to.

    Different parallel points define different elements (`ir.verifier` proves it), so what is returned for disjoint
    boxes is disjoint.

    Returns:
        The elements, or None where the box has no parallel points.
    """
    live = range(len(nest.extents)) if nest.scatter else range(nest.parallel)
    if any(ends[k] <= begins[k] for k in range(nest.parallel)):
        return None
    used: list[int] = []
    slices = []
    for row, extent in zip(rows, shape, strict=True):
        if row.lookups:
            slices.append(slice(0, extent))  # which one is known only at run time
            continue
        used.extend(iterator for iterator, _ in row.terms)
        low = high = row.constant
        for iterator, coefficient in row.terms:
            ends_of = (coefficient * begins[iterator], coefficient * (ends[iterator] - 1))
            low, high = low + min(ends_of), high + max(ends_of)
        step = abs(row.terms[0][1]) if len(row.terms) == 1 else 1
        slices.append(slice(max(low, 0), min(high + 1, extent), step))
    inexact = nest.scatter or any(row.lookups for row in rows)
    simple = all(len(row.terms) <= 1 for row in rows) and len(set(used)) == len(used)
    if simple or inexact:
        return Written(tuple(slices))
    grids = {k: np.arange(begins[k], ends[k]).reshape([-1 if j == k else 1 for j in live]) for k in live}
    axes = []
    for row in rows:
        total = np.full([1] * len(live), row.constant, np.int64)
        for iterator, coefficient in row.terms:
            total = total + coefficient * grids[iterator]
        axes.append(total)
    return Written(None, tuple(np.broadcast_arrays(*axes)))
