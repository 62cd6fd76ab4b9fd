"""Reductions: sums, means, products, norms, moments, logic, and running sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import (
    Domain,
    Pieces,
    elementwise,
    normalise_axes,
    reduce_sum,
    reshape,
    with_gradient,
)
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators import functions
from tilegrad.operators.arguments import aten_dtype, axis_of, convert, static_ints
from tilegrad.operators.extrema import amax, amin
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx

Axes = Sequence[int] | int | None


def keep_axes(value: Value, x: Value, axes: Sequence[int]) -> Value:
    """A reduction's result with its axes back in place, so that it broadcasts against the operand."""
    return reshape(value, [1 if axis in axes else extent for axis, extent in enumerate(x.shape)])


def _count(x: Value, axes: Sequence[int]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def _accumulable(x: Value, dtype: object) -> Value:
    """`x` in the type its sum has: the given one, i64 for integers and bools, else its own."""
    if dtype is not None:
        return convert(x, aten_dtype(dtype))
    return x if x.dtype.is_float else convert(x, DType.I64)


@aten("aten.sum.dim_IntList")
def sum_over(x: Value, dim: Axes = None, keepdim: bool = False, *, dtype: object = None) -> Value:
    """The sum over axes (None or (): all of them); integers and bools are counted in i64."""
    return reduce_sum(_accumulable(x, dtype), dim, keepdim)


@aten("aten.sum.default")
def sum_all(x: Value, *, dtype: object = None) -> Value:
    """The sum of all elements."""
    return sum_over(x, dtype=dtype)


@aten("aten.mean.dim")
def mean(x: Value, dim: Axes = None, keepdim: bool = False, *, dtype: object = None) -> Value:
    """The arithmetic mean over axes (None or (): all of them).

    Raises:
        ShapeError: for integers.
    """
    x = x if dtype is None else convert(x, aten_dtype(dtype))
    if not x.dtype.is_float:
        raise ShapeError(f"mean: {x.name} has type {x.dtype.value}; convert it to float first")
    count = float(_count(x, normalise_axes(dim, x.rank)))
    return elementwise(lambda total: total / count, reduce_sum(x, dim, keepdim))


@aten("aten.mean.default")
def mean_all(x: Value, *, dtype: object = None) -> Value:
    """The mean of all elements."""
    return mean(x, dtype=dtype)


def var_mean(x: Value, dim: Axes = None, correction: float = 1, keepdim: bool = False) -> tuple[Value, Value]:
    """Variance and mean over axes.

    Args:
        x: f32 tensor.
        dim: the axes; None or () for all of them.
        correction: subtracted from the number of elements in the divisor of the variance.
        keepdim: keep the axes with extent 1.

    Returns:
        ``sum((x - mean) ** 2) / max(0, n - correction)`` and the mean.
    """
    axes = normalise_axes(dim, x.rank)
    count = _count(x, axes)
    divisor = max(float(count - correction), 0.0)
    average = mean(x, dim, keepdim=True)
    total = reduce_sum(x, dim, keepdim, lambda v, m: (v - m) * (v - m), average)
    variance = elementwise(lambda t: t / divisor, total)
    result = average if keepdim else reshape(average, variance.shape)

    def vjp(g_variance: Value | None, g_mean: Value | None) -> tuple[Value | None]:
        parts = []
        if g_variance is not None:
            scaled = elementwise(lambda g: g * 2.0 / divisor, keep_axes(g_variance, x, axes))
            parts.append(elementwise(lambda v, m, g: (v - m) * g, x, average, scaled))
        if g_mean is not None:
            share = elementwise(lambda g: g / float(count), keep_axes(g_mean, x, axes))
            parts.append(elementwise(lambda v, g: g, x, share))
        return (parts[0] if len(parts) == 1 else elementwise(lambda a, b: a + b, *parts),)

    # Two reductions instead of ten: sum(x - mean) = 0, so the mean contributes nothing to the variance's gradient.
    with_gradient((x,), (variance, result), vjp)
    return variance, result


def var(x: Value, dim: Axes = None, correction: float = 1, keepdim: bool = False) -> Value:
    """Variance over axes; see `var_mean`."""
    return var_mean(x, dim, correction, keepdim)[0]


def std_mean(x: Value, dim: Axes = None, correction: float = 1, keepdim: bool = False) -> tuple[Value, Value]:
    """Standard deviation and mean over axes; the gradient of a deviation of 0 is 0."""
    variance, average = var_mean(x, dim, correction, keepdim)
    deviation = elementwise(sc.sqrt, variance)
    # Derived, a deviation of 0 would divide by it.
    with_gradient(
        (variance,),
        (deviation,),
        lambda g: (elementwise(lambda gv, s: sc.select(s.equals(0.0), 0.0, gv * 0.5 / s), g, deviation),),
    )
    return deviation, average


def std(x: Value, dim: Axes = None, correction: float = 1, keepdim: bool = False) -> Value:
    """Standard deviation over axes; see `std_mean`."""
    return std_mean(x, dim, correction, keepdim)[0]


def _register_moments(name: str, function: Callable[..., Value | tuple[Value, Value]]) -> None:
    def of_all(x: Value, unbiased: bool = True) -> Value | tuple[Value, Value]:
        return function(x, None, int(unbiased))

    def over(x: Value, dim: Axes, unbiased: bool = True, keepdim: bool = False) -> Value | tuple[Value, Value]:
        return function(x, dim, int(unbiased), keepdim)

    def corrected(
        x: Value, dim: Axes = None, *, correction: float | None = None, keepdim: bool = False
    ) -> Value | tuple[Value, Value]:
        return function(x, dim, 1 if correction is None else correction, keepdim)

    for overload, adapter in (("default", of_all), ("dim", over), ("correction", corrected)):
        adapter.__doc__ = function.__doc__
        aten(f"aten.{name}.{overload}")(adapter)


for _name, _function in (("var", var), ("var_mean", var_mean), ("std", std), ("std_mean", std_mean)):
    _register_moments(_name, _function)


def _multiply_neighbours(x: Value, axis: int) -> Value:
    """Half as many elements along one axis: products of neighbours, a last odd one as it is."""
    extent = x.shape[axis]
    shape = [(extent + 1) // 2 if k == axis else n for k, n in enumerate(x.shape)]
    pieces = Pieces(shape, x.dtype)
    d = Domain()
    index = d.parallel(*(extent // 2 if k == axis else n for k, n in enumerate(x.shape)))
    first, second = ([row * 2 + odd if k == axis else row for k, row in enumerate(index)] for odd in (0, 1))
    pieces.assign(d, x[tuple(first)] * x[tuple(second)], index)
    if extent % 2:
        d = Domain()
        index = d.parallel(*(1 if k == axis else n for k, n in enumerate(x.shape)))
        source = [row + (extent - 1) if k == axis else row for k, row in enumerate(index)]
        target = [row + extent // 2 if k == axis else row for k, row in enumerate(index)]
        pieces.assign(d, x[tuple(source)], target)
    return pieces.finish()


@aten("aten.prod.dim_int")
def prod(x: Value, dim: int, keepdim: bool = False, *, dtype: object = None) -> Value:
    """The product over one axis, neighbours first, so that the derived gradient is exact where factors are zero."""
    x = _accumulable(x, dtype)
    axis = axis_of(dim, x.rank, "prod")
    if not x.rank:
        return x
    if not x.shape[axis]:
        raise UnsupportedCall(f"prod over axis {dim} of {x.name}, which has no elements")
    while x.shape[axis] > 1:
        x = _multiply_neighbours(x, axis)
    return x if keepdim else reshape(x, (*x.shape[:axis], *x.shape[axis + 1 :]))


@aten("aten.prod.default")
def prod_all(x: Value, *, dtype: object = None) -> Value:
    """The product of all elements."""
    return prod(reshape(x, (x.size,)), 0, dtype=dtype)


def running_sum(x: Value, axis: int, *, exclusive: bool = False, reverse: bool = False) -> Value:
    """``y[i] = sum_{j <= i} x[j]`` along one axis; without ``j = i`` if exclusive, from the end if reversed."""
    d = Domain()
    index = d.parallel(*x.shape)
    (j,) = d.reduction(x.shape[axis])
    behind = j - index[axis] if reverse else index[axis] - j
    d.require(behind, int(exclusive), max(x.shape[axis], 1))
    return d.sum(x[tuple(j if k == axis else row for k, row in enumerate(index))], index)


@aten("aten.cumsum.default")
def cumsum(x: Value, dim: int, *, dtype: object = None) -> Value:
    """Running sums along one axis; integers and bools are counted in i64."""
    x = _accumulable(x, dtype)
    return running_sum(x, axis_of(dim, x.rank, "cumsum"), exclusive=False) if x.rank else x


@aten("aten.cumprod.default")
def cumprod(x: Value, dim: int, *, dtype: object = None) -> Value:
    """Running products along one axis, by doubling distances; the derived gradient is exact with zeros."""
    x = _accumulable(x, dtype)
    axis = axis_of(dim, x.rank, "cumprod")
    distance = 1
    while x.rank and distance < x.shape[axis]:
        pieces = Pieces(x.shape, x.dtype)
        head, tail = Domain(), Domain()
        index = head.parallel(*(distance if k == axis else n for k, n in enumerate(x.shape)))
        pieces.assign(head, x[index], index)
        index = tail.parallel(*(x.shape[axis] - distance if k == axis else n for k, n in enumerate(x.shape)))
        target = [row + distance if k == axis else row for k, row in enumerate(index)]
        pieces.assign(tail, x[index] * x[tuple(target)], target)
        x = pieces.finish()
        distance *= 2
    return x


for _name, _running in (("cumsum", cumsum), ("cumprod", cumprod)):
    aten(f"aten.{_name}_.default")(_running)


@aten("aten.linalg_vector_norm.default")
def vector_norm(x: Value, ord: float = 2, dim: Axes = None, keepdim: bool = False, *, dtype: object = None) -> Value:
    """The `ord`-norm over axes: also 0 (non-zero elements), inf and -inf; the gradient of a norm of 0 is 0."""
    x = convert(x, DType.F32 if dtype is None else aten_dtype(dtype))
    if ord == 0:
        return reduce_sum(x, dim, keepdim, lambda v: sc.select(v.equals(0.0), 0.0, 1.0))
    if ord == 1:
        return reduce_sum(x, dim, keepdim, sc.absolute)
    if math.isinf(ord):
        return (amax if ord > 0 else amin)(functions.absolute(x), () if dim is None else dim, keepdim)
    return _power_norm(x, float(ord), dim, keepdim)


def _power_norm(x: Value, p: float, dim: Axes, keepdim: bool) -> Value:
    axes = normalise_axes(dim, x.rank)

    def powers(v: Expr) -> Expr:
        return v * v if p == 2 else sc.power(sc.absolute(v), p)

    total = reduce_sum(x, dim, keepdim, powers)
    norm = elementwise(lambda t: sc.sqrt(t) if p == 2 else sc.power(t, 1.0 / p), total)

    def vjp(g: Value) -> tuple[Value]:
        wide_g, wide_norm = keep_axes(g, x, axes), keep_axes(norm, x, axes)
        # One quotient per norm, not per element; a norm of 0 has the subgradient 0, as in PyTorch.
        scale = elementwise(
            lambda gv, n: sc.select(n.equals(0.0), 0.0, gv / (n if p == 2 else sc.power(n, p - 1.0))), wide_g, wide_norm
        )

        def body(v: Expr, s: Expr) -> Expr:
            if p == 2:
                return v * s
            size = sc.power(sc.absolute(v), p - 1.0) * s
            return sc.select(v > 0.0, size, sc.select(v < 0.0, -size, 0.0))

        return (elementwise(body, x, scale),)

    with_gradient((x,), (norm,), vjp)
    return norm


@aten("aten.norm.Scalar")
def norm_all(x: Value, p: float = 2) -> Value:
    """The `p`-norm of all elements."""
    return vector_norm(x, p)


@aten("aten.norm.ScalarOpt_dim", "aten.norm.ScalarOpt_dim_dtype")
def norm(x: Value, p: float | None, dim: Axes, keepdim: bool = False, *, dtype: object = None) -> Value:
    """The `p`-norm over axes, 2 unless given."""
    return vector_norm(x, 2 if p is None else p, dim, keepdim, dtype=dtype)


@aten("aten.norm.ScalarOpt_dtype")
def norm_dtype(x: Value, p: float | None, *, dtype: object) -> Value:
    """The `p`-norm of all elements, 2 unless given."""
    return vector_norm(x, 2 if p is None else p, dtype=dtype)


@aten("aten.frobenius_norm.dim")
def frobenius_norm(x: Value, dim: Axes, keepdim: bool = False) -> Value:
    """The 2-norm over axes."""
    return vector_norm(x, 2, dim, keepdim)


def _non_zero(x: Value, dim: Axes, keepdim: bool, dtype: DType) -> Value:
    return reduce_sum(x, dim, keepdim, lambda v: sc.cast(sc.cast(v, DType.BOOL), dtype))


@aten("aten.any.default", "aten.any.dim", "aten.any.dims")
def any_of(x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    """Where some element over the axes is non-zero: bool."""
    return elementwise(lambda n: n.differs(0), _non_zero(x, dim, keepdim, DType.I32))


@aten("aten.all.default", "aten.all.dim", "aten.all.dims")
def all_of(x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    """Where all elements over the axes are non-zero: bool."""
    count = _count(x, normalise_axes(dim, x.rank))
    return elementwise(lambda n: n.equals(count), _non_zero(x, dim, keepdim, DType.I32))


@aten("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(x: Value, dim: Axes = None) -> Value:
    """The number of elements that are not zero: i64."""
    return _non_zero(x, dim, False, DType.I64)


def reduced_axes(call: OnnxCall, x: Value, axes: Value | None) -> list[int] | None:
    """The axes of an ONNX reduction, from its input or its attribute; None where it is to do nothing."""
    named = call.attribute("axes") if axes is None else static_ints(axes, f"the axes of {call.op_type}")
    if named is not None and len(named):
        return [int(axis) for axis in named]
    return None if call.attribute("noop_with_empty_axes", 0) else list(range(x.rank))


def _register_onnx(
    name: str, reduce: Callable[[Value, Sequence[int], bool], Value], single: Callable[[Value], Value] | None = None
) -> None:
    """Register a reduction, and what it does to every element where it reduces no axis."""

    def adapter(call: OnnxCall, x: Value, axes: Value | None = None) -> Value:
        named = reduced_axes(call, x, axes)
        if named is None:
            return x if single is None else single(x)
        return reduce(x, named, bool(call.attribute("keepdims", 1)))

    adapter.__doc__ = f"ONNX {name}."
    onnx(name)(adapter)


def _onnx_sum(x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return reduce_sum(x, axes, keepdim)


def _onnx_mean(x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return mean(x, axes, keepdim)


def _onnx_prod(x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    dtype = x.dtype
    for axis in sorted((axis_of(axis, x.rank, "ReduceProd") for axis in axes), reverse=True):
        x = convert(prod(x, axis, keepdim), dtype)
    return x


def _onnx_norm(order: float) -> Callable[[Value, Sequence[int], bool], Value]:
    return lambda x, axes, keepdim: vector_norm(x, order, axes, keepdim)


def _onnx_sum_square(x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return reduce_sum(x, axes, keepdim, lambda v: v * v)


def _onnx_log_sum(x: Value, axes: Sequence[int], keepdim: bool) -> Value:
    return functions.log(reduce_sum(x, axes, keepdim))


_register_onnx("ReduceSum", _onnx_sum)
_register_onnx("ReduceMean", _onnx_mean)
_register_onnx("ReduceProd", _onnx_prod)
_register_onnx("ReduceL1", _onnx_norm(1), functions.absolute)
_register_onnx("ReduceL2", _onnx_norm(2), functions.absolute)
_register_onnx("ReduceSumSquare", _onnx_sum_square, functions.square)
_register_onnx("ReduceLogSum", _onnx_log_sum, functions.log)
_register_onnx("ReduceMax", amax)
_register_onnx("ReduceMin", amin)


@onnx("CumSum")
def onnx_cumsum(call: OnnxCall, x: Value, axis: Value) -> Value:
    """ONNX CumSum: exclusive and reverse."""
    position = axis_of(static_ints(axis, "the axis of CumSum")[0], x.rank, "CumSum")
    return running_sum(
        x, position, exclusive=bool(call.attribute("exclusive", 0)), reverse=bool(call.attribute("reverse", 0))
    )
