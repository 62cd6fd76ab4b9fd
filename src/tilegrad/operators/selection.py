"""Comparisons, logic, and choices between elements: minimum and maximum, clamp, where, masked_fill."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import (
    Operand,
    apply,
    as_value,
    broadcast_sum,
    convert,
    in_place,
    of_input,
    result_dtype,
)
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx


def _extremum(
    a: Operand, b: Operand, choose: Callable[[Expr, Expr], Expr], beaten: Callable[[Expr, Expr], Expr]
) -> Value:
    kind = result_dtype(a, b)
    x, y = convert(as_value(a), kind), convert(as_value(b), kind)
    result = elementwise(choose, x, y)
    if kind.is_float:
        # Ties split the gradient evenly, which no choice between the operands derives; NaN gives it to both.
        def share(g: Expr, mine: Expr, other: Expr) -> Expr:
            return sc.select(beaten(mine, other), 0.0, sc.select(mine.equals(other), g * 0.5, g))

        with_gradient((x, y), (result,), lambda g: (broadcast_sum(x, share, g, x, y), broadcast_sum(y, share, g, y, x)))
    return result


@aten("aten.maximum.default", "aten.max.other")
def maximum(a: Operand, b: Operand) -> Value:
    """The larger element; NaN propagates; ties split the gradient evenly."""
    return _extremum(a, b, _larger, lambda mine, other: mine < other)


@aten("aten.minimum.default", "aten.min.other")
def minimum(a: Operand, b: Operand) -> Value:
    """The smaller element; NaN propagates; ties split the gradient evenly."""
    return _extremum(a, b, _smaller, lambda mine, other: mine > other)


def _larger(x: Expr, y: Expr) -> Expr:
    return x | y if x.dtype is DType.BOOL else sc.maximum(x, y)


def _smaller(x: Expr, y: Expr) -> Expr:
    return x & y if x.dtype is DType.BOOL else sc.minimum(x, y)


def _limited(v: Expr, low: Expr | float | None, high: Expr | float | None) -> Expr:
    if low is not None:
        v = sc.maximum(v, low)
    if high is not None:
        v = sc.minimum(v, high)
    return v


@aten("aten.clamp.default", "aten.clamp.Tensor", "aten.clip.default", "aten.clip.Tensor")
def clamp(x: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    """`x` limited to [min, max]; `max` wins where it is below `min`; NaN propagates.

    The gradient at a bound goes to `x`, that outside to the bound; NaN has none.

    Raises:
        ShapeError: where neither bound is given.
    """
    if min is None and max is None:
        raise ShapeError("clamp needs min or max")
    bounds = [bound for bound in (min, max) if bound is not None]
    kind = result_dtype(x, *bounds)
    x = convert(x, kind)
    if any(isinstance(bound, Value) for bound in bounds):
        return _clamp_to_tensors(x, min, max, kind)
    low = None if min is None or isinstance(min, Value) else sc.constant(min, kind)
    high = None if max is None or isinstance(max, Value) else sc.constant(max, kind)
    if not kind.is_float:
        return elementwise(lambda v: _limited(v, low, high), x)

    def inside(v: Expr) -> Expr:
        conditions = [] if low is None else [v >= low]
        conditions += [] if high is None else [v <= high]
        return conditions[0] & conditions[-1]

    # Derived, NaN would receive a gradient, which it does not in PyTorch.
    return of_input(x, lambda v: _limited(v, low, high), lambda g, v: sc.select(inside(v), g, 0.0))


def _clamp_to_tensors(x: Value, min: Operand | None, max: Operand | None, kind: DType) -> Value:
    """`clamp` with bounds that are tensors, which receive gradients: PyTorch's formulas, NaN and ties included."""
    low = None if min is None else convert(as_value(min), kind)
    high = None if max is None else convert(as_value(max), kind)
    bounds = [bound for bound in (low, high) if bound is not None]

    def split(rest: Sequence[Expr]) -> tuple[Expr | None, Expr | None]:
        pending = iter(rest)
        return (None if low is None else next(pending)), (None if high is None else next(pending))

    result = elementwise(lambda v, *rest: _limited(v, *split(rest)), x, *bounds)
    if not kind.is_float:
        return result

    def to_x(g: Expr, v: Expr, *rest: Expr) -> Expr:
        a, b = split(rest)
        for condition in ([] if a is None else [v >= a]) + ([] if b is None else [v <= b]):
            g = sc.select(condition, g, 0.0)
        return g

    def to_low(g: Expr, v: Expr, *rest: Expr) -> Expr:
        a, b = split(rest)
        assert a is not None
        return sc.select((v < a) if b is None else ((a < b) & (v < a)), g, 0.0)

    def to_high(g: Expr, v: Expr, *rest: Expr) -> Expr:
        a, b = split(rest)
        assert b is not None
        return sc.select((v > b) if a is None else ((v > b) | (b < a)), g, 0.0)

    rules = [(x, to_x), *([] if low is None else [(low, to_low)]), *([] if high is None else [(high, to_high)])]
    with_gradient(
        [target for target, _ in rules],
        (result,),
        lambda g: [broadcast_sum(target, rule, g, x, *bounds) for target, rule in rules],
    )
    return result


