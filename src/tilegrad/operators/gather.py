"""Reading at positions that integer tensors hold: embedding, indexing, gathering, one-hot encoding.

A negative position counts from the end where the framework defines it so. A position out of range makes the term not
exist: nothing outside a tensor is ever read, and the element of the result is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import (
    Domain,
    broadcast_index,
    broadcast_shapes,
    broadcast_to,
    constant,
    elementwise,
    lookup,
    reshape,
    with_gradient,
)
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.training.relation import scatter_gradient


def checked_axis(x: Value, dim: int) -> int:
    """`dim` as a non-negative axis.

    Raises:
        ShapeError: if `x` has no such axis.
    """
    if not -x.rank <= dim < x.rank:
        raise ShapeError(f"axis {dim} does not fit {x.name} of shape {x.shape}")
    return dim % x.rank


def positions(index: Value, extent: int) -> Value:
    """An integer tensor with negative entries counted from the end of an axis of `extent`.

    Raises:
        ShapeError: if it holds no integers, or is a constant with entries out of range.
    """
    if index.dtype not in (DType.I32, DType.I64):
        raise ShapeError(f"{index.name} is used as an index and must hold i32 or i64, not {index.dtype.value}")
    if index.data is not None and index.is_constant:
        if index.size and not (index.data.min() >= -extent and index.data.max() < extent):
            raise ShapeError(f"the index {index.name} holds positions outside an axis of extent {extent}")
        if not (index.data < 0).any():
            return index
    return elementwise(lambda v: sc.select(v < 0, v + extent, v), index)


def position_at(index: Value, at: Sequence[Affine]) -> Affine:
    """The entry of `index` as part of an index; a constant that counts up evenly needs no table.

    Then the gradient of the read is a read again, not an addition into memory.
    """
    if index.is_constant and index.data is not None and index.size:
        entries = index.data.astype(np.int64)
        start = int(entries.flat[0])
        steps = [int(np.take(entries, 1, axis).flat[0]) - start if n > 1 else 0 for axis, n in enumerate(index.shape)]
        grid = np.indices(index.shape, sparse=True)
        even = sum((step * g for step, g in zip(steps, grid, strict=True)), np.full(index.shape, start))
        if np.array_equal(entries, even):
            return sum((row * step for row, step in zip(at, steps, strict=True)), Affine((), start))
    return lookup(index, *at)


@aten("aten.embedding.default")
def embedding(
    weight: Value, indices: Value, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Value:
    """Rows of a table: ``y[..., e] = weight[indices[...], e]``.

    Args:
        weight: f32[V, E].
        indices: i32 or i64, any shape.
        padding_idx: the row that receives no gradient; -1 for none.
        scale_grad_by_freq: must be False.
        sparse: PyTorch's storage of the gradient; the values are the same.
    """
    if scale_grad_by_freq:
        raise UnsupportedCall("scale_grad_by_freq=True; only unscaled gradients are supported")
    if weight.rank != 2:
        raise ShapeError(f"the embedding {weight.name} has shape {weight.shape}, expected two axes")
    y = index_select(weight, 0, indices, from_end=False)
    if padding_idx < 0:
        return y

    # The row is read but not trained: in the gradient its positions are out of range, so their terms do not exist.
    def vjp(g: Value) -> tuple[Value]:
        trained = elementwise(lambda v: sc.select(v.equals(padding_idx), -1, v), indices)
        d = Domain()
        at = d.parallel(*g.shape)
        rows = (lookup(trained, *at[:-1]), at[-1])
        return (scatter_gradient(weight, rows, d.extents, d.parallel_count, (), g[at]),)

    with_gradient((weight,), (y,), vjp)
    return y


def index_select(x: Value, dim: int, index: Value, *, from_end: bool = True) -> Value:
    """``y[..., i..., ...] = x[..., index[i...], ...]``: the axes of `index` take the place of axis `dim`.

    Args:
        x: any tensor.
        dim: the axis to index.
        index: i32 or i64, any shape.
        from_end: whether negative positions count from the end; otherwise they are out of range.
    """
    axis = checked_axis(x, dim)
    table = positions(index, x.shape[axis]) if from_end or index.is_constant else index
    d = Domain()
    at = d.parallel(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
    row = position_at(table, at[axis : axis + index.rank])
    return d.assign(x[(*at[:axis], row, *at[axis + index.rank :])], at, init=0)


@aten("aten.index_select.default")
def aten_index_select(x: Value, dim: int, index: Value) -> Value:
    """ATen index_select: an index of one axis, or of none for one entry."""
    if index.rank > 1:
        raise ShapeError(f"the index {index.name} of index_select has shape {index.shape}, expected one axis")
    return index_select(x, dim, reshape(index, (index.size,)), from_end=False)


@aten("aten.select.int")
def select(x: Value, dim: int, index: int) -> Value:
    """One entry of an axis, which disappears; a negative index counts from the end."""
    axis = checked_axis(x, dim)
    if not -x.shape[axis] <= index < x.shape[axis]:
        raise ShapeError(f"index {index} is out of range for axis {axis} of {x.name} of shape {x.shape}")
    d = Domain()
    at = d.parallel(*x.shape[:axis], *x.shape[axis + 1 :])
    return d.assign(x[(*at[:axis], index % x.shape[axis], *at[axis:])], at)


def gather(x: Value, dim: int, index: Value, *, from_end: bool = False) -> Value:
    """``y[i, j, ...] = x[i, ..., index[i, j, ...], ...]``: `index` replaces the position along `dim` only.

    Args:
        x: any tensor.
        dim: the axis to index.
        index: i32 or i64 of the rank of `x`, and no larger than it along other axes.
        from_end: whether negative positions count from the end; otherwise they are out of range.
    """
    if x.rank == 0:
        return reshape(gather(reshape(x, (1,)), dim, reshape(index, (index.size,)), from_end=from_end), index.shape)
    axis = checked_axis(x, dim)
    if index.rank != x.rank or any(
        n > m for k, (n, m) in enumerate(zip(index.shape, x.shape, strict=True)) if k != axis
    ):
        raise ShapeError(f"the index {index.name} of shape {index.shape} does not fit {x.name} of shape {x.shape}")
    table = positions(index, x.shape[axis]) if from_end or index.is_constant else index
    d = Domain()
    at = d.parallel(*index.shape)
    return d.assign(x[(*at[:axis], position_at(table, at), *at[axis + 1 :])], at, init=0)


@aten("aten.gather.default")
def aten_gather(x: Value, dim: int, index: Value, *, sparse_grad: bool = False) -> Value:
    """ATen gather: `gather`; `sparse_grad` is PyTorch's storage of the gradient, with the same values."""
    return gather(x, dim, index)


