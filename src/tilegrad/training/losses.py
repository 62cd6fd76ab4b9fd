"""The losses that training minimises: what the user names, the tensors they need, and PyTorch's version of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilegrad.errors import ShapeError, UserError
from tilegrad.ir.builder import constant
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.loss import cross_entropy
from tilegrad.operators.pointwise_loss import bce_with_logits, mse_loss

if TYPE_CHECKING:
    from torch import Tensor

Spec = tuple[tuple[int, ...], tuple[DType, ...]]


class Loss(Protocol):
    """What a loss provides; users may bring their own."""

    def target_spec(self, prediction_shape: Sequence[int]) -> Spec:
        """Shape of the target and the element types it may have, the preferred one first."""
        ...

    def check_target(self, target: NDArray[Any], prediction_shape: Sequence[int]) -> None:
        """Raise UserError for a target that the loss cannot take."""
        ...

    def build(self, prediction: Value, target: Value) -> Value:
        """Append the loss to the graph under construction and return it, a scalar."""
        ...

    def reference(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The same loss in PyTorch, in the type of `prediction`."""
        ...


def _check_reduction(loss: object, reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise UserError(
            f"{type(loss).__name__}(reduction={reduction!r}): training needs one number, so 'mean' or 'sum'"
        )


def _weights(loss: object, name: str, weights: Any) -> NDArray[np.float32] | None:
    """A read-only float32 copy of weights that come as a list, an array or a tensor.

    Raises:
        UserError: if they are not finite numbers.
    """
    if weights is None:
        return None
    if hasattr(weights, "detach"):
        weights = weights.detach().cpu().numpy()
    try:
        array = np.array(weights, np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{type(loss).__name__}({name}=...): expected numbers, got {weights!r}") from error
    if not np.isfinite(array).all():
        raise UserError(f"{type(loss).__name__}({name}=...): weights must be finite numbers")
    array.flags.writeable = False
    return array


def _check_target(loss: Loss, target: NDArray[Any], prediction_shape: Sequence[int], kinds: str, what: str) -> None:
    """Raise UserError unless shape and kind of the elements are those that `loss` takes."""
    shape, _ = loss.target_spec(prediction_shape)
    if target.shape != shape:
        raise UserError(
            f"{type(loss).__name__}: the target has shape {target.shape}, but a prediction of shape "
            f"{tuple(prediction_shape)} needs {what} of shape {shape}"
        )
    if target.dtype.kind not in kinds:
        raise UserError(f"{type(loss).__name__}: the target holds {target.dtype} elements, but {what} are needed")


def _constant(array: ArrayLike | None, name: str) -> Value | None:
    return None if array is None else constant(array, DType.F32, f"loss.{name}")


def _tensor(array: ArrayLike | None, like: Tensor) -> Tensor | None:
    import torch

    return None if array is None else torch.tensor(np.asarray(array), dtype=like.dtype, device=like.device)


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """Cross-entropy of logits with class indices, as ``torch.nn.CrossEntropyLoss``.

    Attributes:
        weight: one weight per class (list, array or tensor), or None.
        ignore_index: a label that does not count.
        label_smoothing: how much of every target is spread evenly over all classes, between 0 and 1.
        reduction: ``mean`` (over the weights of the labels that count) or ``sum``.

    Raises:
        UserError: if an argument makes no sense.
    """

    weight: Any = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        _check_reduction(self, self.reduction)
        weight = _weights(self, "weight", self.weight)
        if weight is not None and weight.ndim != 1:
            raise UserError(f"CrossEntropy(weight=...): expected one weight per class, got an array of {weight.shape}")
        object.__setattr__(self, "weight", weight)
        if not -(2**31) <= self.ignore_index < 2**31:
            raise UserError(f"CrossEntropy(ignore_index={self.ignore_index}): expected a 32-bit integer")
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise UserError(f"CrossEntropy(label_smoothing={self.label_smoothing}): expected a number from 0 to 1")

    def target_spec(self, prediction_shape: Sequence[int]) -> Spec:
        """Shape and allowed types (the preferred one first) of the labels: ``[n, ...]`` for logits ``[n, c, ...]``.

        Raises:
            ShapeError: if the prediction has no class axis or not as many classes as there are weights.
        """
        shape = tuple(int(n) for n in prediction_shape)
        if not shape:
            raise ShapeError("CrossEntropy needs logits of shape [c] or [n, c, ...]; the model returns a scalar")
        classes, target = (shape[0], ()) if len(shape) == 1 else (shape[1], (shape[0], *shape[2:]))
        if self.weight is not None and len(self.weight) != classes:
            raise ShapeError(
                f"CrossEntropy has {len(self.weight)} class weights, but the model returns {classes} classes "
                f"(logits of shape {shape})"
            )
        return target, (DType.I32, DType.I64)

    def check_target(self, target: NDArray[Any], prediction_shape: Sequence[int]) -> None:
        """Check labels before they are used.

        Raises:
            UserError: for another shape, labels that are not integers, and labels that are neither a class nor
                `ignore_index`.
        """
        _check_target(self, target, prediction_shape, "iu", "integer labels")
        classes = prediction_shape[min(len(prediction_shape) - 1, 1)]
        wrong = target[((target < 0) | (target >= classes)) & (target != self.ignore_index)]
        if wrong.size:
            raise UserError(
                f"CrossEntropy: the label {int(wrong.reshape(-1)[0])} is neither one of the {classes} classes "
                f"(0 to {classes - 1}) nor ignore_index ({self.ignore_index})"
            )

    def build(self, prediction: Value, target: Value) -> Value:
        """The scalar loss, on the graph under construction."""
        return cross_entropy(
            prediction, target, _constant(self.weight, "weight"),
            reduction=self.reduction, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing,
        )  # fmt: skip

    def reference(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The same loss in PyTorch, in the type of `prediction`."""
        from torch.nn import functional

        return functional.cross_entropy(
            prediction, target.long(), _tensor(self.weight, prediction),
            reduction=self.reduction, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing,
        )  # fmt: skip


@dataclass(frozen=True)
class MSE:
    """Squared error, as ``torch.nn.MSELoss``.

    Attributes:
        reduction: ``mean`` (over all elements) or ``sum``.

    Raises:
        UserError: if an argument makes no sense.
    """

    reduction: str = "mean"

    def __post_init__(self) -> None:
        _check_reduction(self, self.reduction)

    def target_spec(self, prediction_shape: Sequence[int]) -> Spec:
        """Shape and allowed types of the target: those of the prediction."""
        return tuple(int(n) for n in prediction_shape), (DType.F32,)

    def check_target(self, target: NDArray[Any], prediction_shape: Sequence[int]) -> None:
        """Raise UserError for a target of another shape, or whose elements are not floats."""
        _check_target(self, target, prediction_shape, "f", "floating-point numbers")

    def build(self, prediction: Value, target: Value) -> Value:
        """The scalar loss, on the graph under construction."""
        return mse_loss(prediction, target, self.reduction)

    def reference(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The same loss in PyTorch, in the type of `prediction`."""
        from torch.nn import functional

        return functional.mse_loss(prediction, target.to(prediction.dtype), reduction=self.reduction)


@dataclass(frozen=True, eq=False)
class BCEWithLogits:
    """Binary cross-entropy of logits, as ``torch.nn.BCEWithLogitsLoss``.

    Attributes:
        pos_weight: factor of the positive targets (number, list, array or tensor; broadcasts to the logits), or None.
        weight: factor of every element (broadcasts to the logits), or None.
        reduction: ``mean`` (over all elements) or ``sum``.

    Raises:
        UserError: if an argument makes no sense.
    """

    pos_weight: Any = None
    weight: Any = None
    reduction: str = "mean"

    def __post_init__(self) -> None:
        _check_reduction(self, self.reduction)
        object.__setattr__(self, "pos_weight", _weights(self, "pos_weight", self.pos_weight))
        object.__setattr__(self, "weight", _weights(self, "weight", self.weight))

    def target_spec(self, prediction_shape: Sequence[int]) -> Spec:
        """Shape and allowed types of the target: those of the prediction.

        Raises:
            ShapeError: if the weights do not broadcast to the prediction.
        """
        shape = tuple(int(n) for n in prediction_shape)
        for name in ("pos_weight", "weight"):
            array = cast("NDArray[np.float32] | None", getattr(self, name))
            if array is not None and not _broadcasts(array.shape, shape):
                raise ShapeError(
                    f"BCEWithLogits({name}=...) has shape {array.shape}; it must broadcast to the logits' {shape}"
                )
        return shape, (DType.F32,)

    def check_target(self, target: NDArray[Any], prediction_shape: Sequence[int]) -> None:
        """Raise UserError for a target of another shape, or whose elements are not floats."""
        _check_target(self, target, prediction_shape, "f", "floating-point numbers")

    def build(self, prediction: Value, target: Value) -> Value:
        """The scalar loss, on the graph under construction."""
        return bce_with_logits(
            prediction, target, _constant(self.weight, "weight"), _constant(self.pos_weight, "pos_weight"),
            reduction=self.reduction,
        )  # fmt: skip

    def reference(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The same loss in PyTorch, in the type of `prediction`."""
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(
            prediction, target.to(prediction.dtype), _tensor(self.weight, prediction),
            pos_weight=_tensor(self.pos_weight, prediction), reduction=self.reduction,
        )  # fmt: skip


def _broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    try:
        return np.broadcast_shapes(tuple(shape), tuple(target)) == tuple(target)
    except ValueError:
        return False
