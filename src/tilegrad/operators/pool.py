"""Pooling: maximum and average over sliding windows and over all of a channel.

A tap that falls outside the tensor is no term at all, so padding needs no value and ceil_mode no special case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, constant, elementwise, reduce_sum
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx


@dataclass(frozen=True)
class Window:
    """One axis of a sliding window.

    Attributes:
        size: number of taps.
        stride: distance between windows.
        before: padding in front.
        after: padding behind.
        dilation: distance between taps.
    """

    size: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    @property
    def span(self) -> int:
        """Distance from the first to behind the last tap."""
        return (self.size - 1) * self.dilation + 1

    def outputs(self, extent: int, ceil_mode: bool) -> int:
        """How many windows fit; with `ceil_mode` the last may stick out but must start before the padding behind.

        Raises:
            ShapeError: if none fits or the window makes no sense.
        """
        if self.size <= 0 or self.stride <= 0 or self.dilation <= 0 or self.before < 0 or self.after < 0:
            raise ShapeError(f"a pooling window needs positive size, stride and dilation, padding not negative: {self}")
        if 2 * max(self.before, self.after) > self.span:
            raise ShapeError(f"padding must be at most half the pooling window: {self}")
        room = extent + self.before + self.after - self.span
        count = (room + (self.stride - 1 if ceil_mode else 0)) // self.stride + 1
        if ceil_mode and (count - 1) * self.stride >= extent + self.before:
            count -= 1
        if count <= 0 or extent <= 0:
            raise ShapeError(f"an extent of {extent} is too small for the pooling window {self}")
        return count

    def tap(self, output: Affine, position: Affine) -> Affine:
        """The input position of a tap."""
        return output * self.stride + position * self.dilation - self.before

    def counts(self, extent: int, outputs: int, include_padding: bool) -> list[int]:
        """How many taps of every window lie inside the tensor, or inside tensor and padding."""
        low, high = (-self.before, extent + self.after) if include_padding else (0, extent)
        starts = (o * self.stride - self.before for o in range(outputs))
        return [sum(low <= s + k * self.dilation < high for k in range(self.size)) for s in starts]


def windows(
    kernel: Sequence[int], stride: Sequence[int] | int | None, padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1, *, spatial: int | None = None,
) -> list[Window]:  # fmt: skip
    """The windows of all axes from PyTorch's arguments: one number stands for all axes, no stride for the kernel size.

    Raises:
        ShapeError: if an argument has the wrong number of entries.
    """
    spatial = len(kernel) if spatial is None else spatial

    def spread(name: str, entries: Sequence[int] | int) -> list[int]:
        listed = [entries] if isinstance(entries, int) else [int(n) for n in entries]
        if len(listed) == 1:
            listed = listed * spatial
        if len(listed) != spatial:
            raise ShapeError(f"{name} {tuple(listed)} of a pooling over {spatial} axes needs {spatial} entries")
        return listed

    sizes = spread("kernel_size", kernel)
    strides = sizes if stride is None or stride == [] or stride == () else spread("stride", stride)
    pads, dilations = spread("padding", padding), spread("dilation", dilation)
    return [Window(k, s, p, p, d) for k, s, p, d in zip(sizes, strides, pads, dilations, strict=True)]


def needs_float(x: Value, spatial: int, operator: str) -> None:
    """Raise unless `x` is a float tensor with `spatial` axes behind those of batch and channels.

    Raises:
        UnsupportedCall: for other element types.
        ShapeError: for other numbers of axes.
    """
    if not x.dtype.is_float:
        raise UnsupportedCall(f"{operator} of {x.dtype.value} tensors; f32 is supported")
    if x.rank < spatial or x.rank > spatial + 2:
        raise ShapeError(
            f"{operator} over {spatial} axes takes [channels, ...] or [n, channels, ...]; {x.name} has shape {x.shape}"
        )


# ---- Sliding windows -------------------------------------------------------------------------------------------------


def max_pool(x: Value, taps: Sequence[Window], ceil_mode: bool = False) -> tuple[Value, Value]:
    """Maximum over windows of the last axes; NaN propagates, the gradient goes to the first maximum.

    Args:
        x: ``[..., *spatial]``, f32.
        taps: one window per spatial axis.
        ceil_mode: whether a window may stick out behind.

    Returns:
        The maxima and their i32 positions within the windows (row-major); see `plane_indices`.
    """
    needs_float(x, len(taps), "max pooling")
    lead, extents = x.shape[: x.rank - len(taps)], x.shape[x.rank - len(taps) :]
    d = Domain()
    index = d.parallel(*lead, *(w.outputs(extent, ceil_mode) for w, extent in zip(taps, extents, strict=True)))
    steps = d.reduction(*(w.size for w in taps))
    outer, places = index[: len(lead)], index[len(lead) :]
    read = [w.tap(o, k) for w, o, k in zip(taps, places, steps, strict=True)]
    return d.argmax(x[(*outer, *read)], index)


def plane_indices(x: Value, positions: Value, taps: Sequence[Window], *, lead: int | None = None) -> Value:
    """The i64 position of every maximum in the flat contents of the spatial axes of `x`.

    Args:
        x: the operand of `max_pool`.
        positions: what `max_pool` returned.
        taps: the windows.
        lead: how many leading axes the position does not include; by default all that are not spatial.
    """
    outer = x.rank - len(taps)
    lead = outer if lead is None else lead
    d = Domain()
    index = d.parallel(*positions.shape)
    found = _flat([(row, extent) for row, extent in zip(index[lead:outer], x.shape[lead:outer], strict=True)])
    for offset, window, extent, row in zip(
        offsets_in_window(positions[index], [w.size for w in taps]), taps, x.shape[outer:], index[outer:], strict=True
    ):
        place = offset * window.dilation + sc.index(row * window.stride - window.before)
        found = found * extent + place
    return d.assign(sc.cast(found, DType.I64), index)


def _flat(digits: Sequence[tuple[Affine, int]]) -> Expr:
    total = Affine()
    for row, extent in digits:
        total = total * extent + row
    return sc.index(total)


def offsets_in_window(position: Expr, sizes: Sequence[int]) -> list[Expr]:
    """The row-major position in a window taken apart into its digits."""
    digits: list[Expr] = []
    for size in reversed(sizes):
        above = sc.binary("div", position, size)
        digits.append(position - above * size)
        position = above
    return digits[::-1]


def avg_pool(
    x: Value, taps: Sequence[Window], ceil_mode: bool = False, count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:  # fmt: skip
    """Average over windows of the last axes.

    Args:
        x: ``[..., *spatial]``, f32.
        taps: one window per spatial axis.
        ceil_mode: whether a window may stick out behind.
        count_include_pad: whether the divisor counts taps in the padding.
        divisor: divide by this number instead.
    """
    needs_float(x, len(taps), "average pooling")
    if divisor is not None and divisor == 0:
        raise ShapeError("divisor_override of an average pooling must not be zero")
    lead, extents = x.shape[: x.rank - len(taps)], x.shape[x.rank - len(taps) :]
    shape = [w.outputs(extent, ceil_mode) for w, extent in zip(taps, extents, strict=True)]
    d = Domain()
    index = d.parallel(*lead, *shape)
    steps = d.reduction(*(w.size for w in taps))
    outer, places = index[: len(lead)], index[len(lead) :]
    total = d.sum(x[(*outer, *(w.tap(o, k) for w, o, k in zip(taps, places, steps, strict=True)))], index)
    if divisor is not None:
        return elementwise(lambda v: v * (1.0 / divisor), total)
    counts = [
        w.counts(extent, outputs, count_include_pad) for w, extent, outputs in zip(taps, extents, shape, strict=True)
    ]
    return divide_by_counts(total, counts)


def divide_by_counts(total: Value, counts: Sequence[Sequence[int]]) -> Value:
    """Sums over windows divided by the number of their terms, the product of one count per axis.

    Reciprocals are constants: one factor for all axes whose windows count alike, a small table for every other axis.
    """
    factor, tables = 1.0, []
    for position, axis in enumerate(counts):
        if len(set(axis)) == 1:
            factor /= max(axis[0], 1)
        else:
            table = np.array([1.0 / max(count, 1) for count in axis], np.float32)
            tables.append(constant(table.reshape(-1, *[1] * (len(counts) - 1 - position))))

    def scale(v: Expr, *reciprocals: Expr) -> Expr:
        result = v if factor == 1.0 else v * factor
        for reciprocal in reciprocals:
            result = result * reciprocal
        return result

    if factor == 1.0 and not tables:
        return total
    return elementwise(scale, total, *tables)


def aten_max_pool(
    spatial: int, x: Value, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1, ceil_mode: bool = False,
) -> Value:  # fmt: skip
    """ATen max_pool1d, 2d and 3d."""
    return max_pool(x, windows(kernel_size, stride, padding, dilation, spatial=spatial), ceil_mode)[0]


def aten_max_pool_with_indices(
    spatial: int, x: Value, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1, ceil_mode: bool = False,
) -> tuple[Value, Value]:  # fmt: skip
    """ATen max_pool_with_indices: maxima and the flat index of each in its plane."""
    taps = windows(kernel_size, stride, padding, dilation, spatial=spatial)
    largest, positions = max_pool(x, taps, ceil_mode)
    return largest, plane_indices(x, positions, taps)


def aten_avg_pool(
    spatial: int, x: Value, kernel_size: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] | int = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> Value:  # fmt: skip
    """ATen avg_pool1d, 2d and 3d."""
    taps = windows(kernel_size, stride, padding, spatial=spatial)
    return avg_pool(x, taps, ceil_mode, count_include_pad, divisor_override)


for _spatial in (1, 2, 3):
    aten(f"aten.max_pool{_spatial}d.default")(partial(aten_max_pool, _spatial))
    aten(f"aten.max_pool{_spatial}d_with_indices.default")(partial(aten_max_pool_with_indices, _spatial))
    aten(f"aten.avg_pool{_spatial}d.default")(partial(aten_avg_pool, _spatial))


def _onnx_windows(call: OnnxCall, x: Value) -> list[Window]:
    """The windows of an ONNX pooling node, with auto_pad resolved."""
    kernel = [int(n) for n in call.required("kernel_shape")]
    spatial = len(kernel)
    if x.rank != spatial + 2:
        raise ShapeError(f"node {call.node!r} ({call.op_type}): kernel_shape {kernel} does not fit the shape {x.shape}")
    strides = [int(n) for n in call.attribute("strides") or [1] * spatial]
    dilations = [int(n) for n in call.attribute("dilations") or [1] * spatial]
    pads = [int(n) for n in call.attribute("pads") or [0] * (2 * spatial)]
    if len(strides) != spatial or len(dilations) != spatial or len(pads) != 2 * spatial:
        raise ShapeError(
            f"node {call.node!r} ({call.op_type}): strides, dilations and pads do not fit kernel_shape {kernel}"
        )
    mode = call.attribute("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise UnsupportedCall(f"auto_pad={mode!r}; NOTSET, VALID, SAME_UPPER and SAME_LOWER are supported")
    found = []
    for axis, extent in enumerate(x.shape[2:]):
        before, after = (pads[axis], pads[axis + spatial]) if mode == "NOTSET" else (0, 0)
        window = Window(kernel[axis], strides[axis], before, after, dilations[axis])
        if mode.startswith("SAME"):
            if window.stride <= 0:
                raise ShapeError(f"node {call.node!r} ({call.op_type}): strides must be positive")
            total = max((-(-extent // window.stride) - 1) * window.stride + window.span - extent, 0)
            small, large = total // 2, total - total // 2
            before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
            window = Window(window.size, window.stride, before, after, window.dilation)
        found.append(window)
    return found


@onnx("MaxPool")
def onnx_max_pool(call: OnnxCall, x: Value) -> Value | tuple[Value, Value]:
    """ONNX MaxPool; its indices count through the whole tensor."""
    taps = _onnx_windows(call, x)
    largest, positions = max_pool(x, taps, bool(call.attribute("ceil_mode", 0)))
    if len(call.outputs) < 2 or not call.outputs[1]:
        return largest
    if call.attribute("storage_order", 0):
        raise UnsupportedCall("MaxPool with column-major indices (storage_order=1); row-major ones are supported")
    return largest, plane_indices(x, positions, taps, lead=0)


@onnx("AveragePool")
def onnx_average_pool(call: OnnxCall, x: Value) -> Value:
    """ONNX AveragePool."""
    taps = _onnx_windows(call, x)
    return avg_pool(x, taps, bool(call.attribute("ceil_mode", 0)), bool(call.attribute("count_include_pad", 0)))


# ---- Global pooling --------------------------------------------------------------------------------------------------


def global_avg_pool(x: Value) -> Value:
    """The average of every channel of ``[n, c, ...]``, spatial axes kept with extent 1."""
    axes = tuple(range(2, x.rank))
    if not axes:
        return x
    count = math.prod(x.shape[2:])
    return reduce_sum(x, axes, True) / float(max(count, 1))


def global_max_pool(x: Value) -> Value:
    """The maximum of every channel of ``[n, c, ...]``, spatial axes kept with extent 1."""
    if x.rank < 3:
        return x
    return max_pool(x, [Window(extent) for extent in x.shape[2:]])[0]


@onnx("GlobalAveragePool")
def onnx_global_average_pool(call: OnnxCall, x: Value) -> Value:
    """ONNX GlobalAveragePool."""
    return global_avg_pool(x)


@onnx("GlobalMaxPool")
def onnx_global_max_pool(call: OnnxCall, x: Value) -> Value:
    """ONNX GlobalMaxPool."""
    return global_max_pool(x)
