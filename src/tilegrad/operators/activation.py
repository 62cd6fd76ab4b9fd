"""Activations: elementwise functions with PyTorch's behaviour at kinks, bounds and NaN.

Most have a gradient of their own. The derived one differentiates the branch that is not taken as well, where an
overflow times a zero gradient is NaN, or subtracts nearly equal numbers; and it evaluates the transcendental function a
second time where the result itself would do.
"""

from __future__ import annotations

import math

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, constant, elementwise, reshape
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import axis_of, in_place, of_input, of_output, plain
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def sigmoid_expr(v: Expr) -> Expr:
    """``1 / (1 + exp(-v))``; the exponential never overflows, so small results keep their relative accuracy."""
    e = sc.exp(-sc.absolute(v))
    r = 1.0 / (e + 1.0)
    return sc.select(v < 0.0, e * r, r)


def softplus_expr(v: Expr) -> Expr:
    """``log(1 + exp(v))`` without overflow."""
    return sc.maximum(v, 0.0) + sc.log1p(sc.exp(-sc.absolute(v)))


@aten("aten.relu.default")
def relu(x: Value) -> Value:
    """``x < 0 ? 0 : x``, so that NaN passes; the gradient at 0 is 0."""
    return elementwise(lambda v: sc.select((v > 0.0) | v.differs(v), v, 0.0), x)


@aten("aten.hardtanh.default")
def hardtanh(x: Value, min_val: float = -1.0, max_val: float = 1.0) -> Value:
    """`x` limited to [min_val, max_val]; the gradient at the bounds is 0 (that of clamp is 1)."""
    return plain(x, lambda v: sc.select(v <= min_val, min_val, sc.select(v >= max_val, max_val, v)))


@aten("aten.relu6.default")
def relu6(x: Value) -> Value:
    """`x` limited to [0, 6]; the gradient at 0 and at 6 is 0."""
    return hardtanh(x, 0.0, 6.0)


@aten("aten.leaky_relu.default")
def leaky_relu(x: Value, negative_slope: float = 0.01) -> Value:
    """``x > 0 ? x : negative_slope * x``; the gradient at 0 is the slope."""
    return plain(x, lambda v: sc.select(v > 0.0, v, v * negative_slope))


@aten("aten._prelu_kernel.default")
def prelu_broadcast(x: Value, slope: Value) -> Value:
    """``x > 0 ? x : slope * x`` with a slope that broadcasts to `x`."""
    return elementwise(lambda v, w: sc.select(v > 0.0, v, w * v), x, slope)


@aten("aten.prelu.default")
def prelu(x: Value, weight: Value) -> Value:
    """``x > 0 ? x : weight * x`` with one learned slope, or one per channel (axis 1).

    Args:
        x: f32[N, C, ...].
        weight: f32[1] or f32[C].

    Raises:
        ShapeError: if the weight has another size.
    """
    channels = x.shape[1] if x.rank > 1 else 1
    if weight.size not in (1, channels):
        raise ShapeError(f"prelu: weight {weight.name} has {weight.size} elements for {channels} channels of {x.name}")
    if weight.size > 1:
        weight = reshape(weight, (1, channels, *(1 for _ in range(x.rank - 2))))
    return prelu_broadcast(x, reshape(weight, ()) if weight.size == 1 else weight)


