"""Reference execution of graphs in NumPy: the value oracle, in float32 or float64.

Sums are NumPy's, so results agree with the generated C in value, not in bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import InternalError
from tilegrad.interpreter.philox import philox
from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import Expr, walk
from tilegrad.ir.graph import Graph, Nest, ReshapeOp, Result, StructuredOp, Value
from tilegrad.ir.types import DType

Array = NDArray[Any]
Environment = dict[Value, Array]


def run(
    graph: Graph, feeds: Mapping[Value, Array], dtype: type[np.floating[Any]] = np.float32, *, magnitude: bool = False
) -> Environment:
    """Execute a graph.

    Args:
        graph: what to run.
        feeds: contents of inputs and of persistent tensors; those missing start with their initial data or zeros.
        dtype: float type of every f32 tensor and expression.
        magnitude: sum the absolute values of the terms of every final sum instead of the terms; the scale on which
            rounding errors of gradients are judged. Applies to ``sum`` and ``dot`` results only.

    Returns:
        The contents of every tensor, stores applied to their targets under the stored value's own entry.
    """
    env: Environment = {value: _stored(array, value, dtype) for value, array in feeds.items()}
    with np.errstate(all="ignore"):
        for op in graph.ops:
            for operand in op.operands:
                if operand not in env:
                    env[operand] = _stored(initial(operand), operand, dtype)
            if isinstance(op, ReshapeOp):
                env[op.output] = env[op.source].reshape(op.output.shape)
            else:
                execute(op, env, dtype, magnitude=magnitude)
    for store in graph.stores:
        if store.value not in env:
            env[store.value] = _stored(initial(store.value), store.value, dtype)
    return env


def initial(value: Value) -> Array:
    """The contents of a persistent tensor before the first call.

    Raises:
        InternalError: for a temporary, which nothing has defined.
    """
    if not value.kind.persistent:
        raise InternalError(f"{value.name} is read before an operation defines it")
    return np.zeros(value.shape, value.dtype.numpy) if value.data is None else value.data


def _stored(array: Array, value: Value, dtype: type[np.floating[Any]]) -> Array:
    return np.asarray(array).astype(dtype if value.dtype.is_float else value.dtype.numpy).reshape(value.shape)


def execute(op: StructuredOp, env: Environment, dtype: type[np.floating[Any]], *, magnitude: bool = False) -> None:
    """Execute one operation; its outputs are added to `env`."""
    for output in op.outputs:
        kind = dtype if output.dtype.is_float else output.dtype.numpy
        env[output] = np.full(output.shape, 0 if op.init is None else op.init, kind)
    for nest in op.nests:
        _Run(nest, env, dtype).store(magnitude)


class _Run:
    """The execution of one nest over its whole domain at once, by broadcasting."""

    def __init__(self, nest: Nest, env: Environment, dtype: type[np.floating[Any]]) -> None:
        self.nest, self.env, self.dtype = nest, env, dtype
        rank = len(nest.extents)
        self.grids = [
            np.arange(extent).reshape([-1 if axis == k else 1 for axis in range(rank)])
            for k, extent in enumerate(nest.extents)
        ]
        self.mask = self._mask()
        self.cache: dict[int, Array] = {}

    def affine(self, row: Affine) -> Array:
        total: Array = np.array(row.constant).reshape([1] * len(self.grids))
        for iterator, coefficient in row.terms:
            total = total + coefficient * self.grids[iterator]
        for lookup in row.lookups:
            total = total + lookup.coefficient * self.element(lookup.value, lookup.index).astype(np.int64)
        return total

    def element(self, value: Value, index: Sequence[Affine]) -> Array:
        if value.size == 0:  # nothing is read
            return np.zeros([1] * len(self.grids), self.env[value].dtype)
        if not index:
            return self.env[value].reshape([1] * len(self.grids))
        flat: Array = np.zeros([1] * len(self.grids), np.int64)
        for row, extent, stride in zip(index, value.shape, value.strides, strict=True):
            flat = flat + np.clip(self.affine(row), 0, extent - 1) * stride  # clipped terms are masked out
        return self.env[value].reshape(-1)[flat]

    def _mask(self) -> Array | None:
        mask: Array | None = None
        for guard in self.nest.guards:
            row = self.affine(guard.index)
            holds = (row >= guard.lower) & (row < guard.upper)
            mask = holds if mask is None else mask & holds
        return mask

    def value(self, root: Expr) -> Array:
        for node in walk(root):
            if id(node) not in self.cache:
                self.cache[id(node)] = self._node(node, self.cache)
        return self.cache[id(root)]

    def final(self, result: Result, accumulator: Array) -> Array:
        """What is stored for the finished accumulators, one per point of the parallel iterators."""
        if result.final is None:
            return accumulator
        parallel = self.nest.extents[: self.nest.parallel]
        found: dict[int, Array] = {}
        for node in walk(result.final):
            found[id(node)] = accumulator.reshape(self._outer()) if node.op == "acc" else self._node(node, found)
        return np.broadcast_to(found[id(result.final)], self._outer()).reshape(parallel)

    def _outer(self) -> tuple[int, ...]:
        """The shape of what depends on the parallel iterators alone."""
        return tuple(n if k < self.nest.parallel else 1 for k, n in enumerate(self.nest.extents))

    def _node(self, node: Expr, known: Mapping[int, Array]) -> Array:
        ones = [1] * len(self.grids)
        if node.op == "const":
            kind = self.dtype if node.dtype.is_float else node.dtype.numpy
            return np.full(ones, node.attr, kind)
        if node.op == "read":
            return self.element(node.attr.value, node.attr.index)
        if node.op == "index":
            return self.affine(node.attr).astype(np.int32)
        args = [known[id(arg)] for arg in node.args]
        if node.op == "cast":
            return _cast(args[0], node.dtype, self.dtype)
        return np.asarray(_FUNCTIONS[node.op](*args))

    def full(self, array: Array) -> Array:
        return np.broadcast_to(array, self.nest.extents)

    def store(self, magnitude: bool) -> None:
        for result in self.nest.results:
            if self.nest.scatter:
                self._scatter(result, magnitude)
                continue
            first, *position = self._reduce(result, magnitude)
            for output, array in zip(result.outputs, [self.final(result, first), *position], strict=True):
                self._write(output, result.index, array)

    def _write(self, output: Value, index: Sequence[Affine], array: Array) -> None:
        target = self.env[output]
        parallel = self.nest.extents[: self.nest.parallel]
        rows = [self.affine(row).reshape(self.affine(row).shape[: self.nest.parallel]) for row in index]
        if not rows:
            drops = self._drops()
            if drops is None or drops.all():
                target[...] = array.reshape(())
            return
        places = tuple(np.broadcast_to(row, parallel) for row in rows)
        if self._drops() is not None:
            keep = np.broadcast_to(self._drops(), parallel)  # type: ignore[arg-type]
            target[tuple(place[keep] for place in places)] = array[keep]
        else:
            target[places] = array

    def _drops(self) -> Array | None:
        """For a nest without reductions whose terms are assigned: which elements are written."""
        if self.mask is None or any(r.combiner != "assign" for r in self.nest.results):
            return None
        return self.mask

    def _terms(self, result: Result) -> list[Array]:
        terms = [self.value(expr) for expr in result.exprs]
        if self.mask is not None:
            zero = terms[0].dtype.type(0)
            terms = [np.where(self.mask, term, zero) for term in terms]
        return terms

    def _reduce(self, result: Result, magnitude: bool) -> tuple[Array, ...]:
        axes = tuple(range(self.nest.parallel, len(self.nest.extents)))
        parallel = self.nest.extents[: self.nest.parallel]
        if result.combiner == "assign":
            return (self.full(self.value(result.exprs[0])),)
        if result.combiner in ("sum", "dot"):
            total = self._total(self._terms(result), axes, magnitude)
            if result.start is not None:
                start = self.value(result.start)
                start = np.broadcast_to(start.reshape(start.shape[: self.nest.parallel]), parallel)
                total = total + (np.abs(start) if magnitude else start)
            return (total,)
        flat = (*parallel, math.prod(self.nest.extents[self.nest.parallel :]))
        term = self.full(self.value(result.exprs[0])).reshape(flat)
        mask = None if self.mask is None else self.full(self.mask).reshape(flat)
        position = _first_maximum(term, mask)
        if not term.size:  # there is nothing to take
            return (np.full(parallel, _least(term)), position)[: len(result.outputs)]
        largest = np.take_along_axis(term, np.maximum(position, 0)[..., None], -1)[..., 0]
        largest = np.where(position < 0, _least(term), largest) if mask is not None else largest
        return (largest, position)[: len(result.outputs)]

    def _total(self, terms: list[Array], axes: tuple[int, ...], magnitude: bool) -> Array:
        if magnitude:
            terms = [np.abs(term) for term in terms]
        if len(terms) == 1 or 0 in self.nest.extents:
            return np.asarray(self.full(terms[0]).sum(axes))
        letters = "abcdefghijklmnopqrstuvwxyz"[: len(self.nest.extents)]
        kept = letters[: self.nest.parallel]
        names, arrays = [], []
        for term in terms:
            names.append("".join(x for x, extent in zip(letters, term.shape, strict=True) if extent != 1))
            arrays.append(term.reshape([extent for extent in term.shape if extent != 1]))
        present = set("".join(names))
        absent = math.prod(
            e for x, e in zip(letters, self.nest.extents, strict=True) if x not in present and x not in kept
        )
        target = "".join(x for x in kept if x in present)
        total = np.einsum(f"{','.join(names)}->{target}", *arrays, optimize=True) * terms[0].dtype.type(absent)
        shape = [e if x in present else 1 for x, e in zip(kept, self.nest.extents, strict=False)]
        return np.broadcast_to(np.asarray(total).reshape(shape), self.nest.extents[: self.nest.parallel])

    def _scatter(self, result: Result, magnitude: bool) -> None:
        target = self.env[result.outputs[0]]
        term: Array = self.value(result.exprs[0])
        for factor in result.exprs[1:]:
            term = term * self.value(factor)
        term = self.full(np.abs(term) if magnitude else term)
        mask = self.full(np.array(True) if self.mask is None else self.mask)
        flat = np.zeros(int(mask.sum()), np.int64)
        for row, stride in zip(result.index, result.outputs[0].strides, strict=True):
            flat += self.full(self.affine(row))[mask] * stride
        np.add.at(target.reshape(-1), flat, term[mask])


def _first_maximum(term: Array, mask: Array | None) -> Array:
    """i32 position of the first maximum along the last axis; -1 where there is no term.

    NaN counts as the largest; masked terms do not exist.
    """
    if not term.size:
        return np.full(term.shape[:-1], -1, np.int32)
    if mask is None:
        return np.asarray(np.argmax(term, -1)).astype(np.int32)
    position = np.argmax(np.where(mask, term, _least(term)), -1)
    exists = np.take_along_axis(mask, position[..., None], -1)[..., 0]
    # Where all existing terms are minus infinity, the first existing one.
    position = np.where(exists, position, np.argmax(mask, -1))
    return np.where(mask.any(-1), position, -1).astype(np.int32)


def _least(term: Array) -> Any:
    """What a maximum without terms is."""
    return term.dtype.type(-np.inf if term.dtype.kind == "f" else np.iinfo(term.dtype).min)


def _cast(array: Array, dtype: DType, working: type[np.floating[Any]]) -> Array:
    if dtype.is_float:
        return array.astype(working)
    if dtype is DType.BOOL:
        return np.asarray(array != 0)
    if array.dtype.kind == "f":
        info = np.iinfo(dtype.numpy.name)
        top = float(info.max) + 1.0 if info.bits < 64 else 2.0**63  # exact in every float type, unlike the maximum
        whole = np.trunc(array)
        inside = np.where((whole >= float(info.min)) & (whole < top), whole, 0).astype(dtype.numpy)
        clamped = np.where(whole >= top, dtype.numpy.type(info.max), inside)
        return np.where(whole < float(info.min), dtype.numpy.type(info.min), clamped)
    return np.asarray(array.astype(dtype.numpy))


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.asarray(np.divide(a, b))
    divisor = np.where(b == 0, a.dtype.type(1), b)
    below = np.floor_divide(a, divisor)  # wraps where the smallest number is divided by -1
    inexact = (below * divisor != a) & ((a < 0) != (divisor < 0))
    return np.asarray(np.where(b == 0, a.dtype.type(0), below + inexact.astype(a.dtype)))  # truncates as in C


def _fma(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c``; of float32, the product is exact, so that cancellation leaves what the hardware would."""
    if a.dtype != np.float32:
        return np.asarray(a * b + c)
    return np.asarray(a.astype(np.float64) * b + c).astype(np.float32)


_erf = np.frompyfunc(math.erf, 1, 1)

_FUNCTIONS: dict[str, Any] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _divide, "neg": np.negative, "abs": np.abs,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.logical_not,
    "shl": np.left_shift, "shr": np.right_shift,
    "fma": _fma, "select": np.where, "sqrt": np.sqrt, "exp": np.exp, "expm1": np.expm1,
    "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "erf": lambda a: np.asarray(_erf(a)).astype(a.dtype),
    "sin": np.sin, "cos": np.cos, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    "pow": lambda a, b: np.power(a, b), "philox": philox,
}  # fmt: skip
