"""Positions of maxima in one byte.

The position that ``argmax`` keeps for the backward pass is smaller than the number of terms, which for a pooling window
is small. Where it fits, it is stored as u8, a quarter of the memory and of the traffic; readers convert it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Graph, Nest, ReshapeOp, StructuredOp, Value, replace_nest_values
from tilegrad.ir.types import DType, Kind

#: Positions that one byte tells apart.
POSITIONS = 256
#: Points of guards that are looked at to prove that every window has a term.
LARGEST_PROOF = 1 << 22


def narrow_positions(graph: Graph) -> None:
    """Store positions of maxima as u8 where they fit and only operations of the graph read them, in place."""
    seen = {*graph.roots(), *graph.results, *(op.source for op in graph.ops if isinstance(op, ReshapeOp))}
    narrow: dict[Value, Value] = {}
    for op in graph.ops:
        if isinstance(op, StructuredOp):
            for value in _positions(op):
                if value not in seen and value.kind is Kind.TEMPORARY:
                    narrow[value] = Value(value.name, value.shape, DType.U8)

    def replace(value: Value) -> Value:
        return narrow.get(value, value)

    for op in graph.ops:
        if isinstance(op, StructuredOp) and any(value in narrow for value in (*op.outputs, *op.operands)):
            op.outputs = tuple(map(replace, op.outputs))
            op.nests = tuple(replace_nest_values(nest, replace) for nest in op.nests)


def _positions(op: StructuredOp) -> list[Value]:
    """The outputs of an operation that are positions, all of them between 0 and 255."""
    found: list[Value] = []
    for output in op.outputs:
        results = [(nest, result) for nest in op.nests for result in nest.results if output in result.outputs]
        if op.init is None and all(
            result.combiner == "argmax" and result.outputs[1] is output and _fits(nest) for nest, result in results
        ):
            found.append(output)
    return found


def _fits(nest: Nest) -> bool:
    """Whether every maximum is one of at least one and at most 256 terms."""
    return math.prod(nest.extents[nest.parallel :]) <= POSITIONS and has_terms(nest)


def has_terms(nest: Nest) -> bool:
    """Whether every element of a nest is known to have a term."""
    if 0 in nest.extents:
        return False
    if any(guard.index.lookups for guard in nest.guards):
        return False
    used = sorted({iterator for guard in nest.guards for iterator in guard.index.iterators()})
    box = [nest.extents[iterator] for iterator in used]
    if math.prod(box) > LARGEST_PROOF:
        return False
    grids = dict(zip(used, np.ogrid[tuple(slice(extent) for extent in box)], strict=True))
    holds = np.ones(box, bool)
    for guard in nest.guards:
        index = _evaluate(guard.index, grids)
        holds &= (index >= guard.lower) & (index < guard.upper)
    terms = tuple(axis for axis, iterator in enumerate(used) if iterator >= nest.parallel)
    return bool(holds.any(axis=terms).all())


def _evaluate(index: Affine, grids: dict[int, NDArray[np.int64]]) -> NDArray[np.int64]:
    """An index without lookups over an open grid of its iterators."""
    total: NDArray[np.int64] = np.asarray(index.constant, np.int64)
    for iterator, coefficient in index.terms:
        total = total + grids[iterator] * coefficient
    return total
