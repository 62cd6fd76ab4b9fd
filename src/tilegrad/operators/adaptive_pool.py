"""Adaptive pooling: windows that follow from the output size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, Index, constant, lookup, with_gradient
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.pool import (
    Window,
    avg_pool,
    divide_by_counts,
    max_pool,
    needs_float,
    offsets_in_window,
    plane_indices,
)
from tilegrad.operators.registry import aten


class _Ranges:
    """The windows of adaptive pooling along one axis: output i covers ``floor(i*n/m) <= k < ceil((i+1)*n/m)``.

    As m need not divide n, first elements and sizes are constant tables, and so are, for the gradient, the first output
    that covers an input element and how many do.
    """

    def __init__(self, extent: int, outputs: int) -> None:
        self.extent, self.outputs = extent, outputs
        self.first = [i * extent // outputs for i in range(outputs)]
        self.sizes = [-(-(i + 1) * extent // outputs) - first for i, first in enumerate(self.first)]
        spans = list(zip(self.first, self.sizes, strict=True))
        covering = [[i for i, (first, size) in enumerate(spans) if first <= k < first + size] for k in range(extent)]
        self.largest = max(self.sizes)
        self.most = max(len(outputs) for outputs in covering)
        self.first_table, self.size_table = _table(self.first), _table(self.sizes)
        self.cover_table = _table([outputs[0] for outputs in covering])
        self.cover_counts = _table([len(outputs) for outputs in covering])


def _table(entries: Sequence[int]) -> Value:
    return constant(np.array(entries, np.int32), DType.I32)


def _gather_windows(d: Domain, ranges: Sequence[_Ranges], places: Sequence[Affine]) -> tuple[list[Affine], list[Index]]:
    """Reduction iterators over the elements of adaptive windows: the iterators and the input positions."""
    steps = list(d.reduction(*(r.largest for r in ranges)))
    read: list[Index] = []
    for axis, place, step in zip(ranges, places, steps, strict=True):
        d.require(lookup(axis.size_table, place) - step, 1, axis.largest + 1)
        read.append(lookup(axis.first_table, place) + step)
    return steps, read


def _gather_covering(d: Domain, ranges: Sequence[_Ranges], places: Sequence[Affine]) -> list[Affine]:
    """Reduction iterators over the windows that contain an element: the windows' positions."""
    steps = d.reduction(*(r.most for r in ranges))
    found = []
    for axis, place, step in zip(ranges, places, steps, strict=True):
        d.require(lookup(axis.cover_counts, place) - step, 1, axis.most + 1)
        found.append(lookup(axis.cover_table, place) + step)
    return found


def _adaptive(x: Value, output_size: Sequence[int | None] | int, spatial: int | None) -> tuple[list[int], bool]:
    """The extents of the output's spatial axes and whether they divide those of the input."""
    listed = [output_size] if isinstance(output_size, int) else list(output_size)
    if spatial is not None and len(listed) == 1:
        listed = listed * spatial
    extents = x.shape[x.rank - len(listed) :]
    needs_float(x, len(listed), "adaptive pooling")
    sizes = [extent if size is None else int(size) for size, extent in zip(listed, extents, strict=True)]
    if any(size <= 0 for size in sizes) or 0 in extents:
        raise ShapeError(f"adaptive pooling of {x.name} from {extents} to {tuple(sizes)}: extents must be positive")
    return sizes, all(extent % size == 0 for size, extent in zip(sizes, extents, strict=True))


