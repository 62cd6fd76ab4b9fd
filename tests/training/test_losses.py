"""The losses of the public API: the tensors they need, their checks, and PyTorch's version of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from operator_harness import check, draw

from tilegrad.errors import ShapeError, UserError
from tilegrad.ir.types import DType
from tilegrad.training.losses import MSE, BCEWithLogits, CrossEntropy

LABELS = np.array([0, 2, 1, 2])


@pytest.mark.parametrize(
    "loss, target",
    [
        (CrossEntropy(), LABELS),
        (CrossEntropy(), LABELS.astype(np.int32)),
        (CrossEntropy(weight=[1.0, 2.0, 0.5], ignore_index=1, label_smoothing=0.25), LABELS),
        (CrossEntropy(weight=torch.tensor([1.0, 2.0, 0.5]), reduction="sum"), LABELS),
        (CrossEntropy(weight=np.array([1, 2, 3])), LABELS),
        (MSE(), draw(4, 3, seed=1)),
        (MSE(reduction="sum"), draw(4, 3, seed=1)),
        (BCEWithLogits(), draw(4, 3, seed=1, low=0.0, high=1.0)),
        (BCEWithLogits(pos_weight=2.0, weight=np.array([[1.0], [2.0], [3.0], [4.0]])), draw(4, 3, seed=1)),
        (BCEWithLogits(pos_weight=torch.tensor([1.0, 2.0, 0.5]), reduction="sum"), draw(4, 3, seed=1)),
    ],
)
def test_build_equals_reference(loss: Any, target: Any) -> None:
    def built(x: Any, t: Any) -> Any:
        result = loss.build(x, t)
        assert result.shape == ()
        return result

    shape, dtypes = loss.target_spec((4, 3))
    assert shape == target.shape
    assert DType.of(target) in dtypes
    loss.check_target(target, (4, 3))
    check(built, loss.reference, draw(4, 3), target, tolerance=1e-7)


def test_the_reference_is_the_module_of_pytorch() -> None:
    x, target = torch.tensor(draw(4, 3)), torch.tensor(LABELS)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    wanted = torch.nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.25)(x, target)
    assert torch.equal(CrossEntropy(weight, 1, 0.25).reference(x, target), wanted)
    soft = torch.tensor(draw(4, 3, seed=1))
    wanted = torch.nn.BCEWithLogitsLoss(weight, pos_weight=weight * 2)(x, soft)
    assert torch.equal(BCEWithLogits(weight * 2, weight).reference(x, soft), wanted)
    assert torch.equal(MSE().reference(x, soft), torch.nn.MSELoss()(x, soft))


def test_target_specifications() -> None:
    assert CrossEntropy().target_spec((2, 5, 7, 7)) == ((2, 7, 7), (DType.I32, DType.I64))
    assert CrossEntropy().target_spec((5,)) == ((), (DType.I32, DType.I64))
    assert MSE().target_spec((2, 5)) == ((2, 5), (DType.F32,))
    assert BCEWithLogits().target_spec(()) == ((), (DType.F32,))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CrossEntropy(reduction="none"), "reduction='none'"),
        (lambda: MSE(reduction="average"), "reduction='average'"),
        (lambda: BCEWithLogits(reduction="none"), "reduction='none'"),
        (lambda: CrossEntropy(label_smoothing=1.5), "label_smoothing"),
        (lambda: CrossEntropy(label_smoothing=float("nan")), "label_smoothing"),
        (lambda: CrossEntropy(ignore_index=2**31), "ignore_index"),
        (lambda: CrossEntropy(weight=[[1.0]]), "one weight per class"),
        (lambda: CrossEntropy(weight="heavy"), "expected numbers"),
        (lambda: BCEWithLogits(pos_weight=[np.inf]), "finite"),
    ],
)
def test_arguments_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_predictions_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="3 class weights"):
        CrossEntropy(weight=[1.0, 1.0, 1.0]).target_spec((2, 4))
    with pytest.raises(ShapeError, match="scalar"):
        CrossEntropy().target_spec(())
    with pytest.raises(ShapeError, match="broadcast"):
        BCEWithLogits(weight=np.ones(4)).target_spec((2, 3))


@pytest.mark.parametrize(
    "loss, target, message",
    [
        (CrossEntropy(), np.array([0, 3, 1, 1]), "label 3 is neither"),
        (CrossEntropy(), np.array([0, -1, 1, 1]), "label -1 is neither"),
        (CrossEntropy(), np.array([0, 1]), "needs integer labels of shape"),
        (CrossEntropy(), np.ones(4), "holds float64"),
        (MSE(), np.ones((4, 1)), "of shape"),
        (BCEWithLogits(), np.ones((4, 3), np.int64), "holds int64"),
    ],
)
def test_targets_that_do_not_fit(loss: Any, target: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loss.check_target(target, (4, 3))


def test_ignored_labels_are_accepted() -> None:
    CrossEntropy().check_target(np.array([0, -100, 1, 1]), (4, 3))
    CrossEntropy(ignore_index=255).check_target(np.array([0, 255, 1, 1], np.uint8), (4, 3))


def test_weights_are_copies_and_cannot_be_changed() -> None:
    weight = np.ones(3, np.float32)
    loss = CrossEntropy(weight)
    weight[0] = 5.0
    assert loss.weight[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        loss.weight[0] = 2.0
