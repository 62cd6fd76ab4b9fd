"""Dropout with counter-based random numbers: seeded, and the same on every target."""

from __future__ import annotations

from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise, full
from tilegrad.ir.graph import Value, current_graph
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import static_floats
from tilegrad.operators.random import keep_mask, threshold
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx


def mask_shape(shape: tuple[int, ...], *, channels: bool = False) -> tuple[int, ...]:
    """The shape of the mask that is drawn for an operand: its own, or with `channels` one entry per ``(n, c)``."""
    if not channels:
        return shape
    return (*shape[:2], *[1] * (len(shape) - 2))


def dropout(x: Value, p: float, training: bool = True, *, channels: bool = False) -> Value:
    """The result of `dropout_with_mask` alone."""
    return dropout_with_mask(x, p, training, channels=channels)[0]


def dropout_with_mask(x: Value, p: float, training: bool = True, *, channels: bool = False) -> tuple[Value, Value]:
    """Drop elements with probability `p` and scale the others by ``1 / (1 - p)``.

    Does nothing where `p` is 0, where not `training`, and in graphs that are not built for training. A dropped element
    is 0 even where the operand is infinite or NaN: the mask selects.

    Args:
        x: any shape, f32; at least two axes with `channels`.
        p: probability of dropping.
        training: whether the operator is active.
        channels: drop whole channels of ``[n, c, ...]`` together.

    Returns:
        The result and the bool mask (True where kept), which broadcasts to it.

    Raises:
        ShapeError: if `p` is not a probability.
        UnsupportedCall: for operands that are not float, and channels of an operand without any.
    """
    if not x.dtype.is_float:
        raise UnsupportedCall(f"dropout of {x.dtype.value} tensors; f32 is supported")
    if channels and x.rank < 2:
        raise UnsupportedCall(f"dropout of whole channels needs at least 2 axes, {x.name} has shape {x.shape}")
    threshold(p)  # rejects what is not a probability, whether it is active or not
    shape = mask_shape(x.shape, channels=channels)
    if p == 0.0 or not (training and current_graph().training):
        return x, full(shape, True, DType.BOOL)
    if p == 1.0:
        return full(x.shape, 0.0), full(shape, False, DType.BOOL)
    mask = keep_mask(shape, p)
    scale = 1.0 / (1.0 - p)
    return elementwise(lambda v, m: sc.select(m, v * scale, 0.0), x, mask), mask


@aten("aten.dropout.default", "aten.dropout_.default")
def aten_dropout(x: Value, p: float, train: bool) -> Value:
    """ATen dropout."""
    return dropout(x, p, train)


@aten("aten.native_dropout.default")
def aten_native_dropout(x: Value, p: float, train: bool | None) -> tuple[Value, Value]:
    """ATen native_dropout: result and mask."""
    return dropout_with_mask(x, p, train is not False)


@aten("aten.feature_dropout.default", "aten.feature_dropout_.default")
def aten_feature_dropout(x: Value, p: float, train: bool) -> Value:
    """ATen feature_dropout (Dropout1d, 2d and 3d): whole channels of a batch."""
    return dropout(x, p, train, channels=True)


@aten(
    "aten.alpha_dropout.default", "aten.alpha_dropout_.default", "aten.feature_alpha_dropout.default",
    "aten.feature_alpha_dropout_.default",
)  # fmt: skip
def aten_alpha_dropout(x: Value, p: float, train: bool) -> Value:
    """ATen alpha_dropout, where it does nothing.

    Raises:
        UnsupportedCall: where it would draw numbers.
    """
    if p == 0.0 or not (train and current_graph().training):
        return x
    raise UnsupportedCall("alpha dropout; dropout and dropout of whole channels are supported")


@onnx("Dropout")
def onnx_dropout(
    call: OnnxCall, x: Value, ratio: Value | None = None, training_mode: Value | None = None
) -> Value | tuple[Value, Value]:
    """ONNX Dropout: active where its input ``training_mode`` is true, as the specification has it."""
    p = _constant(ratio, "ratio", 0.5)
    result, mask = dropout_with_mask(x, p, bool(_constant(training_mode, "training_mode", 0.0)))
    return (result, mask) if len(call.outputs) > 1 and call.outputs[1] else result


def _constant(value: Value | None, what: str, default: float) -> float:
    if value is None:
        return default
    listed = static_floats(value, f"the {what} of Dropout")
    if len(listed) != 1:
        raise UnsupportedCall(f"the {what} of Dropout must be one number, not {len(listed)}")
    return listed[0]
