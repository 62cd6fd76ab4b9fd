"""Reading through what is written block by block: the gradient of pooling whose windows do not overlap.

It writes ``d[8*q + r] = select(position[q] == r, g[q], 0)`` and its readers read ``d[w]``. A reader's iterator w
becomes the pair (q, r), slow and fast digit of the same number, and the body takes the place of the read: d is never
stored. What lies behind the last whole block is a constant there; a piece of its own computes it. Where w runs over the
terms of a sum, the pieces are consecutive parts of one chain, the second of which starts from the result of the first.
So the order of all terms, and with it every bit, stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import make_nest
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, StructuredOp, Value
from tilegrad.transforms.inline import BODY_LIMIT, RECOMPUTE_COST, TOUCH_LIMIT, body_cost

_SUMS = ("sum", "dot")


@dataclass(frozen=True)
class _Digits:
    """An axis that is written in whole blocks from its beginning.

    Attributes:
        slow: the iterator of the producer over the blocks.
        fast: the iterator over the elements of a block.
        blocks: how many blocks there are.
        size: how many elements a block has.
    """

    slow: int
    fast: int
    blocks: int
    size: int

    @property
    def covered(self) -> int:
        """How many elements are written."""
        return self.blocks * self.size


@dataclass(frozen=True)
class _Producer:
    """An operation that assigns its output in blocks.

    Attributes:
        output: what it writes.
        axes: the axes that are written in blocks.
        whole: the iterators that are the index of another axis, with that axis.
        body: the element, over the iterators of the producer.
        rest: what elements behind the last block contain.
    """

    output: Value
    axes: dict[int, _Digits]
    whole: dict[int, int]
    body: Expr
    rest: Expr | None


def read_through_blocks(graph: Graph) -> None:
    """Substitute producers that write in blocks where all readers can do without what they store, in place."""
    views = {op.source for op in graph.ops if isinstance(op, ReshapeOp)}
    kept = set(graph.roots()) | views
    position = 0
    while position < len(graph.ops):  # readers, which stand behind, are replaced on the way and may be producers
        op = graph.ops[position]
        producer = _as_producer(op)
        instead = None if producer is None or producer.output in kept else _readers_without(graph, producer)
        if instead is None:
            position += 1
        else:
            graph.ops = [new for old in graph.ops if old is not op for new in instead.get(id(old), [old])]


def _readers_without(graph: Graph, producer: _Producer) -> dict[int, list[Op]] | None:
    """What takes the place of every reader of a producer, by the reader's identity; None where one needs it."""
    readers = [op for op in graph.ops if producer.output in op.operands]
    if len(readers) > 1 and body_cost(producer.body) > RECOMPUTE_COST:
        return None
    instead: dict[int, list[Op]] = {}
    for reader in readers:
        ops = _without(graph, reader, producer)
        if ops is None:
            return None
        instead[id(reader)] = ops
    return instead


def _as_producer(op: Op) -> _Producer | None:
    if not isinstance(op, StructuredOp) or len(op.nests) != 1 or len(op.outputs) != 1 or op.phase == "optimizer":
        return None
    (nest,) = op.nests
    (result,) = nest.results
    if nest.guards or nest.scatter or result.combiner != "assign":
        return None
    output = op.outputs[0]
    axes: dict[int, _Digits] = {}
    whole: dict[int, int] = {}
    for axis, (row, extent) in enumerate(zip(result.index, output.shape, strict=True)):
        if extent == 1 or row.lookups or row.constant:
            if not row.is_constant or extent != 1:
                return None
        elif row.single is not None and nest.extents[row.single] == extent:
            whole[row.single] = axis
        elif (digits := _digits(row, nest)) is not None:
            axes[axis] = digits
        else:
            return None
    rest = None if op.init is None else sc.constant(op.init, output.dtype)
    if not axes or (rest is None and any(d.covered != output.shape[axis] for axis, d in axes.items())):
        return None
    return _Producer(output, axes, whole, result.exprs[0], rest)


