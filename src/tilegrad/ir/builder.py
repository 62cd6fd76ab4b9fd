"""How operators are written: domains, reads, sums and elementwise arithmetic on the graph under construction.

A convolution, for example::

    d = Domain()
    n, k, w = d.parallel(N, K, W)
    c, r = d.reduction(C, R)
    y = d.sum(x[n, c, s * w + d_ * r - p] * weight[k, c, r], (n, k, w))

Reads that leave their tensor remove the term: the guards are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilegrad.errors import InternalError, ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine, Guard, Lookup
from tilegrad.ir.expr import Expr, ExprLike
from tilegrad.ir.folding import fold, uniform
from tilegrad.ir.graph import GradientRule, Nest, ReshapeOp, Result, StructuredOp, Value, current_graph
from tilegrad.ir.types import DType, Kind

Index = Affine | int


class Domain:
    """A box of iterators, parallel ones first, and the guards of its terms."""

    def __init__(self) -> None:
        self.extents: list[int] = []
        self.parallel_count = 0
        self.guards: list[Guard] = []

    def parallel(self, *extents: int) -> tuple[Affine, ...]:
        """Add parallel iterators with these trip counts."""
        if self.parallel_count != len(self.extents):
            raise InternalError("parallel iterators come before reductions")
        self.parallel_count += len(extents)
        return self._add(extents)

    def reduction(self, *extents: int) -> tuple[Affine, ...]:
        """Add reduction iterators; their order of declaration is the canonical order of the sum."""
        return self._add(extents)

    def _add(self, extents: Sequence[int]) -> tuple[Affine, ...]:
        first = len(self.extents)
        self.extents.extend(int(extent) for extent in extents)
        return tuple(Affine.iterator(first + k) for k in range(len(extents)))

    def require(self, index: Affine, lower: int, upper: int) -> None:
        """Terms exist only where ``lower <= index < upper``."""
        self.guards.append(Guard(index, lower, upper))

    def nest(
        self, outputs: Sequence[Value], index: Sequence[Index], combiner: str, exprs: Sequence[Expr], *,
        start: Expr | None = None, scatter: bool = False,
    ) -> Nest:  # fmt: skip
        """The loop nest over this domain, guarded wherever a read could leave its tensor."""
        rows = tuple(Affine.of(row) for row in index)
        result = Result(tuple(outputs), rows, combiner, tuple(exprs), start)
        return make_nest(self.extents, self.parallel_count, self.guards, (result,), scatter=scatter)

    def _shape(self, index: Sequence[Index]) -> tuple[int, ...]:
        shape = []
        for row in map(Affine.of, index):
            if row.single is None and not row.is_constant:
                raise InternalError("an output shape is derived from plain iterators only; pass the shape")
            shape.append(1 if row.single is None else self.extents[row.single])
        return tuple(shape)

    def _define(
        self, combiner: str, exprs: Sequence[Expr], index: Sequence[Index], name: str, init: float | int | None = None
    ) -> Value:
        output = temporary(self._shape(index), exprs[0].dtype, name)
        nest = self.nest((output,), index, combiner, exprs)
        if combiner == "assign" and nest.guards and init is None:
            raise InternalError("terms of an assignment can be missing; say with `init` what their elements contain")
        _append((output,), (nest,), init if nest.guards else None)
        return output

    def assign(self, body: Expr, index: Sequence[Index], name: str = "", init: float | int | None = None) -> Value:
        """``out[index] = body``, one term per element; the shape follows from the iterators in `index`.

        Elements whose term does not exist contain `init`, which therefore must be given where a read may leave its
        tensor.
        """
        return self._define("assign", (body,), index, name, init)

    def sum(self, body: Expr, index: Sequence[Index], name: str = "") -> Value:
        """Sum terms, ``out[index] += body``; a product at the root is accumulated by fused multiply-adds."""
        combiner, exprs = sum_of(body)
        return self._define(combiner, exprs, index, name)

    def max(self, body: Expr, index: Sequence[Index], name: str = "") -> Value:
        """Keep the largest term at every output index; NaN propagates."""
        return self._define("max", (body,), index, name)

    def argmax(self, body: Expr, index: Sequence[Index], name: str = "") -> tuple[Value, Value]:
        """The maximum and the i32 position of its first occurrence among the reduction iterators (row-major)."""
        shape = self._shape(index)
        largest, position = temporary(shape, body.dtype, name), temporary(shape, DType.I32, name)
        _append((largest, position), (self.nest((largest, position), index, "argmax", (body,)),))
        return largest, position


def make_nest(
    extents: Sequence[int], parallel: int, guards: Sequence[Guard], results: Sequence[Result], *, scatter: bool = False
) -> Nest:
    """A nest with the guards that its reads (and the writes of a scatter) need, and without those that always hold."""
    wanted = list(guards)
    for guard in guards:
        wanted.extend(_table_bounds(guard.index, extents))
    for node in sc.walk(*(expr for result in results for expr in result.exprs)):
        if node.op == "read":
            wanted.extend(_bounds(node.attr.value, node.attr.index, extents))
        elif node.op == "index":
            wanted.extend(_table_bounds(node.attr, extents))
    for result in results:
        wanted.extend(_bounds(result.outputs[0], result.index, extents))
    # A table is read inside a guard only where the guards of its own index hold.
    kept = sorted((guard for guard in wanted if not guard.always_holds(extents)), key=lambda guard: guard.index.depth)
    return Nest(tuple(extents), parallel, tuple(dict.fromkeys(kept)), tuple(results), scatter)


def _bounds(value: Value, index: Sequence[Affine], extents: Sequence[int]) -> list[Guard]:
    """The guards that keep an access inside `value`."""
    guards = []
    for row, extent in zip(index, value.shape, strict=True):
        guard = Guard(row, 0, extent)
        if not guard.always_holds(extents):
            guards.append(guard)
        guards.extend(_table_bounds(row, extents))
    return guards


def _table_bounds(row: Affine, extents: Sequence[int]) -> list[Guard]:
    """The guards that keep the lookups of an index inside their tables."""
    return [guard for lookup in row.lookups for guard in _bounds(lookup.value, lookup.index, extents)]


def sum_of(body: Expr) -> tuple[str, tuple[Expr, ...]]:
    """Combiner and term of a sum: products become fused multiply-adds, here and nowhere later."""
    if body.op == "mul" and body.dtype.is_float:
        return "dot", body.args
    return "sum", (body,)


def temporary(shape: Sequence[int], dtype: DType = DType.F32, name: str = "") -> Value:
    """A value that an operation about to be added defines."""
    return Value(current_graph().fresh_name(name), tuple(int(n) for n in shape), dtype)


def _append(outputs: Sequence[Value], nests: Sequence[Nest], init: float | int | None = None) -> None:
    op = StructuredOp(tuple(outputs), tuple(nests), init)
    if not fold(op):
        current_graph().add(op)


def constant(data: ArrayLike, dtype: DType | None = None, name: str = "") -> Value:
    """A tensor whose contents are known at compile time."""
    array: NDArray[np.generic] = np.asarray(data)
    dtype = dtype or DType.of(array)
    array = np.ascontiguousarray(array.astype(dtype.numpy)).reshape(array.shape)
    name = name or current_graph().fresh_name(f"{current_graph()._origin}.constant")
    return Value(name, array.shape, dtype, Kind.CONSTANT, array)


def lookup(table: Value, *index: Index) -> Affine:
    """The entry of an integer tensor as part of an index: ``weight[lookup(labels, n), e]`` is a gather."""
    if table.dtype.is_float:
        raise ShapeError(f"{table.name} is used as an index and must hold integers, not {table.dtype.value}")
    return Affine((), 0, (Lookup(1, table, tuple(Affine.of(row) for row in index)),))


def broadcast_shapes(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The common shape under NumPy's rules.

    Raises:
        ShapeError: if the shapes do not fit.
    """
    try:
        return tuple(int(n) for n in np.broadcast_shapes(*(tuple(shape) for shape in shapes)))
    except ValueError as error:
        raise ShapeError(f"shapes do not broadcast: {', '.join(map(str, shapes))}") from error


