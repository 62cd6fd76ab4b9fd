"""Which iterators of several operations run together along one tile loop.

The operations of a group share a loop over tiles only if every tile is self-contained: what one operation of the group
writes in a tile is exactly what the others read of it in the same tile. An axis is a set of iterators, at most one of
every nest, for which this holds. It follows from the indexing maps alone: beginning with one iterator, an axis spreads
over the outputs that the iterator indexes to the nests that read them, and back to the nests that write them. A
reduction iterator may belong to an axis where cutting it into consecutive ranges keeps the order of its sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Nest, StructuredOp, Value
from tilegrad.ir.types import DType

#: Position of a nest: the operation's in the group, the nest's in the operation.
Place = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """An axis of a group.

    Attributes:
        extent: elements of the tile loop.
        iterators: for every nest, its iterator and how many of its steps belong to one element of the loop.
        dims: for every tensor written in the group that the axis cuts, views included: the axis of the tensor and how
            many of its elements belong to one element of the loop.
        cuts: operations of which it cuts a reduction.
    """

    extent: int
    iterators: Mapping[Place, tuple[int, int]]
    dims: Mapping[Value, tuple[int, int]]
    cuts: frozenset[int]


class Views:
    """Tensors and the views of them: which axes coincide.

    Args:
        sources: every view and what it looks at.
    """

    def __init__(self, sources: Mapping[Value, Value]) -> None:
        self.sources = dict(sources)
        self._aligned: dict[tuple[Value, Value], dict[int, int]] = {}

    def root(self, value: Value) -> Value:
        """The tensor behind any number of views."""
        while value in self.sources:
            value = self.sources[value]
        return value

    def aligned(self, value: Value, other: Value) -> dict[int, int]:
        """For each axis of `value` the axis of `other` with the same extent and stride, where there is one."""
        key = (value, other)
        if key not in self._aligned:
            places = {(n, s): k for k, (n, s) in enumerate(zip(other.shape, other.strides, strict=True)) if n > 1}
            self._aligned[key] = {
                k: places[n, s]
                for k, (n, s) in enumerate(zip(value.shape, value.strides, strict=True))
                if (n, s) in places
            }
        return self._aligned[key]


def split_row(row: Affine, extents: Sequence[int], iterator: int) -> int | None:
    """The coefficient c of `iterator` if the rest of the index stays within [0, c), so that ranges map to ranges."""
    coefficient = row.coefficient(iterator)
    if coefficient <= 0 or row.lookups:
        return None
    rest = (row - Affine.iterator(iterator) * coefficient).interval(extents)
    return coefficient if rest is not None and rest[0] >= 0 and rest[1] < coefficient else None


def find_axis(ops: Sequence[StructuredOp], views: Views, seed: tuple[Place, int]) -> Axis | None:
    """The axis of a group that an iterator belongs to, or None where it does not reach every nest of the group.

    Args:
        ops: the operations of the group in order.
        views: the views of the graph.
        seed: a nest and one of its iterators.
    """
    return _Search(ops, views).run(seed)


class _Search:
    def __init__(self, ops: Sequence[StructuredOp], views: Views) -> None:
        self.ops, self.views = ops, views
        self.producer = {output: k for k, op in enumerate(ops) for output in op.outputs}
        self.readers: dict[Value, list[tuple[Place, Value, tuple[Affine, ...]]]] = {}
        for k, op in enumerate(ops):
            for n, nest in enumerate(op.nests):
                for access in nest.accesses():
                    root = views.root(access.value)
                    if root in self.producer:
                        self.readers.setdefault(root, []).append(((k, n), access.value, access.index))
        self.iterators: dict[Place, tuple[int, Fraction]] = {}
        self.dims: dict[Value, tuple[int, Fraction]] = {}
        self.queue: list[tuple[Place, int, Fraction]] = []

    def run(self, seed: tuple[Place, int]) -> Axis | None:
        self.queue.append((*seed, Fraction(1)))
        while self.queue:
            place, iterator, scale = self.queue.pop()
            if place in self.iterators:
                if self.iterators[place] != (iterator, scale):
                    return None
                continue
            self.iterators[place] = (iterator, scale)
            if not self._spread(place, iterator, scale):
                return None
        places = [(k, n) for k, op in enumerate(self.ops) for n in range(len(op.nests))]
        if any(place not in self.iterators for place in places):
            return None
        return self._finish()

    def _nest(self, place: Place) -> Nest:
        return self.ops[place[0]].nests[place[1]]

    def _spread(self, place: Place, iterator: int, scale: Fraction) -> bool:
        """From an iterator to the tensors that it indexes; a reduction only if it may be cut."""
        nest = self._nest(place)
        if not self._to_operands(nest, iterator, scale):
            return False
        if iterator >= nest.parallel:
            return self._may_cut(place, iterator)
        for result in nest.results:
            for output in result.outputs:
                if not self._to_value(output, result.index, nest, iterator, scale):
                    return False
        return True

    def _to_operands(self, nest: Nest, iterator: int, scale: Fraction) -> bool:
        """From an iterator to the tensors written in the group that the nest reads."""
        for access in nest.accesses():
            root = self.views.root(access.value)
            if root not in self.producer:
                continue
            for axis, row in enumerate(access.index):
                if not row.coefficient(iterator):
                    continue
                coefficient = split_row(row, nest.extents, iterator)
                dim = axis if root is access.value else self.views.aligned(access.value, root).get(axis)
                if coefficient is None or dim is None or not self._cut(root, dim, scale * coefficient):
                    return False
        return True

    def _may_cut(self, place: Place, iterator: int) -> bool:
        """A sum may be cut at its slowest reduction, if nothing in the group waits for it to be complete."""
        nest, op = self._nest(place), self.ops[place[0]]
        if nest.scatter or any(nest.extents[k] > 1 for k in range(nest.parallel, iterator)):
            return False
        if len(op.nests) != 1 or op.init is not None or nest.results[0].combiner == "assign":
            return False
        for result in nest.results:  # between tiles, accumulators and positions are kept in the outputs
            kept = zip(result.outputs, (result.dtype, DType.I32), strict=False)
            if any(output.dtype is not dtype for output, dtype in kept):
                return False
        return not any(self.readers.get(output) for output in op.outputs)

    def _to_value(
        self, output: Value, index: Sequence[Affine], nest: Nest, iterator: int, scale: Fraction
    ) -> bool:  # fmt: skip
        places = [dim for dim, row in enumerate(index) if iterator in set(row.iterators())]
        if len(places) != 1 or nest.scatter:
            return False
        (dim,) = places
        coefficient = split_row(index[dim], nest.extents, iterator)
        if coefficient is None:
            return False
        return self._cut(output, dim, scale * coefficient)

    def _cut(self, value: Value, dim: int, scale: Fraction) -> bool:
        """Note that the axis cuts a tensor; False if it cuts it elsewhere already."""
        if value in self.dims:
            return self.dims[value] == (dim, scale)
        self.dims[value] = (dim, scale)
        return self._from_value(value, dim, scale)

    def _from_value(self, value: Value, dim: int, scale: Fraction) -> bool:
        """From an axis of a tensor to the iterators that write and read it."""
        producer = self.producer[value]
        for n, nest in enumerate(self.ops[producer].nests):
            for result in nest.results:
                if value in result.outputs and not self._to_iterator((producer, n), result.index[dim], scale):
                    return False
        for place, seen, index in self.readers.get(value, ()):
            axis = dim if seen is value else self.views.aligned(value, seen).get(dim)
            if axis is None or not self._to_iterator(place, index[axis], scale):
                return False
        return True

    def _to_iterator(self, place: Place, row: Affine, scale: Fraction) -> bool:
        nest = self._nest(place)
        for iterator, _ in row.terms:
            if nest.extents[iterator] == 1:
                continue
            coefficient = split_row(row, nest.extents, iterator)
            if coefficient is not None:
                self.queue.append((place, iterator, scale / coefficient))
                return True
        return False

    def _finish(self) -> Axis:
        factor = math.lcm(*(scale.denominator for _, scale in self.iterators.values()))
        common = math.gcd(*(int(scale * factor) for _, scale in self.iterators.values()))
        iterators = {place: (k, int(scale * factor) // common) for place, (k, scale) in self.iterators.items()}
        dims = {value: (dim, int(scale * factor) // common) for value, (dim, scale) in self.dims.items()}
        # Elements that no nest writes belong to a tile too: it initialises them.
        cut = [(value.shape[dim], scale) for value, (dim, scale) in dims.items()]
        cut.extend((self._nest(place).extents[k], scale) for place, (k, scale) in iterators.items())
        extent = max(-(-size // scale) for size, scale in cut)
        for value in list(dims):
            dim, scale = dims[value]
            for view in {seen: None for _, seen, _ in self.readers.get(value, ()) if seen is not value}:
                dims[view] = (self.views.aligned(value, view)[dim], scale)
        cuts = frozenset(place[0] for place, (k, _) in iterators.items() if k >= self._nest(place).parallel)
        return Axis(extent, iterators, dims, cuts)
