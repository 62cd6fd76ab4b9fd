"""Largest and smallest elements: which of several equal ones receives the gradient depends on the operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import (
    Domain,
    elementwise,
    normalise_axes,
    reduce_sum,
    reduction_domain,
    reshape,
    with_gradient,
)
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import axis_of, convert
from tilegrad.operators.registry import OnnxCall, aten, onnx

Axes = Sequence[int] | int | None


def _reversed(v: Expr) -> Expr:
    """`v` such that the order is reversed: the complement of integers, since the smallest one has no negative."""
    if v.dtype.is_float:
        return -v
    return sc.constant(np.iinfo(v.dtype.numpy.name).max if v.dtype is DType.U32 else -1, v.dtype) - v


def _extremum_at(x: Value, dim: int, keepdim: bool, *, largest: bool) -> tuple[Value, Value]:
    """The extremum along one axis and the i32 position of its first occurrence, which receives the gradient."""
    axis = axis_of(dim, x.rank, "max" if largest else "min")
    if not x.rank:
        x = reshape(x, (1,))
        value, position = _extremum_at(x, 0, False, largest=largest)
        return value, position
    if not x.shape[axis]:
        raise ShapeError(f"axis {dim} of {x.name} of shape {x.shape} has no largest or smallest element")
    flag = x.dtype is DType.BOOL
    source = convert(x, DType.I32) if flag else x
    d, index, rows = reduction_domain(source, (axis,), keepdim)
    element = source[index]
    value, position = d.argmax(element if largest else _reversed(element), rows)
    value = value if largest else elementwise(_reversed, value)
    return (convert(value, DType.BOOL) if flag else value), position


@aten("aten.max.dim")
def max_dim(x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    """The largest elements along one axis and their i64 positions; the first of equal ones gets the gradient."""
    value, position = _extremum_at(x, dim, keepdim, largest=True)
    return value, convert(position, DType.I64)


@aten("aten.min.dim")
def min_dim(x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    """The smallest elements along one axis and their i64 positions; the first of equal ones gets the gradient."""
    value, position = _extremum_at(x, dim, keepdim, largest=False)
    return value, convert(position, DType.I64)


def _even(x: Value, dim: Axes, keepdim: bool, *, largest: bool) -> Value:
    axes = normalise_axes(dim, x.rank)
    if any(not x.shape[axis] for axis in axes):
        raise ShapeError(f"axes {axes} of {x.name} of shape {x.shape} have no largest or smallest element")
    flag = x.dtype is DType.BOOL
    source = convert(x, DType.I32) if flag else x
    d, index, rows = reduction_domain(source, axes, keepdim)
    found = d.max(source[index] if largest else _reversed(source[index]), rows)
    result = found if largest else elementwise(_reversed, found)
    if not x.dtype.is_float:
        return convert(result, DType.BOOL) if flag else result
    wide = [1 if axis in axes else extent for axis, extent in enumerate(x.shape)]

    def holds(v: Expr, extremum: Expr) -> Expr:
        return v.equals(extremum) | (v.differs(v) & extremum.differs(extremum))

    def vjp(g: Value) -> tuple[Value]:
        best = reshape(result, wide)
        ties = reduce_sum(x, axes, True, lambda v, b: sc.select(holds(v, b), 1.0, 0.0), best)
        share = elementwise(lambda gv, n: gv / n, reshape(g, wide), ties)
        return (elementwise(lambda v, b, s: sc.select(holds(v, b), s, 0.0), x, best, share),)

    # The maximum itself derives none: all equal elements share the gradient evenly.
    with_gradient((x,), (result,), vjp)
    return result


@aten("aten.amax.default")
def amax(x: Value, dim: Axes = (), keepdim: bool = False) -> Value:
    """The largest element over axes; equal ones, and NaNs, share the gradient evenly."""
    return _even(x, dim, keepdim, largest=True)


@aten("aten.amin.default")
def amin(x: Value, dim: Axes = (), keepdim: bool = False) -> Value:
    """The smallest element over axes; equal ones, and NaNs, share the gradient evenly."""
    return _even(x, dim, keepdim, largest=False)


@aten("aten.max.default")
def max_all(x: Value) -> Value:
    """The largest of all elements."""
    return amax(x)


@aten("aten.min.default")
def min_all(x: Value) -> Value:
    """The smallest of all elements."""
    return amin(x)


@aten("aten.aminmax.default")
def aminmax(x: Value, *, dim: int | None = None, keepdim: bool = False) -> tuple[Value, Value]:
    """The smallest and the largest element along one axis, or of all."""
    axes = () if dim is None else dim
    return amin(x, axes, keepdim), amax(x, axes, keepdim)


def _position(x: Value, dim: int | None, keepdim: bool, *, largest: bool) -> Value:
    if dim is None:
        _, position = _extremum_at(reshape(x, (x.size,)), 0, False, largest=largest)
        position = reshape(position, (1,) * x.rank) if keepdim else position
    else:
        _, position = _extremum_at(x, dim, keepdim, largest=largest)
    return convert(position, DType.I64)


@aten("aten.argmax.default")
def argmax(x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    """The i64 position of the first largest element along one axis, or among all of them in order."""
    return _position(x, dim, keepdim, largest=True)


@aten("aten.argmin.default")
def argmin(x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    """The i64 position of the first smallest element along one axis, or among all of them in order."""
    return _position(x, dim, keepdim, largest=False)


def _onnx_position(call: OnnxCall, x: Value, *, largest: bool) -> Value:
    axis = axis_of(int(call.attribute("axis", 0)), x.rank, call.op_type)
    keep = bool(call.attribute("keepdims", 1))
    if not call.attribute("select_last_index", 0):
        return _position(x, axis, keep, largest=largest)
    last = x.shape[axis] - 1
    d = Domain()
    index = d.parallel(*x.shape)
    backwards = d.assign(x[tuple(-row + last if k == axis else row for k, row in enumerate(index))], index)
    return elementwise(lambda n: last - n, _position(backwards, axis, keep, largest=largest))


@onnx("ArgMax")
def onnx_argmax(call: OnnxCall, x: Value) -> Value:
    """ONNX ArgMax: the first of equal elements, or the last one."""
    return _onnx_position(call, x, largest=True)


@onnx("ArgMin")
def onnx_argmin(call: OnnxCall, x: Value) -> Value:
    """ONNX ArgMin: the first of equal elements, or the last one."""
    return _onnx_position(call, x, largest=False)