def broadcast_index(value: Value, index: Sequence[Affine]) -> tuple[Affine, ...]:
    """How an element of a broadcast result at `index` reads `value`."""
    tail = index[len(index) - value.rank :]
    return tuple(Affine() if extent == 1 else row for row, extent in zip(tail, value.shape, strict=True))


def elementwise(body: Callable[..., ExprLike], *values: Value, name: str = "") -> Value:
    """``body`` applied to corresponding elements, with broadcasting; every intermediate is a scalar, not a tensor."""
    shape = broadcast_shapes(*(value.shape for value in values))
    d = Domain()
    index = d.parallel(*shape)
    result = body(*(_element(value, index) for value in values))
    return d.assign(sc.as_expr(result, DType.F32), index, name)


def _element(value: Value, index: Sequence[Affine]) -> Expr:
    """An element under broadcasting; a constant whose elements are all the same number is that number."""
    number = uniform(value)
    return value[broadcast_index(value, index)] if number is None else sc.constant(number, value.dtype)


def full(shape: Sequence[int], value: float | int, dtype: DType = DType.F32) -> Value:
    """A tensor filled with one number, computed where it is read."""
    d = Domain()
    index = d.parallel(*shape)
    return d.assign(sc.constant(value, dtype), index)


def reshape(value: Value, shape: Sequence[int]) -> Value:
    """The same flat contents under another shape; one extent may be -1.

    Raises:
        ShapeError: if the number of elements differs.
    """
    wanted = [int(n) for n in shape]
    if wanted.count(-1) == 1:
        known = math.prod(n for n in wanted if n != -1)
        wanted[wanted.index(-1)] = value.size // known if known else 0
    if math.prod(wanted) != value.size or any(n < 0 for n in wanted):
        raise ShapeError(f"cannot view {value.name} of shape {value.shape} as {tuple(shape)}")
    if tuple(wanted) == value.shape:
        return value
    if value.is_constant and value.data is not None:
        return constant(value.data.reshape(wanted), value.dtype, f"{value.name}.view")
    output = temporary(wanted, value.dtype)
    current_graph().add(ReshapeOp(value, output))
    return output