@aten("aten.take_along_dim.default")
def take_along_dim(x: Value, indices: Value, dim: int | None = None) -> Value:
    """`gather` with the other axes broadcast; without `dim` both are flattened."""
    if dim is None:
        return gather(reshape(x, (-1,)), 0, reshape(indices, (-1,)), from_end=True)
    axis = checked_axis(x, dim)
    if indices.rank != x.rank:
        raise ShapeError(
            f"the indices {indices.name} of shape {indices.shape} do not have the rank of {x.name} {x.shape}"
        )
    common = broadcast_shapes(_without(x.shape, axis), _without(indices.shape, axis))

    def widened(value: Value) -> Value:
        return broadcast_to(value, (*common[:axis], value.shape[axis], *common[axis:]))

    return gather(widened(x), axis, widened(indices), from_end=True)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@aten("aten.take.default")
def take(x: Value, index: Value) -> Value:
    """Elements at positions of the flattened tensor, in the shape of `index`."""
    return index_select(reshape(x, (-1,)), 0, index)


@aten("aten.index.Tensor")
def index_tensor(x: Value, indices: Sequence[Value | None]) -> Value:
    """Advanced indexing, ``x[i, :, j]``: the index tensors broadcast together.

    Their axes stand where the first of them stood, or in front where a slice separates them, as in NumPy. A mask must
    be known when the model is compiled.
    """
    tables = index_tables(x, indices)
    d = Domain()
    used = [axis for axis, table in enumerate(tables) if table is not None]
    if not used:
        return x
    common = broadcast_shapes(*(table.shape for table in tables if table is not None))
    adjacent = used[-1] - used[0] + 1 == len(used)
    front = used[0] if adjacent else 0
    kept = [axis for axis in range(x.rank) if axis not in used]
    before, after = kept[:front], kept[front:]
    at = d.parallel(*(x.shape[axis] for axis in before), *common, *(x.shape[axis] for axis in after))
    shared = at[front : front + len(common)]
    rows = dict(zip((*before, *after), (*at[:front], *at[front + len(common) :]), strict=True))
    for axis, table in enumerate(tables):
        if table is not None:
            rows[axis] = position_at(table, broadcast_index(table, shared))
    return d.assign(x[tuple(rows[axis] for axis in range(x.rank))], at, init=0)


