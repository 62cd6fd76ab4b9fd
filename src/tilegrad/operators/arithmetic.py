"""Arithmetic on tensors and numbers with PyTorch's type promotion: sums, products, quotients, remainders, powers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import broadcast_shapes, broadcast_to, elementwise, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.folding import uniform
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import Operand, apply, convert, in_place, result_dtype
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx

#: Integer exponents up to this magnitude are multiplications.
_LARGEST_PRODUCT = 8


def _add_expr(x: Expr, y: Expr) -> Expr:
    return x | y if x.dtype is DType.BOOL else x + y


def _mul_expr(x: Expr, y: Expr) -> Expr:
    return x & y if x.dtype is DType.BOOL else x * y


@aten("aten.add.Tensor", "aten.add.Scalar")
def add(a: Operand, b: Operand, alpha: float | int = 1) -> Value:
    """``a + alpha * b``; a sum of bools is their disjunction."""
    if alpha == 1:
        return apply(_add_expr, a, b)
    kind = result_dtype(a, b)
    if kind.is_float:
        return apply(lambda x, y: sc.fma(y, alpha, x), a, b)
    return apply(lambda x, y: _add_expr(x, _mul_expr(y, sc.constant(alpha, kind))), a, b)


@aten("aten.sub.Tensor", "aten.sub.Scalar", "aten.subtract.Tensor", "aten.subtract.Scalar")
def sub(a: Operand, b: Operand, alpha: float | int = 1) -> Value:
    """``a - alpha * b``.

    Raises:
        ShapeError: for bools, which have no difference.
    """
    if result_dtype(a, b) is DType.BOOL:
        raise ShapeError("sub: bool tensors have no difference; use logical_xor")
    return apply(lambda x, y: x - y, a, b) if alpha == 1 else add(a, b, -alpha)


@aten("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(a: Operand, b: Operand, alpha: float | int = 1) -> Value:
    """``b - alpha * a``."""
    return sub(b, a, alpha)


@aten("aten.mul.Tensor", "aten.mul.Scalar", "aten.multiply.Tensor", "aten.multiply.Scalar")
def mul(a: Operand, b: Operand) -> Value:
    """``a * b``; a product of bools is their conjunction."""
    return apply(_mul_expr, a, b)


@aten(
    "aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.divide.Tensor",
    "aten.divide.Scalar", "aten.divide.Tensor_mode", "aten.divide.Scalar_mode", "aten.true_divide.Tensor",
    "aten.true_divide.Scalar",
)  # fmt: skip
def div(a: Operand, b: Operand, rounding_mode: str | None = None) -> Value:
    """``a / b`` in f32, or rounded in the promoted type.

    Args:
        a: dividend.
        b: divisor.
        rounding_mode: None, "trunc" (towards zero) or "floor".

    Raises:
        UnsupportedCall: for another rounding mode.
    """
    kind = result_dtype(a, b)
    if rounding_mode is None:
        return apply(lambda x, y: x / y, a, b, dtype=DType.F32)
    if rounding_mode == "trunc":
        return apply(lambda x, y: sc.unary("trunc", x / y) if kind.is_float else x / y, a, b)
    if rounding_mode == "floor":
        return floor_divide(a, b)
    raise UnsupportedCall(f"div: rounding_mode={rounding_mode!r}; None, 'trunc' and 'floor' are supported")


def _signs_differ(x: Expr, y: Expr) -> Expr:
    return (x < 0).differs(y < 0)


def _truncated_remainder(x: Expr, y: Expr) -> Expr:
    """C's fmod, exact where the quotient has at most 24 bits; for integers, C's ``%``."""
    if not x.dtype.is_float:
        return x - x / y * y
    q = sc.unary("trunc", x / y)
    r = sc.fma(-q, y, x)
    # The quotient may have been rounded up to the next integer: then the remainder has the wrong sign.
    step = sc.select(_signs_differ(x, y), -y, y)
    r = sc.select(r.differs(0.0) & _signs_differ(r, x), r + step, r)
    return sc.select(q.equals(0.0), x, r)


def _floored_remainder(x: Expr, y: Expr) -> Expr:
    r = _truncated_remainder(x, y)
    return sc.select(r.differs(0) & _signs_differ(r, y), r + y, r)


@aten("aten.floor_divide.default", "aten.floor_divide.Scalar")
def floor_divide(a: Operand, b: Operand) -> Value:
    """The quotient rounded towards minus infinity; no gradient.

    Of floats, it is the quotient that belongs to `remainder`: 1 // 0.1 is 9.
    """

    def body(x: Expr, y: Expr) -> Expr:
        if not x.dtype.is_float:
            q = x / y
            r = x - q * y
            return sc.select(r.differs(0) & _signs_differ(r, y), q - 1, q)
        exact = sc.unary("round", (x - _floored_remainder(x, y)) / y)
        return sc.select(y.equals(0.0), x / y, exact)

    result = apply(body, a, b)
    tensors = [x for x in (a, b) if isinstance(x, Value)]
    # The derived gradient would be that of the unrounded quotient's parts; the true one is zero almost everywhere.
    with_gradient(tensors, (result,), lambda g: tuple(None for _ in tensors))
    return result


@aten("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def remainder(a: Operand, b: Operand) -> Value:
    """``a - floor(a / b) * b``, with the sign of `b`."""
    return apply(_floored_remainder, a, b)


@aten("aten.fmod.Tensor", "aten.fmod.Scalar")
def fmod(a: Operand, b: Operand) -> Value:
    """``a - trunc(a / b) * b``, with the sign of `a`."""
    return apply(_truncated_remainder, a, b)


def _integer_power(v: Expr, exponent: int) -> Expr:
    """``v ** exponent`` for a positive exponent by repeated squaring."""
    result: Expr | None = None
    square = v
    while exponent:
        if exponent & 1:
            result = square if result is None else result * square
        exponent >>= 1
        if exponent:
            square = square * square
    assert result is not None
    return result


def power_expr(v: Expr, exponent: float | int) -> Expr:
    """``v ** exponent``: small integer and half exponents need no logarithm."""
    if exponent == 0:
        return sc.constant(1, v.dtype)
    if exponent == int(exponent) and (abs(exponent) <= _LARGEST_PRODUCT or not v.dtype.is_float):
        product = _integer_power(v, abs(int(exponent)))
        return product if exponent > 0 else 1.0 / product
    if exponent == 0.5:
        return sc.sqrt(v)
    if exponent == -0.5:
        return 1.0 / sc.sqrt(v)
    return sc.power(v, exponent)


def _power_of_tensor(base: Value, exponent: float | int) -> Value:
    kind = result_dtype(base, exponent)
    if not kind.is_float and exponent < 0:
        raise ShapeError(f"pow: integers of {base.name} have no power {exponent}; convert them to float first")
    return apply(lambda v: power_expr(v, exponent), base, dtype=kind)


def _power_of_number(base: float | int, exponent: Value) -> Value:
    if not result_dtype(base, exponent).is_float:
        raise UnsupportedCall("pow of integers to tensors of integers; convert them to float first")
    exponent = convert(exponent, DType.F32)
    y = elementwise(lambda e: sc.power(base, e), exponent)
    if base > 0:
        # The derived gradient would take the logarithm of the base anew for every element.
        slope = math.log(base)
        with_gradient((exponent,), (y,), lambda g: (elementwise(lambda gv, p: gv * p * slope, g, y),))
    return y


@aten("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def pow(base: Operand, exponent: Operand) -> Value:
    """``base ** exponent`` for tensors and numbers.

    Raises:
        ShapeError: for integers to negative powers.
        UnsupportedCall: for integers to the power of a tensor of integers.
    """
    if isinstance(exponent, Value):
        number = uniform(exponent)
        if number is not None and isinstance(base, Value) and result_dtype(base, exponent) is base.dtype:
            return _power_of_tensor(broadcast_to(base, broadcast_shapes(base.shape, exponent.shape)), number)
        if not isinstance(base, Value):
            return _power_of_number(base, exponent)
        if not result_dtype(base, exponent).is_float:
            raise UnsupportedCall("pow of integers to tensors of integers; convert them to float first")
        return apply(sc.power, base, exponent)
    if not isinstance(base, Value):
        raise ShapeError("pow of two numbers is not a tensor operation")
    return _power_of_tensor(base, exponent)


@aten("aten.lerp.Scalar", "aten.lerp.Tensor")
def lerp(start: Value, end: Value, weight: Operand) -> Value:
    """``start + weight * (end - start)``, computed from the nearer end as in PyTorch."""

    def body(a: Expr, b: Expr, w: Expr) -> Expr:
        return sc.select(sc.absolute(w) < 0.5, sc.fma(w, b - a, a), b - (b - a) * (1.0 - w))

    return apply(body, start, end, weight, dtype=DType.F32)


@aten("aten.addcmul.default")
def addcmul(x: Value, a: Value, b: Value, value: float | int = 1) -> Value:
    """``x + value * a * b``."""
    return apply(lambda v, p, q: v + p * q if value == 1 else v + p * q * value, x, a, b)


@aten("aten.addcdiv.default")
def addcdiv(x: Value, a: Value, b: Value, value: float | int = 1) -> Value:
    """``x + value * a / b``."""
    return apply(lambda v, p, q: v + p / q if value == 1 else v + p / q * value, x, a, b, dtype=DType.F32)


for _name, _overloads, _function in (
    ("add", ("Tensor", "Scalar"), add), ("sub", ("Tensor", "Scalar"), sub), ("mul", ("Tensor", "Scalar"), mul),
    ("div", ("Tensor", "Scalar", "Tensor_mode", "Scalar_mode"), div), ("pow", ("Tensor", "Scalar"), pow),
    ("floor_divide", ("Tensor", "Scalar"), floor_divide), ("remainder", ("Tensor", "Scalar"), remainder),
    ("fmod", ("Tensor", "Scalar"), fmod), ("lerp", ("Tensor", "Scalar"), lerp), ("addcmul", ("default",), addcmul),
    ("addcdiv", ("default",), addcdiv),
):  # fmt: skip
    aten(*(f"aten.{_name}_.{_overload}" for _overload in _overloads))(in_place(_function))


@onnx("Add")
def onnx_add(call: OnnxCall, a: Value, b: Value) -> Value:
    """ONNX Add."""
    return add(a, b)


@onnx("Sub")
def onnx_sub(call: OnnxCall, a: Value, b: Value) -> Value:
    """ONNX Sub."""
    return sub(a, b)


@onnx("Mul")
def onnx_mul(call: OnnxCall, a: Value, b: Value) -> Value:
    """ONNX Mul."""
    return mul(a, b)


@onnx("Div")
def onnx_div(call: OnnxCall, a: Value, b: Value) -> Value:
    """ONNX Div; integers are truncated."""
    return div(a, b, None if result_dtype(a, b).is_float else "trunc")


@onnx("Mod")
def onnx_mod(call: OnnxCall, a: Value, b: Value) -> Value:
    """ONNX Mod: the sign of the divisor, or of the dividend with fmod=1."""
    return fmod(a, b) if call.attribute("fmod", 0) else remainder(a, b)


@onnx("Pow")
def onnx_pow(call: OnnxCall, base: Value, exponent: Value) -> Value:
    """ONNX Pow: the result has the type of the base."""
    number = uniform(exponent)
    if number is not None and not exponent.dtype.is_float:
        number = int(number)
    if number is not None:
        wide = broadcast_to(base, broadcast_shapes(base.shape, exponent.shape))
        return convert(_power_of_tensor(wide, number), base.dtype)
    return convert(pow(base, convert(exponent, base.dtype) if base.dtype.is_float else exponent), base.dtype)


def _chain(values: Sequence[Value], what: str) -> Value:
    if not values:
        raise ShapeError(f"{what} needs at least one operand")
    if len(values) == 1:
        return values[0]

    def body(*terms: Expr) -> Expr:
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    return apply(body, *values)


@onnx("Sum")
def onnx_sum(call: OnnxCall, *values: Value) -> Value:
    """ONNX Sum: all operands added, first to last."""
    return _chain(values, "Sum")


@onnx("Mean")
def onnx_mean(call: OnnxCall, *values: Value) -> Value:
    """ONNX Mean of the operands, element by element."""
    return mul(_chain(values, "Mean"), 1.0 / len(values))