def _dividing(x: Value, sizes: Sequence[int]) -> list[Window]:
    extents = x.shape[x.rank - len(sizes) :]
    return [Window(extent // size, extent // size) for size, extent in zip(sizes, extents, strict=True)]


def adaptive_avg_pool(x: Value, output_size: Sequence[int | None] | int, spatial: int | None = None) -> Value:
    """Average pooling to a given output size.

    Args:
        x: ``[..., *spatial]``, f32.
        output_size: extents of the spatial axes; None keeps one.
        spatial: how many spatial axes there are where `output_size` is one number for all.
    """
    sizes, dividing = _adaptive(x, output_size, spatial)
    if dividing:
        return avg_pool(x, _dividing(x, sizes))
    outer = x.rank - len(sizes)
    ranges = [_Ranges(extent, size) for extent, size in zip(x.shape[outer:], sizes, strict=True)]
    d = Domain()
    index = d.parallel(*x.shape[:outer], *sizes)
    _, read = _gather_windows(d, ranges, index[outer:])
    total = d.sum(x[(*index[:outer], *read)], index)

    def vjp(dy: Value | None) -> tuple[Value]:
        assert dy is not None
        d = Domain()
        index = d.parallel(*x.shape)
        return (d.sum(dy[(*index[:outer], *_gather_covering(d, ranges, index[outer:]))], index),)

    # Derived, the gradient adds into looked-up places one after the other; as the windows that contain an element are
    # consecutive, it can be gathered instead.
    with_gradient((x,), (total,), vjp)
    return divide_by_counts(total, [axis.sizes for axis in ranges])


def adaptive_max_pool(
    x: Value, output_size: Sequence[int | None] | int, spatial: int | None = None
) -> tuple[Value, Value]:
    """Maximum pooling to a given output size; NaN propagates, the gradient goes to the first maximum.

    Args:
        x: ``[..., *spatial]``, f32.
        output_size: extents of the spatial axes; None keeps one.
        spatial: how many spatial axes there are where `output_size` is one number for all.

    Returns:
        The maxima and the i64 index of each in the flat contents of the spatial axes.
    """
    sizes, dividing = _adaptive(x, output_size, spatial)
    if dividing:
        taps = _dividing(x, sizes)
        largest, positions = max_pool(x, taps)
        return largest, plane_indices(x, positions, taps)
    outer = x.rank - len(sizes)
    ranges = [_Ranges(extent, size) for extent, size in zip(x.shape[outer:], sizes, strict=True)]
    d = Domain()
    index = d.parallel(*x.shape[:outer], *sizes)
    _, read = _gather_windows(d, ranges, index[outer:])
    largest, positions = d.argmax(x[(*index[:outer], *read)], index)

    def vjp(dy: Value | None) -> tuple[Value]:
        assert dy is not None
        d = Domain()
        index = d.parallel(*x.shape)
        found = _gather_covering(d, ranges, index[outer:])
        within = Affine()
        for axis, place, output in zip(ranges, index[outer:], found, strict=True):
            within = within * axis.largest + (place - lookup(axis.first_table, output))
        at = (*index[:outer], *found)
        chosen = positions[at].equals(sc.index(within))
        return (d.sum(sc.select(chosen, dy[at], 0.0), index),)

    # As for the average: gathered, where the derived gradient would scatter.
    with_gradient((x,), (largest,), vjp)
    return largest, _adaptive_indices(x, positions, ranges)


def _adaptive_indices(x: Value, positions: Value, ranges: Sequence[_Ranges]) -> Value:
    outer = x.rank - len(ranges)
    d = Domain()
    index = d.parallel(*positions.shape)
    found = sc.constant(0, DType.I32)
    offsets = offsets_in_window(positions[index], [axis.largest for axis in ranges])
    for axis, offset, row in zip(ranges, offsets, index[outer:], strict=True):
        found = found * axis.extent + (offset + sc.index(lookup(axis.first_table, row)))
    return d.assign(sc.cast(found, DType.I64), index)


def aten_adaptive_avg_pool(spatial: int, x: Value, output_size: Sequence[int | None]) -> Value:
    """ATen adaptive_avg_pool1d, 2d and 3d."""
    return adaptive_avg_pool(x, output_size, spatial)


def aten_adaptive_max_pool(spatial: int, x: Value, output_size: Sequence[int | None]) -> tuple[Value, Value]:
    """ATen adaptive_max_pool1d, 2d and 3d: maxima and indices."""
    return adaptive_max_pool(x, output_size, spatial)


for _spatial in (1, 2, 3):
    aten(f"aten.adaptive_avg_pool{_spatial}d.default")(partial(aten_adaptive_avg_pool, _spatial))
    aten(f"aten.adaptive_max_pool{_spatial}d.default")(partial(aten_adaptive_max_pool, _spatial))
aten("aten._adaptive_avg_pool2d.default")(partial(aten_adaptive_avg_pool, 2))
aten("aten._adaptive_avg_pool3d.default")(partial(aten_adaptive_avg_pool, 3))