@aten("aten.elu.default")
def elu(x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    """``x > 0 ? scale * x : scale * alpha * (exp(input_scale * x) - 1)``."""
    negative = alpha * scale
    return of_input(
        x,
        lambda v: sc.select(v <= 0.0, sc.expm1(sc.minimum(v, 0.0) * input_scale) * negative, v * scale),
        lambda g, v: (
            g * sc.select(v <= 0.0, sc.exp(sc.minimum(v, 0.0) * input_scale) * (negative * input_scale), scale)
        ),
    )


@aten("aten.celu.default")
def celu(x: Value, alpha: float = 1.0) -> Value:
    """``max(0, x) + min(0, alpha * (exp(x / alpha) - 1))``."""
    if alpha == 0:
        raise ShapeError("celu: alpha must not be 0")
    return elu(x, alpha, 1.0, 1.0 / alpha)


@aten("aten.selu.default")
def selu(x: Value) -> Value:
    """ELU with the self-normalising constants (Klambauer et al., 2017)."""
    return elu(x, SELU_ALPHA, SELU_SCALE)


@aten("aten.sigmoid.default", "aten.special_expit.default")
def sigmoid(x: Value) -> Value:
    """``1 / (1 + exp(-x))``."""
    return of_output(x, sigmoid_expr, lambda g, y: g * (y * (1.0 - y)))


@aten("aten.log_sigmoid.default")
def log_sigmoid(x: Value) -> Value:
    """``log(sigmoid(x))``; the gradient is ``sigmoid(-x)``."""
    return of_input(
        x,
        lambda v: sc.minimum(v, 0.0) - sc.log1p(sc.exp(-sc.absolute(v))),
        lambda g, v: g * sigmoid_expr(-v),
    )


@aten("aten.log_sigmoid_forward.default")
def log_sigmoid_forward(x: Value) -> tuple[Value, Value]:
    """`log_sigmoid` and the buffer of PyTorch's own backward pass, which is not needed here: an empty tensor."""
    return log_sigmoid(x), constant([], DType.F32)


@aten("aten.tanh.default")
def tanh(x: Value) -> Value:
    """Hyperbolic tangent."""
    return of_output(x, sc.tanh, lambda g, y: g * sc.fma(-y, y, 1.0))


def _silu_slope(v: Expr) -> Expr:
    s = sigmoid_expr(v)
    return s * sc.fma(v, sigmoid_expr(-v), 1.0)


@aten("aten.silu.default")
def silu(x: Value) -> Value:
    """``x * sigmoid(x)``, also called swish."""
    return of_input(x, lambda v: v * sigmoid_expr(v), lambda g, v: g * _silu_slope(v))


def _tanh_of_softplus(v: Expr) -> tuple[Expr, Expr]:
    """``tanh(log(1 + exp(v)))`` and one minus it, by rational functions of ``exp(-|v|)``."""
    e = sc.exp(-sc.absolute(v))
    negative = e * (e + 2.0)
    positive = sc.fma(e, 2.0, 1.0)
    remainder = e * e * 2.0
    is_negative = v < 0.0
    top = sc.select(is_negative, negative, positive)
    rest = sc.select(is_negative, 2.0, remainder)
    r = 1.0 / (top + rest)
    return top * r, rest * r


def _mish_slope(v: Expr) -> Expr:
    t, rest = _tanh_of_softplus(v)
    return sc.fma(v * sigmoid_expr(v), rest * (t + 1.0), t)


@aten("aten.mish.default")
def mish(x: Value) -> Value:
    """``x * tanh(softplus(x))``."""
    return of_input(x, lambda v: v * _tanh_of_softplus(v)[0], lambda g, v: g * _mish_slope(v))


@aten("aten.gelu.default")
def gelu(x: Value, approximate: str = "none") -> Value:
    """``x * Phi(x)`` with the normal distribution's Phi, or its tanh approximation.

    Raises:
        UnsupportedCall: for an `approximate` other than "none" and "tanh".
    """
    if approximate == "none":
        return plain(x, lambda v: v * 0.5 * (sc.erf(v * math.sqrt(0.5)) + 1.0))
    if approximate != "tanh":
        raise UnsupportedCall(f"gelu: approximate={approximate!r}; 'none' and 'tanh' are supported")

    def body(v: Expr) -> Expr:
        # Beyond 10 the tangent is 1 in float32; without the limit its derivative is 0 times an overflow.
        limited = sc.maximum(sc.minimum(v, 10.0), -10.0)
        inner = sc.fma(limited * limited * limited, 0.044715, limited) * math.sqrt(2.0 / math.pi)
        return v * 0.5 * (sc.tanh(inner) + 1.0)

    return plain(x, body)


@aten("aten.hardswish.default")
def hardswish(x: Value) -> Value:
    """``x * relu6(x + 3) / 6``; the gradient is 0 up to -3 and 1 from 3 on."""
    third = 1.0 / 3.0
    return of_input(
        x,
        lambda v: v * (sc.minimum(sc.maximum(v + 3.0, 0.0), 6.0) / 6.0),
        lambda g, v: sc.select(v <= -3.0, 0.0, sc.select(v < 3.0, g * sc.fma(v, third, 0.5), g)),
    )


def hard_sigmoid_of(x: Value, alpha: float, beta: float) -> Value:
    """``alpha * x + beta`` limited to [0, 1]; the gradient at the bounds is 0."""

    def body(v: Expr) -> Expr:
        line = sc.fma(v, alpha, beta)
        inside = (line > 0.0) & (line < 1.0)
        return sc.select(inside | line.differs(line), line, sc.select(line >= 1.0, 1.0, 0.0))

    return plain(x, body)


@aten("aten.hardsigmoid.default")
def hardsigmoid(x: Value) -> Value:
    """``relu6(x + 3) / 6``; the gradient at -3, at 3 and at NaN is 0."""
    return of_input(
        x,
        lambda v: sc.minimum(sc.maximum(v + 3.0, 0.0), 6.0) / 6.0,
        lambda g, v: sc.select((v > -3.0) & (v < 3.0), g * (1.0 / 6.0), 0.0),
    )


@aten("aten.softplus.default")
def softplus(x: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """``log(1 + exp(beta * x)) / beta``, and `x` where ``beta * x > threshold``; its slope is ``sigmoid(beta * x)``."""

    def linear_above(v: Expr, line: Expr, curve: Expr) -> Expr:
        return curve if threshold == math.inf else sc.select(v * beta > threshold, line, curve)

    return of_input(
        x,
        lambda v: linear_above(v, v, softplus_expr(v * beta) / beta),
        lambda g, v: linear_above(v, g, g * sigmoid_expr(v * beta)),
    )


def softsign(x: Value) -> Value:
    """``x / (1 + |x|)``."""

    def slope(v: Expr) -> Expr:
        r = 1.0 / (sc.absolute(v) + 1.0)
        return r * r

    return of_input(x, lambda v: v / (sc.absolute(v) + 1.0), lambda g, v: g * slope(v))


@aten("aten.threshold.default")
def threshold(x: Value, threshold: float, value: float) -> Value:
    """``x <= threshold ? value : x``."""
    return plain(x, lambda v: sc.select(v <= threshold, value, v))


@aten("aten.hardshrink.default")
def hardshrink(x: Value, lambd: float = 0.5) -> Value:
    """0 where ``-lambd <= x <= lambd``, else `x`."""
    return plain(x, lambda v: sc.select((v >= -lambd) & (v <= lambd), 0.0, v))


def _shrink(x: Value, lambd: float, bias: float) -> Value:
    def body(v: Expr) -> Expr:
        inside = (v >= -lambd) & (v <= lambd)
        return sc.select(inside, 0.0, sc.select(v < -lambd, v + bias, v - bias))

    return plain(x, body)


@aten("aten.softshrink.default")
def softshrink(x: Value, lambd: float = 0.5) -> Value:
    """`x` moved towards 0 by `lambd`, 0 where ``|x| <= lambd``."""
    return _shrink(x, lambd, lambd)


@aten("aten.logit.default")
def logit(x: Value, eps: float | None = None) -> Value:
    """``log(x / (1 - x))``, `x` first limited to [eps, 1 - eps] where `eps` is given; no gradient outside."""

    def forward(v: Expr) -> Expr:
        if eps is not None:
            v = sc.minimum(sc.maximum(v, eps), 1.0 - eps)
        return sc.log(v / (1.0 - v))

    def backward(g: Expr, v: Expr) -> Expr:
        slope = g / (v * (1.0 - v))
        if eps is None:
            # PyTorch: NaN outside [0, 1], where the logarithm is not defined.
            return sc.select((v < 0.0) | (v > 1.0), math.nan, slope)
        return sc.select((v < eps) | (v > 1.0 - eps), 0.0, slope)

    return of_input(x, forward, backward)


@aten("aten.glu.default")
def glu(x: Value, dim: int = -1) -> Value:
    """``a * sigmoid(b)`` for the halves a and b of `x` along `dim`.

    Raises:
        ShapeError: if the axis has an odd extent.
    """
    axis = axis_of(dim, x.rank, "glu")
    if not x.rank or x.shape[axis] % 2:
        raise ShapeError(f"glu: axis {dim} of {x.name} must have an even extent; its shape is {x.shape}")
    half = x.shape[axis] // 2
    d = Domain()
    index = d.parallel(*(half if k == axis else extent for k, extent in enumerate(x.shape)))
    return d.assign(x[index] * sigmoid(_upper_half(x, axis, half))[index], index)


def _upper_half(x: Value, axis: int, half: int) -> Value:
    d = Domain()
    index = d.parallel(*(half if k == axis else extent for k, extent in enumerate(x.shape)))
    return d.assign(x[tuple(row + half if k == axis else row for k, row in enumerate(index))], index)


@aten("aten.rrelu.default")
def rrelu(
    x: Value, lower: float = 0.125, upper: float = 1.0 / 3.0, training: bool = False, generator: object = None
) -> Value:
    """Outside training, leaky ReLU with the mean slope.

    Raises:
        UnsupportedCall: in training, where every slope is random.
    """
    if training:
        raise UnsupportedCall("rrelu in training draws random slopes, which is not supported; use leaky_relu or prelu")
    return leaky_relu(x, (lower + upper) / 2.0)


for _name, _function in (
    ("relu", relu), ("relu6", relu6), ("hardtanh", hardtanh), ("leaky_relu", leaky_relu), ("elu", elu), ("celu", celu),
    ("selu", selu), ("silu", silu), ("mish", mish), ("gelu", gelu), ("sigmoid", sigmoid), ("tanh", tanh),
    ("hardswish", hardswish), ("hardsigmoid", hardsigmoid), ("threshold", threshold), ("logit", logit),
):  # fmt: skip
    aten(f"aten.{_name}_.default")(in_place(_function))


@onnx("Relu")
def onnx_relu(call: OnnxCall, x: Value) -> Value:
    """ONNX Relu."""
    return relu(x)


@onnx("LeakyRelu")
def onnx_leaky_relu(call: OnnxCall, x: Value) -> Value:
    """ONNX LeakyRelu."""
    return leaky_relu(x, float(call.attribute("alpha", 0.01)))


@onnx("PRelu")
def onnx_prelu(call: OnnxCall, x: Value, slope: Value) -> Value:
    """ONNX PRelu: the slope broadcasts to `x`."""
    return prelu_broadcast(x, slope)


@onnx("Elu")
def onnx_elu(call: OnnxCall, x: Value) -> Value:
    """ONNX Elu."""
    return elu(x, float(call.attribute("alpha", 1.0)))


@onnx("Celu")
def onnx_celu(call: OnnxCall, x: Value) -> Value:
    """ONNX Celu."""
    return celu(x, float(call.attribute("alpha", 1.0)))


@onnx("Selu")
def onnx_selu(call: OnnxCall, x: Value) -> Value:
    """ONNX Selu."""
    return elu(x, float(call.attribute("alpha", SELU_ALPHA)), float(call.attribute("gamma", SELU_SCALE)))


@onnx("Sigmoid")
def onnx_sigmoid(call: OnnxCall, x: Value) -> Value:
    """ONNX Sigmoid."""
    return sigmoid(x)


@onnx("Tanh")
def onnx_tanh(call: OnnxCall, x: Value) -> Value:
    """ONNX Tanh."""
    return tanh(x)


@onnx("Gelu")
def onnx_gelu(call: OnnxCall, x: Value) -> Value:
    """ONNX Gelu."""
    return gelu(x, str(call.attribute("approximate", "none")))


@onnx("HardSigmoid")
def onnx_hard_sigmoid(call: OnnxCall, x: Value) -> Value:
    """ONNX HardSigmoid."""
    return hard_sigmoid_of(x, float(call.attribute("alpha", 0.2)), float(call.attribute("beta", 0.5)))


@onnx("HardSwish")
def onnx_hard_swish(call: OnnxCall, x: Value) -> Value:
    """ONNX HardSwish."""
    return hardswish(x)


@onnx("Softplus")
def onnx_softplus(call: OnnxCall, x: Value) -> Value:
    """ONNX Softplus, which has no threshold."""
    return softplus(x, threshold=math.inf)


@onnx("Softsign")
def onnx_softsign(call: OnnxCall, x: Value) -> Value:
    """ONNX Softsign."""
    return softsign(x)


@onnx("Mish")
def onnx_mish(call: OnnxCall, x: Value) -> Value:
    """ONNX Mish."""
    return mish(x)


@onnx("Swish")
def onnx_swish(call: OnnxCall, x: Value) -> Value:
    """ONNX Swish: ``x * sigmoid(alpha * x)``."""
    alpha = float(call.attribute("alpha", 1.0))

    def slope(v: Expr) -> Expr:
        return sigmoid_expr(v * alpha) * sc.fma(v * alpha, sigmoid_expr(v * -alpha), 1.0)

    return of_input(x, lambda v: v * sigmoid_expr(v * alpha), lambda g, v: g * slope(v))


@onnx("ThresholdedRelu")
def onnx_thresholded_relu(call: OnnxCall, x: Value) -> Value:
    """ONNX ThresholdedRelu: `x` above alpha, else 0."""
    return threshold(x, float(call.attribute("alpha", 1.0)), 0.0)


@onnx("Shrink")
def onnx_shrink(call: OnnxCall, x: Value) -> Value:
    """ONNX Shrink."""
    return _shrink(x, float(call.attribute("lambd", 0.5)), float(call.attribute("bias", 0.0)))