def transpose(value: Value, order: Sequence[int]) -> Value:
    """Axes in another order, as ``numpy.transpose``."""
    order = [axis % value.rank for axis in order]
    if order == list(range(value.rank)):
        return value
    d = Domain()
    index = d.parallel(*(value.shape[axis] for axis in order))
    source = [Affine()] * value.rank
    for position, axis in enumerate(order):
        source[axis] = index[position]
    return d.assign(value[tuple(source)], index)


def broadcast_to(value: Value, shape: Sequence[int]) -> Value:
    """`value` repeated along axes of extent 1 and new leading axes."""
    if tuple(shape) == value.shape:
        return value
    if broadcast_shapes(value.shape, shape) != tuple(shape):
        raise ShapeError(f"{value.name} of shape {value.shape} does not broadcast to {tuple(shape)}")
    d = Domain()
    index = d.parallel(*shape)
    return d.assign(value[broadcast_index(value, index)], index)


def normalise_axes(axes: Sequence[int] | int | None, rank: int) -> tuple[int, ...]:
    """Sorted non-negative axes; None and () stand for all of them.

    Raises:
        ShapeError: if an axis is out of range or named twice.
    """
    if axes is None or (not isinstance(axes, int) and len(axes) == 0):
        return tuple(range(rank))
    listed = [axes] if isinstance(axes, int) else list(axes)
    if any(not -max(rank, 1) <= axis < max(rank, 1) for axis in listed):
        raise ShapeError(f"axes {listed} do not fit a tensor of rank {rank}")
    wrapped = [axis % rank for axis in listed] if rank else []
    if len(set(wrapped)) != len(wrapped):
        raise ShapeError(f"axes {listed} name an axis twice")
    return tuple(sorted(wrapped))


