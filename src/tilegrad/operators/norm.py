"""Layer, RMS and group normalisation, and normalisation by norms and neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, reduce_sum, reshape
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.operators.standardise import Standardised, needs_channels, standardise

#: What PyTorch takes where rms_norm has no eps: the machine epsilon of float32.
FLOAT32_EPSILON = float(np.finfo(np.float32).eps)


def layer_norm(
    x: Value, axes: int, weight: Value | None, bias: Value | None, eps: float = 1e-5, *, centred: bool = True
) -> Standardised:
    """Normalise over the last `axes` axes; weight and bias broadcast to them.

    Args:
        x: any shape with at least `axes` axes, f32.
        axes: how many trailing axes are normalised together.
        weight: broadcasts to the normalised axes, or None.
        bias: broadcasts to the normalised axes, or None.
        eps: added to the variance.
        centred: False is RMS normalisation.
    """
    needs_channels(x, "layer normalisation", max(axes, 1))
    return standardise(x, tuple(range(x.rank - axes, x.rank)), eps, weight, bias, centred=centred)


def _trailing(x: Value, normalized_shape: Sequence[int], *affine: Value | None) -> int:
    shape = tuple(int(n) for n in normalized_shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(f"normalized_shape {shape} is not the end of the shape {x.shape} of {x.name}")
    for value in affine:
        if value is not None and value.shape != shape:
            raise ShapeError(f"{value.name} has shape {value.shape}, expected normalized_shape {shape}")
    return len(shape)


@aten("aten.layer_norm.default")
def aten_layer_norm(
    x: Value, normalized_shape: Sequence[int], weight: Value | None = None, bias: Value | None = None,
    eps: float = 1e-5, cudnn_enable: bool = True,
) -> Value:  # fmt: skip
    """ATen layer_norm."""
    return layer_norm(x, _trailing(x, normalized_shape, weight, bias), weight, bias, eps).output


@aten("aten.native_layer_norm.default")
def aten_native_layer_norm(
    x: Value, normalized_shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, Value, Value]:
    """ATen native_layer_norm: output, mean and rstd; the statistics keep the normalised axes with extent 1."""
    found = layer_norm(x, _trailing(x, normalized_shape, weight, bias), weight, bias, eps)
    assert found.mean is not None
    return found.output, found.mean, found.rstd


@aten("aten.rms_norm.default")
def aten_rms_norm(
    x: Value, normalized_shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    """ATen rms_norm."""
    return aten_fused_rms_norm(x, normalized_shape, weight, eps)[0]


@aten("aten._fused_rms_norm.default")
def aten_fused_rms_norm(
    x: Value, normalized_shape: Sequence[int], weight: Value | None, eps: float | None
) -> tuple[Value, Value]:
    """ATen _fused_rms_norm: output and rstd."""
    axes = _trailing(x, normalized_shape, weight)
    found = layer_norm(x, axes, weight, None, FLOAT32_EPSILON if eps is None else eps, centred=False)
    return found.output, found.rstd


def _from_axis(call: OnnxCall, x: Value) -> int:
    axis = int(call.attribute("axis", -1))
    if not -x.rank <= axis < x.rank:
        raise ShapeError(f"node {call.node!r} ({call.op_type}): axis {axis} does not fit a tensor of rank {x.rank}")
    return x.rank - axis % x.rank


@onnx("LayerNormalization")
def onnx_layer_normalization(call: OnnxCall, x: Value, scale: Value, bias: Value | None = None) -> tuple[Value, ...]:
    """ONNX LayerNormalization: output, mean and inverse standard deviation, as many as the node names."""
    found = layer_norm(x, _from_axis(call, x), scale, bias, float(call.attribute("epsilon", 1e-5)))
    assert found.mean is not None
    return (found.output, found.mean, found.rstd)[: len(call.outputs)]


@onnx("RMSNormalization")
def onnx_rms_normalization(call: OnnxCall, x: Value, scale: Value) -> Value:
    """ONNX RMSNormalization."""
    eps = float(call.attribute("epsilon", 1e-5))
    return layer_norm(x, _from_axis(call, x), scale, None, eps, centred=False).output


def group_norm(
    x: Value, groups: int, weight: Value | None, bias: Value | None, eps: float = 1e-5
) -> tuple[Value, Value, Value]:
    """Normalise groups of channels of ``[n, c, ...]`` together.

    Args:
        x: ``[n, c, ...]``, f32.
        groups: divides c.
        weight: ``[c]``, ``[groups]`` (one factor per group) or None.
        bias: ``[c]``, ``[groups]`` or None.
        eps: added to the variance.

    Returns:
        The output, mean and rstd; the statistics have shape ``[n, groups]``.

    Raises:
        ShapeError: if `groups` does not divide the channels or shapes do not fit.
    """
    needs_channels(x, "group normalisation")
    batch, channels = x.shape[:2]
    if groups <= 0 or channels % groups:
        raise ShapeError(f"{channels} channels of {x.name} cannot be divided into {groups} groups")
    per_group, spatial = channels // groups, math.prod(x.shape[2:])
    grouped = reshape(x, (batch, groups, per_group, spatial))

    def view(value: Value | None, what: str) -> Value | None:
        if value is None:
            return None
        if value.shape == (channels,):
            return reshape(value, (groups, per_group, 1))
        if value.shape == (groups,):
            return reshape(value, (groups, 1, 1))
        raise ShapeError(f"the {what} {value.name} has shape {value.shape}, expected ({channels},) or ({groups},)")

    found = standardise(grouped, (2, 3), eps, view(weight, "weight"), view(bias, "bias"))
    assert found.mean is not None
    statistics = (reshape(v, (batch, groups)) for v in (found.mean, found.rstd))
    return (reshape(found.output, x.shape), *statistics)  # type: ignore[return-value]


@aten("aten.group_norm.default")
def aten_group_norm(
    x: Value, num_groups: int, weight: Value | None = None, bias: Value | None = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:  # fmt: skip
    """ATen group_norm."""
    return group_norm(x, num_groups, _of_channels(x, weight), _of_channels(x, bias), eps)[0]


@aten("aten.native_group_norm.default")
def aten_native_group_norm(
    x: Value, weight: Value | None, bias: Value | None, n: int, c: int, hxw: int, group: int, eps: float
) -> tuple[Value, Value, Value]:
    """ATen native_group_norm: output, mean and rstd."""
    return group_norm(x, group, _of_channels(x, weight), _of_channels(x, bias), eps)


def _of_channels(x: Value, value: Value | None) -> Value | None:
    if value is not None and (x.rank < 2 or value.shape != (x.shape[1],)):
        raise ShapeError(f"{value.name} has shape {value.shape}, expected one entry per channel of {x.name}: {x.shape}")
    return value


@onnx("GroupNormalization")
def onnx_group_normalization(call: OnnxCall, x: Value, scale: Value, bias: Value) -> Value:
    """ONNX GroupNormalization; scale and bias are per group in opset 18 to 20, per channel from 21 on."""
    groups = int(call.required("num_groups"))
    entries = groups if call.opset < 21 else x.shape[1] if x.rank > 1 else 0
    for value in (scale, bias):
        if value.shape != (entries,):
            raise ShapeError(
                f"node {call.node!r} (GroupNormalization, opset {call.opset}): {value.name} has shape {value.shape}, "
                f"expected ({entries},)"
            )
    return group_norm(x, groups, scale, bias, float(call.attribute("epsilon", 1e-5)))[0]


@onnx("LpNormalization")
def onnx_lp_normalization(call: OnnxCall, x: Value) -> Value:
    """ONNX LpNormalization along one axis, p = 1 or 2; vectors of zeros stay zeros."""
    axis, p = int(call.attribute("axis", -1)), int(call.attribute("p", 2))
    if p not in (1, 2):
        raise UnsupportedCall(f"LpNormalization with p={p}; 1 and 2 are supported")
    if p == 1:
        norm = reduce_sum(x, axis, True, sc.absolute)
        return elementwise(lambda v, n: sc.select(n.equals(0.0), 0.0, v / n), x, norm)
    square = reduce_sum(x, axis, True, lambda v: v * v)
    return elementwise(lambda v, s: sc.select(s.equals(0.0), 0.0, v / _sqrt_or_one(s)), x, square)


def _sqrt_or_one(square: Expr) -> Expr:
    """The root, with an argument whose derivative exists where the result is not used."""
    return sc.sqrt(sc.select(square.equals(0.0), 1.0, square))


@onnx("LRN")
def onnx_local_response_normalization(call: OnnxCall, x: Value) -> Value:
    """ONNX LRN: ``x / (bias + alpha / size * sum of squares over neighbouring channels) ** beta``."""
    needs_channels(x, "LRN")
    size = int(call.required("size"))
    alpha, beta = float(call.attribute("alpha", 1e-4)), float(call.attribute("beta", 0.75))
    bias = float(call.attribute("bias", 1.0))
    before = (size - 1) // 2
    d = Domain()
    n, c, *place = d.parallel(*x.shape)
    (k,) = d.reduction(size)
    neighbour = x[(n, c + k - before, *place)]
    squares = d.sum(neighbour * neighbour, (n, c, *place))
    return elementwise(lambda v, s: v * sc.power(sc.fma(s, alpha / size, bias), -beta), x, squares)
