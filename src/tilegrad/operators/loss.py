"""Classification losses with PyTorch's semantics, each with the gradient that stays accurate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, elementwise, full, lookup, reduce_max, reduce_sum, reshape, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.pointwise_loss import reduce_loss, reduction_name, require_floats
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.operators.softmax import log_softmax


@dataclass(frozen=True)
class _Classes:
    """Scores ``[n, c, s]`` with labels ``[n, s]``; a label that is ignored or out of range has no term at all.

    Attributes:
        scores: ``[n, c, s]``, f32.
        labels: ``[n, s]``, i32 or i64.
        weight: ``[c]`` or None.
        ignored: the label without a term, or None.
    """

    scores: Value
    labels: Value
    weight: Value | None
    ignored: int | None

    @property
    def classes(self) -> int:
        return self.scores.shape[1]

    def valid(self, label: Expr) -> Expr:
        """Whether a label has a term."""
        inside = (label >= 0) & (label < self.classes)
        return inside if self.ignored is None else inside & label.differs(self.ignored)

    def weights(self) -> Value:
        """``[n, s]``: the weight of each label, 0 for those without a term."""
        if self.weight is None:
            return elementwise(lambda t: sc.select(self.valid(t), 1.0, 0.0), self.labels)
        d = Domain()
        n, s = d.parallel(*self.labels.shape)
        entry = self.weight[lookup(self.labels, n, s)]  # a label out of range makes no term: the sum stays 0
        return d.sum(sc.select(self.valid(self.labels[n, s]), entry, 0.0), (n, s))

    def picked(self, body: Callable[..., Expr], *others: Value) -> Value:
        """``[n, s]``: ``body(score of the label, *elements of others)``, 0 for labels without a term."""
        d = Domain()
        n, s = d.parallel(*self.labels.shape)
        score = self.scores[n, lookup(self.labels, n, s), s]
        term = body(score, *(other[n, s] for other in others))
        return d.sum(sc.select(self.valid(self.labels[n, s]), term, 0.0), (n, s))

    def is_label(self, c: Affine, label: Expr) -> Expr:
        """Whether class `c` is the label."""
        return sc.cast(sc.index(c), label.dtype).equals(label)


def _classes(
    scores: Value, target: Value, weight: Value | None, ignored: int | None, operator: str
) -> tuple[_Classes, tuple[int, ...]]:
    """The operands under their common shapes ``[n, c, s]`` and ``[n, s]``, and the shape of the terms.

    Raises:
        ShapeError: if shapes or types do not fit.
    """
    require_floats(operator, scores)
    if target.dtype not in (DType.I32, DType.I64):
        raise ShapeError(f"{operator} needs int32 or int64 labels; {target.name} is {target.dtype.value}{target.shape}")
    if scores.rank == 0:
        raise ShapeError(f"{operator} needs scores of shape [c] or [n, c, ...]; {scores.name} has no axes")
    batch, classes = (1, scores.shape[0]) if scores.rank == 1 else scores.shape[:2]
    rest = scores.shape[2:]
    expected = () if scores.rank == 1 else (batch, *rest)
    if target.shape != expected:
        raise ShapeError(
            f"{operator}: scores of shape {scores.shape} need labels of shape {expected}, "
            f"but {target.name} has shape {target.shape}"
        )
    if weight is not None and weight.shape != (classes,):
        raise ShapeError(
            f"{operator}: {weight.name} has shape {weight.shape}, expected one weight per class: ({classes},)"
        )
    places = math.prod(rest)
    found = _Classes(reshape(scores, (batch, classes, places)), reshape(target, (batch, places)), weight, ignored)
    return found, expected


def _reduce_weighted(terms: Value, weights: Value, shape: Sequence[int], reduction: str) -> tuple[Value, Value | None]:
    """Reduce ``[n, s]`` terms; the mean divides by the sum of the weights, which is returned too."""
    if reduction == "none":
        return reshape(terms, shape), None
    if reduction == "sum":
        return reduce_sum(terms), None
    if reduction != "mean":
        raise ShapeError(f"unknown reduction {reduction!r}; 'none', 'mean' and 'sum' exist")
    total = reduce_sum(weights)
    return reduce_sum(terms) / total, total


def _upstream(dy: Value | None, shape: Sequence[int], total: Value | None) -> Value:
    """The gradient of every ``[n, s]`` term from that of the reduced loss."""
    assert dy is not None
    if dy.size == math.prod(shape) and total is None:
        return reshape(dy, shape)
    return dy if total is None else dy / total


def nll_loss(
    log_probabilities: Value, target: Value, weight: Value | None = None, *, reduction: str = "mean",
    ignore_index: int | None = -100,
) -> Value:  # fmt: skip
    """Negative log-likelihood loss: ``-weight[t] * x[t]`` for every label t.

    Args:
        log_probabilities: ``[c]`` or ``[n, c, ...]``, f32.
        target: ``[]`` or ``[n, ...]`` class indices, i32 or i64.
        weight: ``[c]`` or None.
        reduction: ``none``, ``sum``, or ``mean``: over the weights of the labels that count.
        ignore_index: a label that does not count; None for none. Labels out of range do not count either.

    Returns:
        A scalar, or with ``none`` the terms in the shape of `target`. NaN for a mean over nothing.
    """
    return _nll_loss(log_probabilities, target, weight, reduction, ignore_index)[0]


def _nll_loss(
    scores: Value, target: Value, weight: Value | None, reduction: str, ignored: int | None
) -> tuple[Value, Value]:
    """The loss and the sum of the weights."""
    operands, shape = _classes(scores, target, weight, ignored, "nll_loss")
    weights = operands.weights()
    terms = operands.picked(lambda x, w: -(x * w), weights)
    loss, total = _reduce_weighted(terms, weights, shape, reduction)

    def vjp(dy: Value | None) -> tuple[Value]:
        g = _upstream(dy, operands.labels.shape, total)
        return (_one_hot(operands, elementwise(lambda w, u: -(w * u), weights, g)),)

    # Derived, the gradient adds into looked-up places one after the other; comparing class and label writes it at once.
    with_gradient((operands.scores,), (loss,), vjp)
    return loss, reduce_sum(weights) if total is None else total


def _one_hot(operands: _Classes, values: Value) -> Value:
    """``[n, c, s]``: `values` at the labels that count, 0 elsewhere."""
    d = Domain()
    n, c, s = d.parallel(*operands.scores.shape)
    label = operands.labels[n, s]
    here = operands.is_label(c, label) & operands.valid(label)
    return d.assign(sc.select(here, values[n, s], 0.0), (n, c, s))


def cross_entropy(
    logits: Value, target: Value, weight: Value | None = None, *, reduction: str = "mean",
    ignore_index: int | None = -100, label_smoothing: float = 0.0,
) -> Value:  # fmt: skip
    """Cross-entropy of logits as ``torch.nn.functional.cross_entropy``.

    Args:
        logits: ``[c]`` or ``[n, c, ...]``, f32.
        target: class indices ``[]`` or ``[n, ...]``, i32 or i64, or class probabilities, f32 of the logits' shape.
        weight: ``[c]`` or None.
        reduction: ``none``, ``sum``, or ``mean``: over the weights of the labels that count (with probabilities: over
            the samples).
        ignore_index: a label that does not count; None for none. Labels out of range do not count either.
        label_smoothing: how much of every target is spread evenly over all classes, between 0 and 1.

    Returns:
        A scalar, or with ``none`` one term per label. NaN for a mean over nothing.

    Raises:
        ShapeError: if shapes, types or `label_smoothing` do not fit.
        UnsupportedCall: for class probabilities with an `ignore_index` that could be meant.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ShapeError(f"label_smoothing lies between 0 and 1, not {label_smoothing}")
    if target.dtype.is_float:
        if ignore_index is not None and ignore_index >= 0:
            raise UnsupportedCall("ignore_index with class probabilities; it applies to class indices only")
        return _cross_entropy_of_probabilities(logits, target, weight, reduction, label_smoothing)
    operands, shape = _classes(logits, target, weight, ignore_index, "cross_entropy")
    parts = _CrossEntropy.make(operands, label_smoothing)
    loss, total = _reduce_weighted(parts.terms, parts.label_weights, shape, reduction)

    def vjp(dy: Value | None) -> tuple[Value]:
        return (parts.gradient(_upstream(dy, operands.labels.shape, total)),)

    # Derived, the gradient goes through maximum, sum and gather; this is one operation over the logits:
    # (softmax * sum q - q) * dloss, with q the smoothed and weighted one-hot target.
    with_gradient((operands.scores,), (loss,), vjp)
    return loss


