"""Losses of corresponding elements, with PyTorch's semantics and gradients that stay accurate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import broadcast_shapes, broadcast_to, elementwise, reduce_sum, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.operators.registry import UnsupportedCall, aten

#: The integers by which ATen names reductions.
ATEN_REDUCTIONS = ("none", "mean", "sum")


def reduce_loss(terms: Value, reduction: str) -> Value:
    """All terms, their mean or their sum.

    Raises:
        ShapeError: for another name of a reduction.
    """
    if reduction == "none":
        return terms
    if reduction not in ("mean", "sum"):
        raise ShapeError(f"unknown reduction {reduction!r}; 'none', 'mean' and 'sum' exist")
    total = reduce_sum(terms)
    return total / float(terms.size) if reduction == "mean" else total


def require_floats(operator: str, *values: Value) -> None:
    """Raise ShapeError unless all operands are float tensors."""
    for value in values:
        if not value.dtype.is_float:
            raise ShapeError(f"{operator} needs float tensors; {value.name} is {value.dtype.value}{value.shape}")


def _pointwise(
    body: Callable[[Expr, Expr], Expr], prediction: Value, target: Value, reduction: str, name: str
) -> Value:
    require_floats(name, prediction, target)
    return reduce_loss(elementwise(body, prediction, target), reduction)


def _of_difference(
    value: Callable[[Expr], Expr], slope: Callable[[Expr], Expr], prediction: Value, target: Value, reduction: str,
    name: str,
) -> Value:  # fmt: skip
    """A loss of ``prediction - target`` that is a parabola in the middle and straight outside."""
    require_floats(name, prediction, target)
    shape = broadcast_shapes(prediction.shape, target.shape)
    x, t = broadcast_to(prediction, shape), broadcast_to(target, shape)
    terms = elementwise(lambda p, q: value(p - q), x, t)

    def vjp(dy: Value | None) -> tuple[Value, Value]:
        assert dy is not None
        return (
            elementwise(lambda g, p, q: g * slope(p - q), dy, x, t),
            elementwise(lambda g, p, q: -(g * slope(p - q)), dy, x, t),
        )

    # Derived, the gradient of the parabola, which does not count outside, multiplies 0 by an infinite difference.
    with_gradient((x, t), (terms,), vjp)
    return reduce_loss(terms, reduction)


def mse_loss(prediction: Value, target: Value, reduction: str = "mean") -> Value:
    """Squared error ``(prediction - target)**2``; the operands are f32 and broadcast."""
    return _pointwise(lambda x, t: (x - t) * (x - t), prediction, target, reduction, "mse_loss")


def l1_loss(prediction: Value, target: Value, reduction: str = "mean") -> Value:
    """Absolute error ``|prediction - target|``, with gradient 0 where both are equal."""
    return _pointwise(lambda x, t: sc.absolute(x - t), prediction, target, reduction, "l1_loss")


def huber_loss(prediction: Value, target: Value, reduction: str = "mean", delta: float = 1.0) -> Value:
    """``d**2 / 2`` up to ``|d| = delta``, then ``delta * (|d| - delta / 2)``, for the difference d.

    Raises:
        ShapeError: if `delta` is not positive.
    """
    if delta <= 0.0:
        raise ShapeError(f"huber_loss needs a positive delta, not {delta}")

    def value(d: Expr) -> Expr:
        tails = sc.select(d < -delta, (-d - 0.5 * delta) * delta, (d - 0.5 * delta) * delta)
        return sc.select((d < -delta) | (d > delta), tails, d * d * 0.5)

    def slope(d: Expr) -> Expr:
        return sc.select(d < -delta, -delta, sc.select(d > delta, delta, d))

    return _of_difference(value, slope, prediction, target, reduction, "huber_loss")


def smooth_l1_loss(prediction: Value, target: Value, reduction: str = "mean", beta: float = 1.0) -> Value:
    """``d**2 / (2 * beta)`` below ``|d| = beta``, then ``|d| - beta / 2``, for the difference d.

    Raises:
        ShapeError: if `beta` is negative.
    """
    if beta < 0.0:
        raise ShapeError(f"smooth_l1_loss needs a beta that is not negative, got {beta}")
    if beta == 0.0:
        return l1_loss(prediction, target, reduction)

    def value(d: Expr) -> Expr:
        tails = sc.select(d < -beta, -d - 0.5 * beta, d - 0.5 * beta)
        return sc.select((d < -beta) | (d > beta), tails, d * d * (0.5 / beta))

    def slope(d: Expr) -> Expr:
        return sc.select(d < -beta, -1.0, sc.select(d > beta, 1.0, d * (1.0 / beta)))

    return _of_difference(value, slope, prediction, target, reduction, "smooth_l1_loss")


def bce_with_logits(
    logits: Value, target: Value, weight: Value | None = None, pos_weight: Value | None = None, *,
    reduction: str = "mean",
) -> Value:  # fmt: skip
    """Binary cross-entropy of logits as ``torch.nn.functional.binary_cross_entropy_with_logits``.

    ``weight * ((1 - t) * x + (1 + (pos_weight - 1) * t) * log(1 + exp(-x)))``

    Args:
        logits: any shape, f32.
        target: f32 of the same shape, usually between 0 and 1.
        weight: broadcasts to the logits, or None.
        pos_weight: broadcasts to the logits, or None.
        reduction: ``none``, ``sum`` or ``mean`` (over all elements).

    Raises:
        ShapeError: if shapes or types do not fit.
    """
    factors = [w for w in (weight, pos_weight) if w is not None]
    require_floats("binary_cross_entropy_with_logits", logits, target, *factors)
    if target.shape != logits.shape:
        raise ShapeError(
            f"binary_cross_entropy_with_logits: {target.name} needs the shape {logits.shape} of the logits, "
            f"it has {target.shape}"
        )
    shape = broadcast_shapes(logits.shape, *(w.shape for w in factors))
    if shape != logits.shape:
        raise ShapeError(f"binary_cross_entropy_with_logits: weights of a shape larger than the logits' {logits.shape}")

    def scaled(value: Expr, rest: Sequence[Expr]) -> Expr:
        return value * rest[0] if weight is not None else value

    def forward(x: Expr, t: Expr, *rest: Expr) -> Expr:
        # log(1 + exp(-x)) without overflow
        softplus = sc.log1p(sc.exp(-sc.absolute(x))) + sc.maximum(-x, 0.0)
        if pos_weight is not None:
            softplus = softplus * sc.fma(rest[-1] - 1.0, t, 1.0)
        return scaled(sc.fma(1.0 - t, x, softplus), rest)

    def d_logits(g: Expr, x: Expr, t: Expr, *rest: Expr) -> Expr:
        sigmoid = 1.0 / (sc.exp(-x) + 1.0)
        if pos_weight is None:
            return scaled((sigmoid - t) * g, rest)
        positive = rest[-1] * t
        return scaled(sc.fma(positive + (1.0 - t), sigmoid, -positive) * g, rest)

    def d_target(g: Expr, x: Expr, t: Expr, *rest: Expr) -> Expr:
        slope = -x
        if pos_weight is not None:
            softplus = sc.log1p(sc.exp(-sc.absolute(x))) + sc.maximum(-x, 0.0)
            slope = sc.fma(rest[-1] - 1.0, softplus, slope)
        return scaled(slope * g, rest)

    terms = elementwise(forward, logits, target, *factors)

    def vjp(dy: Value | None) -> tuple[Value, Value]:
        assert dy is not None
        return (
            elementwise(d_logits, dy, logits, target, *factors),
            elementwise(d_target, dy, logits, target, *factors),
        )

    # Derived, the gradient at logit 0 comes from the kinks of |x| and max(-x, 0): -1.0 for target 1, not -0.5.
    with_gradient((logits, target), (terms,), vjp)
    return reduce_loss(terms, reduction)


def binary_cross_entropy(
    probabilities: Value, target: Value, weight: Value | None = None, reduction: str = "mean"
) -> Value:
    """Binary cross-entropy of probabilities as ``torch.nn.functional.binary_cross_entropy``.

    Logarithms are bounded below by -100, and the divisor of the gradient by 1e-12.

    Raises:
        ShapeError: if shapes or types do not fit.
    """
    factors = [] if weight is None else [weight]
    require_floats("binary_cross_entropy", probabilities, target, *factors)
    if target.shape != probabilities.shape:
        raise ShapeError(
            f"binary_cross_entropy: {target.name} needs the shape {probabilities.shape} of the probabilities, "
            f"it has {target.shape}"
        )
    factors = [broadcast_to(w, probabilities.shape) for w in factors]

    def scaled(value: Expr, rest: Sequence[Expr]) -> Expr:
        return value * rest[0] if rest else value

    def forward(x: Expr, t: Expr, *rest: Expr) -> Expr:
        yes, no = sc.maximum(sc.log(x), -100.0), sc.maximum(sc.log1p(-x), -100.0)
        return scaled((t - 1.0) * no - t * yes, rest)

    def d_probabilities(g: Expr, x: Expr, t: Expr, *rest: Expr) -> Expr:
        return scaled(g * (x - t) / sc.maximum((1.0 - x) * x, 1e-12), rest)

    def d_target(g: Expr, x: Expr, t: Expr, *rest: Expr) -> Expr:
        return scaled((sc.log1p(-x) - sc.log(x)) * g, rest)

    terms = elementwise(forward, probabilities, target, *factors)

    def vjp(dy: Value | None) -> tuple[Value, Value]:
        assert dy is not None
        return (
            elementwise(d_probabilities, dy, probabilities, target, *factors),
            elementwise(d_target, dy, probabilities, target, *factors),
        )

    # Derived, the gradient is 0 or infinite at the probabilities 0 and 1, where PyTorch's is large but finite.
    with_gradient((probabilities, target), (terms,), vjp)
    return reduce_loss(terms, reduction)


def reduction_name(number: int) -> str:
    """The reduction that an ATen operator names by a number."""
    if number not in range(len(ATEN_REDUCTIONS)):
        raise UnsupportedCall(f"reduction {number}; 0 (none), 1 (mean) and 2 (sum) are supported")
    return ATEN_REDUCTIONS[number]


@aten("aten.mse_loss.default")
def aten_mse_loss(x: Value, target: Value, reduction: int = 1) -> Value:
    """ATen mse_loss."""
    return mse_loss(x, target, reduction_name(reduction))


@aten("aten.l1_loss.default")
def aten_l1_loss(x: Value, target: Value, reduction: int = 1) -> Value:
    """ATen l1_loss."""
    return l1_loss(x, target, reduction_name(reduction))


@aten("aten.smooth_l1_loss.default")
def aten_smooth_l1_loss(x: Value, target: Value, reduction: int = 1, beta: float = 1.0) -> Value:
    """ATen smooth_l1_loss."""
    return smooth_l1_loss(x, target, reduction_name(reduction), beta)


@aten("aten.huber_loss.default")
def aten_huber_loss(x: Value, target: Value, reduction: int = 1, delta: float = 1.0) -> Value:
    """ATen huber_loss."""
    return huber_loss(x, target, reduction_name(reduction), delta)


@aten("aten.binary_cross_entropy_with_logits.default")
def aten_bce_with_logits(
    x: Value, target: Value, weight: Value | None = None, pos_weight: Value | None = None, reduction: int = 1
) -> Value:
    """ATen binary_cross_entropy_with_logits."""
    return bce_with_logits(x, target, weight, pos_weight, reduction=reduction_name(reduction))


@aten("aten.binary_cross_entropy.default")
def aten_binary_cross_entropy(x: Value, target: Value, weight: Value | None = None, reduction: int = 1) -> Value:
    """ATen binary_cross_entropy."""
    return binary_cross_entropy(x, target, weight, reduction_name(reduction))
