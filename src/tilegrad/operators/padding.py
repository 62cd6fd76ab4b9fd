"""Padding with a number, by reflection, replication or wrapping; negative amounts crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir.builder import Domain, Pieces
from tilegrad.ir.graph import Value
from tilegrad.operators.arguments import axis_of, static_floats, static_ints
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.operators.slicing import rearrange, strided

#: Amounts before and after, per axis.
Amounts = Sequence[tuple[int, int]]
Mode = Literal["reflect", "edge", "wrap"]


def _check(x: Value, amounts: Amounts) -> None:
    for axis, (before, after) in enumerate(amounts):
        if x.shape[axis] + before + after < 0:
            raise ShapeError(f"pad: {(before, after)} removes more than axis {axis} of {x.name} of shape {x.shape} has")


def pad_constant(x: Value, amounts: Amounts, value: float | int = 0) -> Value:
    """`x` surrounded by a number.

    Args:
        x: any tensor.
        amounts: elements added before and after, one pair per axis; negative ones remove elements.
        value: the number, in the type of `x`.
    """
    _check(x, amounts)
    if all(pair == (0, 0) for pair in amounts):
        return x
    shape = [extent + sum(pair) for extent, pair in zip(x.shape, amounts, strict=True)]
    inner = [max(extent + min(pair[0], 0) + min(pair[1], 0), 0) for extent, pair in zip(x.shape, amounts, strict=True)]
    if inner == shape:  # it only crops
        for axis, (pair, count) in enumerate(zip(amounts, inner, strict=True)):
            x = strided(x, axis, max(-pair[0], 0), count)
        return x
    pieces = Pieces(shape, x.dtype, init=value)
    d = Domain()
    index = d.parallel(*inner)
    source = tuple(row + max(-pair[0], 0) for row, pair in zip(index, amounts, strict=True))
    pieces.assign(d, x[source], [row + max(pair[0], 0) for row, pair in zip(index, amounts, strict=True)])
    return pieces.finish()


def pad_by_copying(x: Value, amounts: Amounts, mode: Mode) -> Value:
    """`x` surrounded by copies of its own elements, axis by axis.

    Args:
        x: any tensor.
        amounts: elements added before and after, one pair per axis; negative ones remove elements.
        mode: "reflect" (without repeating the edge), "edge" or "wrap".

    Raises:
        ShapeError: where an axis without enough elements is padded.
    """
    _check(x, amounts)
    for axis, (before, after) in enumerate(amounts):
        extent = x.shape[axis]
        if (before, after) == (0, 0):
            continue
        if extent == 0 or (mode == "reflect" and extent == 1 and max(before, after) > 0):
            raise ShapeError(f"pad: axis {axis} of {x.name} of shape {x.shape} is too short for mode {mode!r}")
        table = np.pad(np.arange(extent), (max(before, 0), max(after, 0)), mode)
        x = rearrange(x, axis, table[max(-before, 0) : len(table) - max(-after, 0)].tolist())
    return x


def _amounts(x: Value, pad: Sequence[int]) -> list[tuple[int, int]]:
    """PyTorch's list, which starts with the last axis, as pairs per axis."""
    if len(pad) % 2 or len(pad) > 2 * x.rank:
        raise ShapeError(f"pad: {len(pad)} amounts do not fit {x.name} with its {x.rank} axes")
    pairs = [(int(pad[k]), int(pad[k + 1])) for k in range(0, len(pad), 2)]
    return [(0, 0)] * (x.rank - len(pairs)) + pairs[::-1]


@aten("aten.constant_pad_nd.default")
def constant_pad(x: Value, pad: Sequence[int], value: float | int = 0) -> Value:
    """`x` surrounded by a number; the amounts start with the last axis."""
    return pad_constant(x, _amounts(x, static_ints(pad, "the amounts of pad")), value)


@aten("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default")
def reflection_pad(x: Value, padding: Sequence[int]) -> Value:
    """`x` surrounded by its reflection, the edge not repeated.

    Raises:
        ShapeError: for amounts that are not smaller than the axis, as in PyTorch.
    """
    amounts = _amounts(x, static_ints(padding, "the amounts of reflection_pad"))
    for axis, pair in enumerate(amounts):
        if max(pair) >= x.shape[axis] and max(pair) > 0:
            raise ShapeError(f"reflection_pad: {max(pair)} is not smaller than axis {axis} of {x.name}, {x.shape}")
    return pad_by_copying(x, amounts, "reflect")


@aten("aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default")
def replication_pad(x: Value, padding: Sequence[int]) -> Value:
    """`x` surrounded by its outermost elements."""
    return pad_by_copying(x, _amounts(x, static_ints(padding, "the amounts of replication_pad")), "edge")


@aten("aten._pad_circular.default")
def circular_pad(x: Value, padding: Sequence[int]) -> Value:
    """`x` repeated periodically.

    Raises:
        ShapeError: for amounts that are larger than the axis, as in PyTorch.
    """
    amounts = _amounts(x, static_ints(padding, "the amounts of circular padding"))
    for axis, pair in enumerate(amounts):
        if max(pair) > x.shape[axis]:
            raise ShapeError(f"circular padding: {max(pair)} is larger than axis {axis} of {x.name}, {x.shape}")
    return pad_by_copying(x, amounts, "wrap")


@aten("aten.pad.default", "aten._pad_enum.default")
def pad(x: Value, pad: Sequence[int], mode: str | int = "constant", value: float | None = None) -> Value:
    """``torch.nn.functional.pad``.

    Raises:
        UnsupportedCall: for an unknown mode.
    """
    # The numbers are those of ATen's enumeration.
    name = ("reflect", "replicate", "circular", "constant")[mode] if isinstance(mode, int) else mode
    if name == "constant":
        return constant_pad(x, pad, 0 if value is None else value)
    functions = {"reflect": reflection_pad, "replicate": replication_pad, "circular": circular_pad}
    if name not in functions:
        raise UnsupportedCall(f"pad: mode={name!r}; constant, reflect, replicate and circular are supported")
    return functions[name](x, pad)


@onnx("Pad")
def onnx_pad(call: OnnxCall, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None) -> Value:
    """ONNX Pad: constant, reflect, edge and wrap.

    Raises:
        UnsupportedCall: for an unknown mode.
    """
    amounts = static_ints(pads, "the amounts of Pad")
    named = list(range(x.rank)) if axes is None else static_ints(axes, "the axes of Pad")
    if len(amounts) != 2 * len(named):
        raise ShapeError(f"Pad of {x.name}: {len(amounts)} amounts for {len(named)} axes")
    pairs = [(0, 0)] * x.rank
    for k, axis in enumerate(named):
        pairs[axis_of(axis, x.rank, "Pad")] = (amounts[k], amounts[len(named) + k])
    mode = str(call.attribute("mode", "constant"))
    if mode == "constant":
        fill = [0.0] if value is None or not value.size else static_floats(value, "the value of Pad")
        return pad_constant(x, pairs, fill[0] if x.dtype.is_float else int(fill[0]))
    modes: dict[str, Mode] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        raise UnsupportedCall(f"Pad: mode={mode!r}; constant, reflect, edge and wrap are supported")
    return pad_by_copying(x, pairs, modes[mode])
