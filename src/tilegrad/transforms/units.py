"""Iterators with one value: they are 0 wherever they occur, and go. What is left may be a sum of one term."""

from __future__ import annotations

from dataclasses import replace

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Graph, Nest, Result, StructuredOp


def drop_unit_iterators(graph: Graph) -> None:
    """Write every nest without the iterators that have a single value, in place.

    Batches of one sample and kernels of one row leave many of them. Without them, operations over the same elements
    have the same domain, and sums of one term are assignments.
    """
    for op in graph.ops:
        if isinstance(op, StructuredOp):
            op.nests = tuple(assigned(without_units(nest)) for nest in op.nests)


def assigned(nest: Nest) -> Nest:
    """A nest whose sums and maxima have exactly one term each as assignments of the same bits."""
    if nest.scatter or nest.guards or nest.parallel != len(nest.extents):
        return nest
    return replace(nest, results=tuple(map(_assigned, nest.results)))


def _assigned(result: Result) -> Result:
    start = sc.constant(0, result.dtype) if result.start is None else result.start
    if result.combiner == "sum":  # +0.0 + x is not x where that is -0.0
        value = sc.binary("add", start, result.exprs[0])
    elif result.combiner == "dot":
        value = sc.fma(result.exprs[0], result.exprs[1], start)
    elif result.combiner == "max":
        (value,) = result.exprs
    else:
        return result
    return Result(result.outputs, result.index, "assign", (_finished(result, value),))


def _finished(result: Result, accumulator: sc.Expr) -> sc.Expr:
    if result.final is None:
        return accumulator
    return sc.rewrite(result.final, lambda leaf: accumulator if leaf.op == "acc" else leaf)


def without_units(nest: Nest) -> Nest:
    """The nest over its other iterators, in their order."""
    kept = [k for k, extent in enumerate(nest.extents) if extent != 1]
    if len(kept) == len(nest.extents):
        return nest
    mapping = {k: Affine() for k in range(len(nest.extents))}
    mapping |= {old: Affine.iterator(new) for new, old in enumerate(kept)}
    results = tuple(
        replace(
            result.map_exprs(lambda expr: sc.substitute(expr, mapping)),
            index=tuple(row.substitute(mapping) for row in result.index),
        )
        for result in nest.results
    )
    extents = tuple(nest.extents[k] for k in kept)
    guards = tuple(guard.substitute(mapping) for guard in nest.guards)
    return Nest(extents, sum(k < nest.parallel for k in kept), guards, results, nest.scatter)
