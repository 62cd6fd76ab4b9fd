"""Siblings: operations over one domain become one operation with several results.

Sums that pass over the same data, such as the two of batch normalisation's backward pass, then load every element and
compute what they have in common once. Operations on a few elements, one per channel, are merged so that there are fewer
of them: each is a call, and on several cores a barrier. No result changes a bit, for each keeps its expressions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from tilegrad.ir import expr as sc
from tilegrad.ir.expr import Access, Expr
from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, StructuredOp
from tilegrad.transforms.inline import BODY_LIMIT, TOUCH_LIMIT

#: Operations of up to this many points are merged even if they read nothing in common.
TINY = 1024
#: Results of one operation.
RESULT_LIMIT = 8

_Key = tuple[object, ...]


def merge_siblings(graph: Graph) -> None:
    """Merge operations over the same domain where that saves passes over data or calls, in place.

    Updates keep to themselves, and so does what replaces state that is still read: both may overwrite what they read,
    which is decided for operations with one output.
    """
    merge = _Merge(graph)
    families: dict[_Key, list[StructuredOp]] = {}
    for op in list(graph.ops):
        key = merge.key(op)
        if key is None:
            continue
        assert isinstance(op, StructuredOp)
        family = families.setdefault(key, [])
        # The nearest one first: the fewer operations in between, the fewer tensors live longer.
        if not any(merge.join(sibling, op) for sibling in reversed(family)):
            family.append(op)


class _Merge:
    """The state of the pass: the operations in their order, which changes as they are merged."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.replaced = {store.target for store in graph.stores}
        self.targets = {store.value: store.target for store in graph.stores}
        self.read = {operand for op in graph.ops for operand in op.operands}
        self._index()

    def _index(self) -> None:
        self.position = {id(op): k for k, op in enumerate(self.graph.ops)}
        self.producer = self.graph.producers()

    def key(self, op: Op) -> _Key | None:
        """What siblings have in common, or None for an operation that stays alone."""
        if not isinstance(op, StructuredOp) or op.phase == "optimizer" or len(op.nests) != 1 or op.init is not None:
            return None
        if any(self.targets[output] in self.read for output in op.outputs if output in self.targets):
            return None
        (nest,) = op.nests
        combiners = {result.combiner for result in nest.results}
        if nest.scatter or "argmax" in combiners:
            return None
        return (op.phase, nest.extents, nest.parallel, nest.guards, combiners == {"assign"})

    def join(self, first: StructuredOp, second: StructuredOp) -> bool:
        """Merge two operations of one key, the second of which comes later, into the first one."""
        nest = _independent(second.nests[0], first)
        if nest is None or not _worthwhile(first.nests[0], nest):
            return False
        results = (*first.nests[0].results, *nest.results)
        merged = replace(first.nests[0], results=results)
        if len(results) > RESULT_LIMIT or sum(1 for _ in sc.walk(*merged.exprs)) > BODY_LIMIT:
            return False
        views = self._movable_up(nest, first)
        if views is not None:
            self._arrange(first, [*views, first], gone=second)
        elif self._movable_down(first, second):
            self._arrange(second, [first], gone=second)
        else:
            return False
        first.outputs, first.nests = (*first.outputs, *second.outputs), (merged,)
        self._index()
        return True

    def _movable_up(self, nest: Nest, op: StructuredOp) -> list[Op] | None:
        """The views to move along for what a nest reads to be known where `op` stands; None if it is not."""
        place = self.position[id(op)]
        views: dict[int, Op] = {}
        pending = nest.operands()
        for value in pending:  # grows by what views look at
            producer = self.producer.get(value)
            if producer is None or self.position[id(producer)] < place:
                continue
            if not isinstance(producer, ReshapeOp):
                return None
            views[self.position[id(producer)]] = producer
            pending.append(producer.source)
        return [views[k] for k in sorted(views)]

    def _movable_down(self, first: StructuredOp, second: StructuredOp) -> bool:
        """Whether the first operation may wait for the second one."""
        between = self.graph.ops[self.position[id(first)] + 1 : self.position[id(second)]]
        state = {operand for operand in first.operands if operand in self.replaced}
        for op in between:
            if any(output in op.operands for output in first.outputs):
                return False
            if any(self.targets.get(output) in state for output in op.outputs):
                return False  # it replaces, perhaps in place, what the first one reads
        return True

    def _arrange(self, at: Op, ops: list[Op], *, gone: Op) -> None:
        """Let `ops` stand at the place of `at`, and nowhere else; `gone` goes."""
        moved = {id(op) for op in [*ops, gone]}
        ordered: list[Op] = []
        for op in self.graph.ops:
            if op is at:
                ordered.extend(ops)
            elif id(op) not in moved:
                ordered.append(op)
        self.graph.ops = ordered


def _independent(nest: Nest, producer: StructuredOp) -> Nest | None:
    """The nest with the elements that it reads from an operation over the same domain computed beside it.

    Returns:
        The nest, or None where it needs other elements than that of the same point, or finished sums.
    """
    computed: dict[Access, Expr] = {}
    for result in producer.nests[0].results:
        if result.combiner == "assign":
            computed[Access(result.outputs[0], result.index)] = result.exprs[0]
    outputs = set(producer.outputs)
    if outputs.intersection(nest.tables()):
        return None
    dependent = [access for access in nest.accesses() if access.value in outputs]
    if not dependent:
        return nest
    if not all(access in computed for access in dependent):
        return None

    def leaf(node: Expr) -> Expr:
        return computed.get(node.attr, node) if node.op == "read" else node

    results = tuple(result.map_exprs(lambda expr: sc.rewrite(expr, leaf)) for result in nest.results)
    return replace(nest, results=results)


def _worthwhile(first: Nest, second: Nest) -> bool:
    """Whether two nests are small, or sums that pass over the same data."""
    if first.points <= TINY:
        return True
    if first.parallel == len(first.extents):
        return False
    return bool(set(_streamed(first)).intersection(_streamed(second)))


def _streamed(nest: Nest) -> Iterator[Access]:
    """The accesses that touch each element of their tensor once or a few times: those of a pass over data."""
    for access in nest.accesses():
        if nest.points <= TOUCH_LIMIT * access.value.size:
            yield access
