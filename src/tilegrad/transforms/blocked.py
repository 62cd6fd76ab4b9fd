"""Blocked reductions: one partial sum per index of the outermost reduction iterator.

Where few elements are summed over many terms, a single chain per element is slow (every addition waits for the one
before) and inaccurate. Whether a sum is blocked depends on its domain alone, so every target adds in the same order.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import make_nest
from tilegrad.ir.expr import read, substitute
from tilegrad.ir.graph import Graph, Nest, Op, Result, StructuredOp, Value

#: A sum is blocked below this many parallel elements ...
PARALLEL_LIMIT = 64
#: ... when every partial sum has at least this many terms.
INNER_MINIMUM = 64


def block_reductions(graph: Graph) -> None:
    """Split the sums whose domain calls for it into partial sums and their combination, in place."""
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, StructuredOp):
            nests = []
            for nest in op.nests:
                partial = _split(graph, op, nest, ops)
                nests.append(nest if partial is None else partial)
            op.nests = tuple(nests)
        ops.append(op)
    graph.ops = ops


def outer_reduction(nest: Nest) -> int | None:
    """The reduction iterator whose indices get a partial sum each, or None where the sum stays one chain."""
    if nest.scatter or len(nest.results) != 1 or nest.results[0].combiner not in ("sum", "dot"):
        return None
    reductions = [k for k in range(nest.parallel, len(nest.extents)) if nest.extents[k] > 1]
    if len(reductions) < 2 or math.prod(nest.extents[: nest.parallel]) >= PARALLEL_LIMIT:
        return None
    inner = math.prod(nest.extents[k] for k in reductions[1:])
    return reductions[0] if inner >= INNER_MINIMUM else None


def _split(graph: Graph, op: StructuredOp, nest: Nest, ops: list[Op]) -> Nest | None:
    outer = outer_reduction(nest)
    if outer is None:
        return None
    result = nest.results[0]
    order = [*range(nest.parallel), outer, *(k for k in range(nest.parallel, len(nest.extents)) if k != outer)]
    position = {old: Affine.iterator(new) for new, old in enumerate(order)}
    extents = [nest.extents[k] for k in order]
    count = nest.parallel + 1
    partial = Value(
        graph.fresh_name(f"{result.outputs[0].name}.partial"), tuple(extents[:count]), result.outputs[0].dtype
    )
    identity = tuple(Affine.iterator(k) for k in range(count))
    exprs = tuple(substitute(expr, position) for expr in result.exprs)
    guards = [guard.substitute(position) for guard in nest.guards]
    partial_result = Result((partial,), identity, result.combiner, exprs)
    inner = make_nest(extents, count, guards, (partial_result,))
    ops.append(StructuredOp((partial,), (inner,), None, op.origin, op.phase))
    combined = replace(result, combiner="sum", exprs=(read(partial, identity),))
    return make_nest(extents[:count], nest.parallel, (), (combined,))