def index_tables(x: Value, indices: Sequence[Value | None]) -> list[Value | None]:
    """One table of positions per axis of `x`, None for a whole axis; constant masks become positions.

    Raises:
        UnsupportedCall: for a mask that is known only at run time.
        ShapeError: if the indices do not fit `x`.
    """
    listed: list[Value | None] = []
    for index in indices:
        if index is None or index.dtype is not DType.BOOL:
            listed.append(index)
            continue
        if not index.is_constant or index.data is None:
            raise UnsupportedCall(
                f"indexing with the mask {index.name}, whose result has a shape known only at run time; masks that are "
                "constant are supported, and torch.where selects with any mask"
            )
        if index.shape != x.shape[len(listed) : len(listed) + index.rank]:
            raise ShapeError(f"the mask {index.name} of shape {index.shape} does not fit {x.name} of shape {x.shape}")
        listed.extend(constant(found, DType.I64) for found in np.nonzero(index.data))
    if len(listed) > x.rank:
        raise ShapeError(f"{len(listed)} indices for {x.name} of shape {x.shape}")
    listed.extend([None] * (x.rank - len(listed)))
    return [None if t is None else positions(t, n) for t, n in zip(listed, x.shape, strict=True)]


@aten("aten.one_hot.default")
def one_hot(x: Value, num_classes: int = -1) -> Value:
    """``y[..., k] = (x[...] == k)`` as i64.

    Args:
        x: i32 or i64 class numbers.
        num_classes: extent of the new last axis; it must be given.
    """
    if num_classes < 1:
        raise UnsupportedCall("one_hot without num_classes, whose shape depends on the data; pass num_classes")
    d = Domain()
    at = d.parallel(*x.shape, num_classes)
    return d.assign(sc.cast(x[at[:-1]].equals(sc.cast(at[-1], x.dtype)), DType.I64), at)


@onnx("Gather")
def onnx_gather(call: OnnxCall, x: Value, indices: Value) -> Value:
    """ONNX Gather: `index_select` with indices of any shape."""
    return index_select(x, int(call.attribute("axis", 0)), indices)


@onnx("GatherElements")
def onnx_gather_elements(call: OnnxCall, x: Value, indices: Value) -> Value:
    """ONNX GatherElements: `gather` with positions that may count from the end."""
    return gather(x, int(call.attribute("axis", 0)), indices, from_end=True)


@onnx("GatherND")
def onnx_gather_nd(call: OnnxCall, x: Value, indices: Value) -> Value:
    """ONNX GatherND: the last axis of `indices` holds positions along the axes of `x` behind `batch_dims`."""
    batch = int(call.attribute("batch_dims", 0))
    tables = tuple_tables(x, indices, batch)
    if x.shape[:batch] != indices.shape[:batch]:
        raise ShapeError(f"node {call.node!r}: the batch axes of {x.shape} and {indices.shape} differ")
    d = Domain()
    outer = indices.rank - 1
    at = d.parallel(*indices.shape[:-1], *x.shape[batch + len(tables) :])
    rows = [position_at(table, at[:outer]) for table in tables]
    return d.assign(x[(*at[:batch], *rows, *at[outer:])], at, init=0)


def tuple_tables(x: Value, indices: Value, batch: int = 0) -> list[Value]:
    """The positions along each axis of `x` behind `batch` that the last axis of `indices` holds.

    Raises:
        ShapeError: if it holds more than `x` has axes.
    """
    if indices.rank < 1 or batch + indices.shape[-1] > x.rank or batch >= indices.rank:
        raise ShapeError(f"the indices {indices.name} of shape {indices.shape} do not fit {x.name} of shape {x.shape}")
    return [positions(select(indices, -1, k), x.shape[batch + k]) for k in range(indices.shape[-1])]


@onnx("OneHot")
def onnx_one_hot(call: OnnxCall, indices: Value, depth: Value, values: Value) -> Value:
    """ONNX OneHot: `values` holds what stands elsewhere and at the positions; one out of range stands nowhere."""
    if not depth.is_constant or depth.data is None:
        raise UnsupportedCall("OneHot with a depth that is not static; the depth must be a constant")
    if values.shape != (2,):
        raise ShapeError(f"node {call.node!r}: values has shape {values.shape}, expected (2,)")
    extent = int(depth.data.reshape(-1)[0])
    rank = indices.rank + 1
    axis = int(call.attribute("axis", -1))
    if not -rank <= axis < rank or extent < 1:
        raise ShapeError(
            f"node {call.node!r}: axis {axis} and depth {extent} do not fit indices of shape {indices.shape}"
        )
    axis %= rank
    d = Domain()
    at = d.parallel(*indices.shape[:axis], extent, *indices.shape[axis:])
    entry = sc.cast(indices[(*at[:axis], *at[axis + 1 :])], DType.I64)
    wrapped = sc.select(entry < 0, entry + extent, entry)
    hit = wrapped.equals(sc.cast(at[axis], DType.I64))
    return d.assign(sc.select(hit, values[1], values[0]), at)
