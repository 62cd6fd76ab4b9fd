"""The order of operations: updates move up to where their operands are ready, so that gradients die early."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tilegrad.ir.graph import Graph, Op, ReshapeOp, Value


def schedule_updates(graph: Graph) -> None:
    """Move optimizer operations to just behind the last operation they wait for, in place.

    An operation that replaces a persistent tensor waits for every reader of the tensor, so that the update may happen
    in place; everything else keeps its order.
    """
    replaces: dict[Value, Value] = {store.value: store.target for store in graph.stores}
    first = next((k for k, op in enumerate(graph.ops) if op.phase == "optimizer"), len(graph.ops))
    fixed, moving = graph.ops[:first], graph.ops[first:]
    if any(op.phase != "optimizer" for op in moving):
        return
    position = {output: k for k, op in enumerate(fixed) for output in op.outputs}
    readers = last_readers(fixed)
    behind: dict[int, list[Op]] = {}
    for op in moving:
        ready = max((position.get(operand, -1) for operand in op.operands), default=-1)
        for output in op.outputs:
            if output in replaces:
                ready = max(ready, readers.get(replaces[output], -1))
        for output in op.outputs:
            position[output] = ready
        for operand in op.operands:
            readers[operand] = max(readers.get(operand, -1), ready)
        behind.setdefault(ready, []).append(op)
    ordered: list[Op] = list(behind.get(-1, []))
    for k, op in enumerate(fixed):
        ordered.append(op)
        ordered.extend(behind.get(k, []))
    graph.ops = ordered


def last_readers(ops: Sequence[Op]) -> dict[Value, int]:
    """Position of the last operation that reads each value, itself or through views."""
    last: dict[Value, int] = {}
    views = {op.output: op.source for op in ops if isinstance(op, ReshapeOp)}
    for position, op in enumerate(ops):
        if not isinstance(op, ReshapeOp):
            for operand in op.operands:
                for value in with_sources(operand, views):
                    last[value] = position
    return last


def with_sources(value: Value, views: dict[Value, Value]) -> Iterator[Value]:
    """A value and, where it is a view, what is behind it."""
    yield value
    while value in views:
        value = views[value]
        yield value
