"""What operator adapters share: dtypes, PyTorch's type promotion, static arguments, and sums over broadcast axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, broadcast_index, broadcast_shapes, constant, elementwise, with_gradient
from tilegrad.ir.expr import Expr, ExprLike
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.registry import UnsupportedCall

#: A tensor, or a Python number that PyTorch passes in place of one.
Operand = Value | float | int | bool

_ATEN_DTYPES = {
    "torch.float32": DType.F32,
    "torch.float": DType.F32,
    "torch.int64": DType.I64,
    "torch.long": DType.I64,
    "torch.int32": DType.I32,
    "torch.int": DType.I32,
    "torch.bool": DType.BOOL,
}
#: TensorProto.DataType.
_ONNX_DTYPES = {1: DType.F32, 6: DType.I32, 7: DType.I64, 9: DType.BOOL, 12: DType.U32}
_ONNX_NAMES = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 8: "string", 10: "float16", 11: "double", 13: "uint64"}
_CATEGORY = {DType.BOOL: 0, DType.I32: 1, DType.I64: 1, DType.U32: 1, DType.F32: 2}


def aten_dtype(dtype: object) -> DType:
    """The element type that a ``torch.dtype`` names.

    Raises:
        UnsupportedCall: for types that the compiler does not store.
    """
    found = dtype if isinstance(dtype, DType) else _ATEN_DTYPES.get(str(dtype))
    if found is None:
        raise UnsupportedCall(f"tensors of {dtype} are not supported; use float32, int32, int64 or bool")
    return found


def onnx_dtype(code: int) -> DType:
    """The element type of a ``TensorProto.DataType`` code.

    Raises:
        UnsupportedCall: for types that the compiler does not store.
    """
    found = _ONNX_DTYPES.get(int(code))
    if found is None:
        name = _ONNX_NAMES.get(int(code), f"type {code}")
        raise UnsupportedCall(f"tensors of {name} are not supported; use float, int32, int64, uint32 or bool")
    return found


def _number_dtype(number: float | int | bool) -> DType:
    if isinstance(number, bool):
        return DType.BOOL
    return DType.I64 if isinstance(number, int) else DType.F32


def result_dtype(*operands: Operand) -> DType:
    """The common type under PyTorch's promotion: tensors with axes, then tensors without axes, then Python numbers.

    An operand of a lower rank in that order counts only where its category (bool, integer, float) is higher.
    """
    groups: list[list[DType]] = [[], [], []]
    for operand in operands:
        if isinstance(operand, Value):
            groups[0 if operand.rank else 1].append(operand.dtype)
        else:
            groups[2].append(_number_dtype(operand))
    found: DType | None = None
    for group in groups:
        common: DType | None = None
        for dtype in group:
            common = dtype if common is None else _wider(common, dtype)
        if common is not None and (found is None or _CATEGORY[common] > _CATEGORY[found]):
            found = common
    if found is None:
        raise ShapeError("an operation without operands has no type")
    return found


def _wider(a: DType, b: DType) -> DType:
    if _CATEGORY[a] != _CATEGORY[b]:
        return a if _CATEGORY[a] > _CATEGORY[b] else b
    if a is b:
        return a
    if DType.U32 in (a, b):
        raise UnsupportedCall(f"{a.value} and {b.value} have no common type; cast one operand")
    return DType.I64


def convert(x: Value, dtype: DType) -> Value:
    """`x` with another element type; itself where it has it already."""
    if x.dtype is dtype:
        return x
    return elementwise(lambda v: sc.cast(v, dtype), x)


def apply(body: Callable[..., ExprLike], *operands: Operand, dtype: DType | None = None) -> Value:
    """`body` on corresponding elements, all converted to one type.

    Args:
        body: takes one scalar expression per operand.
        operands: tensors, which broadcast, and Python numbers, which become literals.
        dtype: the type to compute in; None for the promoted one.

    Returns:
        A tensor of the broadcast shape and of the type of the body's result.
    """
    kind = dtype or result_dtype(*operands)

    def scalar_body(*elements: Expr) -> ExprLike:
        pending = iter(elements)
        arguments = [
            sc.cast(next(pending), kind) if isinstance(operand, Value) else sc.constant(operand, kind)
            for operand in operands
        ]
        return sc.as_expr(body(*arguments), kind)

    tensors = [operand for operand in operands if isinstance(operand, Value)]
    return elementwise(scalar_body, *tensors)


def of_input(x: Value, forward: Callable[[Expr], Expr], backward: Callable[[Expr, Expr], Expr]) -> Value:
    """``forward(x)`` with the gradient ``backward(g, x)``; integers are converted to f32 first."""
    x = convert(x, DType.F32)
    y = elementwise(forward, x)
    with_gradient((x,), (y,), lambda g: (elementwise(backward, g, x),))
    return y


def of_output(x: Value, forward: Callable[[Expr], Expr], backward: Callable[[Expr, Expr], Expr]) -> Value:
    """``y = forward(x)`` with the gradient ``backward(g, y)``; integers are converted to f32 first."""
    x = convert(x, DType.F32)
    y = elementwise(forward, x)
    with_gradient((x,), (y,), lambda g: (elementwise(backward, g, y),))
    return y


def plain(x: Value, forward: Callable[[Expr], Expr]) -> Value:
    """``forward(x)`` with the derived gradient; integers are converted to f32 first."""
    return elementwise(forward, convert(x, DType.F32))


def as_value(operand: Operand, dtype: DType | None = None) -> Value:
    """A Python number as a constant tensor without axes; a tensor as it is."""
    if isinstance(operand, Value):
        return operand
    return constant(operand, dtype or _number_dtype(operand))


def in_place(function: Callable[..., Value]) -> Callable[..., Value]:
    """The adapter of an in-place overload: the result takes the type of the first operand and must have its shape.

    Graphs are functional: whoever reads the overwritten tensor later reads the result.
    """

    def adapter(self: Value, *args: Any, **kwargs: Any) -> Value:
        result = function(self, *args, **kwargs)
        if result.shape != self.shape:
            raise ShapeError(f"an in-place operation on {self.name} of shape {self.shape} gives {result.shape}")
        return convert(result, self.dtype)

    adapter.__doc__ = f"In place: {function.__doc__}"
    return adapter


def broadcast_sum(target: Value, body: Callable[..., Expr], *operands: Value) -> Value:
    """The gradient of a broadcast operand: the sum of ``body(elements)`` over the axes along which it was repeated.

    Args:
        target: the operand that was broadcast.
        body: from elements of `operands`, which broadcast with `target`, to the term.
        operands: what the term reads.

    Returns:
        A tensor of the shape of `target`.
    """
    shape = broadcast_shapes(target.shape, *(operand.shape for operand in operands))
    lead = len(shape) - target.rank
    repeated = [
        axis for axis in range(len(shape)) if axis < lead or (target.shape[axis - lead] == 1 and shape[axis] != 1)
    ]
    kept = [axis for axis in range(len(shape)) if axis not in repeated]
    d = Domain()
    outer = d.parallel(*(shape[axis] for axis in kept))
    inner = d.reduction(*(shape[axis] for axis in repeated))
    where = dict(zip(kept, outer, strict=True)) | dict(zip(repeated, inner, strict=True))
    index = tuple(where[axis] for axis in range(len(shape)))
    term = body(*(operand[broadcast_index(operand, index)] for operand in operands))
    rows: list[Affine | int] = [0 if axis in repeated else where[axis] for axis in range(lead, len(shape))]
    return d.sum(term, rows) if repeated else d.assign(term, rows)


def axis_of(dim: int, rank: int, what: str) -> int:
    """A possibly negative axis as a position; a tensor without axes accepts 0 and -1, as in PyTorch.

    Raises:
        ShapeError: if the axis does not exist.
    """
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise ShapeError(f"{what}: axis {dim} does not exist in a tensor of rank {rank}")
    return dim % max(rank, 1)


def static_ints(value: Value | Sequence[int] | int, what: str) -> list[int]:
    """Integers that must be known when the program is compiled.

    Raises:
        UnsupportedCall: where they are computed at run time.
    """
    if isinstance(value, int):
        return [value]
    if isinstance(value, Value):
        if not value.is_constant or value.data is None:
            raise UnsupportedCall(f"{what} must be known at compile time, but {value.name} is computed at run time")
        return [int(n) for n in value.data.reshape(-1)]
    if any(isinstance(n, Value) for n in value):
        return [number for n in value for number in static_ints(n, what)]
    return [int(n) for n in value]


def static_floats(value: Value | Sequence[float] | float, what: str) -> list[float]:
    """Numbers that must be known when the program is compiled.

    Raises:
        UnsupportedCall: where they are computed at run time.
    """
    if isinstance(value, float | int):
        return [float(value)]
    if isinstance(value, Value):
        if not value.is_constant or value.data is None:
            raise UnsupportedCall(f"{what} must be known at compile time, but {value.name} is computed at run time")
        return [float(n) for n in value.data.reshape(-1)]
    return [float(n) for n in value]