@dataclass(frozen=True)
class _CrossEntropy:
    """Cross-entropy against ``q[c] = (1 - e) * weight[t] * (c == t) + e / classes * weight[c]``, all ``[n, s]``.

    Attributes:
        operands: logits and labels.
        smoothing: e.
        label_weights: weight of the label.
        largest: maximum of the logits.
        powers: sum of exp(logits - largest).
        mass: sum of q.
        terms: the loss of every label, 0 for those that do not count.
    """

    operands: _Classes
    smoothing: float
    label_weights: Value
    largest: Value
    powers: Value
    mass: Value
    terms: Value

    @staticmethod
    def make(operands: _Classes, smoothing: float) -> _CrossEntropy:
        scores, places = operands.scores, operands.labels.shape
        label_weights = operands.weights()
        largest = reduce_max(scores, 1)
        view = reshape(largest, (places[0], 1, places[1]))
        powers = reduce_sum(scores, 1, False, lambda x, m: sc.exp(x - m), view)
        picked = operands.picked(lambda x, m, w: (x - m) * w, largest, label_weights)
        if smoothing == 0.0:
            # Only the label's logit is read: a class masked by -inf costs nothing.
            mass, inner = label_weights, picked
        else:
            share = smoothing / operands.classes
            if operands.weight is None:
                weight_sum = full((), float(operands.classes))
                spread = reduce_sum(scores, 1, False, lambda x, m: x - m, view)
            else:
                weight_sum = reduce_sum(operands.weight)
                column = reshape(operands.weight, (operands.classes, 1))
                spread = reduce_sum(scores, 1, False, lambda x, m, w: (x - m) * w, view, column)
            mass = elementwise(lambda w, total: sc.fma(w, 1.0 - smoothing, total * share), label_weights, weight_sum)
            inner = elementwise(lambda p, total: sc.fma(p, 1.0 - smoothing, total * share), picked, spread)
        terms = elementwise(
            lambda z, q, i, t: sc.select(operands.valid(t), sc.log(z) * q - i, 0.0),
            powers, mass, inner, operands.labels,
        )  # fmt: skip
        return _CrossEntropy(operands, smoothing, label_weights, largest, powers, mass, terms)

    def gradient(self, upstream: Value) -> Value:
        """``(softmax * mass - q) * upstream`` where the label counts, else 0."""
        operands, smoothing = self.operands, self.smoothing
        weight = operands.weight
        factor = elementwise(lambda q, z: q / z, self.mass, self.powers)
        # What the label and every other class subtract, before class weights.
        label_share = elementwise(lambda w: w * (1.0 - smoothing), self.label_weights)
        d = Domain()
        n, c, s = d.parallel(*operands.scores.shape)
        label = operands.labels[n, s]
        share = sc.select(operands.is_label(c, label), label_share[n, s], 0.0)
        if smoothing != 0.0:
            spread = sc.constant(smoothing / operands.classes, DType.F32)
            share = share + (spread if weight is None else weight[c] * spread)
        power = sc.exp(operands.scores[n, c, s] - self.largest[n, s])
        dy = upstream[n, s] if upstream.rank else upstream[()]
        return d.assign(sc.select(operands.valid(label), sc.fma(power, factor[n, s], -share) * dy, 0.0), (n, c, s))


