"""Common subexpressions and dead operations."""

from __future__ import annotations

from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, Result, StructuredOp, Value, replace_nest_values
from tilegrad.ir.types import DType


def eliminate_dead(graph: Graph) -> None:
    """Drop the operations that no store depends on, and pieces without elements, in place."""
    live = set(graph.roots())
    kept: list[Op] = []
    for op in reversed(graph.ops):
        if any(output in live for output in op.outputs):
            if isinstance(op, StructuredOp):
                op.nests = tuple(nest for nest in op.nests if _writes(nest))
            kept.append(op)
            live.update(op.operands)
    graph.ops = kept[::-1]


def _writes(nest: Nest) -> bool:
    return 0 not in (nest.extents if nest.scatter else nest.extents[: nest.parallel])


def eliminate_common(graph: Graph) -> None:
    """Compute operations that are equal in operands and body once, in place.

    A value that a store keeps stays its own, so that the planner may place it in the store's target.
    """
    replaced: dict[Value, Value] = {}
    seen: dict[object, tuple[Value, ...]] = {}
    roots = set(graph.roots())
    ops: list[Op] = []
    for op in graph.ops:
        if replaced:
            _rewire(op, replaced)
        key = _key(op)
        known = seen.get(key)
        if known is not None and not any(output in roots for output in op.outputs):
            replaced.update(zip(op.outputs, known, strict=True))
            continue
        if known is None:
            seen[key] = op.outputs
        ops.append(op)
    graph.ops = ops


def _rewire(op: Op, replaced: dict[Value, Value]) -> None:
    def substitute(value: Value) -> Value:
        return replaced.get(value, value)

    if not any(operand in replaced for operand in op.operands):
        return
    if isinstance(op, ReshapeOp):
        op.source = substitute(op.source)
    else:
        op.nests = tuple(replace_nest_values(nest, substitute) for nest in op.nests)


def _key(op: Op) -> object:
    """What an operation computes, without the identity of its outputs."""
    if isinstance(op, ReshapeOp):
        return ("view", op.source, op.output.shape)
    names = {output: position for position, output in enumerate(op.outputs)}
    types: tuple[tuple[tuple[int, ...], DType], ...] = tuple((output.shape, output.dtype) for output in op.outputs)
    nests = tuple(
        (nest.extents, nest.parallel, nest.guards, nest.scatter, tuple(_result_key(r, names) for r in nest.results))
        for nest in op.nests
    )
    return (types, repr(op.init), nests)


def _result_key(result: Result, names: dict[Value, int]) -> object:
    outputs = tuple(names[output] for output in result.outputs)
    return (outputs, result.index, result.combiner, result.exprs, result.start, result.final)
