"""Checks what every graph must satisfy; run behind the derivation and behind the transformations."""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import walk
from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, Result, StructuredOp, Value

_ARITY = {"assign": (1, 1), "sum": (1, 1), "dot": (2, 1), "max": (1, 1), "argmax": (1, 2)}


def verify_graph(graph: Graph) -> None:
    """Check a graph.

    Raises:
        InternalError: if a value is used before it is defined or defined twice, shapes or types do not fit, an index
            could leave its tensor, or a write depends on a reduction iterator.
    """
    defined: set[Value] = set()
    for op in graph.ops:
        for operand in op.operands:
            if operand not in defined and not operand.kind.persistent:
                raise InternalError(f"{_where(op)}: {operand.name} is read before it is defined")
        for output in op.outputs:
            if output in defined or output.kind.persistent:
                raise InternalError(f"{_where(op)}: {output.name} is defined twice")
            defined.add(output)
        if isinstance(op, ReshapeOp):
            if op.source.size != op.output.size or op.source.dtype is not op.output.dtype:
                raise InternalError(f"{_where(op)}: a view changes the size or the type")
            continue
        for nest in op.nests:
            _verify_nest(op, nest)
    for store in graph.stores:
        if not store.target.kind.persistent:
            raise InternalError(f"{store.target.name} is stored to but is not persistent")
        if store.value not in defined and not store.value.kind.persistent:
            raise InternalError(f"{store.value.name} is stored but not defined")
        if store.value.size != store.target.size or store.value.dtype is not store.target.dtype:
            raise InternalError(f"{store.value.name} does not fit its place {store.target.name}")


def _where(op: Op) -> str:
    return f"{op.phase} operation {op.origin or '(unnamed)'!r} defining {', '.join(o.name for o in op.outputs)}"


def _verify_nest(op: StructuredOp, nest: Nest) -> None:
    rank = len(nest.extents)
    for row in nest.indices():
        if any(not 0 <= iterator < rank for iterator in row.iterators()):
            raise InternalError(f"{_where(op)}: an index uses an iterator outside the domain")
    for node in walk(*nest.exprs):
        if node.op == "read":
            _verify_index(op, nest, node.attr.value, node.attr.index)
    for result in nest.results:
        _verify_result(op, nest, result)


def _verify_result(op: StructuredOp, nest: Nest, result: Result) -> None:
    exprs, outputs = _ARITY[result.combiner]
    if len(result.exprs) != exprs or len(result.outputs) != outputs:
        raise InternalError(f"{_where(op)}: {result.combiner} takes {exprs} expressions and {outputs} outputs")
    if any(expr.dtype is not result.outputs[0].dtype for expr in result.exprs):
        raise InternalError(f"{_where(op)}: the body does not have the type of {result.outputs[0].name}")
    for output in result.outputs:
        if output not in op.outputs:
            raise InternalError(f"{_where(op)}: a nest writes {output.name}, which is not an output")
        _verify_index(op, nest, output, result.index)
    if nest.scatter:
        return
    outer = set(range(nest.parallel))
    if any(iterator not in outer for row in result.index for iterator in row.iterators()):
        raise InternalError(f"{_where(op)}: the output index depends on a reduction iterator")


def _verify_index(op: StructuredOp, nest: Nest, value: Value, index: Sequence[Affine]) -> None:
    if len(index) != value.rank:
        raise InternalError(f"{_where(op)}: {value.name} of rank {value.rank} has {len(index)} indices")
    for row, extent in zip(index, value.shape, strict=True):
        if not Guard(row, 0, extent).always_holds(nest.extents) and not _guarded(nest, row, extent):
            raise InternalError(f"{_where(op)}: an index into {value.name} can leave it and no guard prevents that")


def _guarded(nest: Nest, row: Affine, extent: int) -> bool:
    """True where one of the guards keeps the index inside its axis."""
    return any(guard.index == row and guard.lower >= 0 and guard.upper <= extent for guard in nest.guards)
