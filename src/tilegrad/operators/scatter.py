"""Writing at positions that integer tensors hold: adding, and replacing elements.

Additions go into zeroed memory in the order of the index and are then added to the tensor. A replacement is a read:
every element finds the last entry of the index that names it, so that duplicates have a defined result, the last one,
and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import (
    Domain,
    Pieces,
    broadcast_shapes,
    broadcast_to,
    constant,
    elementwise,
    lookup,
    reshape,
)
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.gather import checked_axis, index_tables, positions, tuple_tables
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx

Scalar = float | int | bool


@aten("aten.scatter_add.default", "aten.scatter_add_.default")
def scatter_add(x: Value, dim: int, index: Value, src: Value) -> Value:
    """``y = x; y[i, ..., index[i, j, ...], ...] += src[i, j, ...]``.

    Args:
        x: f32, i32 or i64.
        dim: the axis that `index` holds positions of.
        index: i32 or i64 of the rank of `x`; no larger than `src`, nor than `x` along other axes.
        src: what is added; of the type and rank of `x`.
    """
    axis = checked_axis(x, dim)
    _check_elements(x, axis, index, src)
    return _add_elements(x, axis, index, src)


def _add_elements(x: Value, axis: int, index: Value, src: Value) -> Value:
    d = Domain()
    others = dict(zip((k for k in range(x.rank) if k != axis), d.parallel(*_without(index.shape, axis)), strict=True))
    (j,) = d.reduction(index.shape[axis])
    at = tuple(j if k == axis else others[k] for k in range(x.rank))
    pieces = Pieces(x.shape, x.dtype, init=0)
    pieces.sum(d, src[at], (*at[:axis], lookup(index, *at), *at[axis + 1 :]), scatter=True)
    return elementwise(lambda a, b: a + b, x, pieces.finish())


@aten("aten.scatter.src", "aten.scatter_.src")
def scatter(x: Value, dim: int, index: Value, src: Value) -> Value:
    """``y = x; y[i, ..., index[i, j, ...], ...] = src[i, j, ...]``; of duplicates the last stays.

    Args:
        x: any tensor.
        dim: the axis that `index` holds positions of.
        index: i32 or i64 of the rank of `x`; no larger than `src`, nor than `x` along other axes.
        src: the new elements; of the type and rank of `x`.
    """
    axis = checked_axis(x, dim)
    _check_elements(x, axis, index, src)
    return _replace_elements(x, axis, index, src)


@aten("aten.scatter.value", "aten.scatter_.value")
def scatter_value(x: Value, dim: int, index: Value, value: Scalar) -> Value:
    """``y = x; y[i, ..., index[i, j, ...], ...] = value``."""
    axis = checked_axis(x, dim)
    _check_elements(x, axis, index, None)
    return _replace_elements(x, axis, index, sc.constant(value, x.dtype))


def _replace_elements(x: Value, axis: int, index: Value, src: Value | Expr) -> Value:
    count = index.shape[axis]

    def entries(at: Sequence[Affine], along: Affine) -> tuple[Affine, ...]:
        rows = [_clipped(row, n, m) for row, n, m in zip(at, x.shape, index.shape, strict=True)]
        return (*rows[:axis], along, *rows[axis + 1 :])

    d = Domain()
    at = d.parallel(*x.shape)
    (j,) = d.reduction(count)
    named = index[entries(at, count - 1 - j)].equals(sc.cast(at[axis], index.dtype))
    for k, row in enumerate(at):
        if k != axis and index.shape[k] < x.shape[k]:  # entries beyond the index name nothing
            named = named & (sc.index(row) < index.shape[k])
    hit, first = d.argmax(_as_float(named), at)
    d = Domain()
    at = d.parallel(*x.shape)
    new = src[entries(at, count - 1 - lookup(first, *at))] if isinstance(src, Value) else src
    return d.assign(sc.select(hit[at] > 0.0, new, x[at]), at, init=0)


def _as_float(condition: Expr) -> Expr:
    return sc.select(condition, sc.constant(1.0, DType.F32), sc.constant(0.0, DType.F32))


def _clipped(row: Affine, extent: int, limit: int) -> Affine:
    """The iterator held below `limit`, by a table where it can exceed it."""
    if limit >= extent:
        return row
    return lookup(constant(np.minimum(np.arange(extent), limit - 1), DType.I32), row)


def _check_elements(x: Value, axis: int, index: Value, src: Value | None) -> None:
    fits = index.rank == x.rank and all(
        n <= m for n, m in zip(_without(index.shape, axis), _without(x.shape, axis), strict=True)
    )
    if src is not None:
        fits = fits and src.rank == x.rank and all(n <= m for n, m in zip(index.shape, src.shape, strict=True))
        if src.dtype is not x.dtype:
            raise ShapeError(
                f"{src.name} is {src.dtype.value}, but {x.name}, into which it is scattered, {x.dtype.value}"
            )
    if not fits:
        of = "" if src is None else f" and the source {src.name} of shape {src.shape}"
        raise ShapeError(f"the index {index.name} of shape {index.shape}{of} do not fit {x.name} of shape {x.shape}")
    if index.dtype not in (DType.I32, DType.I64):
        raise ShapeError(f"{index.name} is used as an index and must hold i32 or i64, not {index.dtype.value}")


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@aten("aten.scatter_reduce.two", "aten.scatter_reduce_.two")
def scatter_reduce(x: Value, dim: int, index: Value, src: Value, reduce: str, *, include_self: bool = True) -> Value:
    """`scatter_add` under its general name."""
    if reduce != "sum" or not include_self:
        raise UnsupportedCall(f"scatter_reduce {reduce!r}; 'sum' with include_self=True is supported")
    return scatter_add(x, dim, index, src)


@aten("aten.index_add.default", "aten.index_add_.default")
def index_add(x: Value, dim: int, index: Value, source: Value, *, alpha: Scalar = 1) -> Value:
    """``y = x; y[..., index[j], ...] += alpha * source[..., j, ...]``."""
    scaled = source if alpha == 1 else elementwise(lambda v: v * alpha, source)
    return _put(x, *_along(x, dim, index), scaled, accumulate=True)


@aten("aten.index_copy.default", "aten.index_copy_.default")
def index_copy(x: Value, dim: int, index: Value, source: Value) -> Value:
    """``y = x; y[..., index[j], ...] = source[..., j, ...]``; of duplicates the last stays."""
    return _put(x, *_along(x, dim, index), source, accumulate=False)


@aten("aten.index_fill.int_Scalar", "aten.index_fill_.int_Scalar")
def index_fill(x: Value, dim: int, index: Value, value: Scalar) -> Value:
    """``y = x; y[..., index[j], ...] = value``."""
    axes, tables = _along(x, dim, index)
    return _put(x, axes, tables, sc.constant(value, x.dtype), accumulate=False)


def _along(x: Value, dim: int, index: Value) -> tuple[list[int], list[Value]]:
    axis = checked_axis(x, dim)
    if index.rank > 1:
        raise ShapeError(f"the index {index.name} has shape {index.shape}, expected one axis")
    return [axis], [positions(reshape(index, (index.size,)), x.shape[axis])]


def _put(x: Value, axes: Sequence[int], tables: Sequence[Value], source: Value | Expr, *, accumulate: bool) -> Value:
    """Add or replace at entries given by one position along each of `axes`.

    Args:
        x: the tensor.
        axes: the indexed axes, ascending.
        tables: for each, the positions, all of shape [R].
        source: one number, or a tensor of the axes of `x`, the first of `axes` having extent R and the others missing.
        accumulate: add instead of replace.
    """
    count = tables[0].shape[0]
    kept = [axis for axis in range(x.rank) if axis not in axes]
    before = [axis for axis in kept if axis < axes[0]]
    if isinstance(source, Value):
        wanted = (*(x.shape[k] for k in before), count, *(x.shape[k] for k in kept[len(before) :]))
        if source.shape != wanted or source.dtype is not x.dtype:
            raise ShapeError(
                f"{source.name}: {source.dtype.value}{list(source.shape)} is written into {x.name}: {x.dtype.value}"
                f"{list(x.shape)}, expected {x.dtype.value}{list(wanted)}"
            )

    def element(entry: Affine, rows: dict[int, Affine]) -> Expr:
        if isinstance(source, Expr):
            return source
        return source[(*(rows[k] for k in before), entry, *(rows[k] for k in kept[len(before) :]))]

    if accumulate:
        d = Domain()
        rows = dict(zip(kept, d.parallel(*(x.shape[k] for k in kept)), strict=True))
        (j,) = d.reduction(count)
        targets = rows | {axis: lookup(table, j) for axis, table in zip(axes, tables, strict=True)}
        pieces = Pieces(x.shape, x.dtype, init=0)
        pieces.sum(d, element(j, rows), tuple(targets[k] for k in range(x.rank)), scatter=True)
        return elementwise(lambda a, b: a + b, x, pieces.finish())
    d = Domain()
    spots = d.parallel(*(x.shape[axis] for axis in axes))
    (j,) = d.reduction(count)
    named = [t[count - 1 - j].equals(sc.cast(spot, t.dtype)) for t, spot in zip(tables, spots, strict=True)]
    both = named[0]
    for other in named[1:]:
        both = both & other
    hit, first = d.argmax(_as_float(both), spots)
    d = Domain()
    at = d.parallel(*x.shape)
    spot = tuple(at[axis] for axis in axes)
    new = element(count - 1 - lookup(first, *spot), dict(enumerate(at)))
    return d.assign(sc.select(hit[spot] > 0.0, new, x[at]), at, init=0)


@aten("aten.index_put.default", "aten.index_put_.default")
def index_put(x: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False) -> Value:
    """``y = x; y[i, :, j] = values`` or ``+=``; `values` broadcasts to the shape of ``x[i, :, j]``."""
    listed = index_tables(x, indices)
    axes = [axis for axis, table in enumerate(listed) if table is not None]
    tables = [table for table in listed if table is not None]
    if not axes:
        return elementwise(lambda a, b: a + b, x, values) if accumulate else broadcast_to(values, x.shape)
    if axes[-1] - axes[0] + 1 != len(axes):
        raise UnsupportedCall("assignment to indices with a slice between them; adjacent indices are supported")
    common = broadcast_shapes(*(table.shape for table in tables))
    flat = [reshape(broadcast_to(table, common), (-1,)) for table in tables]
    before, after = x.shape[: axes[0]], x.shape[axes[-1] + 1 :]
    source = reshape(broadcast_to(values, (*before, *common, *after)), (*before, flat[0].size, *after))
    return _put(x, axes, flat, source, accumulate=accumulate)


@onnx("ScatterElements")
def onnx_scatter_elements(call: OnnxCall, x: Value, indices: Value, updates: Value) -> Value:
    """ONNX ScatterElements with reduction ``none`` or ``add``."""
    axis = checked_axis(x, int(call.attribute("axis", 0)))
    _check_elements(x, axis, indices, updates)
    table = positions(indices, x.shape[axis])
    return (_add_elements if _adds(call) else _replace_elements)(x, axis, table, updates)


@onnx("ScatterND")
def onnx_scatter_nd(call: OnnxCall, x: Value, indices: Value, updates: Value) -> Value:
    """ONNX ScatterND with reduction ``none`` or ``add``: the last axis of `indices` holds positions."""
    tables = [reshape(table, (-1,)) for table in tuple_tables(x, indices)]
    depth = len(tables)
    wanted = (*indices.shape[:-1], *x.shape[depth:])
    if updates.shape != wanted:
        raise ShapeError(f"node {call.node!r}: updates has shape {updates.shape}, expected {wanted}")
    source = reshape(updates, (tables[0].size, *x.shape[depth:]))
    return _put(x, list(range(depth)), tables, source, accumulate=_adds(call))


def _adds(call: OnnxCall) -> bool:
    word = call.attribute("reduction", "none") or "none"
    word = word.decode() if isinstance(word, bytes) else word
    if word not in ("none", "add"):
        raise UnsupportedCall(f"reduction {word!r}; 'none' and 'add' are supported")
    return bool(word == "add")
