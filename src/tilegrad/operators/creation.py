"""Tensors that are known when the program is compiled: filled ones, ranges, identities, triangles, shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, constant
from tilegrad.ir.builder import full as computed_full
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import (
    Operand,
    aten_dtype,
    in_place,
    onnx_dtype,
    result_dtype,
    static_floats,
    static_ints,
)
from tilegrad.operators.conversion import check_placement, copy
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx


def filled(shape: Sequence[int], value: float | int | bool, dtype: DType) -> Value:
    """A constant whose elements are all the same number; elementwise readers see the number, not a table."""
    if any(extent < 0 for extent in shape):
        raise ShapeError(f"a tensor of shape {tuple(shape)} cannot be created")
    return constant(np.full(tuple(shape), value, dtype.numpy), dtype)


def _number(value: Operand, what: str) -> float | int | bool:
    if not isinstance(value, Value):
        return value
    if value.size != 1 or not value.is_constant or value.data is None:
        raise UnsupportedCall(f"{what} must be a number known at compile time, and {value.name} is not")
    number: float | int | bool = value.data.reshape(-1)[0].item()
    return number


def _dtype(dtype: object, *values: Operand) -> DType:
    return result_dtype(*values) if dtype is None else aten_dtype(dtype)


@aten("aten.full.default")
def full(size: Sequence[int], fill_value: Operand, *, dtype: object = None, **placement: Any) -> Value:
    """A tensor filled with one number; its type is that of the number unless given."""
    check_placement(placement)
    if isinstance(fill_value, Value) and not fill_value.is_constant:
        return copy(computed_full(static_ints(size, "the size"), 0, _dtype(dtype, fill_value)), fill_value)
    number = _number(fill_value, "the value of full")
    return filled(static_ints(size, "the size of full"), number, _dtype(dtype, number))


@aten("aten.zeros.default", "aten.empty.memory_format")
def zeros(size: Sequence[int], *, dtype: object = None, **placement: Any) -> Value:
    """Zeros; also what an uninitialised tensor starts with."""
    check_placement(placement)
    return filled(static_ints(size, "the size of zeros"), 0, _dtype(dtype, 0.0))


@aten("aten.empty_permuted.default")
def empty_permuted(
    size: Sequence[int], physical_layout: Sequence[int], *, dtype: object = None, **placement: Any
) -> Value:
    """Zeros; the order of the axes in memory does not matter."""
    return zeros(size, dtype=dtype, **placement)


@aten("aten.ones.default")
def ones(size: Sequence[int], *, dtype: object = None, **placement: Any) -> Value:
    """Ones."""
    check_placement(placement)
    return filled(static_ints(size, "the size of ones"), 1, _dtype(dtype, 1.0))


def _like(x: Value, value: float | int, dtype: object, placement: dict[str, Any]) -> Value:
    check_placement(placement)
    return filled(x.shape, value, x.dtype if dtype is None else aten_dtype(dtype))


@aten("aten.zeros_like.default", "aten.empty_like.default")
def zeros_like(x: Value, *, dtype: object = None, **placement: Any) -> Value:
    """Zeros in the shape, and unless given the type, of `x`."""
    return _like(x, 0, dtype, placement)


@aten("aten.ones_like.default")
def ones_like(x: Value, *, dtype: object = None, **placement: Any) -> Value:
    """Ones in the shape, and unless given the type, of `x`."""
    return _like(x, 1, dtype, placement)


@aten("aten.full_like.default")
def full_like(x: Value, fill_value: Operand, *, dtype: object = None, **placement: Any) -> Value:
    """One number in the shape, and unless given the type, of `x`."""
    return _like(x, _number(fill_value, "the value of full_like"), dtype, placement)


@aten("aten.new_zeros.default", "aten.new_empty.default")
def new_zeros(x: Value, size: Sequence[int], *, dtype: object = None, **placement: Any) -> Value:
    """Zeros in the type of `x` unless given."""
    return zeros(size, dtype=x.dtype if dtype is None else dtype, **placement)


@aten("aten.new_ones.default")
def new_ones(x: Value, size: Sequence[int], *, dtype: object = None, **placement: Any) -> Value:
    """Ones in the type of `x` unless given."""
    return ones(size, dtype=x.dtype if dtype is None else dtype, **placement)


@aten("aten.new_full.default")
def new_full(x: Value, size: Sequence[int], fill_value: Operand, *, dtype: object = None, **placement: Any) -> Value:
    """One number in the type of `x` unless given."""
    return full(size, fill_value, dtype=x.dtype if dtype is None else dtype, **placement)


@aten("aten.scalar_tensor.default")
def scalar_tensor(value: Operand, *, dtype: object = None, **placement: Any) -> Value:
    """A number as a tensor without axes, f32 unless given."""
    check_placement(placement)
    return filled((), _number(value, "the value of scalar_tensor"), _dtype(dtype, 0.0))


def _range(start: Operand, end: Operand, step: Operand, dtype: DType | None) -> Value:
    first, last, hop = (_number(x, "the bounds of arange") for x in (start, end, step))
    if hop == 0 or (last - first) / hop < 0:
        raise ShapeError(f"arange from {first} to {last} in steps of {hop} does not end")
    kind = dtype or (DType.F32 if any(isinstance(x, float) for x in (first, last, hop)) else DType.I64)
    count = math.ceil((last - first) / hop)
    # Element k is start + k * step rather than a running sum, as in PyTorch.
    return constant(first + np.arange(count) * hop, kind)


@aten("aten.arange.default")
def arange(end: Operand, *, dtype: object = None, **placement: Any) -> Value:
    """0, 1, 2, ... below `end`."""
    check_placement(placement)
    return _range(0, end, 1, None if dtype is None else aten_dtype(dtype))


@aten("aten.arange.start", "aten.arange.start_step")
def arange_from(start: Operand, end: Operand, step: Operand = 1, *, dtype: object = None, **placement: Any) -> Value:
    """`start`, ``start + step``, ... before `end`."""
    check_placement(placement)
    return _range(start, end, step, None if dtype is None else aten_dtype(dtype))


@aten("aten.linspace.default")
def linspace(start: Operand, end: Operand, steps: int, *, dtype: object = None, **placement: Any) -> Value:
    """`steps` numbers from `start` to `end`, both included."""
    check_placement(placement)
    first, last = (_number(x, "the bounds of linspace") for x in (start, end))
    return constant(np.linspace(first, last, steps), _dtype(dtype, 0.0))


@aten("aten.eye.default")
def eye(n: int, *, dtype: object = None, **placement: Any) -> Value:
    """The identity matrix."""
    return eye_rectangular(n, n, dtype=dtype, **placement)


@aten("aten.eye.m")
def eye_rectangular(n: int, m: int, *, dtype: object = None, **placement: Any) -> Value:
    """Ones on the diagonal of an n x m matrix."""
    check_placement(placement)
    return constant(np.eye(n, m), _dtype(dtype, 0.0))


def _triangle(x: Value, diagonal: int, *, lower: bool) -> Value:
    """The elements on one side of a diagonal, the others 0: a choice by index, so that nothing is multiplied."""
    if x.rank < 2:
        raise ShapeError(f"{'tril' if lower else 'triu'}: {x.name} of shape {x.shape} is not a matrix")
    d = Domain()
    index = d.parallel(*x.shape)
    beyond = sc.index(index[-1] - index[-2])
    keep = beyond <= diagonal if lower else beyond >= diagonal
    return d.assign(sc.select(keep, x[index], 0), index)


@aten("aten.tril.default")
def tril(x: Value, diagonal: int = 0) -> Value:
    """The lower triangle of matrices: elements where column - row <= diagonal."""
    return _triangle(x, diagonal, lower=True)


@aten("aten.triu.default")
def triu(x: Value, diagonal: int = 0) -> Value:
    """The upper triangle of matrices: elements where column - row >= diagonal."""
    return _triangle(x, diagonal, lower=False)


aten("aten.tril_.default")(in_place(tril))
aten("aten.triu_.default")(in_place(triu))


@aten("aten.tril_indices.default")
def tril_indices(row: int, col: int, offset: int = 0, *, dtype: object = None, **placement: Any) -> Value:
    """Rows and columns of the elements of a lower triangle: i64[2, count]."""
    check_placement(placement)
    return constant(np.stack(np.tril_indices(row, offset, col)), DType.I64 if dtype is None else aten_dtype(dtype))


@aten("aten.triu_indices.default")
def triu_indices(row: int, col: int, offset: int = 0, *, dtype: object = None, **placement: Any) -> Value:
    """Rows and columns of the elements of an upper triangle: i64[2, count]."""
    check_placement(placement)
    return constant(np.stack(np.triu_indices(row, offset, col)), DType.I64 if dtype is None else aten_dtype(dtype))


@onnx("Constant")
def onnx_constant(call: OnnxCall) -> Value:
    """ONNX Constant: a tensor, a number, or a list of numbers.

    Raises:
        UnsupportedCall: for sparse tensors and strings.
    """
    if "value" in call.attributes:
        return _from_array(np.asarray(call.attributes["value"]), call)
    for name, dtype in (("value_float", DType.F32), ("value_floats", DType.F32), ("value_int", DType.I64)):
        if name in call.attributes:
            return constant(np.asarray(call.attributes[name]), dtype)
    if "value_ints" in call.attributes:
        return constant(np.asarray(call.attributes["value_ints"], np.int64), DType.I64)
    raise UnsupportedCall(f"Constant with attributes {', '.join(sorted(call.attributes))}; dense numbers are supported")


def _from_array(array: NDArray[Any], call: OnnxCall) -> Value:
    if array.dtype.name not in ("float32", "float64", "int32", "int64", "bool", "uint32"):
        raise UnsupportedCall(f"{call.op_type} of type {array.dtype.name}; use float, int32, int64, uint32 or bool")
    return constant(array)


@onnx("ConstantOfShape")
def onnx_constant_of_shape(call: OnnxCall, shape: Value) -> Value:
    """ONNX ConstantOfShape: f32 zeros unless a value is given."""
    single = _from_array(np.asarray(call.attribute("value", np.zeros(1, np.float32))), call)
    assert single.data is not None
    return filled(static_ints(shape, "the shape of ConstantOfShape"), single.data.reshape(-1)[0].item(), single.dtype)


@onnx("Range")
def onnx_range(call: OnnxCall, start: Value, limit: Value, delta: Value) -> Value:
    """ONNX Range; empty where the limit is already passed."""
    first, last, hop = (static_floats(x, "the bounds of Range")[0] for x in (start, limit, delta))
    count = max(math.ceil((last - first) / hop), 0)
    return constant(first + np.arange(count) * hop, start.dtype)


@onnx("Shape")
def onnx_shape(call: OnnxCall, x: Value) -> Value:
    """ONNX Shape: extents are known at compile time."""
    start, end = call.attribute("start", 0), call.attribute("end", x.rank)
    return constant(np.asarray(x.shape[slice(int(start), int(end))], np.int64), DType.I64)


@onnx("Size")
def onnx_size(call: OnnxCall, x: Value) -> Value:
    """ONNX Size: the number of elements."""
    return constant(np.asarray(x.size, np.int64), DType.I64)


@onnx("EyeLike")
def onnx_eye_like(call: OnnxCall, x: Value) -> Value:
    """ONNX EyeLike: ones on diagonal k of a matrix in the shape of `x`."""
    if x.rank != 2:
        raise ShapeError(f"EyeLike: {x.name} of shape {x.shape} is not a matrix")
    code = call.attribute("dtype")
    return constant(
        np.eye(x.shape[0], x.shape[1], int(call.attribute("k", 0))), x.dtype if code is None else onnx_dtype(code)
    )


@onnx("Trilu")
def onnx_trilu(call: OnnxCall, x: Value, k: Value | None = None) -> Value:
    """ONNX Trilu: the upper (default) or lower triangle."""
    diagonal = 0 if k is None else static_ints(k, "the diagonal of Trilu")[0]
    return _triangle(x, diagonal, lower=not call.attribute("upper", 1))