def _cross_entropy_of_probabilities(
    logits: Value, target: Value, weight: Value | None, reduction: str, smoothing: float
) -> Value:
    require_floats("cross_entropy", logits)
    if target.shape != logits.shape or logits.rank == 0:
        raise ShapeError(
            f"cross_entropy: class probabilities need the shape {logits.shape} of the logits, "
            f"but {target.name} has shape {target.shape}"
        )
    axis = 0 if logits.rank == 1 else 1
    classes = logits.shape[axis]
    columns: tuple[Value, ...] = ()
    if weight is not None:
        if weight.shape != (classes,):
            raise ShapeError(f"cross_entropy: {weight.name} has shape {weight.shape}, expected ({classes},)")
        columns = (reshape(weight, (classes, *[1] * (logits.rank - axis - 1))),)

    def term(x: Expr, t: Expr, *w: Expr) -> Expr:
        if smoothing != 0.0:
            t = sc.fma(t, 1.0 - smoothing, smoothing / classes)
        return -x * (t * w[0] if w else t)

    terms = reduce_sum(log_softmax(logits, axis), axis, False, term, target, *columns)
    return reduce_loss(terms, reduction)


@aten("aten.cross_entropy_loss.default")
def aten_cross_entropy_loss(
    x: Value, target: Value, weight: Value | None = None, reduction: int = 1, ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Value:  # fmt: skip
    """ATen cross_entropy_loss."""
    return cross_entropy(
        x,
        target,
        weight,
        reduction=reduction_name(reduction),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )


@aten("aten.nll_loss.default", "aten.nll_loss_nd.default", "aten.nll_loss2d.default")
def aten_nll_loss(
    x: Value, target: Value, weight: Value | None = None, reduction: int = 1, ignore_index: int = -100
) -> Value:
    """ATen nll_loss."""
    return nll_loss(x, target, weight, reduction=reduction_name(reduction), ignore_index=ignore_index)


@aten("aten.nll_loss_forward.default", "aten.nll_loss2d_forward.default")
def aten_nll_loss_forward(
    x: Value, target: Value, weight: Value | None, reduction: int, ignore_index: int
) -> tuple[Value, Value]:
    """ATen nll_loss_forward: the loss and the sum of the weights (0 without a reduction)."""
    loss, total = _nll_loss(x, target, weight, reduction_name(reduction), ignore_index)
    return loss, full((), 0.0) if reduction_name(reduction) == "none" else total


def _onnx_ignored(call: OnnxCall) -> int | None:
    ignored = call.attribute("ignore_index")
    return None if ignored is None else int(ignored)


@onnx("SoftmaxCrossEntropyLoss")
def onnx_softmax_cross_entropy_loss(
    call: OnnxCall, scores: Value, labels: Value, weights: Value | None = None
) -> Value | tuple[Value, Value]:
    """ONNX SoftmaxCrossEntropyLoss; without ignore_index every label counts."""
    reduction = call.attribute("reduction", "mean")
    loss = cross_entropy(scores, labels, weights, reduction=reduction, ignore_index=_onnx_ignored(call))
    if len(call.outputs) > 1 and call.outputs[1]:
        return loss, log_softmax(scores, 1)
    return loss


@onnx("NegativeLogLikelihoodLoss")
def onnx_negative_log_likelihood_loss(
    call: OnnxCall, scores: Value, labels: Value, weights: Value | None = None
) -> Value:
    """ONNX NegativeLogLikelihoodLoss; without ignore_index every label counts."""
    reduction = call.attribute("reduction", "mean")
    return nll_loss(scores, labels, weights, reduction=reduction, ignore_index=_onnx_ignored(call))
