"""Fusion by substitution: the body of an elementwise producer moves into the nests that read it.

``relu(bn(conv))`` then never stores the outputs of the normalisation and of the activation, in the forward pass or in
the backward pass: what they would hold is recomputed from what is kept. The arithmetic of every element is the same as
before, so no bit changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import make_nest
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, StructuredOp, Value
from tilegrad.transforms.cleanup import eliminate_dead

#: A producer with more than one reader is recomputed in each only up to this cost.
RECOMPUTE_COST = 8
#: Bodies stop growing at this many nodes, so that the generated C stays readable.
BODY_LIMIT = 160
#: Reads per element of the producer up to which arithmetic may be repeated.
TOUCH_LIMIT = 2

#: Cost of an operation relative to an addition.
_COST = {
    "read": 0, "const": 0, "index": 0, "div": 8, "sqrt": 8, "pow": 60, "philox": 60,
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos"), 20),
}  # fmt: skip


@dataclass(frozen=True)
class _Producer:
    """An elementwise operation ready to be substituted: element ``i`` of `output` is ``body(i)``."""

    output: Value
    body: Expr
    cost: int
    moves_only: bool
    looks_up: bool

    @property
    def is_free(self) -> bool:
        """Whether reading through it costs no more than reading its output."""
        return self.moves_only and not self.looks_up


def inline_elementwise(graph: Graph) -> None:
    """Substitute elementwise producers into their readers where that saves memory traffic, in place.

    Producers that nothing reads any more are dropped. Copies go first, so that for arithmetic it is known who reads it.
    """
    _sweep(graph, copies=True)
    eliminate_dead(graph)
    _sweep(graph, copies=False)
    eliminate_dead(graph)


def _sweep(graph: Graph, *, copies: bool) -> None:
    """Substitute producers that only move elements, or all, from the first operation to the last."""
    producers: dict[Value, _Producer] = {}
    views = {op.output: op.source for op in graph.ops if isinstance(op, ReshapeOp)}
    uses = _count_uses(graph)
    roots = set(graph.roots())
    readers = _readers(graph)

    def stays(producer: _Producer) -> bool:
        """Whether it must be stored whatever is substituted: then every reader should read what is stored."""
        pending = [producer.output]
        for value in pending:  # grows by the views of its values
            if value in roots:
                return True
            for reader in readers.get(value, ()):
                if isinstance(reader, Value):
                    pending.append(reader)
                elif not all(_accepts(nest, value, producer, views) for nest in reader.nests):
                    return True
        return False

    for op in graph.ops:
        if isinstance(op, ReshapeOp):
            continue
        op.nests = tuple(_rewrite(nest, producers, views, uses) for nest in op.nests)
        producer = _as_producer(op)
        # New state is stored anyhow; computed again from the old one, it could not take the old one's place.
        if producer is None or (op.phase == "optimizer" and producer.output in roots):
            continue
        if not producer.is_free and (copies or (uses.get(producer.output, 1) > 1 and stays(producer))):
            continue
        producers[producer.output] = producer


def _readers(graph: Graph) -> dict[Value, list[StructuredOp | Value]]:
    """Who reads each value: operations, and views of it."""
    found: dict[Value, list[StructuredOp | Value]] = {}
    for op in graph.ops:
        for operand in op.operands:
            found.setdefault(operand, []).append(op.output if isinstance(op, ReshapeOp) else op)
    return found


def _accepts(nest: Nest, value: Value, producer: _Producer, views: dict[Value, Value]) -> bool:
    """Whether a nest that reads a producer through `value` could compute the elements itself."""
    if value in nest.tables():
        return False
    if nest.points > TOUCH_LIMIT * max(producer.output.size, 1) and value in _values_of_terms(nest):
        return False
    known = {producer.output: producer}
    return all(
        _resolve(value, access.index, nest.extents, known, views) is not None
        for access in nest.accesses()
        if access.value is value
    )


def _values_of_terms(nest: Nest) -> list[Value]:
    return [access.value for access in sc.accesses(*(expr for result in nest.results for expr in result.exprs))]


def _count_uses(graph: Graph) -> dict[Value, int]:
    uses: dict[Value, int] = {}
    for op in graph.ops:
        for operand in op.operands:
            uses[operand] = uses.get(operand, 0) + 1
    for root in graph.roots():
        uses[root] = uses.get(root, 0) + 1
    for op in reversed(graph.ops):  # a reader of a view reads what is behind it
        if isinstance(op, ReshapeOp):
            uses[op.source] = uses.get(op.source, 0) + uses.get(op.output, 0) - 1
    return uses


def body_cost(*roots: Expr) -> int:
    """Estimated cost of evaluating expressions once, in additions."""
    return sum(_COST.get(node.op, 1) for node in sc.walk(*roots))


def _as_producer(op: StructuredOp) -> _Producer | None:
    if not op.is_elementwise:
        return None
    nest = op.nests[0]
    result = nest.results[0]
    # The body over the axes of the output: iterator k of the nest is the axis that it indexes.
    axis_of = {row.single: Affine.iterator(axis) for axis, row in enumerate(result.index) if row.single is not None}
    mapping = {iterator: axis_of[iterator] for iterator in range(len(nest.extents))}
    body = sc.substitute(result.exprs[0], mapping)
    lookups = any(row.lookups for row in nest.indices())
    return _Producer(result.outputs[0], body, body_cost(body), body.op in ("read", "const"), lookups)


def _rewrite(nest: Nest, producers: dict[Value, _Producer], views: dict[Value, Value], uses: dict[Value, int]) -> Nest:
    chosen: dict[tuple[Value, tuple[Affine, ...]], Expr] = {}
    size = sum(1 for _ in sc.walk(*nest.exprs))
    terms = set(sc.accesses(*(expr for result in nest.results for expr in result.exprs)))
    outer = math.prod(nest.extents[: nest.parallel])
    for access in nest.accesses():
        found = _resolve(access.value, access.index, nest.extents, producers, views)
        if found is None:
            continue
        producer, index = found
        points = nest.points if access in terms else outer  # first values and final ones: once per element
        if not _worthwhile(producer, points, uses.get(producer.output, 1)):
            continue
        grown = sum(1 for _ in sc.walk(producer.body))
        if size + grown > BODY_LIMIT:
            continue
        size += grown
        chosen[access.value, access.index] = sc.substitute(producer.body, index)
    if not chosen:
        return nest

    def leaf(node: Expr) -> Expr:
        if node.op == "read":
            return chosen.get((node.attr.value, node.attr.index), node)
        return node

    results = tuple(result.map_exprs(lambda expr: sc.rewrite(expr, leaf)) for result in nest.results)
    # The guards of the replaced reads stay: a term that did not exist before does not exist now.
    return make_nest(nest.extents, nest.parallel, nest.guards, results, scatter=nest.scatter)


def _worthwhile(producer: _Producer, points: int, uses: int) -> bool:
    touches = points / max(producer.output.size, 1)
    if producer.is_free:
        return True
    if touches > TOUCH_LIMIT:
        return False
    return uses == 1 or producer.cost <= RECOMPUTE_COST


def _resolve(
    value: Value,
    index: Sequence[Affine],
    extents: Sequence[int],
    producers: dict[Value, _Producer],
    views: dict[Value, Value],
) -> tuple[_Producer, Sequence[Affine]] | None:
    """The producer behind a read, through views, and the index into its output."""
    rows: Sequence[Affine] | None = index
    while rows is not None:
        if value in producers:
            return producers[value], rows
        if value not in views:
            return None
        source = views[value]
        rows = delinearise(linear_index(value, rows), source.shape, extents)
        value = source
    return None


def linear_index(value: Value, index: Sequence[Affine]) -> Affine:
    """The position of an element in the flat contents of its tensor."""
    flat = Affine()
    for row, stride in zip(index, value.strides, strict=True):
        flat = flat + row * stride
    return flat


def delinearise(flat: Affine, shape: Sequence[int], extents: Sequence[int]) -> tuple[Affine, ...] | None:
    """Split a flat position into one index per axis, or None where no affine split is valid on the whole box."""
    if flat.lookups or 0 in shape:
        return None
    rows: list[Affine] = []
    rest, stride = flat, 1
    strides: list[int] = []
    for extent in reversed(shape):
        strides.append(stride)
        stride *= extent
    for extent, step in zip(shape, reversed(strides), strict=True):
        if extent == 1:
            rows.append(Affine())
            continue
        terms = tuple((i, c // step) for i, c in rest.terms if c % step == 0)
        row = Affine(terms)
        remainder = rest - row * step
        bounds = remainder.interval(extents)
        assert bounds is not None
        row = row + bounds[0] // step
        remainder = remainder - (bounds[0] // step) * step
        bounds = remainder.interval(extents)
        whole = row.interval(extents)
        assert bounds is not None and whole is not None
        if not (bounds[0] >= 0 and bounds[1] < step and whole[0] >= 0 and whole[1] < extent):
            return None
        rows.append(row)
        rest = remainder
    return tuple(rows) if rest == Affine() else None


def reads_of(op: Op, value: Value) -> list[tuple[Affine, ...]]:
    """The distinct indices at which an operation reads a tensor, lookups excluded."""
    if isinstance(op, ReshapeOp):
        return []
    return [access.index for nest in op.nests for access in nest.accesses() if access.value is value]