def _digits(row: Affine, nest: Nest) -> _Digits | None:
    """The two iterators of an index such as ``8*i2 + i3`` with eight values of i3."""
    if len(row.terms) != 2 or row.lookups or row.constant:
        return None
    (slow, stride), (fast, one) = sorted(row.terms, key=lambda term: -term[1])
    if one != 1 or stride != nest.extents[fast]:
        return None
    return _Digits(slow, fast, nest.extents[slow], nest.extents[fast])


def _without(graph: Graph, op: Op, producer: _Producer) -> list[Op] | None:
    """Operations that compute what a reader does without reading the producer's output; None where there are none."""
    if not isinstance(op, StructuredOp) or op.phase == "optimizer":
        return None
    nests: list[Nest] = []
    for nest in op.nests:
        if producer.output not in nest.operands():
            nests.append(nest)
            continue
        iterators = _iterators(nest, producer)
        if iterators is None:
            return None
        cut = [axis for axis, k in iterators.items() if k >= nest.parallel and not _is_exact(producer, axis)]
        if cut:
            return _continued(graph, op, producer, iterators, cut)
        nests.extend(_pieces(nest, producer, iterators))
    return [replace(op, nests=tuple(nests))] if _fits(nests) else None


def _is_exact(producer: _Producer, axis: int) -> bool:
    return producer.axes[axis].covered == producer.output.shape[axis]


def _fits(nests: list[Nest]) -> bool:
    return all(sum(1 for _ in sc.walk(*nest.exprs)) <= BODY_LIMIT for nest in nests)


def _iterators(nest: Nest, producer: _Producer) -> dict[int, int] | None:
    """The iterator with which a nest reads each axis that is written in blocks; None where it cannot be split."""
    if nest.scatter or producer.output in nest.tables():
        return None
    if nest.points > TOUCH_LIMIT * producer.output.size:
        return None
    found: dict[int, int] = {}
    for access in nest.accesses():
        if access.value is not producer.output:
            continue
        for axis in producer.axes:
            iterator = access.index[axis].single
            if iterator is None or nest.extents[iterator] != producer.output.shape[axis]:
                return None
            if found.setdefault(axis, iterator) != iterator:
                return None
    return found if len(set(found.values())) == len(found) else None


def _continued(
    graph: Graph, op: StructuredOp, producer: _Producer, iterators: dict[int, int], cut: list[int]
) -> list[Op] | None:
    """A sum as two operations: over the whole blocks, and from there over what is behind them."""
    (axis, *others), nest = cut, op.nests[0]
    iterator = iterators[axis]
    slower = [k for k in range(nest.parallel, iterator) if nest.extents[k] > 1]
    if others or slower or len(op.nests) != 1 or len(nest.results) != 1 or op.init is not None:
        return None  # the parts would not be consecutive parts of one chain
    (result,) = nest.results
    if result.combiner not in _SUMS or any(not _is_exact(producer, a) for a in iterators if a != axis):
        return None
    covered = producer.axes[axis].covered
    (first,) = _pieces(_cut(nest, iterator, 0, covered), producer, iterators)
    last = _behind(_cut(nest, iterator, covered, nest.extents[iterator]), producer)
    (tail,) = last.results
    if _adds_nothing(tail.combiner, tail.exprs, tail.start):
        return [replace(op, nests=(first,))] if _fits([first]) else None
    output = op.outputs[0]
    head = Value(graph.fresh_name(f"{output.name}.head"), output.shape, result.dtype)
    begun = tuple(replace(r, outputs=(head,), final=None) for r in first.results)
    start = sc.read(head, result.index)
    ended = tuple(replace(r, start=start) for r in last.results)
    nests = [replace(first, results=begun), replace(last, results=ended)]
    if not _fits(nests):
        return None
    return [replace(op, outputs=(head,), nests=(nests[0],)), replace(op, nests=(nests[1],))]


