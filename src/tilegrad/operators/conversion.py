"""Changes of type and copies: casts, clone, detach and the other names of the identity."""

from __future__ import annotations

from typing import Any

from tilegrad.errors import ShapeError
from tilegrad.ir.builder import broadcast_to, elementwise, full, with_gradient
from tilegrad.ir.graph import Value
from tilegrad.operators.arguments import Operand, aten_dtype, convert, onnx_dtype
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx

#: Arguments that say where and how PyTorch stores a tensor; they do not change its contents.
_PLACEMENT = {"layout", "device", "pin_memory", "non_blocking", "copy", "memory_format"}


def check_placement(arguments: dict[str, Any]) -> None:
    """Accept the keyword arguments that only say where PyTorch stores a tensor.

    Raises:
        UnsupportedCall: for any other.
    """
    unknown = sorted(set(arguments) - _PLACEMENT)
    if unknown:
        raise UnsupportedCall(f"arguments {', '.join(unknown)} are not known")
    if str(arguments.get("layout") or "torch.strided") != "torch.strided":
        raise UnsupportedCall(f"layout {arguments['layout']} is not supported; only dense tensors are")


@aten("aten._to_copy.default")
def to_copy(x: Value, *, dtype: object = None, **placement: Any) -> Value:
    """`x` with another element type; float to integer truncates."""
    check_placement(placement)
    return x if dtype is None else convert(x, aten_dtype(dtype))


@aten("aten.to.dtype")
def to_dtype(
    x: Value, dtype: object, non_blocking: bool = False, copy: bool = False, memory_format: object = None
) -> Value:
    """`x` with another element type."""
    return convert(x, aten_dtype(dtype))


@aten("aten.to.device")
def to_device(
    x: Value,
    device: object,
    dtype: object,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: object = None,
) -> Value:
    """`x` with another element type; the device does not matter."""
    return convert(x, aten_dtype(dtype))


@aten("aten.to.dtype_layout")
def to_dtype_layout(x: Value, *, dtype: object = None, **placement: Any) -> Value:
    """`x` with another element type."""
    return to_copy(x, dtype=dtype, **placement)


@aten("aten.to.other")
def to_other(
    x: Value, other: Value, non_blocking: bool = False, copy: bool = False, memory_format: object = None
) -> Value:
    """`x` with the element type of `other`."""
    return convert(x, other.dtype)


@aten("aten.type_as.default")
def type_as(x: Value, other: Value) -> Value:
    """`x` with the element type of `other`."""
    return convert(x, other.dtype)


@aten("aten.clone.default", "aten.contiguous.default")
def clone(x: Value, *, memory_format: object = None) -> Value:
    """`x` itself: values never change, so a copy is not needed."""
    return x


@aten(
    "aten.alias.default", "aten.alias_copy.default", "aten.lift_fresh.default", "aten.lift_fresh_copy.default",
    "aten.positive.default", "aten.resolve_conj.default", "aten.resolve_neg.default", "aten.lift.default",
)  # fmt: skip
def identity(x: Value) -> Value:
    """`x` itself."""
    return x


@aten("aten.detach.default", "aten.detach_.default", "aten.detach_copy.default")
def detach(x: Value) -> Value:
    """`x` without a gradient."""
    if x.is_constant or not x.dtype.is_float:
        return x
    y = elementwise(lambda v: v, x)
    # This is the operator's meaning: the gradient ends here.
    with_gradient((x,), (y,), lambda g: (None,))
    return y


@aten("aten.copy.default", "aten.copy_.default")
def copy(x: Value, source: Operand, non_blocking: bool = False) -> Value:
    """The contents of `source` in the shape and type of `x`."""
    if not isinstance(source, Value):
        return full(x.shape, source, x.dtype)
    return convert(broadcast_to(source, x.shape), x.dtype)


@aten("aten.fill.Scalar", "aten.fill.Tensor", "aten.fill_.Scalar", "aten.fill_.Tensor")
def fill(x: Value, value: Operand) -> Value:
    """`value` in the shape and type of `x`.

    Raises:
        ShapeError: for a value that is a tensor with axes.
    """
    if isinstance(value, Value) and value.rank:
        raise ShapeError(f"fill takes a single number, and {value.name} has shape {value.shape}")
    return copy(x, value)


@aten("aten.zero.default", "aten.zero_.default")
def zero(x: Value) -> Value:
    """Zeros in the shape and type of `x`."""
    return copy(x, 0)


@onnx("Cast")
def onnx_cast(call: OnnxCall, x: Value) -> Value:
    """ONNX Cast."""
    return convert(x, onnx_dtype(call.required("to")))


@onnx("CastLike")
def onnx_cast_like(call: OnnxCall, x: Value, target: Value) -> Value:
    """ONNX CastLike."""
    return convert(x, target.dtype)


@onnx("Identity")
def onnx_identity(call: OnnxCall, x: Value) -> Value:
    """ONNX Identity."""
    return x
