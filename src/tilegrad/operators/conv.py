"""Convolutions and transposed convolutions over any number of spatial axes.

Both are one relation between the positions of a small tensor and those of a large one: position `i` and tap `r` of the
small one meet position ``stride * i + dilation * r - begin`` of the large one. A convolution reads the large tensor, a
transposed convolution writes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilegrad.errors import ShapeError
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, Pieces, reshape, with_gradient
from tilegrad.ir.graph import Value
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.training.relation import scatter_gradient

#: One number for all spatial axes or one per axis.
PerAxis = int | Sequence[int]


@dataclass(frozen=True)
class Window:
    """How the positions of the two tensors meet, one entry per spatial axis.

    Attributes:
        stride: step of the large tensor's position per position of the small one.
        begin: padding before the large tensor's first element.
        dilation: step of the large tensor's position per tap.
        groups: the channels of both tensors are cut into this many independent groups.
    """

    stride: tuple[int, ...]
    begin: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def meet(self, positions: Sequence[Affine], taps: Sequence[Affine]) -> list[Affine]:
        """The position in the large tensor, per axis."""
        axes = zip(positions, self.stride, taps, self.dilation, self.begin, strict=True)
        return [i * s + r * d - p for i, s, r, d, p in axes]


def conv(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis | str | Sequence[tuple[int, int]] = 0,
    dilation: PerAxis = 1,
    groups: int = 1,
) -> Value:
    """Convolution (cross-correlation), as ``torch.nn.functional.conv1d`` and its siblings.

    Args:
        x: f32[N, C, *spatial], or f32[C, *spatial] without a batch.
        weight: f32[K, C / groups, *kernel].
        bias: f32[K] or None; added after the sum.
        stride: step of the window.
        padding: zeros on both sides, pairs (before, after), ``"valid"`` for none, or ``"same"`` for a result of the
            extent of `x` (stride 1; an odd total pads more behind).
        dilation: step between taps.
        groups: number of groups of channels.

    Returns:
        f32[N, K, *positions] (without N where `x` has no batch).

    Raises:
        ShapeError: if the shapes do not fit or the window is larger than the padded input.
    """
    spatial = weight.rank - 2
    if spatial < 1 or x.rank not in (spatial + 1, spatial + 2):
        raise ShapeError(f"a convolution of {x.name} {x.shape} with {weight.name} {weight.shape}: the ranks do not fit")
    if x.rank == spatial + 1:
        y = conv(reshape(x, (1, *x.shape)), weight, bias, stride, padding, dilation, groups)
        return reshape(y, y.shape[1:])
    kernel = weight.shape[2:]
    strides, dilations = _per_axis(stride, spatial, "stride"), _per_axis(dilation, spatial, "dilation")
    _check_channels(x, weight, groups, x.shape[1], weight.shape[1] * groups, weight.shape[0])
    pads = _pads(padding, strides, dilations, kernel)
    extents = []
    for n, s, d, r, (before, after) in zip(x.shape[2:], strides, dilations, kernel, pads, strict=True):
        room = n + before + after - (d * (r - 1) + 1)
        if room < 0:
            raise ShapeError(
                f"the window of {weight.name} {weight.shape} is larger than {x.name} {x.shape} with padding {pads}"
            )
        extents.append(room // s + 1)
    window = Window(strides, tuple(before for before, _ in pads), dilations, groups)
    return _add_bias(_read_windows(x, weight, window, extents), bias, "convolution")


def conv_transpose(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: PerAxis = 1,
    padding: PerAxis | Sequence[tuple[int, int]] = 0,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dilation: PerAxis = 1,
) -> Value:
    """Transposed convolution, as ``torch.nn.functional.conv_transpose1d`` and its siblings.

    Args:
        x: f32[N, C, *positions], or f32[C, *positions] without a batch.
        weight: f32[C, K / groups, *kernel].
        bias: f32[K] or None; added after the sum.
        stride: step of the window in the result.
        padding: what is cut off the result on both sides, or pairs (before, after).
        output_padding: additional extent behind the result; smaller than stride or dilation.
        groups: number of groups of channels.
        dilation: step between taps.

    Returns:
        f32[N, K, *spatial] of extents
        ``(positions - 1) * stride + dilation * (kernel - 1) + 1 + output_padding - padding on both sides``.

    Raises:
        ShapeError: if the shapes do not fit.
    """
    spatial = weight.rank - 2
    if spatial < 1 or x.rank not in (spatial + 1, spatial + 2):
        raise ShapeError(
            f"a transposed convolution of {x.name} {x.shape} with {weight.name} {weight.shape}: the ranks do not fit"
        )
    if x.rank == spatial + 1:
        y = conv_transpose(reshape(x, (1, *x.shape)), weight, bias, stride, padding, output_padding, groups, dilation)
        return reshape(y, y.shape[1:])
    strides, dilations = _per_axis(stride, spatial, "stride"), _per_axis(dilation, spatial, "dilation")
    extra = _per_axis(output_padding, spatial, "output_padding", least=0)
    if any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True)):
        raise ShapeError(f"output_padding {extra} must be smaller than stride {strides} or dilation {dilations}")
    pads = _pads(padding, strides, dilations, weight.shape[2:])
    full = _full_extents(x, weight, strides, dilations)
    extents = [n + e - before - after for n, e, (before, after) in zip(full, extra, pads, strict=True)]
    window = Window(strides, tuple(before for before, _ in pads), dilations, groups)
    return _conv_transpose_to(x, weight, bias, window, extents)


def _conv_transpose_to(
    x: Value, weight: Value, bias: Value | None, window: Window, extents: Sequence[int]
) -> Value:  # fmt: skip
    """Transposed convolution with the spatial extents of the result given."""
    _check_channels(x, weight, window.groups, x.shape[1], weight.shape[0], weight.shape[0])
    if min(extents) < 1:
        raise ShapeError(
            f"the padding of a transposed convolution of {x.name} {x.shape} leaves a result of extents {extents}"
        )
    y = _write_windows(x, weight, window, extents)

    # Differentiating the pieces into which the strides split the result would give an operation for each of them; the
    # relation itself gives a plain convolution and one contraction.
    def vjp(g: Value) -> tuple[Value, Value]:
        return _read_windows(g, weight, window, x.shape[2:]), _kernel_gradient(x, g, weight, window)

    with_gradient((x, weight), (y,), vjp)
    return _add_bias(y, bias, "transposed convolution")


def _read_windows(large: Value, weight: Value, window: Window, extents: Sequence[int]) -> Value:
    """``small[n, k, i] = sum_{c, r} large[n, c, stride * i + dilation * r - begin] * weight[k, c, r]``, by groups."""
    d = Domain()
    batch, channels, groups = large.shape[0], weight.shape[1], window.groups
    if groups == 1:
        n, k, *positions = d.parallel(batch, weight.shape[0], *extents)
        c, *taps = d.reduction(channels, *weight.shape[2:])
        body = large[(n, c, *window.meet(positions, taps))] * weight[(k, c, *taps)]
        return d.sum(body, (n, k, *positions))
    features = weight.shape[0] // groups
    n, g, k, *positions = d.parallel(batch, groups, features, *extents)
    c, *taps = d.reduction(channels, *weight.shape[2:])
    feature = g * features + k
    body = large[(n, g * channels + c, *window.meet(positions, taps))] * weight[(feature, c, *taps)]
    pieces = Pieces((batch, weight.shape[0], *extents), large.dtype)
    pieces.sum(d, body, (n, feature, *positions))
    return pieces.finish()


def _write_windows(small: Value, weight: Value, window: Window, extents: Sequence[int]) -> Value:
    """``large[n, k, stride * i + dilation * r - begin] += small[n, c, i] * weight[c, k, r]``, by groups.

    It is the transpose of what `_read_windows` reads, and takes the same way from a relation to loop nests.
    """
    groups = window.groups
    channels, features = weight.shape[0] // groups, weight.shape[1]
    d = Domain()
    n, g, c, *positions = d.parallel(small.shape[0], groups, channels, *small.shape[2:])
    k, *taps = d.reduction(features, *weight.shape[2:])
    channel = g * channels + c
    body = small[(n, channel, *positions)] * weight[(channel, k, *taps)]
    large = Value("", (small.shape[0], groups * features, *extents), small.dtype)
    index = (n, g * features + k, *window.meet(positions, taps))
    return scatter_gradient(large, index, d.extents, d.parallel_count, (), body, name="")


def _kernel_gradient(small: Value, large: Value, weight: Value, window: Window) -> Value:
    """``d.weight[c, k, r] = sum_{n, i} small[n, c, i] * large[n, k, stride * i + dilation * r - begin]``, by groups."""
    groups = window.groups
    channels, features = weight.shape[0] // groups, weight.shape[1]
    d = Domain()
    outer = d.parallel(*((groups,) if groups > 1 else ()), channels, features, *weight.shape[2:])
    g, (c, k, *taps) = (outer[0], outer[1:]) if groups > 1 else (Affine(), outer)
    n, *positions = d.reduction(small.shape[0], *small.shape[2:])
    channel = g * channels + c
    body = small[(n, channel, *positions)] * large[(n, g * features + k, *window.meet(positions, taps))]
    pieces = Pieces(weight.shape, weight.dtype, name=f"d.{weight.name}")
    pieces.sum(d, body, (channel, k, *taps))
    return pieces.finish()


def _add_bias(y: Value, bias: Value | None, what: str) -> Value:
    if bias is None:
        return y
    if bias.shape != y.shape[1:2]:
        raise ShapeError(f"the bias {bias.name} of a {what} has shape {bias.shape}, expected {y.shape[1:2]}")

    d = Domain()
    index = d.parallel(*y.shape)
    return d.assign(y[index] + bias[index[1]], index)


def _full_extents(x: Value, weight: Value, strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Extents of a transposed convolution before anything is cut off."""
    axes = zip(x.shape[2:], strides, dilations, weight.shape[2:], strict=True)
    return [(n - 1) * s + d * (r - 1) + 1 for n, s, d, r in axes]


