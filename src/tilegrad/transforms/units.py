"""Iterators with one value: they are 0 wherever they occur, and go."""

from __future__ import annotations

from dataclasses import replace

from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import substitute
from tilegrad.ir.graph import Graph, Nest, StructuredOp


def drop_unit_iterators(graph: Graph) -> None:
    """Write every nest without the iterators that have a single value, in place.

    Batches of one sample and kernels of one row leave many of them. Without them, operations over the same elements
    have the same domain.
    """
    for op in graph.ops:
        if isinstance(op, StructuredOp):
            op.nests = tuple(map(without_units, op.nests))


def without_units(nest: Nest) -> Nest:
    """The nest over its other iterators, in their order."""
    kept = [k for k, extent in enumerate(nest.extents) if extent != 1]
    if len(kept) == len(nest.extents):
        return nest
    mapping = {k: Affine() for k in range(len(nest.extents))}
    mapping |= {old: Affine.iterator(new) for new, old in enumerate(kept)}
    results = tuple(
        replace(
            result.map_exprs(lambda expr: substitute(expr, mapping)),
            index=tuple(row.substitute(mapping) for row in result.index),
        )
        for result in nest.results
    )
    extents = tuple(nest.extents[k] for k in kept)
    guards = tuple(guard.substitute(mapping) for guard in nest.guards)
    return Nest(extents, sum(k < nest.parallel for k in kept), guards, results, nest.scatter)
