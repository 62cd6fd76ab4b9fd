"""Resampling of axes: nearest neighbour, linear and cubic interpolation, under PyTorch's and ONNX's conventions.

Every axis is resampled on its own. What a new element is made of, and with what weights, is known at compile time:
``y[i] = sum_t weight[i, t] * x[index[i, t]]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import ShapeError
from tilegrad.ir.builder import Domain, broadcast_to, constant, lookup, reshape, with_gradient
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.arguments import axis_of, static_floats, static_ints
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.operators.slicing import rearrange, runs

#: A table of more affine pieces than this is looked up instead of being unrolled into loop nests.
_MOST_PIECES = 4


@dataclass(frozen=True)
class Taps:
    """How one axis is resampled.

    Attributes:
        index: i64[out, taps], the elements a new one is made of; -1 where a tap does not exist.
        weight: f64[out, taps].
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float64]

    def transposed(self, extent: int) -> Taps:
        """The gradient's taps: which new elements each of the `extent` old ones contributes to."""
        uses: list[list[tuple[int, float]]] = [[] for _ in range(extent)]
        for out, (row, weights) in enumerate(zip(self.index.tolist(), self.weight.tolist(), strict=True)):
            for source, weight in zip(row, weights, strict=True):
                if source >= 0 and weight != 0:
                    uses[source].append((out, weight))
        most = max(1, *(len(use) for use in uses))
        index, weight = np.full((extent, most), -1), np.zeros((extent, most))
        for source, use in enumerate(uses):
            for tap, (out, number) in enumerate(use):
                index[source, tap], weight[source, tap] = out, number
        return Taps(index, weight)


def resample(x: Value, axis: int, taps: Taps) -> Value:
    """``y[..., i, ...] = sum_t weight[i, t] * x[..., index[i, t], ...]`` along one axis."""
    if taps.index.shape[1] == 1 and (taps.weight == 1).all() and (taps.index >= 0).all():
        return _pick(x, axis, taps)
    return _resample(x, axis, taps)


def _resample(x: Value, axis: int, taps: Taps) -> Value:
    y = _weighted_sum(x, axis, taps)
    back = taps.transposed(x.shape[axis])
    # Derived, every tap would be added into zeroed memory one after the other. The transposed table gathers instead.
    with_gradient((x,), (y,), lambda g: (_weighted_sum(g, axis, back),))
    return y


def _weighted_sum(x: Value, axis: int, taps: Taps) -> Value:
    count, most = taps.index.shape
    d = Domain()
    rows = d.parallel(*(count if k == axis else extent for k, extent in enumerate(x.shape)))
    (tap,) = d.reduction(most)
    table, weight = constant(taps.index, DType.I32), constant(taps.weight, DType.F32)
    # A tap that does not exist reads position -1: the guard removes the term.
    source = [lookup(table, rows[axis], tap) if k == axis else row for k, row in enumerate(rows)]
    term = x[tuple(source)]
    return d.sum(term if (taps.weight == 1).all() else weight[rows[axis], tap] * term, rows)