def _check_channels(x: Value, weight: Value, groups: int, channels: int, wanted: int, divided: int) -> None:
    if groups < 1 or divided % groups:
        raise ShapeError(f"{divided} channels of {weight.name} {weight.shape} do not divide into {groups} groups")
    if channels != wanted:
        raise ShapeError(
            f"{x.name} of shape {x.shape} has {channels} channels, but the weight {weight.name} of shape "
            f"{weight.shape} with {groups} group(s) expects {wanted}"
        )


def _per_axis(value: PerAxis, spatial: int, what: str, least: int = 1) -> tuple[int, ...]:
    listed = [value] * spatial if isinstance(value, int) else list(value)
    listed = listed * spatial if len(listed) == 1 else listed
    if len(listed) != spatial or any(n < least for n in listed):
        raise ShapeError(
            f"{what} {value!r} of a convolution over {spatial} axes: expected {spatial} numbers from {least}"
        )
    return tuple(int(n) for n in listed)


def _pads(
    padding: PerAxis | str | Sequence[tuple[int, int]], strides: Sequence[int], dilations: Sequence[int],
    kernel: Sequence[int],
) -> list[tuple[int, int]]:  # fmt: skip
    """Padding before and after, per axis."""
    if isinstance(padding, str):
        if padding == "valid":
            return [(0, 0)] * len(kernel)
        if padding != "same":
            raise ShapeError(f"padding {padding!r} of a convolution: expected numbers, 'same' or 'valid'")
        if any(s != 1 for s in strides):
            raise ShapeError(f"padding 'same' needs stride 1, not {tuple(strides)}")
        totals = [d * (r - 1) for d, r in zip(dilations, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if not isinstance(padding, int) and any(isinstance(entry, tuple) for entry in padding):
        return [pair for pair in padding if isinstance(pair, tuple)]
    numbers: list[int] = [padding] if isinstance(padding, int) else [n for n in padding if isinstance(n, int)]
    return [(n, n) for n in _per_axis(numbers, len(kernel), "padding", least=0)]


@aten(
    "aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default",
    "aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding",
)  # fmt: skip
def aten_conv(
    x: Value, weight: Value, bias: Value | None = None, stride: PerAxis = 1, padding: PerAxis | str = 0,
    dilation: PerAxis = 1, groups: int = 1,
) -> Value:  # fmt: skip
    """ATen convolutions with numbers or a word as padding: `conv`."""
    return conv(x, weight, bias, stride, padding, dilation, groups)


@aten("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def aten_conv_transpose(
    x: Value, weight: Value, bias: Value | None = None, stride: PerAxis = 1, padding: PerAxis = 0,
    output_padding: PerAxis = 0, groups: int = 1, dilation: PerAxis = 1,
) -> Value:  # fmt: skip
    """ATen transposed convolutions: `conv_transpose`."""
    return conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)


@aten("aten.convolution.default")
def aten_convolution(
    x: Value, weight: Value, bias: Value | None, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int],
    transposed: bool, output_padding: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    """The ATen operator behind all convolutions."""
    if transposed:
        return conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv(x, weight, bias, stride, padding, dilation, groups)


@dataclass(frozen=True)
class _OnnxWindow:
    """The attributes that ONNX Conv and ConvTranspose share."""

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: list[tuple[int, int]]
    auto_pad: str
    groups: int

    @staticmethod
    def of(call: OnnxCall, x: Value, weight: Value) -> _OnnxWindow:
        spatial = weight.rank - 2
        if spatial < 1 or x.rank != weight.rank:
            raise ShapeError(f"node {call.node!r}: input {x.shape} and weight {weight.shape} have no fitting ranks")
        kernel = call.attribute("kernel_shape")
        if kernel and tuple(kernel) != weight.shape[2:]:
            raise ShapeError(
                f"node {call.node!r}: kernel_shape {list(kernel)} does not fit the weight's shape {weight.shape}"
            )
        listed = [int(n) for n in call.attribute("pads") or [0] * (2 * spatial)]
        if len(listed) != 2 * spatial:
            raise ShapeError(f"node {call.node!r}: pads {listed} must hold {2 * spatial} numbers")
        word = call.attribute("auto_pad", "NOTSET") or "NOTSET"
        word = word.decode() if isinstance(word, bytes) else word
        if word not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise UnsupportedCall(f"auto_pad {word!r}; NOTSET, VALID, SAME_UPPER and SAME_LOWER are supported")
        pads = [(0, 0)] * spatial if word == "VALID" else list(zip(listed[:spatial], listed[spatial:], strict=True))
        return _OnnxWindow(
            _per_axis(call.attribute("strides") or 1, spatial, "strides"),
            _per_axis(call.attribute("dilations") or 1, spatial, "dilations"),
            pads,
            word,
            int(call.attribute("group", 1)),
        )


@onnx("Conv")
def onnx_conv(call: OnnxCall, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """ONNX Conv: `conv` with pads of either side, or auto_pad."""
    window = _OnnxWindow.of(call, x, weight)
    pads = window.pads
    if window.auto_pad.startswith("SAME"):
        pads = []
        for n, s, d, r in zip(x.shape[2:], window.strides, window.dilations, weight.shape[2:], strict=True):
            total = max((math.ceil(n / s) - 1) * s + d * (r - 1) + 1 - n, 0)
            less, more = total // 2, total - total // 2
            pads.append((less, more) if window.auto_pad == "SAME_UPPER" else (more, less))
    return conv(x, weight, bias, window.strides, pads, window.dilations, window.groups)


@onnx("ConvTranspose")
def onnx_conv_transpose(call: OnnxCall, x: Value, weight: Value, bias: Value | None = None) -> Value:
    """ONNX ConvTranspose: `conv_transpose` with pads of either side, auto_pad or output_shape."""
    window = _OnnxWindow.of(call, x, weight)
    spatial = weight.rank - 2
    extra = _per_axis(call.attribute("output_padding") or 0, spatial, "output_padding", least=0)
    full = [n + e for n, e in zip(_full_extents(x, weight, window.strides, window.dilations), extra, strict=True)]
    shape = [int(n) for n in call.attribute("output_shape") or ()][-spatial:]
    if not shape and window.auto_pad.startswith("SAME"):
        shape = [n * s for n, s in zip(x.shape[2:], window.strides, strict=True)]
    if shape:
        totals = [max(n - wanted, 0) for n, wanted in zip(full, shape, strict=True)]
        upper = window.auto_pad == "SAME_UPPER"
        begin = [total // 2 if upper else total - total // 2 for total in totals]
    else:
        begin = [before for before, _ in window.pads]
        shape = [n - before - after for n, (before, after) in zip(full, window.pads, strict=True)]
    return _conv_transpose_to(
        x, weight, bias, Window(window.strides, tuple(begin), window.dilations, window.groups), shape
    )
