"""Rematerialisation: activations that the backward pass computes again instead of keeping them.

A clone of the operation that made a tensor stands before the first operation of the backward pass that reads it. The
arithmetic is the same, so are the bits. Clones never update state: only the tensor itself is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tilegrad.ir.graph import Graph, Op, ReshapeOp, StructuredOp, Value, replace_nest_values
from tilegrad.planning.axes import Views
from tilegrad.planning.storages import views_of

#: Tensors with fewer bytes are not worth an operation.
SMALLEST = 1024


@dataclass(frozen=True)
class Recomputable:
    """A tensor that the backward pass may compute again.

    Attributes:
        value: the tensor.
        op: the operation that makes it.
        first: position of the first operation of the backward pass that reads it.
    """

    value: Value
    op: StructuredOp
    first: int


def backward_start(graph: Graph) -> int | None:
    """Position of the first operation of the backward pass, or None where there is none."""
    return next((k for k, op in enumerate(graph.ops) if op.phase == "backward"), None)


def recomputable(graph: Graph) -> list[Recomputable]:
    """Tensors of the forward pass that the backward pass reads and that can be computed again there."""
    start = backward_start(graph)
    if start is None:
        return []
    views = views_of(graph)
    reads = _positions(graph, views)
    stored = {views.root(store.value) for store in graph.stores}
    found = []
    for op in graph.ops[:start]:
        if not isinstance(op, StructuredOp) or any(nest.scatter for nest in op.nests):
            continue
        for output in op.outputs:
            later = [position for position in reads.get(output, ()) if position >= start]
            if output.bytes >= SMALLEST and later and not stored & set(op.outputs):
                found.append(Recomputable(output, op, later[0]))
    return found


def alive_until(graph: Graph) -> dict[Value, int]:
    """Position of the last operation that reads each tensor, itself or through views."""
    return {value: max(found) for value, found in _positions(graph, views_of(graph)).items()}


def rematerialise(graph: Graph, values: Sequence[Value]) -> dict[Value, Value]:
    """Let the backward pass compute `values` again, in place.

    Returns:
        For every tensor that is computed again the original one.
    """
    start = backward_start(graph)
    if start is None or not values:
        return {}
    views = views_of(graph)
    wanted = {op: None for op in graph.ops if isinstance(op, StructuredOp) and set(op.outputs) & set(values)}
    producers: dict[Value, StructuredOp] = {
        output: op for op in wanted for output in op.outputs if output in set(values)
    }
    made: dict[Value, Value] = {}
    ops: list[Op] = list(graph.ops[:start])

    def again(value: Value) -> Value:
        """The tensor as the backward pass sees it: computed again where that was asked for."""
        root = views.root(value)
        if root not in producers:
            return value
        if root not in made:
            _clone(producers[root], again, made, ops)
        if value is root:
            return made[root]
        if value not in made:
            made[value] = Value(f"{value.name}.again", value.shape, value.dtype, value.kind)
            ops.append(ReshapeOp(made[root], made[value], producers[root].origin, "backward"))
        return made[value]

    for op in graph.ops[start:]:
        if isinstance(op, ReshapeOp):
            ops.append(op if views.root(op.source) not in producers else replace(op, source=again(op.source)))
            continue
        mapping = {operand: again(operand) for operand in op.operands if views.root(operand) in producers}
        ops.append(op if not mapping else _renamed(op, mapping))
    graph.ops = ops
    return {clone: value for value, clone in made.items()}


def _clone(op: StructuredOp, again: object, made: dict[Value, Value], ops: list[Op]) -> None:
    assert callable(again)
    mapping = {operand: again(operand) for operand in op.operands}
    for output in op.outputs:
        made.setdefault(output, Value(f"{output.name}.again", output.shape, output.dtype, output.kind))
        mapping[output] = made[output]
    clone = _renamed(op, mapping, outputs=tuple(made[output] for output in op.outputs))
    clone.phase = "backward"
    ops.append(clone)


def _renamed(
    op: StructuredOp, mapping: Mapping[Value, Value], outputs: tuple[Value, ...] | None = None
) -> StructuredOp:
    nests = tuple(replace_nest_values(nest, lambda value: mapping.get(value, value)) for nest in op.nests)
    return replace(op, nests=nests, outputs=outputs or op.outputs)


def _positions(graph: Graph, views: Views) -> dict[Value, list[int]]:
    """Positions of the operations that read each tensor, itself or through views."""
    found: dict[Value, list[int]] = {}
    for position, op in enumerate(graph.ops):
        if isinstance(op, StructuredOp):
            for operand in op.operands:
                found.setdefault(views.root(operand), []).append(position)
    return found
