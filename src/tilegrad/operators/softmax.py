"""Softmax, log-softmax and log-sum-exp along one or several axes, shifted by the maximum so that nothing overflows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise, normalise_axes, reduce_max, reduce_sum, reshape, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.operators.arguments import aten_dtype, convert, static_ints
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx


def _maximum(x: Value, axes: Sequence[int]) -> Value:
    """The largest element over `axes`, which stay with extent 1."""
    kept = [1 if axis in axes else extent for axis, extent in enumerate(x.shape)]
    return reshape(reduce_max(x, axes), kept)


def softmax(x: Value, axis: int) -> Value:
    """``exp(x) / sum exp(x)`` along `axis`; NaN where all of it is -inf, as in PyTorch.

    Args:
        x: any shape, f32.
        axis: the axis that sums to 1; may count from the end.
    """
    return _softmax(x, axis, masked=False)


def safe_softmax(x: Value, axis: int) -> Value:
    """Softmax that is 0 where all elements along `axis` are -inf: a fully masked row of attention."""
    return _softmax(x, axis, masked=True)


def _softmax(x: Value, axis: int, *, masked: bool) -> Value:
    axes = normalise_axes(axis, x.rank)
    if x.rank == 0:
        return elementwise(lambda v: sc.exp(v - v), x)
    largest = _maximum(x, axes)
    if masked:
        largest = elementwise(lambda m: sc.select(m.equals(-math.inf), 0.0, m), largest)
    powers = elementwise(lambda v, m: sc.exp(v - m), x, largest)
    total = reduce_sum(powers, axes, True)
    reciprocal = elementwise(_reciprocal_or_zero if masked else lambda s: 1.0 / s, total)
    y = powers * reciprocal

    def vjp(dy: Value | None) -> tuple[Value]:
        assert dy is not None
        inner = reduce_sum(dy, axes, True, lambda g, p: g * p, y)
        return (elementwise(lambda g, p, s: (g - s) * p, dy, y, inner),)

    # Derived, the gradient goes through maximum, exponential, sum and quotient (10 operations an element); from the
    # result it takes 3, and nothing of size exp(max) ever appears.
    with_gradient((x,), (y,), vjp)
    return y


def _reciprocal_or_zero(total: Expr) -> Expr:
    return sc.select(total.equals(0.0), 0.0, 1.0 / total)


def log_softmax(x: Value, axis: int) -> Value:
    """``x - log(sum exp(x))`` along `axis`.

    Args:
        x: any shape, f32.
        axis: may count from the end.
    """
    axes = normalise_axes(axis, x.rank)
    if x.rank == 0:
        return elementwise(lambda v: v - v, x)
    largest = _maximum(x, axes)
    total = reduce_sum(x, axes, True, lambda v, m: sc.exp(v - m), largest)
    logarithm = elementwise(sc.log, total)
    # Subtracted one after the other: largest + logarithm would round away the logarithm of a row of large numbers.
    y = elementwise(lambda v, m, s: v - m - s, x, largest, logarithm)

    def vjp(dy: Value | None) -> tuple[Value]:
        assert dy is not None
        inner = reduce_sum(dy, axes, True)
        return (elementwise(lambda g, v, s: sc.fma(-sc.exp(v), s, g), dy, y, inner),)

    # Derived, the gradient divides by the sum again and adds contributions through the maximum that cancel.
    with_gradient((x,), (y,), vjp)
    return y


def logsumexp(x: Value, axes: Sequence[int] | int | None, keepdim: bool = False) -> Value:
    """``log(sum exp(x))`` over `axes`; -inf where all elements are.

    Args:
        x: any shape, f32.
        axes: may count from the end; None stands for all.
        keepdim: keep the axes with extent 1.
    """
    axes = normalise_axes(axes, x.rank)
    largest = _maximum(x, axes)
    shift = elementwise(lambda m: sc.select(sc.absolute(m).equals(math.inf), 0.0, m), largest)
    total = reduce_sum(x, axes, True, lambda v, m: sc.exp(v - m), shift)
    y = elementwise(lambda s, m: sc.log(s) + m, total, shift)

    def vjp(dy: Value | None) -> tuple[Value]:
        assert dy is not None
        return (elementwise(lambda g, v, s: g * sc.exp(v - s), dy, x, y),)

    # Derived, the gradient goes through the maximum, whose contributions cancel, and divides by the sum.
    with_gradient((x,), (y,), vjp)
    if keepdim:
        return y
    return reshape(y, [extent for axis, extent in enumerate(x.shape) if axis not in axes])


def as_float(x: Value, dtype: object) -> Value:
    """`x` converted as an ATen ``dtype`` argument asks for.

    Raises:
        UnsupportedCall: where the result would not be float32.
    """
    wanted = x.dtype if dtype is None else aten_dtype(dtype)
    if not wanted.is_float:
        raise UnsupportedCall(f"a result of type {wanted.value}; float32 is supported")
    return convert(x, wanted)


@aten("aten.softmax.int")
def aten_softmax(x: Value, dim: int, dtype: object = None) -> Value:
    """ATen softmax."""
    return softmax(as_float(x, dtype), dim)


@aten("aten._softmax.default")
def aten_raw_softmax(x: Value, dim: int, half_to_float: bool = False) -> Value:
    """ATen _softmax."""
    return softmax(as_float(x, None), dim)


@aten("aten._safe_softmax.default")
def aten_safe_softmax(x: Value, dim: int, dtype: object = None) -> Value:
    """ATen _safe_softmax."""
    return safe_softmax(as_float(x, dtype), dim)


@aten("aten.log_softmax.int")
def aten_log_softmax(x: Value, dim: int, dtype: object = None) -> Value:
    """ATen log_softmax."""
    return log_softmax(as_float(x, dtype), dim)


@aten("aten._log_softmax.default")
def aten_raw_log_softmax(x: Value, dim: int, half_to_float: bool = False) -> Value:
    """ATen _log_softmax."""
    return log_softmax(as_float(x, None), dim)


@aten("aten.logsumexp.default")
def aten_logsumexp(x: Value, dim: Sequence[int] | int, keepdim: bool = False) -> Value:
    """ATen logsumexp."""
    return logsumexp(as_float(x, None), dim, keepdim)


@onnx("Softmax")
def onnx_softmax(call: OnnxCall, x: Value) -> Value:
    """ONNX Softmax (one axis, as since opset 13)."""
    return softmax(as_float(x, None), int(call.attribute("axis", -1)))


@onnx("LogSoftmax")
def onnx_log_softmax(call: OnnxCall, x: Value) -> Value:
    """ONNX LogSoftmax (one axis, as since opset 13)."""
    return log_softmax(as_float(x, None), int(call.attribute("axis", -1)))


@onnx("ReduceLogSumExp")
def onnx_reduce_log_sum_exp(call: OnnxCall, x: Value, axes: Value | None = None) -> Value:
    """ONNX ReduceLogSumExp; the axes are an attribute before opset 18, a constant input from then on."""
    listed = call.attribute("axes")
    if axes is not None:
        listed = static_ints(axes, "the axes of ReduceLogSumExp")
    if not listed and call.attribute("noop_with_empty_axes", 0):
        return x
    return logsumexp(as_float(x, None), listed, bool(call.attribute("keepdims", 1)))
