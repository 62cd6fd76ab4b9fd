"""Epilogues: what happens to a finished sum or maximum before it is stored.

Where an elementwise operation is the only reader of a reduction, its body becomes the `final` expression of that
reduction. Convolution and bias, a sum and its division by the count, the gradient of an activation and its mask are
then one pass over the data, and what they compute is not computed again by every reader. The arithmetic of every
element stays the same, so no bit changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, StructuredOp, Value
from tilegrad.transforms.inline import delinearise, linear_index, reads_of

#: Final expressions stop growing at this many nodes.
FINAL_LIMIT = 48


def merge_epilogues(graph: Graph) -> None:
    """Merge elementwise operations into the reductions that only they read, in place.

    Operations of the optimizer stay what they are: whether they overwrite their operands is decided by their place.
    """
    merge = _Merge(graph)
    for op in list(graph.ops):
        if isinstance(op, StructuredOp) and op.phase != "optimizer" and op.is_elementwise:
            for operand in op.operands:
                if merge.into(operand, op):
                    break
    graph.ops = sorted((op for op in graph.ops if id(op) not in merge.gone), key=merge.place)


class _Merge:
    """The state of the pass: who defines and who reads what, while operations disappear."""

    def __init__(self, graph: Graph) -> None:
        self.roots = set(graph.roots())
        self.targets = {store.value: store.target for store in graph.stores}
        #: Where an operation stands; a view of something known earlier can move to just before an operation.
        self.position = {id(op): (k, 1) for k, op in enumerate(graph.ops)}
        self.producer = graph.producers()
        self.readers: dict[Value, dict[int, None]] = {}
        for op in graph.ops:
            self._add_reader(op, op.operands)
        self.gone: set[int] = set()

    def into(self, operand: Value, op: StructuredOp) -> bool:
        """Merge `op` into the reduction that computes its operand, where that is possible."""
        views: list[ReshapeOp] = []
        value = operand
        reader: Op = op
        while True:
            if value in self.roots or list(self.readers[value]) != [id(reader)] or value not in self.producer:
                return False
            found = self.producer[value]
            if isinstance(found, StructuredOp):
                break
            views.append(found)
            value, reader = found.source, found
        others = [other for other in op.operands if other is not operand]
        if found.phase != op.phase or not self._in_time(others, found) or self._would_copy(op, found):
            return False
        nests = merged_nests(found, operand, op)
        if nests is None:
            return False
        for other in others:
            self._move_views(other, found)
        removed: list[Op] = [*views, op]
        for gone in removed:
            self.gone.add(id(gone))
            for other in gone.operands:
                self.readers[other].pop(id(gone))
        found.outputs, found.nests = op.outputs, nests
        self._add_reader(found, others)
        for output in op.outputs:
            self.producer[output] = found
        return True

    def _add_reader(self, op: Op, operands: Iterable[Value]) -> None:
        for operand in operands:
            self.readers.setdefault(operand, {})[id(op)] = None

    def _in_time(self, operands: Iterable[Value], op: Op) -> bool:
        """Whether operands, or what they are views of, are known where `op` stands."""
        for operand in operands:
            value = operand
            while isinstance(view := self.producer.get(value), ReshapeOp):
                value = view.source
            if value in self.producer and self.place(self.producer[value]) >= self.place(op):
                return False
        return True

    def _move_views(self, operand: Value, op: StructuredOp) -> None:
        """Let views stand before an operation that reads through them."""
        while isinstance(view := self.producer.get(operand), ReshapeOp) and self.place(view) > self.place(op):
            self.position[id(view)] = (self.place(op)[0], 0)
            operand = view.source

    def place(self, op: Op) -> tuple[int, int]:
        """Where an operation stands; the order of two of the same place is that of the graph."""
        return self.position[id(op)]

    def _would_copy(self, op: StructuredOp, earlier: StructuredOp) -> bool:
        """Whether new state, computed earlier, could no longer take the place of the old one, which is still read."""
        for value in self._with_views(op.outputs[0]):
            target = self.targets.get(value)
            if target is None:
                continue
            for old in self._with_views(target):
                late = [r for r in self.readers.get(old, ()) if self.position[r] >= self.place(earlier)]
                if any(r != id(op) for r in late):
                    return True
        return False

    def _with_views(self, value: Value) -> list[Value]:
        found = [value]
        for seen in found:  # grows while it is walked
            found.extend(v for v, op in self.producer.items() if isinstance(op, ReshapeOp) and op.source is seen)
        return found


def merged_nests(reduction: StructuredOp, operand: Value, op: StructuredOp) -> tuple[Nest, ...] | None:
    """The nests of a reduction that stores what an elementwise operation makes of its result.

    Args:
        reduction: what computes the operand; every element of it, once.
        operand: the output of the reduction, or a view of it.
        op: an elementwise operation that reads every element of the operand for the element that takes its place.

    Returns:
        The nests, with the outputs of `op`; None where the two do not fit.
    """
    if len(reduction.outputs) != 1 or reduction.init is not None:
        return None
    if not any(nest.parallel < len(nest.extents) for nest in reduction.nests):
        return None
    nests = []
    for nest in reduction.nests:
        merged = _merged(nest, operand, op)
        if merged is None:
            return None
        nests.append(merged)
    return tuple(nests)


def _merged(nest: Nest, operand: Value, op: StructuredOp) -> Nest | None:
    result = nest.results[0]
    if nest.scatter or len(nest.results) != 1 or result.combiner == "argmax":
        return None
    mapping = _places(nest, operand, op)
    if mapping is None:
        return None
    (written,) = op.nests[0].results
    index = tuple(row.substitute(mapping) for row in written.index)
    if not _same_place(nest, (result.outputs[0], result.index), (op.outputs[0], index)):
        return None
    (read,) = reads_of(op, operand)
    if result.combiner == "assign":
        held = result.exprs[0]
    else:
        held = sc.accumulator(result.dtype) if result.final is None else result.final
    body = _with_operand(written.exprs[0], operand, read, held, mapping)
    if sum(1 for _ in sc.walk(body)) > FINAL_LIMIT:
        return None
    if result.combiner == "assign":
        changed = replace(result, outputs=op.outputs, index=index, exprs=(body,))
    else:
        changed = replace(result, outputs=op.outputs, index=index, final=body)
    return replace(nest, results=(changed,))


def _places(nest: Nest, operand: Value, op: StructuredOp) -> dict[int, Affine] | None:
    """The iterators of an elementwise operation over those of the nest that computes its operand."""
    reads = reads_of(op, operand)
    if len(reads) != 1 or operand in op.nests[0].tables() or operand.size != op.outputs[0].size:
        return None
    result = nest.results[0]
    rows: Sequence[Affine] | None = result.index
    if operand is not result.outputs[0]:
        rows = delinearise(linear_index(result.outputs[0], result.index), operand.shape, nest.extents)
    if rows is None:
        return None
    extents = op.nests[0].extents
    mapping = {k: Affine() for k, extent in enumerate(extents) if extent == 1}
    for row, at, extent in zip(reads[0], rows, operand.shape, strict=True):
        if extent == 1:
            continue
        if row.single is None or row.single in mapping or extents[row.single] != extent:
            return None
        mapping[row.single] = at
    return mapping if len(mapping) == len(extents) else None


def _same_place(nest: Nest, first: tuple[Value, tuple[Affine, ...]], second: tuple[Value, tuple[Affine, ...]]) -> bool:
    """Whether two writes of a nest go to the same place in memory, so that the order of its loops suits both."""
    unit = {k: Affine() for k, extent in enumerate(nest.extents) if extent == 1}
    return linear_index(*first).substitute(unit) == linear_index(*second).substitute(unit)


def _with_operand(body: Expr, operand: Value, read: tuple[Affine, ...], held: Expr, mapping: dict[int, Affine]) -> Expr:
    """A body over other iterators in which `held` takes the place of what it reads from `operand`."""

    def leaf(node: Expr) -> Expr:
        if node.op == "read" and node.attr.value is operand and node.attr.index == read:
            return held
        return sc.substitute(node, mapping)

    return sc.rewrite(body, leaf)