@aten("aten.clamp_min.default", "aten.clamp_min.Tensor")
def clamp_min(x: Value, min: Operand) -> Value:
    """`x`, at least `min`."""
    return clamp(x, min, None)


@aten("aten.clamp_max.default", "aten.clamp_max.Tensor")
def clamp_max(x: Value, max: Operand) -> Value:
    """`x`, at most `max`."""
    return clamp(x, None, max)


@aten("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def where(condition: Value, a: Operand, b: Operand) -> Value:
    """`a` where the condition holds, else `b`; all three broadcast."""
    kind = result_dtype(a, b)

    def body(c: Expr, *rest: Expr) -> Expr:
        pending = iter(rest)
        chosen = [sc.cast(next(pending), kind) if isinstance(x, Value) else sc.constant(x, kind) for x in (a, b)]
        return sc.select(sc.cast(c, DType.BOOL), chosen[0], chosen[1])

    return elementwise(body, condition, *(x for x in (a, b) if isinstance(x, Value)))


@aten("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def masked_fill(x: Value, mask: Value, value: Operand) -> Value:
    """`value` where the mask is set, else `x`; the result has the type of `x`."""
    if isinstance(value, Value):
        return elementwise(lambda v, m, f: sc.select(m, sc.cast(f, v.dtype), v), x, convert(mask, DType.BOOL), value)
    return elementwise(lambda v, m: sc.select(m, sc.constant(value, v.dtype), v), x, convert(mask, DType.BOOL))


def _comparison(op: str) -> Callable[[Operand, Operand], Value]:
    def function(a: Operand, b: Operand) -> Value:
        return apply(lambda x, y: sc.binary(op, x, y), a, b)

    function.__name__ = op
    function.__doc__ = f"The comparison ``{op}`` in the promoted type: bool; false where NaN occurs, except for ``ne``."
    return function


lt, le, gt, ge, eq, ne = (_comparison(op) for op in sc.COMPARISONS)


def logical_and(a: Operand, b: Operand) -> Value:
    """Both are non-zero: bool."""
    return apply(lambda x, y: x & y, a, b, dtype=DType.BOOL)


def logical_or(a: Operand, b: Operand) -> Value:
    """One of them is non-zero: bool."""
    return apply(lambda x, y: x | y, a, b, dtype=DType.BOOL)


def logical_xor(a: Operand, b: Operand) -> Value:
    """Exactly one of them is non-zero: bool."""
    return apply(lambda x, y: x.differs(y), a, b, dtype=DType.BOOL)


def logical_not(x: Value) -> Value:
    """`x` is zero: bool."""
    return apply(lambda v: ~v, x, dtype=DType.BOOL)


def _bitwise(op: str) -> Callable[[Operand, Operand], Value]:
    def function(a: Operand, b: Operand) -> Value:
        if result_dtype(a, b).is_float:
            raise ShapeError(f"bitwise {op} needs integers or bools")
        return apply(lambda x, y: sc.binary(op, x, y), a, b)

    function.__name__ = f"bitwise_{op}"
    function.__doc__ = f"Bitwise {op} of integers, logical {op} of bools."
    return function


bitwise_and, bitwise_or, bitwise_xor = _bitwise("and"), _bitwise("or"), _bitwise("xor")


def bitwise_not(x: Value) -> Value:
    """The complement of integers, the negation of bools."""
    if x.dtype.is_float:
        raise ShapeError(f"bitwise_not needs integers or bools, and {x.name} has type {x.dtype.value}")
    return apply(lambda v: ~v if v.dtype is DType.BOOL else -v - 1, x)


for _name, _function in (("lt", lt), ("le", le), ("gt", gt), ("ge", ge), ("eq", eq), ("ne", ne)):
    aten(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_function)
for _name, _function in (("less", lt), ("less_equal", le), ("greater", gt), ("greater_equal", ge), ("not_equal", ne)):
    aten(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_function)
for _name, _function in (("and", logical_and), ("or", logical_or), ("xor", logical_xor)):
    aten(f"aten.logical_{_name}.default")(_function)
    aten(f"aten.logical_{_name}_.default")(in_place(_function))
for _name, _function in (("and", bitwise_and), ("or", bitwise_or), ("xor", bitwise_xor)):
    aten(*(f"aten.bitwise_{_name}.{overload}" for overload in ("Tensor", "Scalar", "Scalar_Tensor")))(_function)
    aten(f"aten.__{_name}__.Tensor", f"aten.__{_name}__.Scalar")(_function)
    aten(f"aten.bitwise_{_name}_.Tensor", f"aten.bitwise_{_name}_.Scalar")(in_place(_function))
aten("aten.logical_not.default")(logical_not)
aten("aten.bitwise_not.default")(bitwise_not)
for _name, _overloads, _change in (
    ("clamp", ("default", "Tensor"), clamp), ("clip", ("default", "Tensor"), clamp),
    ("clamp_min", ("default", "Tensor"), clamp_min), ("clamp_max", ("default", "Tensor"), clamp_max),
    ("masked_fill", ("Scalar", "Tensor"), masked_fill),
):  # fmt: skip
    aten(*(f"aten.{_name}_.{_overload}" for _overload in _overloads))(in_place(_change))


def _register_onnx(name: str, function: Callable[[Operand, Operand], Value]) -> None:
    def adapter(call: OnnxCall, a: Value, b: Value) -> Value:
        return function(a, b)

    adapter.__doc__ = f"ONNX {name}."
    onnx(name)(adapter)


for _name, _function in (
    ("Less", lt), ("LessOrEqual", le), ("Greater", gt), ("GreaterOrEqual", ge), ("Equal", eq), ("And", logical_and),
    ("Or", logical_or), ("Xor", logical_xor), ("BitwiseAnd", bitwise_and), ("BitwiseOr", bitwise_or),
    ("BitwiseXor", bitwise_xor),
):  # fmt: skip
    _register_onnx(_name, _function)


@onnx("Not")
def onnx_not(call: OnnxCall, x: Value) -> Value:
    """ONNX Not."""
    return logical_not(x)


@onnx("BitwiseNot")
def onnx_bitwise_not(call: OnnxCall, x: Value) -> Value:
    """ONNX BitwiseNot."""
    return bitwise_not(x)


@onnx("Where")
def onnx_where(call: OnnxCall, condition: Value, a: Value, b: Value) -> Value:
    """ONNX Where."""
    return where(condition, a, b)


@onnx("Max")
def onnx_max(call: OnnxCall, *values: Value) -> Value:
    """ONNX Max of the operands, element by element."""
    return _fold_pairs(maximum, values, "Max")


@onnx("Min")
def onnx_min(call: OnnxCall, *values: Value) -> Value:
    """ONNX Min of the operands, element by element."""
    return _fold_pairs(minimum, values, "Min")


def _fold_pairs(function: Callable[[Operand, Operand], Value], values: Sequence[Value], what: str) -> Value:
    if not values:
        raise ShapeError(f"{what} needs at least one operand")
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


@onnx("Clip")
def onnx_clip(call: OnnxCall, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """ONNX Clip: the bounds are inputs, and may be left out.

    Raises:
        UnsupportedCall: for bounds given as attributes, which ended with opset 11.
    """
    if "min" in call.attributes or "max" in call.attributes:
        raise UnsupportedCall("Clip with bounds as attributes; convert the model to opset 13 or newer")
    if low is None and high is None:
        return x
    return clamp(x, _number(low), _number(high))


def _number(bound: Value | None) -> Operand | None:
    """A bound known at compile time as a number: it then needs no gradient."""
    if bound is None or not bound.is_constant or bound.data is None or bound.size != 1:
        return bound
    number: float | int = bound.data.reshape(-1)[0].item()
    return number