def _adds_nothing(combiner: str, exprs: tuple[Expr, ...], start: Expr | None) -> bool:
    """Whether terms leave every accumulator as it is: zeros, in a chain from +0.0, which is never -0.0."""
    (term, *others) = exprs
    return combiner == "sum" and not others and start is None and term.op == "const" and term.attr == 0


def _pieces(nest: Nest, producer: _Producer, iterators: dict[int, int]) -> list[Nest]:
    """The nest in pieces that need not read the producer's output: whole blocks along all axes, and the rest."""
    for axis, iterator in iterators.items():
        covered = producer.axes[axis].covered
        if nest.extents[iterator] > covered:
            behind = _behind(_cut(nest, iterator, covered, nest.extents[iterator]), producer)
            return [*_pieces(_cut(nest, iterator, 0, covered), producer, iterators), behind]
    digits: dict[int, tuple[Affine, Affine]] = {}
    # Iterators with higher positions first: those of lower ones stay.
    for axis, iterator in sorted(iterators.items(), key=lambda item: -item[1]):
        nest = _with_digits(nest, iterator, producer.axes[axis])
        shift = {k: Affine.iterator(k + 1) for k in range(iterator + 1, len(nest.extents))}
        digits = {a: (s.substitute(shift), f.substitute(shift)) for a, (s, f) in digits.items()}
        digits[axis] = (Affine.iterator(iterator), Affine.iterator(iterator + 1))

    def leaf(node: Expr) -> Expr:
        if node.op != "read" or node.attr.value is not producer.output:
            return node
        mapping = {k: node.attr.index[axis] for k, axis in producer.whole.items()}
        for axis, (slow, fast) in digits.items():
            mapping |= {producer.axes[axis].slow: slow, producer.axes[axis].fast: fast}
        return sc.substitute(producer.body, mapping)

    return [_map(nest, leaf)]


def _behind(nest: Nest, producer: _Producer) -> Nest:
    """The nest where it reads nothing but elements behind the last block."""
    rest = producer.rest
    assert rest is not None

    def leaf(node: Expr) -> Expr:
        return rest if node.op == "read" and node.attr.value is producer.output else node

    return _map(nest, leaf)


def _map(nest: Nest, leaf: sc.Leaf) -> Nest:
    """The nest with leaves replaced, constants folded."""
    results = tuple(result.map_exprs(lambda expr: sc.folded(sc.rewrite(expr, leaf))) for result in nest.results)
    return make_nest(nest.extents, nest.parallel, nest.guards, results)


def _cut(nest: Nest, iterator: int, first: int, last: int) -> Nest:
    """The part of a nest in which an iterator runs from `first` to before `last`."""
    if first == 0 and last == nest.extents[iterator]:
        return nest
    extents = list(nest.extents)
    extents[iterator] = last - first
    return _over(nest, extents, nest.parallel, {iterator: Affine.iterator(iterator) + first})


def _with_digits(nest: Nest, iterator: int, digits: _Digits) -> Nest:
    """The nest with two iterators in the place of one that counts the same elements."""
    extents = [*nest.extents[:iterator], digits.blocks, digits.size, *nest.extents[iterator + 1 :]]
    mapping = {k: Affine.iterator(k + 1) for k in range(iterator + 1, len(nest.extents))}
    mapping[iterator] = Affine.iterator(iterator) * digits.size + Affine.iterator(iterator + 1)
    return _over(nest, extents, nest.parallel + (iterator < nest.parallel), mapping)


def _over(nest: Nest, extents: list[int], parallel: int, mapping: dict[int, Affine]) -> Nest:
    """The nest over another domain."""
    results = tuple(
        replace(
            result.map_exprs(lambda expr: sc.substitute(expr, mapping)),
            index=tuple(row.substitute(mapping) for row in result.index),
        )
        for result in nest.results
    )
    guards = tuple(guard.substitute(mapping) for guard in nest.guards)
    return Nest(tuple(extents), parallel, guards, results, nest.scatter)
