"""Batch and instance normalisation, with running statistics that training updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import constant, elementwise, reduce_sum, reshape
from tilegrad.ir.graph import Store, Value, current_graph
from tilegrad.ir.types import DType, Kind
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.operators.standardise import Standardised, needs_channels, standardise


def _channel_view(value: Value | None, channels: int, spatial: int, what: str) -> Value | None:
    """A per-channel tensor as ``[channels, 1, ...]``, so that it broadcasts to ``[n, channels, ...]``."""
    if value is None:
        return None
    if value.shape != (channels,):
        raise ShapeError(f"{what} {value.name} has shape {value.shape}, expected ({channels},)")
    return reshape(value, (channels, *[1] * spatial))


@dataclass(frozen=True)
class BatchNormResult:
    """What a batch normalisation yields; statistics have shape ``[channels]``.

    Attributes:
        output: the normalised tensor.
        mean: the batch's mean; None in evaluation mode.
        variance: the batch's biased variance; None in evaluation mode.
        rstd: ``1 / sqrt(variance + eps)`` of the batch; None in evaluation mode.
        count: number of elements behind one statistic.
    """

    output: Value
    mean: Value | None = None
    variance: Value | None = None
    rstd: Value | None = None
    count: int = 0


def normalise_batch(x: Value, weight: Value | None, bias: Value | None, eps: float) -> BatchNormResult:
    """Normalise ``[n, c, ...]`` with the statistics of the batch; running statistics are not touched.

    Raises:
        ShapeError: if there is only one value per channel, or shapes do not fit.
    """
    needs_channels(x, "batch normalisation")
    channels, spatial = x.shape[1], x.rank - 2
    if x.size // max(channels, 1) <= 1:
        raise ShapeError(
            f"batch normalisation in training needs more than one value per channel; {x.name} has shape {x.shape}. "
            "Use a larger batch, or freeze the layer's statistics"
        )
    scale = _channel_view(weight, channels, spatial, "the weight")
    shift = _channel_view(bias, channels, spatial, "the bias")
    found = standardise(x, (0, *range(2, x.rank)), eps, scale, shift)
    assert found.mean is not None
    mean, variance, rstd = (reshape(v, (channels,)) for v in (found.mean, found.square, found.rstd))
    return BatchNormResult(found.output, mean, variance, rstd, found.count)


def normalise_frozen(
    x: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value, eps: float
) -> Value:
    """Normalise ``[n, c, ...]`` with running statistics: an affine function of each channel."""
    needs_channels(x, "batch normalisation")
    channels, spatial = x.shape[1], x.rank - 2
    mean = _channel_view(running_mean, channels, spatial, "the running mean")
    variance = _channel_view(running_var, channels, spatial, "the running variance")
    scale = _channel_view(weight, channels, spatial, "the weight")
    shift = _channel_view(bias, channels, spatial, "the bias")
    assert mean is not None and variance is not None
    factor = elementwise(lambda v: 1.0 / sc.sqrt(v + eps), variance)
    if scale is not None:
        factor = factor * scale
    if shift is None:
        return elementwise(lambda v, m, f: (v - m) * f, x, mean, factor)
    # Not fma(x, f, shift - mean * f): that cancels where the mean is large.
    return elementwise(lambda v, m, f, b: sc.fma(v - m, f, b), x, mean, factor, shift)


def blend(running: Value, batch: Value, momentum: float, correction: float = 1.0) -> Value:
    """The next running statistic: ``(1 - momentum) * running + momentum * correction * batch``."""
    weight = momentum * correction
    return elementwise(lambda r, b: sc.fma(b, weight, r * (1.0 - momentum)), running, batch)


def update_buffer(buffer: Value, change: Callable[[Value], Value]) -> None:
    """Store ``change(current contents)`` in `buffer` at the end of the entry point.

    A second update of the same buffer continues from the first one's result.

    Raises:
        UnsupportedCall: if `buffer` is not state that the graph may change.
    """
    if buffer.kind is not Kind.BUFFER:
        raise UnsupportedCall(
            f"the running statistic {buffer.name} is a {buffer.kind.value}; it can only be updated where the model "
            "stores it as a buffer or an initializer"
        )
    stores = current_graph().stores
    for position, store in enumerate(stores):
        if store.target is buffer:
            stores[position] = Store(buffer, change(store.value))
            return
    stores.append(Store(buffer, change(buffer)))


def batch_norm(
    x: Value, weight: Value | None, bias: Value | None, running_mean: Value | None, running_var: Value | None, *,
    training: bool, momentum: float = 0.1, eps: float = 1e-5, unbiased: bool = True,
) -> BatchNormResult:  # fmt: skip
    """Batch normalisation as ``torch.nn.functional.batch_norm``.

    Args:
        x: ``[n, c]`` or ``[n, c, ...]``, f32.
        weight: ``[c]`` or None.
        bias: ``[c]`` or None.
        running_mean: ``[c]`` buffer or None.
        running_var: ``[c]`` buffer or None.
        training: normalise with the statistics of the batch and move the running ones, in graphs built for training.
        momentum: weight of the batch in the new running statistics.
        eps: added to the variance.
        unbiased: whether the running variance follows the unbiased variance (PyTorch) or the biased one (ONNX).

    Raises:
        ShapeError: on shapes that do not fit, and in training with one value per channel.
        UnsupportedCall: if a running statistic that has to move is not a buffer.
    """
    if running_mean is None or running_var is None:
        if not training and (running_mean is not None or running_var is not None):
            raise ShapeError(f"batch normalisation of {x.name} has only one of running mean and running variance")
        return normalise_batch(x, weight, bias, eps)
    if not (training and current_graph().training):
        return BatchNormResult(normalise_frozen(x, weight, bias, running_mean, running_var, eps))
    result = normalise_batch(x, weight, bias, eps)
    for buffer, statistic, correction in _updates(running_mean, running_var, result, unbiased):
        update_buffer(buffer, partial(blend, batch=statistic, momentum=momentum, correction=correction))
    return result


def _updates(
    running_mean: Value, running_var: Value, result: BatchNormResult, unbiased: bool
) -> list[tuple[Value, Value, float]]:
    """Which running statistic follows which batch statistic, times which factor."""
    assert result.mean is not None and result.variance is not None
    correction = result.count / (result.count - 1) if unbiased else 1.0
    return [(running_mean, result.mean, 1.0), (running_var, result.variance, correction)]


def _number(momentum: object) -> float:
    if not isinstance(momentum, int | float):
        raise UnsupportedCall("batch normalisation with momentum=None (cumulative average); a number is supported")
    return float(momentum)


@aten("aten.batch_norm.default")
def aten_batch_norm(
    x: Value, weight: Value | None, bias: Value | None, running_mean: Value | None, running_var: Value | None,
    training: bool, momentum: float, eps: float, cudnn_enabled: bool = False,
) -> Value:  # fmt: skip
    """ATen batch_norm; in training the running statistics are updated."""
    return batch_norm(
        x, weight, bias, running_mean, running_var, training=training, momentum=_number(momentum), eps=eps
    ).output


@aten("aten._native_batch_norm_legit.default", "aten.native_batch_norm.default")
def aten_native_batch_norm(
    x: Value, weight: Value | None, bias: Value | None, running_mean: Value | None, running_var: Value | None,
    training: bool, momentum: float, eps: float,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """ATen native_batch_norm: output, batch mean, batch rstd (both empty in evaluation mode)."""
    return _triple(
        batch_norm(x, weight, bias, running_mean, running_var, training=training, momentum=_number(momentum), eps=eps)
    )


@aten("aten._native_batch_norm_legit.no_stats")
def aten_native_batch_norm_without_statistics(
    x: Value, weight: Value | None, bias: Value | None, training: bool, momentum: float, eps: float
) -> tuple[Value, Value, Value]:
    """ATen native_batch_norm without running statistics."""
    return _triple(normalise_batch(x, weight, bias, eps))


@aten("aten._native_batch_norm_legit_no_training.default")
def aten_native_batch_norm_no_training(
    x: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value, momentum: float,
    eps: float,
) -> tuple[Value, Value, Value]:  # fmt: skip
    """ATen native_batch_norm with running statistics that do not move."""
    return _triple(BatchNormResult(normalise_frozen(x, weight, bias, running_mean, running_var, eps)))


@aten("aten._native_batch_norm_legit_functional.default")
def aten_native_batch_norm_functional(
    x: Value, weight: Value | None, bias: Value | None, running_mean: Value, running_var: Value, training: bool,
    momentum: float, eps: float,
) -> tuple[Value, ...]:  # fmt: skip
    """ATen native_batch_norm that returns the new running statistics as further outputs instead of storing them."""
    if not (training and current_graph().training):
        frozen = BatchNormResult(normalise_frozen(x, weight, bias, running_mean, running_var, eps))
        return (*_triple(frozen), running_mean, running_var)
    result = normalise_batch(x, weight, bias, eps)
    moved = [
        blend(buffer, statistic, _number(momentum), correction)
        for buffer, statistic, correction in _updates(running_mean, running_var, result, True)
    ]
    return (*_triple(result), *moved)


def _triple(result: BatchNormResult) -> tuple[Value, Value, Value]:
    if result.mean is None or result.rstd is None:
        nothing = constant(np.zeros(0, np.float32), DType.F32)
        return result.output, nothing, nothing
    return result.output, result.mean, result.rstd


@onnx("BatchNormalization")
def onnx_batch_normalization(
    call: OnnxCall, x: Value, scale: Value, bias: Value, mean: Value, variance: Value
) -> Value | tuple[Value, ...]:
    """ONNX BatchNormalization.

    With ``training_mode=1`` the new running statistics are outputs and follow the biased variance, as the specification
    has it. In the training graph of an inference model (``training_mode=0``) batch statistics are used and the running
    statistics are stored, as PyTorch does it.
    """
    eps = float(call.attribute("epsilon", 1e-5))
    momentum = 1.0 - float(call.attribute("momentum", 0.9))
    if not int(call.attribute("training_mode", 0)):
        return batch_norm(x, scale, bias, mean, variance, training=call.training, momentum=momentum, eps=eps).output
    if not (call.training and current_graph().training):
        return (normalise_frozen(x, scale, bias, mean, variance, eps), mean, variance)[: len(call.outputs)]
    result = normalise_batch(x, scale, bias, eps)
    moved = [blend(r, s, momentum, c) for r, s, c in _updates(mean, variance, result, False)]
    return (result.output, *moved)[: len(call.outputs)]


def instance_norm(x: Value, weight: Value | None, bias: Value | None, eps: float = 1e-5) -> Standardised:
    """Normalise every channel of every sample of ``[n, c, ...]`` by itself; weight and bias are ``[c]`` or None."""
    needs_channels(x, "instance normalisation", 3)
    channels, spatial = x.shape[1], x.rank - 2
    scale = _channel_view(weight, channels, spatial, "the weight")
    shift = _channel_view(bias, channels, spatial, "the bias")
    return standardise(x, tuple(range(2, x.rank)), eps, scale, shift)


@aten("aten.instance_norm.default")
def aten_instance_norm(
    x: Value, weight: Value | None, bias: Value | None, running_mean: Value | None, running_var: Value | None,
    use_input_stats: bool, momentum: float, eps: float, cudnn_enabled: bool = False,
) -> Value:  # fmt: skip
    """ATen instance_norm; running statistics, where tracked, follow the average over the batch."""
    tracked = running_mean is not None and running_var is not None
    if tracked and not (use_input_stats and current_graph().training):
        assert running_mean is not None and running_var is not None
        return normalise_frozen(x, weight, bias, running_mean, running_var, eps)
    if x.rank > 2 and math.prod(x.shape[2:]) <= 1:
        raise ShapeError(f"instance normalisation needs more than one spatial element; {x.name} has shape {x.shape}")
    found = instance_norm(x, weight, bias, eps)
    if running_mean is not None and running_var is not None:
        assert found.mean is not None
        batch, channels = x.shape[:2]
        correction = found.count / (found.count - 1)
        for buffer, statistic, factor in ((running_mean, found.mean, 1.0), (running_var, found.square, correction)):
            average = reduce_sum(reshape(statistic, (batch, channels)), 0) / float(batch)
            update_buffer(buffer, partial(blend, batch=average, momentum=_number(momentum), correction=factor))
    return found.output


@onnx("InstanceNormalization")
def onnx_instance_normalization(call: OnnxCall, x: Value, scale: Value, bias: Value) -> Value:
    """ONNX InstanceNormalization."""
    return instance_norm(x, scale, bias, float(call.attribute("epsilon", 1e-5))).output