def reduction_domain(
    value: Value, axes: Sequence[int], keepdim: bool
) -> tuple[Domain, tuple[Affine, ...], list[Index]]:
    """A domain over all elements of `value` with `axes` reduced: the domain, the read index and the output index."""
    d = Domain()
    kept = [axis for axis in range(value.rank) if axis not in axes]
    outer = d.parallel(*(value.shape[axis] for axis in kept))
    inner = d.reduction(*(value.shape[axis] for axis in axes))
    source = dict(zip(kept, outer, strict=True)) | dict(zip(axes, inner, strict=True))
    index: list[Index] = []
    for axis in range(value.rank):
        if axis not in axes:
            index.append(source[axis])
        elif keepdim:
            index.append(0)
    return d, tuple(source[axis] for axis in range(value.rank)), index


def reduce_sum(
    value: Value, axes: Sequence[int] | int | None = None, keepdim: bool = False,
    body: Callable[..., Expr] | None = None, *others: Value,
) -> Value:  # fmt: skip
    """Sum over `axes` of the elements, or of ``body(element, *elements of others)`` (others broadcast to `value`)."""
    axes = normalise_axes(axes, value.rank)
    d, source, index = reduction_domain(value, axes, keepdim)
    operands = [value[source], *(other[broadcast_index(other, source)] for other in others)]
    return d.sum(operands[0] if body is None else body(*operands), index)


def reduce_mean(value: Value, axes: Sequence[int] | int | None = None, keepdim: bool = False) -> Value:
    """Arithmetic mean over `axes`."""
    count = math.prod(value.shape[axis] for axis in normalise_axes(axes, value.rank))
    return reduce_sum(value, axes, keepdim) / float(count)


def reduce_max(value: Value, axes: Sequence[int] | int | None = None, keepdim: bool = False) -> Value:
    """Largest element over `axes`; NaN propagates. Its derived gradient does not exist: see operators.reduction."""
    axes = normalise_axes(axes, value.rank)
    d, source, index = reduction_domain(value, axes, keepdim)
    return d.max(value[source], index)


class Pieces:
    """Define one tensor by several nests on disjoint boxes: concatenation, padding, rolling."""

    def __init__(self, shape: Sequence[int], dtype: DType = DType.F32, init: float | int | None = None, name: str = ""):
        self.output = temporary(shape, dtype, name)
        self._init = init
        self._nests: list[Nest] = []

    def assign(self, domain: Domain, body: Expr, index: Sequence[Index]) -> None:
        """Add the piece ``out[index] = body``."""
        self._nests.append(domain.nest((self.output,), index, "assign", (body,)))

    def sum(self, domain: Domain, body: Expr, index: Sequence[Index], *, scatter: bool = False) -> None:
        """Add the piece ``out[index] += body``; with `scatter`, in domain order into memory that `init` filled."""
        combiner, exprs = sum_of(body)
        self._nests.append(domain.nest((self.output,), index, combiner, exprs, scatter=scatter))

    def finish(self) -> Value:
        """Append the operation to the graph and return its output."""
        _append((self.output,), self._nests, self._init)
        return self.output


def with_gradient(
    inputs: Sequence[Value], outputs: Sequence[Value], vjp: Callable[..., Sequence[Value | None]]
) -> tuple[Value, ...]:
    """Give a composite a gradient of its own: ``vjp(*output gradients) -> input gradients``.

    Call it after the last operation of the composite. A gradient of an output that nothing uses arrives as None.
    """
    rule = GradientRule(tuple(inputs), tuple(outputs), vjp)
    for output in outputs:
        current_graph().rules[output] = rule
    return rule.outputs
