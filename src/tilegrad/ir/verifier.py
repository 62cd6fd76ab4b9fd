"""Checks what every graph must satisfy; run behind the derivation and behind the transformations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import Expr, walk
from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, Result, Store, StructuredOp, Value
from tilegrad.ir.types import DType

#: Number of expressions and of outputs of every combiner.
_ARITY = {"assign": (1, 1), "sum": (1, 1), "dot": (2, 1), "max": (1, 1), "argmax": (1, 2)}
_SUMS = ("sum", "dot")
#: Larger tensors are not planned.
_LARGEST = 2**31


def verify_graph(graph: Graph) -> None:
    """Check a graph.

    Raises:
        InternalError: if a value is used before it is defined or defined twice, shapes or types do not fit, an access
            could leave its tensor, an element is written twice or not at all, or a write depends on a reduction
            iterator.
    """
    defined: set[Value] = set()
    for op in graph.ops:
        _verify_names(op, defined)
        if isinstance(op, ReshapeOp):
            if op.source.size != op.output.size or op.source.dtype is not op.output.dtype:
                raise InternalError(f"{_where(op)}: a view changes the size or the type")
            continue
        for nest in op.nests:
            _Check(op, nest).run()
        _verify_coverage(op)
    targets: set[Value] = set()
    for store in graph.stores:
        _verify_store(store, defined)
        if store.target in targets:
            raise InternalError(f"{store.target.name} is stored to twice")
        targets.add(store.target)


def _where(op: Op) -> str:
    return f"{op.phase} operation {op.origin or '(unnamed)'!r} defining {', '.join(o.name for o in op.outputs)}"


def _verify_names(op: Op, defined: set[Value]) -> None:
    for operand in op.operands:
        if operand not in defined and not operand.kind.persistent:
            raise InternalError(f"{_where(op)}: {operand.name} is read before it is defined")
    for output in op.outputs:
        if output in defined or output.kind.persistent:
            raise InternalError(f"{_where(op)}: {output.name} is defined twice")
        defined.add(output)


def _verify_store(store: Store, defined: set[Value]) -> None:
    if not store.target.kind.persistent or store.target.is_constant:
        raise InternalError(f"{store.target.name} is stored to but is not persistent")
    if store.value not in defined and not store.value.kind.persistent:
        raise InternalError(f"{store.value.name} is stored but not defined")
    if store.value.size != store.target.size or store.value.dtype is not store.target.dtype:
        raise InternalError(f"{store.value.name} does not fit its place {store.target.name}")


class _Check:
    """The checks of one nest."""

    def __init__(self, op: StructuredOp, nest: Nest) -> None:
        self.op, self.nest = op, nest

    def fail(self, what: str) -> InternalError:
        return InternalError(f"{_where(self.op)}: {what}")

    def run(self) -> None:
        nest = self.nest
        rank = len(nest.extents)
        if not 0 <= nest.parallel <= rank or any(extent < 0 for extent in nest.extents):
            raise self.fail("the domain is not a box")
        if any(not 0 <= iterator < rank for row in nest.indices() for iterator in row.iterators()):
            raise self.fail("an index uses an iterator outside the domain")
        depths = [guard.index.depth for guard in nest.guards]
        if depths != sorted(depths):
            raise self.fail("a guard reads a table before the guard of that read")
        for guard in nest.guards:
            self.tables(guard.index)
        for node in walk(*(expr for result in nest.results for expr in result.exprs)):
            if node.op == "read":
                if node.dtype is not node.attr.value.dtype:
                    raise self.fail(f"{node.attr.value.name} is read as another type")
                self.access(node.attr.value, node.attr.index)
            elif node.op == "index":
                self.tables(node.attr)
        for result in nest.results:
            self.result(result)

    def result(self, result: Result) -> None:
        exprs, outputs = _ARITY[result.combiner]
        if len(result.exprs) != exprs or len(result.outputs) != outputs:
            raise self.fail(f"{result.combiner} takes {exprs} expressions and {outputs} outputs")
        first = result.outputs[0]
        stored = result.dtype if result.final is None else result.final.dtype
        if stored is not first.dtype or any(expr.dtype is not result.dtype for expr in result.exprs):
            raise self.fail(f"the body does not have the type of {first.name}")
        self.types(result)
        for output in result.outputs:
            if output not in self.op.outputs:
                raise self.fail(f"a nest writes {output.name}, which is not an output")
            if output.shape != first.shape:
                raise self.fail(f"{output.name} and {first.name} are written together but have different shapes")
        if self.nest.scatter:
            self.scatter(result)
        else:
            self.write(result)
        self.start(result)
        self.final(result)

    def types(self, result: Result) -> None:
        dtype = result.dtype
        if result.combiner == "dot" and not dtype.is_float:
            raise self.fail("a dot product of integers")
        if result.combiner != "assign" and dtype is DType.BOOL:
            raise self.fail(f"the combiner {result.combiner} has no meaning for truth values")
        if result.combiner == "argmax":
            position = result.outputs[1]
            terms = math.prod(self.nest.extents[self.nest.parallel :])
            if position.dtype is not DType.I32 and not (position.dtype is DType.U8 and terms <= 256):
                raise self.fail(f"the position {position.name} is not an i32, nor one of at most 256 and a u8")

    def scatter(self, result: Result) -> None:
        if result.combiner not in _SUMS or self.op.init is None:
            raise self.fail("only sums are scattered, into memory that was initialised")
        self.access(result.outputs[0], result.index)
        # Cores may divide the parallel iterators: no two points of them may add to one element.
        rows = [row for row in result.index if all(k < self.nest.parallel for k in row.iterators())]
        if not _is_injective(rows, self.nest.extents[: self.nest.parallel]):
            raise self.fail("a scatter adds to an element from several parallel points")

    def write(self, result: Result) -> None:
        """The one write of an element, or the one of all its terms."""
        nest, output = self.nest, result.outputs[0]
        if any(iterator >= nest.parallel for row in result.index for iterator in row.iterators()):
            raise self.fail("the output index depends on a reduction iterator")
        if result.combiner == "assign":
            if nest.parallel != len(nest.extents):
                raise self.fail("an assignment has one term per element and no reduction")
            if nest.guards and self.op.init is None:
                raise self.fail("an assignment has guards, but nothing says what the other elements contain")
            self.access(output, result.index)
        else:
            self.access(output, result.index, guards=())
        if not _is_injective(result.index, nest.extents[: nest.parallel]):
            raise self.fail(f"an element of {output.name} is written more than once")

    def start(self, result: Result) -> None:
        """A chain starts whether it has terms or not: guards do not protect the reads of its first value."""
        if result.start is None:
            return
        if result.combiner not in _SUMS or self.nest.scatter or result.start.dtype is not result.dtype:
            raise self.fail("only sums have a first value, of their own type")
        self.outside(result.start, "the first value of a sum")

    def final(self, result: Result) -> None:
        """What is stored is computed once per element, behind its terms and whether it has any or not."""
        if any(node.op == "acc" for expr in (*result.exprs, result.start) if expr is not None for node in walk(expr)):
            raise self.fail("an accumulator is used before it is finished")
        if result.final is None:
            return
        if result.combiner not in (*_SUMS, "max") or self.nest.scatter:
            raise self.fail("only sums and maxima have a final expression")
        if any(node.op == "acc" and node.dtype is not result.dtype for node in walk(result.final)):
            raise self.fail("the accumulator is used as another type")
        self.outside(result.final, "a final expression")

    def outside(self, root: Expr, what: str) -> None:
        """An expression outside the loops over the reduction iterators, which guards do not protect."""
        for node in walk(root):
            rows = node.attr.index if node.op == "read" else (node.attr,) if node.op == "index" else ()
            if any(i >= self.nest.parallel for row in rows for i in row.iterators()):
                raise self.fail(f"{what} depends on a reduction iterator")
            if node.op == "read":
                if node.dtype is not node.attr.value.dtype:
                    raise self.fail(f"{node.attr.value.name} is read as another type")
                self.access(node.attr.value, node.attr.index, guards=())
            elif node.op == "index":
                self.tables(node.attr, guards=())

    def tables(self, row: Affine, guards: Sequence[Guard] | None = None) -> None:
        for lookup in row.lookups:
            if lookup.value.dtype not in (DType.I32, DType.I64, DType.U32, DType.U8):
                raise self.fail(f"{lookup.value.name} is used in an index but holds no integers")
            self.access(lookup.value, lookup.index, guards)

    def access(self, value: Value, index: Sequence[Affine], guards: Sequence[Guard] | None = None) -> None:
        """An element must be inside its tensor for every term that exists."""
        guards = self.nest.guards if guards is None else guards
        if len(index) != value.rank:
            raise self.fail(f"{value.name} of rank {value.rank} has {len(index)} indices")
        for row, extent in zip(index, value.shape, strict=True):
            inside = Guard(row, 0, extent).always_holds(self.nest.extents)
            if not inside and not any(g.index == row and g.lower >= 0 and g.upper <= extent for g in guards):
                raise self.fail(f"an index into {value.name} can leave it and no guard prevents that")
            self.tables(row, guards)


def _flat(value: Value, index: Sequence[Affine]) -> Affine:
    flat = Affine()
    for row, stride in zip(index, value.strides, strict=True):
        flat = flat + row * stride
    return flat


def _is_injective(index: Sequence[Affine], extents: Sequence[int]) -> bool:
    """True where different points of a box have different indices; False where that is not clear.

    Row by row: once some iterators are known, a row tells those that are its digits in a mixed radix.
    """
    if 0 in extents:
        return True
    unknown = {k for k, extent in enumerate(extents) if extent > 1}
    progress = True
    while unknown and progress:
        progress = False
        for row in index:
            digits = [(abs(c), k) for k, c in row.terms if k in unknown]
            if digits and not row.lookups and _is_mixed_radix(sorted(digits), extents):
                unknown.difference_update(k for _, k in digits)
                progress = True
    return not unknown


def _is_mixed_radix(digits: Sequence[tuple[int, int]], extents: Sequence[int]) -> bool:
    reach = 0
    for stride, iterator in digits:
        if stride <= reach:
            return False
        reach += stride * (extents[iterator] - 1)
    return True


def _verify_coverage(op: StructuredOp) -> None:
    """Every element is written by one nest, or by one at most where the others are initialised."""
    for output in op.outputs:
        writers = [n for n in op.nests if not n.scatter and any(output in r.outputs for r in n.results)]
        if op.init is None:
            written = sum(int(np.prod(nest.extents[: nest.parallel], dtype=object)) for nest in writers)
            if written != output.size:
                raise InternalError(f"{_where(op)}: {written} of {output.size} elements of {output.name} are written")
        if len(writers) > 1 and len(writers) == len(op.nests) and output.size < _LARGEST:
            _verify_disjoint(op, output, writers)


def _verify_disjoint(op: StructuredOp, output: Value, nests: Sequence[Nest]) -> None:
    taken = np.zeros(output.size, bool)
    for nest in nests:
        result = next(r for r in nest.results if output in r.outputs)
        if result.combiner == "assign" and nest.guards:
            continue  # which elements it writes is known only at run time
        places = _places(_flat(output, result.index), nest.extents[: nest.parallel])
        if taken[places].any():
            raise InternalError(f"{_where(op)}: an element of {output.name} is written by two nests")
        taken[places] = True


def _places(flat: Affine, extents: Sequence[int]) -> NDArray[np.int64]:
    places = np.array(flat.constant, np.int64)
    for iterator, coefficient in flat.terms:
        places = np.add.outer(places, np.arange(extents[iterator], dtype=np.int64) * coefficient)
    return places
