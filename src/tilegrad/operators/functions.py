"""Functions of one variable: roots, exponentials, logarithms, rounding, signs, tests for NaN and infinity.

Where the gradient is written with the result, the derived one would evaluate the function a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import apply, in_place, of_input, of_output, plain
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx

_LARGEST = float(np.finfo(np.float32).max)


def exp(x: Value) -> Value:
    """The exponential function."""
    return of_output(x, sc.exp, lambda g, y: g * y)


def exp2(x: Value) -> Value:
    """``2 ** x``."""
    return of_output(x, lambda v: sc.power(2.0, v), lambda g, y: g * y * math.log(2.0))


def expm1(x: Value) -> Value:
    """``exp(x) - 1`` without cancellation."""
    return of_output(x, sc.expm1, lambda g, y: g * (y + 1.0))


def log(x: Value) -> Value:
    """Natural logarithm."""
    return plain(x, sc.log)


def log1p(x: Value) -> Value:
    """``log(1 + x)`` without cancellation."""
    return plain(x, sc.log1p)


def log2(x: Value) -> Value:
    """Logarithm to the base 2."""
    return plain(x, lambda v: sc.log(v) * (1.0 / math.log(2.0)))


def log10(x: Value) -> Value:
    """Logarithm to the base 10."""
    return plain(x, lambda v: sc.log(v) * (1.0 / math.log(10.0)))


def sqrt(x: Value) -> Value:
    """Square root."""
    return of_output(x, sc.sqrt, lambda g, y: g * 0.5 / y)


def rsqrt(x: Value) -> Value:
    """``1 / sqrt(x)``."""
    return of_output(x, lambda v: 1.0 / sc.sqrt(v), lambda g, y: g * -0.5 * (y * y * y))


def reciprocal(x: Value) -> Value:
    """``1 / x``."""
    return of_output(x, lambda v: 1.0 / v, lambda g, y: -g * (y * y))


def square(x: Value) -> Value:
    """``x * x``."""
    return apply(lambda v: v * v, x)


def neg(x: Value) -> Value:
    """``-x``."""
    return apply(lambda v: -v, x)


def absolute(x: Value) -> Value:
    """``|x|``; the gradient at 0 is 0."""
    return x if x.dtype in (DType.U32, DType.BOOL) else apply(sc.absolute, x)


def sign(x: Value) -> Value:
    """-1, 0 or 1; 0 for NaN, as in PyTorch."""
    if x.dtype is DType.U32:
        return apply(lambda v: sc.select(v > 0, 1, 0), x)
    return apply(lambda v: sc.select(v > 0, 1, sc.select(v < 0, sc.constant(-1, v.dtype), 0)), x)


def sin(x: Value) -> Value:
    """Sine."""
    return plain(x, lambda v: sc.unary("sin", v))


def cos(x: Value) -> Value:
    """Cosine."""
    return plain(x, lambda v: sc.unary("cos", v))


def erf(x: Value) -> Value:
    """The error function."""
    return plain(x, sc.erf)


def erfc(x: Value) -> Value:
    """``1 - erf(x)``."""
    return plain(x, lambda v: 1.0 - sc.erf(v))


def _rounding(name: str, text: str) -> Callable[[Value], Value]:
    def function(x: Value) -> Value:
        return elementwise(lambda v: sc.unary(name, v), x) if x.dtype.is_float else x

    function.__name__ = name
    function.__doc__ = text + " Integers stay what they are; the gradient is 0."
    return function


floor = _rounding("floor", "The largest integer that is not larger.")
ceil = _rounding("ceil", "The smallest integer that is not smaller.")
trunc = _rounding("trunc", "The integer part.")
round_half_even = _rounding("round", "The nearest integer, the even one of two.")


def frac(x: Value) -> Value:
    """``x - trunc(x)``."""
    return plain(x, lambda v: v - sc.unary("trunc", v))


def is_nan(x: Value) -> Value:
    """Where `x` is not a number: bool."""
    return elementwise(lambda v: v.differs(v), x)


def is_inf(x: Value, *, positive: bool = True, negative: bool = True) -> Value:
    """Where `x` is infinite, of the wanted signs: bool."""
    if not x.dtype.is_float:
        return elementwise(lambda v: v.differs(v), x)

    def body(v: Expr) -> Expr:
        above, below = v > _LARGEST, v < -_LARGEST
        if positive and negative:
            return above | below
        return above if positive else below if negative else sc.constant(False, DType.BOOL)

    return elementwise(body, x)


def is_finite(x: Value) -> Value:
    """Where `x` is neither NaN nor infinite: bool."""
    if not x.dtype.is_float:
        return elementwise(lambda v: v.equals(v), x)
    return elementwise(lambda v: (v <= _LARGEST) & (v >= -_LARGEST), x)


def nan_to_num(x: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Value:
    """NaN and infinities replaced (by 0 and the largest finite numbers unless given); no gradient there."""
    if not x.dtype.is_float:
        return x
    above = _LARGEST if posinf is None else posinf
    below = -_LARGEST if neginf is None else neginf
    return of_input(
        x,
        lambda v: sc.select(
            v.differs(v),
            0.0 if nan is None else nan,
            sc.select(v > _LARGEST, above, sc.select(v < -_LARGEST, below, v)),
        ),
        lambda g, v: sc.select((v <= _LARGEST) & (v >= -_LARGEST), g, 0.0),
    )


@aten("aten.round.decimals")
def round_decimals(x: Value, *, decimals: int) -> Value:
    """Rounding to an integer only.

    Raises:
        UnsupportedCall: for a number of decimals other than 0.
    """
    if decimals:
        raise UnsupportedCall(f"round with decimals={decimals}; only decimals=0 is supported")
    return round_half_even(x)


for _name, _function in (
    ("exp", exp), ("exp2", exp2), ("expm1", expm1), ("log", log), ("log1p", log1p), ("log2", log2), ("log10", log10),
    ("sqrt", sqrt), ("rsqrt", rsqrt), ("reciprocal", reciprocal), ("square", square), ("neg", neg), ("negative", neg),
    ("abs", absolute), ("sign", sign), ("sgn", sign), ("sin", sin), ("cos", cos), ("erf", erf), ("erfc", erfc),
    ("floor", floor), ("ceil", ceil), ("round", round_half_even), ("trunc", trunc), ("frac", frac),
    ("nan_to_num", nan_to_num),
):  # fmt: skip
    aten(f"aten.{_name}.default")(_function)
    aten(f"aten.{_name}_.default")(in_place(_function))
for _name, _function in (("isnan", is_nan), ("isinf", is_inf), ("isfinite", is_finite)):
    aten(f"aten.{_name}.default")(_function)


def _register_onnx(name: str, function: Callable[[Value], Value]) -> None:
    def adapter(call: OnnxCall, x: Value) -> Value:
        return function(x)

    adapter.__doc__ = f"ONNX {name}."
    onnx(name)(adapter)


for _name, _function in (
    ("Exp", exp), ("Log", log), ("Sqrt", sqrt), ("Reciprocal", reciprocal), ("Neg", neg), ("Abs", absolute),
    ("Sign", sign), ("Sin", sin), ("Cos", cos), ("Erf", erf), ("Floor", floor), ("Ceil", ceil),
    ("Round", round_half_even), ("IsNaN", is_nan),
):  # fmt: skip
    _register_onnx(_name, _function)


@onnx("IsInf")
def onnx_is_inf(call: OnnxCall, x: Value) -> Value:
    """ONNX IsInf."""
    return is_inf(
        x,
        positive=bool(call.attribute("detect_positive", 1)),
        negative=bool(call.attribute("detect_negative", 1)),
    )
