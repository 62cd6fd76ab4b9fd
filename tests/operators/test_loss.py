"""Losses against PyTorch: reductions, ignored labels, weights, smoothing, stability, exact gradients at kinks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import check_onnx
from operator_harness import build, check, draw
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.operators import loss, pointwise_loss, registry
from tilegrad.operators.registry import UnsupportedCall

#: Literals such as 1/3 are rounded to float32, also where the interpreter computes in float64.
LITERALS = 1e-7
REDUCTIONS = ("none", "mean", "sum")


def aten(name: str, *args: Any) -> Any:
    function = registry.find_aten(f"aten.{name}.default")
    assert function is not None
    return function(*args)


def labels(classes: int, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, classes, size=shape)


def detached(*weights: torch.Tensor) -> torch.Tensor | None:
    return weights[0].detach() if weights else None


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    batch=st.integers(1, 4), classes=st.integers(1, 4), places=st.lists(st.integers(1, 3), max_size=2),
    reduction=st.integers(0, 2), ignored=st.sampled_from([-100, 0, 2]),
    smoothing=st.sampled_from([0.0, 0.125, 0.5, 1.0]), weighted=st.booleans(),
    dtype=st.sampled_from([np.int32, np.int64]), some_ignored=st.booleans(),
)  # fmt: skip
def test_cross_entropy(
    batch: int, classes: int, places: list[int], reduction: int, ignored: int, smoothing: float, weighted: bool,
    dtype: Any, some_ignored: bool,
) -> None:  # fmt: skip
    target = labels(classes, batch, *places).astype(dtype)
    if some_ignored:
        target.reshape(-1)[::2] = ignored
    operands = [draw(batch, classes, *places) * 3, target, *([draw(classes, seed=1, low=0.1)] if weighted else [])]
    check(
        lambda x, t, *w: aten("cross_entropy_loss", x, t, *(w or (None,)), reduction, ignored, smoothing),
        lambda x, t, *w: functional.cross_entropy(
            x, t.long(), detached(*w), reduction=REDUCTIONS[reduction], ignore_index=ignored, label_smoothing=smoothing
        ),
        *operands, tolerance=LITERALS if smoothing else 1e-9,
    )  # fmt: skip


@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=4), reduction=st.integers(0, 2), weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.25]),
)  # fmt: skip
def test_cross_entropy_with_class_probabilities(
    shape: list[int], reduction: int, weighted: bool, smoothing: float
) -> None:
    classes = shape[0] if len(shape) == 1 else shape[1]
    operands = [draw(*shape), np.abs(draw(*shape, seed=2)), *([draw(classes, seed=1, low=0.1)] if weighted else [])]
    check(
        lambda x, t, *w: aten("cross_entropy_loss", x, t, *(w or (None,)), reduction, -100, smoothing),
        lambda x, t, *w: functional.cross_entropy(
            x, t, w[0] if w else None, reduction=REDUCTIONS[reduction], label_smoothing=smoothing
        ),
        *operands, tolerance=LITERALS,
    )  # fmt: skip


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    batch=st.integers(1, 4), classes=st.integers(1, 4), places=st.lists(st.integers(1, 3), max_size=2),
    reduction=st.integers(0, 2), weighted=st.booleans(),
)  # fmt: skip
def test_nll_loss(batch: int, classes: int, places: list[int], reduction: int, weighted: bool) -> None:
    target = labels(classes, batch, *places)
    target.reshape(-1)[::3] = -100
    operands = [draw(batch, classes, *places), target, *([draw(classes, seed=1, low=0.1)] if weighted else [])]
    check(
        lambda x, t, *w: aten("nll_loss_nd", x, t, *(w or (None,)), reduction, -100),
        lambda x, t, *w: functional.nll_loss(x, t, detached(*w), reduction=REDUCTIONS[reduction]),
        *operands,
    )  # fmt: skip


def test_one_sample_without_a_batch_axis() -> None:
    x, target = draw(5), np.array(3)
    for name in ("cross_entropy_loss", "nll_loss"):
        reference = functional.cross_entropy if name == "cross_entropy_loss" else functional.nll_loss
        for reduction in (0, 1, 2):
            check(
                lambda x, t, n=name, r=reduction: aten(n, x, t, None, r),
                lambda x, t, f=reference, r=reduction: f(x, t, reduction=REDUCTIONS[r]), x, target,
            )  # fmt: skip


def test_nll_loss_forward_returns_the_sum_of_the_weights() -> None:
    x, target, weight = draw(4, 3), np.array([0, 2, -100, 1]), draw(3, seed=1, low=0.1)
    for reduction in (0, 1, 2):
        check(
            lambda x, t, w, r=reduction: aten("nll_loss_forward", x, t, w, r, -100),
            lambda x, t, w, r=reduction: torch.ops.aten.nll_loss_forward.default(x, t, w, r, -100),
            x, target, weight, gradient=False,
        )  # fmt: skip


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_all_ignored_is_nan_with_zero_gradients(smoothing: float) -> None:
    x, target = draw(3, 4), np.full(3, -100)
    for reduction in REDUCTIONS:
        check(
            lambda x, t, r=reduction: loss.cross_entropy(x, t, reduction=r, label_smoothing=smoothing),
            lambda x, t, r=reduction: functional.cross_entropy(x, t, reduction=r, label_smoothing=smoothing),
            x, target,
        )  # fmt: skip


def test_nan_and_infinite_logits() -> None:
    x = draw(5, 3)
    x[0, 0], x[1, 1], x[2, 2], x[4] = np.nan, -np.inf, np.inf, -np.inf
    target = np.array([1, 0, 1, 2, 0])
    for reduction in REDUCTIONS:
        check(
            lambda x, t, r=reduction: loss.cross_entropy(x, t, reduction=r),
            lambda x, t, r=reduction: functional.cross_entropy(x, t, reduction=r), x, target,
        )  # fmt: skip


def test_large_logits_in_float32() -> None:
    x, target = np.array([[1e4, -1e4, 1e4 + 2], [200.0, 0.0, -200.0]]), np.array([0, 2])
    graph, operands, results, seeds, gradients = build(loss.cross_entropy, [x, target])
    feeds = {operands[0]: x, operands[1]: target, seeds[0]: np.array(1.0)}
    env = run(graph, feeds, np.float32)
    tensor = torch.tensor(x, requires_grad=True)
    wanted = functional.cross_entropy(tensor, torch.tensor(target))
    wanted.backward()
    assert tensor.grad is not None
    np.testing.assert_allclose(env[results[0]], wanted.item(), rtol=1e-6)
    np.testing.assert_allclose(env[gradients[operands[0]]], tensor.grad.numpy(), atol=1e-7)


@pytest.mark.parametrize("label", [3, -1, -2, 2**31 - 1, -(2**31), 2**40, 2**32 + 1])
def test_a_label_out_of_range_has_no_term(label: int) -> None:
    x, target = draw(3, 3), np.array([0, label, 2])
    kept = np.array([0, 2])
    for function, reference in ((loss.cross_entropy, functional.cross_entropy), (loss.nll_loss, functional.nll_loss)):
        check(function, lambda x, t, f=reference: f(x[kept], torch.tensor(kept)), x, target)


def test_the_gradient_of_cross_entropy_is_one_operation_over_the_logits() -> None:
    graph = build(loss.cross_entropy, [draw(4, 3, 2), labels(3, 4, 2)])[0]
    over_logits = [op for op in graph.ops if op.outputs[0].shape == (4, 3, 2)]
    assert len(over_logits) == 1
    assert not any(nest.scatter for op in graph.ops for nest in getattr(op, "nests", ()))


TARGETS = [
    (pointwise_loss.mse_loss, functional.mse_loss),
    (pointwise_loss.l1_loss, functional.l1_loss),
    (lambda x, t, reduction: pointwise_loss.smooth_l1_loss(x, t, reduction, 0.5),
     lambda x, t, reduction: functional.smooth_l1_loss(x, t, reduction=reduction, beta=0.5)),
    (lambda x, t, reduction: pointwise_loss.smooth_l1_loss(x, t, reduction, 0.0),
     lambda x, t, reduction: functional.smooth_l1_loss(x, t, reduction=reduction, beta=0.0)),
    (lambda x, t, reduction: pointwise_loss.huber_loss(x, t, reduction, 0.5),
     lambda x, t, reduction: functional.huber_loss(x, t, reduction=reduction, delta=0.5)),
]  # fmt: skip


@pytest.mark.parametrize("mine, theirs", TARGETS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pointwise_losses(mine: Any, theirs: Any, reduction: str) -> None:
    x, target = draw(3, 4), draw(3, 4, seed=1)
    target[0, 0], target[0, 1], target[0, 2], x[1, 0], x[1, 1] = x[0, 0], x[0, 1] + 0.5, x[0, 2] - 0.5, np.nan, np.inf
    check(lambda x, t: mine(x, t, reduction=reduction), lambda x, t: theirs(x, t, reduction=reduction), x, target)


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3), reduction=st.integers(0, 2), weighted=st.booleans(),
    positive=st.booleans(), scale=st.sampled_from([1.0, 100.0, 1000.0]),
)  # fmt: skip
def test_bce_with_logits(shape: list[int], reduction: int, weighted: bool, positive: bool, scale: float) -> None:
    weights = [draw(*shape[-1:], seed=k, low=0.1) for k, used in ((2, weighted), (3, positive)) if used]

    def split(rest: Any) -> tuple[Any, Any]:
        return (rest[0] if weighted else None), (rest[-1] if positive else None)

    def reference(x: Any, t: Any, *rest: Any) -> Any:
        weight, pos_weight = split([w.detach() for w in rest])
        return functional.binary_cross_entropy_with_logits(
            x, t, weight, pos_weight=pos_weight, reduction=REDUCTIONS[reduction]
        )

    check(
        lambda x, t, *rest: aten("binary_cross_entropy_with_logits", x, t, *split(rest), reduction),
        reference, draw(*shape) * scale, draw(*shape, seed=1, low=0.0, high=1.0), *weights,
    )  # fmt: skip


def test_the_gradient_of_bce_at_logit_zero_is_exactly_a_half() -> None:
    x, target = np.zeros(2), np.array([1.0, 0.0])
    graph, operands, _, seeds, gradients = build(
        lambda x, t: pointwise_loss.bce_with_logits(x, t, reduction="sum"), [x, target]
    )
    env = run(graph, {operands[0]: x, operands[1]: target, seeds[0]: np.array(1.0)}, np.float32)
    assert env[gradients[operands[0]]].tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_binary_cross_entropy(reduction: int) -> None:
    x, target, weight = draw(3, 4, low=0.0, high=1.0), draw(3, 4, seed=1, low=0.0, high=1.0), draw(4, seed=2, low=0.1)
    check(
        lambda x, t, w: aten("binary_cross_entropy", x, t, w, reduction),
        lambda x, t, w: functional.binary_cross_entropy(x, t, w.detach(), reduction=REDUCTIONS[reduction]),
        x, target, weight,
    )  # fmt: skip
    edge = np.array([0.0, 1.0, 0.0, 1.0])
    check(
        lambda x, t: aten("binary_cross_entropy", x, t, None, reduction),
        lambda x, t: functional.binary_cross_entropy(x, t, reduction=REDUCTIONS[reduction]),
        edge, np.array([0.0, 1.0, 1.0, 0.0]), tolerance=LITERALS,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_pointwise_adapters(name: str) -> None:
    x, target = draw(3, 2), draw(3, 2, seed=1)
    for arguments in ((), (0,), (1,), (2,)):
        check(
            lambda x, t, a=arguments: aten(name, x, t, *a),
            lambda x, t, a=arguments: getattr(torch.ops.aten, name).default(x, t, *a), x, target,
        )  # fmt: skip


SMOOTHED = {"label_smoothing": 0.25, "ignore_index": 1}


@pytest.mark.parametrize(
    "function, arrays",
    [
        (lambda x, t: loss.cross_entropy(x, t), [draw(3, 4), labels(4, 3)]),
        (lambda x, t: loss.cross_entropy(x, t, **SMOOTHED), [draw(2, 3, 2), labels(3, 2, 2)]),
        (lambda x, t: loss.cross_entropy(x, t, reduction="none"), [draw(2, 3), draw(2, 3, seed=1)]),
        (lambda x, t: loss.nll_loss(x, t, reduction="sum"), [draw(3, 4), labels(4, 3)]),
        (lambda x, t: pointwise_loss.mse_loss(x, t), [draw(3, 4), draw(3, 4, seed=1)]),
        (lambda x, t: pointwise_loss.bce_with_logits(x, t), [draw(3, 4), draw(3, 4, seed=1)]),
        (lambda x, t: pointwise_loss.huber_loss(x, t, "sum", 0.5), [draw(3, 4), draw(3, 4, seed=1)]),
        (
            lambda x, t: pointwise_loss.binary_cross_entropy(x, t),
            [draw(5, low=0.2, high=0.8), draw(5, low=0.1, high=0.9)],
        ),
    ],
)
def test_gradients_are_central_differences(function: Any, arrays: list[Any]) -> None:
    check_differences(function, *arrays)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [{}, {"ignore_index": 1}])
@pytest.mark.parametrize("weighted", [False, True])
def test_onnx(reduction: str, ignored: dict[str, int], weighted: bool) -> None:
    x, target = draw(3, 4, 2).astype(np.float32), labels(4, 3, 2)
    weights = [draw(4, seed=1, low=0.1).astype(np.float32)] if weighted else []
    attributes = {"reduction": reduction, **ignored}
    check_onnx("SoftmaxCrossEntropyLoss", [x, target, *weights], attributes, outputs=2, tolerance=1e-5)
    check_onnx("NegativeLogLikelihoodLoss", [x, target, *weights], attributes, tolerance=1e-5)


def test_operands_that_do_not_fit_are_errors() -> None:
    def rejects(error: type[Exception], match: str, function: Any, *arrays: Any) -> None:
        with pytest.raises(error, match=match):
            check(function, lambda *_: None, *arrays)

    rejects(ShapeError, "labels of shape", loss.cross_entropy, draw(3, 4), labels(4, 2))
    rejects(ShapeError, "one weight per class", loss.cross_entropy, draw(3, 4), labels(4, 3), draw(3))
    rejects(ShapeError, "labels", loss.nll_loss, draw(3, 4), draw(3))
    rejects(
        ShapeError,
        "label_smoothing",
        lambda x, t: loss.cross_entropy(x, t, label_smoothing=2.0),
        draw(3, 4),
        labels(4, 3),
    )
    rejects(
        UnsupportedCall, "ignore_index", lambda x, t: loss.cross_entropy(x, t, ignore_index=0), draw(3, 4), draw(3, 4)
    )
    rejects(ShapeError, "reduction", lambda x, t: loss.cross_entropy(x, t, reduction="max"), draw(3, 4), labels(4, 3))
    rejects(ShapeError, "float tensors", pointwise_loss.mse_loss, draw(3), labels(4, 3))
    rejects(ShapeError, "needs the shape", pointwise_loss.bce_with_logits, draw(3, 4), draw(4))
    rejects(UnsupportedCall, "reduction 3", lambda x, t: aten("mse_loss", x, t, 3), draw(3), draw(3))