def _pick(x: Value, axis: int, taps: Taps) -> Value:
    """Every new element is an old one: a view, affine pieces, or a table, whichever is simplest."""
    table = taps.index[:, 0].tolist()
    extent = x.shape[axis]
    factor = len(table) // extent if extent else 0
    if factor > 1 and table == [k // factor for k in range(extent * factor)]:
        single = reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
        wide = broadcast_to(single, (*x.shape[: axis + 1], factor, *x.shape[axis + 1 :]))
        return reshape(wide, (*x.shape[:axis], extent * factor, *x.shape[axis + 1 :]))
    if len(runs(table)) <= _MOST_PIECES:
        return rearrange(x, axis, table)
    return _resample(x, axis, taps)


def nearest_taps(extent: int, positions: Sequence[int]) -> Taps:
    """One tap of weight 1 per new element, at positions that are clamped to the axis."""
    index = np.clip(np.asarray(positions, np.int64).reshape(-1, 1), 0, extent - 1)
    return Taps(index, np.ones(index.shape))


def linear_taps(extent: int, positions: NDArray[np.float64]) -> Taps:
    """The two neighbours of fractional positions, which are clamped to the axis."""
    clamped = np.clip(positions, 0.0, extent - 1)
    low = np.minimum(np.floor(clamped).astype(np.int64), max(extent - 2, 0))
    high = np.minimum(low + 1, extent - 1)
    fraction = clamped - low
    return Taps(np.stack([low, high], 1), np.stack([1.0 - fraction, fraction], 1))


def cubic_taps(extent: int, positions: NDArray[np.float64], a: float = -0.75, exclude_outside: bool = False) -> Taps:
    """The four neighbours of fractional positions under Keys' cubic kernel (1981); the edge is repeated."""
    low = np.floor(positions).astype(np.int64)
    t = positions - low
    near, far = np.stack([t, 1.0 - t]), np.stack([t + 1.0, 2.0 - t])
    inner = ((a + 2.0) * near - (a + 3.0)) * near * near + 1.0
    outer = ((a * far - 5.0 * a) * far + 8.0 * a) * far - 4.0 * a
    weight = np.stack([outer[0], inner[0], inner[1], outer[1]], 1)
    index = low[:, None] + np.arange(-1, 3)
    if exclude_outside:
        weight = np.where((index >= 0) & (index < extent), weight, 0.0)
        weight = weight / weight.sum(1, keepdims=True)
    return Taps(np.clip(index, 0, extent - 1), weight)


def _output_sizes(
    x: Value, axes: Sequence[int], sizes: Sequence[int] | None, factors: Sequence[float] | None
) -> list[int]:
    if sizes is not None:
        found = static_ints(sizes, "the output size of upsample")
    elif factors is not None:
        found = [int(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    else:
        raise ShapeError(f"upsample of {x.name} needs a size or scale factors")
    if len(found) != len(axes) or any(n <= 0 for n in found):
        raise ShapeError(f"upsample of {x.name} of shape {x.shape} to {tuple(found)}")
    return found


def _scales(factors: Sequence[float | None] | None, count: int) -> list[float | None]:
    return [None] * count if factors is None else list(factors)


def _nearest(x: Value, sizes: Sequence[int], factors: Sequence[float | None] | None, offset: float) -> Value:
    """PyTorch's nearest neighbour: ``floor((i + offset) * scale)``, computed in float32 as there."""
    axes = range(x.rank - len(sizes), x.rank)
    for axis, size, factor in zip(axes, sizes, _scales(factors, len(sizes)), strict=True):
        extent = x.shape[axis]
        if size == extent:
            continue
        scale = np.float32(1.0 / factor) if factor else np.float32(extent) / np.float32(size)
        positions = [math.floor(np.float32(np.float32(k + offset) * scale)) for k in range(size)]
        if not offset and size == 2 * extent:
            positions = [k // 2 for k in range(size)]
        x = resample(x, axis, nearest_taps(extent, positions))
    return x


def torch_positions(extent: int, size: int, align_corners: bool, factor: float | None) -> NDArray[np.float64]:
    """Where PyTorch's interpolation reads, before clamping."""
    k = np.arange(size, dtype=np.float64)
    if align_corners:
        return k * ((extent - 1) / (size - 1) if size > 1 else 0.0)
    return (k + 0.5) * (1.0 / factor if factor else extent / size) - 0.5


def _interpolate(
    x: Value, sizes: Sequence[int], align_corners: bool, factors: Sequence[float | None] | None,
    taps: Callable[[int, NDArray[np.float64]], Taps],
) -> Value:  # fmt: skip
    axes = range(x.rank - len(sizes), x.rank)
    for axis, size, factor in zip(axes, sizes, _scales(factors, len(sizes)), strict=True):
        extent = x.shape[axis]
        if size != extent:
            x = resample(x, axis, taps(extent, torch_positions(extent, size, align_corners, factor)))
    return x


def upsample_nearest(x: Value, output_size: Sequence[int], *factors: float | None) -> Value:
    """Nearest neighbour on the last axes."""
    return _nearest(
        x, _output_sizes(x, range(x.rank - len(output_size), x.rank), output_size, None), factors or None, 0.0
    )


def upsample_nearest_exact(x: Value, output_size: Sequence[int], *factors: float | None) -> Value:
    """Nearest neighbour on the last axes, measured between the centres of the elements."""
    return _nearest(
        x, _output_sizes(x, range(x.rank - len(output_size), x.rank), output_size, None), factors or None, 0.5
    )


def upsample_linear(x: Value, output_size: Sequence[int], align_corners: bool, *factors: float | None) -> Value:
    """Linear interpolation on the last axes."""
    sizes = _output_sizes(x, range(x.rank - len(output_size), x.rank), output_size, None)
    return _interpolate(x, sizes, align_corners, factors or None, linear_taps)


@aten("aten.upsample_bicubic2d.default")
def upsample_cubic(x: Value, output_size: Sequence[int], align_corners: bool, *factors: float | None) -> Value:
    """Cubic interpolation on the last axes."""
    sizes = _output_sizes(x, range(x.rank - len(output_size), x.rank), output_size, None)
    return _interpolate(x, sizes, align_corners, factors or None, cubic_taps)


def _spatial(x: Value, rank: int) -> range:
    if x.rank != rank + 2:
        raise ShapeError(f"upsample: {x.name} of shape {x.shape} must have {rank + 2} axes")
    return range(2, x.rank)


def _register(rank: int) -> None:
    def nearest_vec(x: Value, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None = None) -> Value:
        """Nearest neighbour to a size or by factors."""
        return _nearest(x, _output_sizes(x, _spatial(x, rank), output_size, scale_factors), scale_factors, 0.0)

    def exact_vec(x: Value, output_size: Sequence[int] | None, scale_factors: Sequence[float] | None = None) -> Value:
        """Nearest neighbour between centres, to a size or by factors."""
        return _nearest(x, _output_sizes(x, _spatial(x, rank), output_size, scale_factors), scale_factors, 0.5)

    aten(f"aten.upsample_nearest{rank}d.default")(upsample_nearest)
    aten(f"aten._upsample_nearest_exact{rank}d.default")(upsample_nearest_exact)
    aten(f"aten.upsample_nearest{rank}d.vec")(nearest_vec)
    aten(f"aten._upsample_nearest_exact{rank}d.vec")(exact_vec)


def _register_linear(name: str, rank: int, taps: Callable[[int, NDArray[np.float64]], Taps]) -> None:
    def interpolate_vec(
        x: Value, output_size: Sequence[int] | None, align_corners: bool, scale_factors: Sequence[float] | None = None
    ) -> Value:
        """Interpolation to a size or by factors."""
        sizes = _output_sizes(x, _spatial(x, rank), output_size, scale_factors)
        return _interpolate(x, sizes, align_corners, scale_factors, taps)

    aten(f"aten.{name}.vec")(interpolate_vec)


for _rank in (1, 2, 3):
    _register(_rank)
for _rank, _name in ((1, "upsample_linear1d"), (2, "upsample_bilinear2d"), (3, "upsample_trilinear3d")):
    aten(f"aten.{_name}.default")(upsample_linear)
    _register_linear(_name, _rank, linear_taps)
_register_linear("upsample_bicubic2d", 2, cubic_taps)


def onnx_positions(transformation: str, extent: int, size: int, scale: float) -> NDArray[np.float64]:
    """Where ONNX Resize reads.

    Raises:
        UnsupportedCall: for an unknown coordinate transformation.
    """
    k = np.arange(size, dtype=np.float64)
    if transformation == "half_pixel" or (transformation == "pytorch_half_pixel" and size > 1):
        return (k + 0.5) / scale - 0.5
    if transformation == "pytorch_half_pixel":
        return np.zeros(size)
    if transformation == "half_pixel_symmetric":
        adjustment = size / (scale * extent)
        return extent / 2.0 * (1.0 - adjustment) + (k + 0.5) / scale - 0.5
    if transformation == "asymmetric":
        return k / scale
    if transformation == "align_corners":
        return k * ((extent - 1) / (size - 1) if size > 1 else 0.0)
    raise UnsupportedCall(
        f"Resize: coordinate_transformation_mode={transformation!r}; half_pixel, pytorch_half_pixel, "
        "half_pixel_symmetric, asymmetric and align_corners are supported"
    )


def _rounded(positions: NDArray[np.float64], mode: str) -> list[int]:
    if mode == "round_prefer_floor":
        found = np.ceil(positions - 0.5)
    elif mode == "round_prefer_ceil":
        found = np.floor(positions + 0.5)
    elif mode == "floor":
        found = np.floor(positions)
    elif mode == "ceil":
        found = np.ceil(positions)
    else:
        raise UnsupportedCall(f"Resize: nearest_mode={mode!r} is not known")
    return [int(n) for n in found]


@onnx("Resize")
def onnx_resize(
    call: OnnxCall, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Value:
    """ONNX Resize: nearest, linear and cubic; by scales or to sizes.

    Raises:
        UnsupportedCall: for antialiasing, cropping and other ways to keep the aspect ratio.
    """
    if call.attribute("antialias", 0):
        raise UnsupportedCall("Resize with antialias=1 is not supported; set it to 0")
    if str(call.attribute("keep_aspect_ratio_policy", "stretch")) != "stretch":
        raise UnsupportedCall("Resize: only keep_aspect_ratio_policy='stretch' is supported; give all sizes instead")
    axes = [axis_of(axis, x.rank, "Resize") for axis in call.attribute("axes", list(range(x.rank)))]
    if sizes is not None and sizes.size:
        wanted = static_ints(sizes, "the sizes of Resize")
        factors = [size / x.shape[axis] for size, axis in zip(wanted, axes, strict=True)]
    elif scales is not None and scales.size:
        factors = static_floats(scales, "the scales of Resize")
        wanted = [math.floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
    else:
        raise ShapeError(f"Resize of {x.name} needs scales or sizes")
    transformation = str(call.attribute("coordinate_transformation_mode", "half_pixel"))
    for axis, size, factor in zip(axes, wanted, factors, strict=True):
        extent = x.shape[axis]
        positions = onnx_positions(transformation, extent, size, factor)
        if size != extent or factor != 1.0:
            x = resample(x, axis, _onnx_taps(call, extent, positions))
    return x


def _onnx_taps(call: OnnxCall, extent: int, positions: NDArray[np.float64]) -> Taps:
    mode = str(call.attribute("mode", "nearest"))
    if mode == "nearest":
        return nearest_taps(extent, _rounded(positions, str(call.attribute("nearest_mode", "round_prefer_floor"))))
    if mode == "linear":
        return linear_taps(extent, positions)
    if mode == "cubic":
        coefficient = float(call.attribute("cubic_coeff_a", -0.75))
        return cubic_taps(extent, positions, coefficient, bool(call.attribute("exclude_outside", 0)))
    raise UnsupportedCall(f"Resize: mode={mode!r}; nearest, linear and cubic are supported")


@onnx("Upsample")
def onnx_upsample(call: OnnxCall, x: Value, scales: Value) -> Value:
    """ONNX Upsample (up to opset 9): nearest or linear, measured from the first element.

    Raises:
        UnsupportedCall: for another mode.
    """
    mode = str(call.attribute("mode", "nearest"))
    if mode not in ("nearest", "linear"):
        raise UnsupportedCall(f"Upsample: mode={mode!r}; nearest and linear are supported")
    for axis, factor in enumerate(static_floats(scales, "the scales of Upsample")):
        extent = x.shape[axis]
        size = math.floor(extent * factor)
        positions = np.arange(size) / factor
        if size != extent:
            taps = (
                nearest_taps(extent, _rounded(positions, "floor"))
                if mode == "nearest"
                else linear_taps(extent, positions)
            )
            x = resample(x, axis, taps)
    return x
