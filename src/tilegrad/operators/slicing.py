"""Parts of tensors and tensors of parts: slice, split, concatenate, stack, roll, flip, sliding windows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, Pieces, reshape, with_gradient
from tilegrad.ir.graph import Value
from tilegrad.operators.arguments import axis_of, convert, result_dtype, static_ints
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx

#: Ends of slices at and beyond this mean "up to the end".
_INT_MAX = 2**63 - 1


def runs(table: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """A table of positions as pieces of constant step.

    Returns:
        Tuples (first place in the table, length, first position, step), which cover the table in order.
    """
    found = []
    start = 0
    while start < len(table):
        length, step = 1, 1
        if start + 1 < len(table):
            step = table[start + 1] - table[start]
            while start + length < len(table) and table[start + length] == table[start] + length * step:
                length += 1
        found.append((start, length, int(table[start]), int(step)))
        start += length
    return found


def rearrange(x: Value, axis: int, table: Sequence[int]) -> Value:
    """``y[..., k, ...] = x[..., table[k], ...]`` for a table of few affine pieces, each of which is a loop nest."""
    if list(table) == list(range(x.shape[axis])):
        return x
    pieces = Pieces([len(table) if k == axis else extent for k, extent in enumerate(x.shape)], x.dtype)
    for place, length, first, step in runs(table):
        d = Domain()
        index = d.parallel(*(length if k == axis else extent for k, extent in enumerate(x.shape)))
        source = [row * step + first if k == axis else row for k, row in enumerate(index)]
        target = [row + place if k == axis else row for k, row in enumerate(index)]
        pieces.assign(d, x[tuple(source)], target)
    return pieces.finish()


def strided(x: Value, axis: int, first: int, count: int, step: int = 1) -> Value:
    """`count` elements along one axis, from `first` on, `step` apart (which may be negative)."""
    if (first, count, step) == (0, x.shape[axis], 1):
        return x
    d = Domain()
    index = d.parallel(*(count if k == axis else extent for k, extent in enumerate(x.shape)))
    return d.assign(x[tuple(row * step + first if k == axis else row for k, row in enumerate(index))], index)


def slice_bounds(start: int | None, end: int | None, step: int, extent: int) -> tuple[int, int]:
    """First position and number of elements of a Python slice."""
    positions = range(extent)[slice(start, end, step)]
    return (positions[0] if positions else 0), len(positions)


@aten("aten.slice.Tensor", "aten.slice_copy.Tensor")
def slice_axis(x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Value:
    """``x[..., start:end:step, ...]`` along one axis.

    Raises:
        ShapeError: for a step that is not positive.
    """
    if step <= 0:
        raise ShapeError(f"slice: step {step} of {x.name} must be positive")
    axis = axis_of(dim, x.rank, "slice")
    first, count = slice_bounds(start, end, step, x.shape[axis])
    return strided(x, axis, first, count, step)


@aten("aten.narrow.default", "aten.narrow_copy.default")
def narrow(x: Value, dim: int, start: int, length: int) -> Value:
    """`length` elements along one axis, from `start` on.

    Raises:
        ShapeError: if they are not there.
    """
    axis = axis_of(dim, x.rank, "narrow")
    start = start + x.shape[axis] if start < 0 else start
    if start < 0 or length < 0 or start + length > x.shape[axis]:
        raise ShapeError(f"narrow: {length} elements from {start} on are not in axis {dim} of {x.name}, {x.shape}")
    return strided(x, axis, start, length)


def split_at(x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    """`x` cut into parts of these sizes along one axis."""
    if sum(sizes) != x.shape[axis] or any(size < 0 for size in sizes):
        raise ShapeError(f"split: sizes {tuple(sizes)} do not add up to axis {axis} of {x.name} of shape {x.shape}")
    if len(sizes) == 1:
        return [x]
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    parts = [strided(x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]
    _gradient_of_parts(x, axis, parts, starts)
    return parts


def _gradient_of_parts(x: Value, axis: int, parts: Sequence[Value], starts: Sequence[int]) -> None:
    """The gradient of a cut tensor in one operation.

    Derived, every part would contribute a tensor of the size of the whole, zero elsewhere: T * T elements for a
    sequence of T steps.
    """
    if not x.dtype.is_float or x.is_constant:
        return
    distinct = [(part, start) for part, start in zip(parts, starts, strict=True) if part is not x and part.size]

    def vjp(*gradients: Value | None) -> tuple[Value]:
        present = [(g, start) for g, (_, start) in zip(gradients, distinct, strict=True) if g is not None]
        covered = sum(g.size for g, _ in present) == x.size
        pieces = Pieces(x.shape, x.dtype, None if covered else 0.0, f"d.{x.name}")
        for gradient, start in present:
            _place(pieces, gradient, axis, start)
        return (pieces.finish(),)

    with_gradient((x,), [part for part, _ in distinct], vjp)


def _place(pieces: Pieces, part: Value, axis: int, start: int) -> None:
    d = Domain()
    index = d.parallel(*part.shape)
    pieces.assign(d, part[index], [row + start if k == axis else row for k, row in enumerate(index)])


@aten("aten.split.Tensor", "aten.unsafe_split.Tensor", "aten.split_copy.Tensor")
def split(x: Value, split_size: int, dim: int = 0) -> list[Value]:
    """`x` cut into parts of `split_size`; the last one may be smaller."""
    axis = axis_of(dim, x.rank, "split")
    extent = x.shape[axis]
    if split_size <= 0:
        raise ShapeError(f"split: the size {split_size} of the parts of {x.name} must be positive")
    return split_at(x, axis, [min(split_size, extent - at) for at in range(0, extent, split_size)] or [0])


@aten(
    "aten.split_with_sizes.default", "aten.unsafe_split_with_sizes.default", "aten.split.sizes", "aten.split.default",
    "aten.split_with_sizes_copy.default",
)  # fmt: skip
def split_with_sizes(x: Value, split_sizes: Sequence[int], dim: int = 0) -> list[Value]:
    """`x` cut into parts of the given sizes."""
    return split_at(x, axis_of(dim, x.rank, "split"), static_ints(split_sizes, "the sizes of split"))


@aten("aten.chunk.default", "aten.unsafe_chunk.default")
def chunk(x: Value, chunks: int, dim: int = 0) -> list[Value]:
    """`x` cut into at most `chunks` parts of the same size; the last one may be smaller."""
    axis = axis_of(dim, x.rank, "chunk")
    return split(x, max(-(-x.shape[axis] // chunks), 1), axis)


@aten("aten.tensor_split.sections")
def tensor_split(x: Value, sections: int, dim: int = 0) -> list[Value]:
    """`x` cut into exactly `sections` parts whose sizes differ by at most one."""
    axis = axis_of(dim, x.rank, "tensor_split")
    size, larger = divmod(x.shape[axis], sections)
    return split_at(x, axis, [size + (k < larger) for k in range(sections)])


@aten("aten.tensor_split.indices")
def tensor_split_at(x: Value, indices: Sequence[int], dim: int = 0) -> list[Value]:
    """`x` cut before every one of the indices."""
    axis = axis_of(dim, x.rank, "tensor_split")
    ends = [0, *(range(x.shape[axis])[:index].stop for index in indices), x.shape[axis]]
    return split_at(x, axis, [end - start for start, end in itertools.pairwise(ends)])


@aten("aten.unbind.int", "aten.unbind_copy.int")
def unbind(x: Value, dim: int = 0) -> list[Value]:
    """Every position of an axis as a tensor without that axis."""
    axis = axis_of(dim, x.rank, "unbind")
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [reshape(part, shape) for part in split_at(x, axis, [1] * x.shape[axis])]


@aten("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def cat(tensors: Sequence[Value], dim: int = 0) -> Value:
    """The operands one after the other along an axis; one-dimensional operands without elements are left out.

    Raises:
        ShapeError: if the other extents differ.
    """
    kept = [tensor for tensor in tensors if tensor.shape != (0,)] or list(tensors[:1])
    if not kept:
        raise ShapeError("cat needs at least one tensor")
    axis = axis_of(dim, kept[0].rank, "cat")
    shapes = {(*tensor.shape[:axis], *tensor.shape[axis + 1 :]) for tensor in kept}
    if len(shapes) != 1 or any(tensor.rank != kept[0].rank for tensor in kept) or not kept[0].rank:
        raise ShapeError(f"cat along axis {dim}: shapes {', '.join(str(t.shape) for t in kept)} do not fit")
    if len(kept) == 1:
        return kept[0]
    dtype = result_dtype(*kept)
    total = sum(tensor.shape[axis] for tensor in kept)
    pieces = Pieces([total if k == axis else extent for k, extent in enumerate(kept[0].shape)], dtype)
    start = 0
    for tensor in kept:
        _place(pieces, convert(tensor, dtype), axis, start)
        start += tensor.shape[axis]
    return pieces.finish()


@aten("aten.stack.default")
def stack(tensors: Sequence[Value], dim: int = 0) -> Value:
    """Tensors of one shape along a new axis.

    Raises:
        ShapeError: if the shapes differ.
    """
    if not tensors or len({tensor.shape for tensor in tensors}) != 1:
        raise ShapeError(f"stack: shapes {', '.join(str(t.shape) for t in tensors)} must be the same")
    shape = tensors[0].shape
    axis = axis_of(dim, len(shape) + 1, "stack")
    return cat([reshape(tensor, (*shape[:axis], 1, *shape[axis:])) for tensor in tensors], axis)


@aten("aten.hstack.default")
def hstack(tensors: Sequence[Value]) -> Value:
    """The operands side by side: along axis 1, vectors along axis 0."""
    shaped = [reshape(tensor, (1,)) if not tensor.rank else tensor for tensor in tensors]
    return cat(shaped, 0 if shaped[0].rank == 1 else 1)


@aten("aten.vstack.default", "aten.row_stack.default")
def vstack(tensors: Sequence[Value]) -> Value:
    """The operands below each other; vectors are rows."""
    return cat([reshape(tensor, (1, tensor.size)) if tensor.rank < 2 else tensor for tensor in tensors], 0)


@aten("aten.slice_scatter.default")
def slice_scatter(
    x: Value, source: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    """`x` with ``x[..., start:end, ...]`` replaced by `source`.

    Raises:
        ShapeError: if the shapes do not fit.
        UnsupportedCall: for a step other than 1.
    """
    if step != 1:
        raise UnsupportedCall(f"assignment to a slice with step {step}; only step 1 is supported")
    axis = axis_of(dim, x.rank, "slice_scatter")
    first, count = slice_bounds(start, end, 1, x.shape[axis])
    if source.shape != tuple(count if k == axis else extent for k, extent in enumerate(x.shape)):
        raise ShapeError(f"slice_scatter: {source.name} of shape {source.shape} does not fill the slice of {x.name}")
    after = x.shape[axis] - first - count
    parts = [strided(x, axis, 0, first), convert(source, x.dtype), strided(x, axis, first + count, after)]
    return cat([part for part in parts if part.shape[axis]] or [x], axis)


@aten("aten.select_scatter.default")
def select_scatter(x: Value, source: Value, dim: int, index: int) -> Value:
    """`x` with one position of an axis replaced by `source`."""
    axis = axis_of(dim, x.rank, "select_scatter")
    index = index + x.shape[axis] if index < 0 else index
    row = reshape(source, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    return slice_scatter(x, row, axis, index, index + 1)


@aten("aten.flip.default")
def flip(x: Value, dims: Sequence[int]) -> Value:
    """The order of the elements reversed along the given axes."""
    axes = {axis_of(axis, x.rank, "flip") for axis in dims}
    if not axes or not x.rank:
        return x
    d = Domain()
    index = d.parallel(*x.shape)
    source = [-row + (x.shape[k] - 1) if k in axes else row for k, row in enumerate(index)]
    return d.assign(x[tuple(source)], index)


@aten("aten.fliplr.default")
def fliplr(x: Value) -> Value:
    """Axis 1 reversed."""
    return flip(x, [1])


@aten("aten.flipud.default")
def flipud(x: Value) -> Value:
    """Axis 0 reversed."""
    return flip(x, [0])


@aten("aten.roll.default")
def roll(x: Value, shifts: Sequence[int] | int, dims: Sequence[int] | int = ()) -> Value:
    """The elements shifted along axes, those that leave at the end coming in at the front; without axes, flat.

    Raises:
        ShapeError: if shifts and axes differ in number.
    """
    amounts, axes = static_ints(shifts, "the shifts of roll"), static_ints(dims, "the axes of roll")
    if not axes:
        if len(amounts) != 1:
            raise ShapeError(f"roll: {len(amounts)} shifts of {x.name} need as many axes")
        return reshape(roll(reshape(x, (x.size,)), amounts, [0]), x.shape)
    if len(axes) != len(amounts):
        raise ShapeError(f"roll: {len(amounts)} shifts and {len(axes)} axes for {x.name}")
    for amount, dim in zip(amounts, axes, strict=True):
        axis = axis_of(dim, x.rank, "roll")
        if x.size:
            x = rearrange(x, axis, np.roll(np.arange(x.shape[axis]), amount).tolist())
    return x


@aten("aten.unfold.default", "aten.unfold_copy.default")
def unfold(x: Value, dimension: int, size: int, step: int) -> Value:
    """Windows of `size` elements, `step` apart, of one axis, as a new last axis.

    Raises:
        ShapeError: if no window fits.
    """
    axis = axis_of(dimension, x.rank, "unfold")
    if step <= 0 or size > x.shape[axis]:
        raise ShapeError(f"unfold: windows of {size}, {step} apart, do not fit axis {dimension} of {x.name}, {x.shape}")
    count = (x.shape[axis] - size) // step + 1
    d = Domain()
    index = d.parallel(*(count if k == axis else extent for k, extent in enumerate(x.shape)), size)
    source = [row * step + index[-1] if k == axis else row for k, row in enumerate(index[:-1])]
    return d.assign(x[tuple(source)], index)


@aten("aten.im2col.default")
def im2col(
    x: Value, kernel_size: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Value:
    """Sliding windows of images as columns: [N, C, H, W] to [N, C * kh * kw, windows]; padding is zero."""
    if x.rank not in (3, 4):
        raise ShapeError(f"im2col: {x.name} of shape {x.shape} must have 3 or 4 axes")
    batched = x if x.rank == 4 else reshape(x, (1, *x.shape))
    n, c, *spatial = batched.shape
    sizes = [
        (extent + 2 * pad - dil * (kernel - 1) - 1) // hop + 1
        for extent, kernel, dil, pad, hop in zip(spatial, kernel_size, dilation, padding, stride, strict=True)
    ]
    if any(size <= 0 for size in sizes):
        raise ShapeError(f"im2col: no window of {tuple(kernel_size)} fits {x.name} of shape {x.shape}")
    d = Domain()
    index = d.parallel(n, c, *kernel_size, *sizes)
    rows: list[Affine] = [
        index[4 + k] * stride[k] + index[2 + k] * dilation[k] - padding[k] for k in range(len(spatial))
    ]
    windows = d.assign(batched[(index[0], index[1], *rows)], index, init=0.0)
    columns = reshape(windows, (n, c * kernel_size[0] * kernel_size[1], sizes[0] * sizes[1]))
    return columns if x.rank == 4 else reshape(columns, columns.shape[1:])


@onnx("Concat")
def onnx_concat(call: OnnxCall, *tensors: Value) -> Value:
    """ONNX Concat."""
    return cat(tensors, int(call.required("axis")))


@onnx("Split")
def onnx_split(call: OnnxCall, x: Value, sizes: Value | None = None) -> list[Value]:
    """ONNX Split: given sizes, or as many parts as there are outputs."""
    axis = axis_of(int(call.attribute("axis", 0)), x.rank, "Split")
    if sizes is not None:
        return split_at(x, axis, static_ints(sizes, "the sizes of Split"))
    count = int(call.attribute("num_outputs", len(call.outputs)))
    size = -(-x.shape[axis] // count)
    return split_at(x, axis, [min(size, x.shape[axis] - size * k) for k in range(count)])


@onnx("Slice")
def onnx_slice(
    call: OnnxCall, x: Value, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> Value:
    """ONNX Slice; steps may be negative.

    Raises:
        ShapeError: for a step of 0 or lists of different lengths.
    """
    first, last = static_ints(starts, "the starts of Slice"), static_ints(ends, "the ends of Slice")
    named = list(range(len(first))) if axes is None else static_ints(axes, "the axes of Slice")
    hops = [1] * len(first) if steps is None else static_ints(steps, "the steps of Slice")
    if not len(first) == len(last) == len(named) == len(hops) or 0 in hops:
        raise ShapeError(f"Slice of {x.name}: starts {first}, ends {last}, axes {named} and steps {hops} do not fit")
    for start, end, dim, step in zip(first, last, named, hops, strict=True):
        axis = axis_of(dim, x.rank, "Slice")
        extent = x.shape[axis]
        # Python reads -1 as the last element; ONNX clamps what is still negative after adding the extent.
        stop = end + extent if end < 0 else end
        positions = range(extent)[slice(start, None if stop < 0 or end >= _INT_MAX else stop, step)]
        if stop < 0 and step > 0:
            positions = range(0)
        x = strided(x, axis, positions[0] if positions else 0, len(positions), step)
    return x
