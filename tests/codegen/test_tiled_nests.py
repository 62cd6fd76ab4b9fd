"""Register tiles, unrolled steps, borders, tiles of iterators, cut sums, divided loops: the bits of the plain form."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.codegen.random_nests import Artist
from tests.codegen.tiled_nests import Library, Variant, draw_variant

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain
from tilegrad.ir.expr import Expr, accumulator, read
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.mapping import Mapping, choose_mapping, nest_cycles
from tilegrad.targets import get_target
from tilegrad.transforms.pipeline import transform

Array = NDArray[Any]
COMPILERS = [[cc] for cc in ("gcc", "clang") if shutil.which(cc)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="needs gcc or clang")


def contents(value: Value, rng: np.random.Generator) -> Array:
    """Numbers with ties, zeros of both signs, and now and then an infinity or NaN."""
    if not value.dtype.is_float:
        return rng.integers(0, 4, value.shape).astype(value.dtype.numpy)
    array = np.round(rng.uniform(-2, 2, value.shape) * 2) / 2 if rng.random() < 0.4 else rng.uniform(-1, 1, value.shape)
    array = np.asarray(array, np.float32)
    if rng.random() < 0.3:
        odd = rng.random(value.shape)
        array = np.where(odd < 0.03, np.nan, np.where(odd < 0.06, -np.inf, np.where(odd < 0.1, -0.0, array)))
    return array.astype(np.float32)


def check(ops: list[StructuredOp], folder: Path, seed: int, count: int, known: dict[Value, Array]) -> None:
    rng = np.random.default_rng(seed)
    variants = [[draw_variant(op, rng) for _ in range(count)] for op in ops]
    library = Library(ops, variants, folder, COMPILERS[seed % len(COMPILERS)])
    for n, op in enumerate(ops):
        feeds = {v: known[v].astype(v.dtype.numpy) if v in known else contents(v, rng) for v in op.operands}
        for value in op.operands:
            if value.data is not None:
                feeds[value] = np.ascontiguousarray(value.data)
        library.check(n, feeds)


@needs_compiler
@pytest.mark.parametrize("seed", range(2000, 2008))
def test_any_loop_structure_and_tiling_has_the_bits_of_the_plain_form(seed: int, tmp_path: Path) -> None:
    drawn = Artist(seed).draw(4)
    if seed % 2:  # with everything inlined, epilogues and several results
        for n, output in enumerate([*drawn.outputs, *drawn.slopes.values()]):
            target = Value(f"kept{n}", output.shape, output.dtype, Kind.OUTPUT)
            drawn.graph.stores.append(Store(target, output))
        transform(drawn.graph, optimize=True)
    ops = [op for op in drawn.graph.ops if isinstance(op, StructuredOp) and all(v.size for v in op.outputs)]
    known = {v: np.asarray(a) for v, a in drawn.feeds.items()}
    check(ops[:14], tmp_path, seed, 4, known)


def convolution(rng: np.random.Generator) -> list[StructuredOp]:
    """A convolution of drawn stride, dilation and padding with an epilogue, its gradients, maxima, two sums at once."""
    c, k, h = (int(n) for n in rng.integers(1, 5, 3))
    w, taps = int(rng.integers(3, 24)), int(rng.integers(1, 8))
    stride, dilation = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    pad = int(rng.integers(0, taps * dilation + 1))
    columns = max((w + 2 * pad - dilation * (taps - 1) - 1) // stride + 1, 1)
    x = Value("x", (c, h, w), DType.F32, Kind.PARAMETER)
    weight = Value("w", (k, c, taps), DType.F32, Kind.PARAMETER)
    bias = Value("b", (k,), DType.F32, Kind.PARAMETER)
    dy = Value("dy", (k, h, columns), DType.F32, Kind.PARAMETER)
    graph = Graph("convolution")
    with graph.building():
        d = Domain()
        o, i, j = d.parallel(k, h, columns)
        q, r = d.reduction(c, taps)
        d.sum(x[q, i, j * stride + r * dilation - pad] * weight[o, q, r], (o, i, j))
        d = Domain()
        o, q, r = d.parallel(k, c, taps)
        i, j = d.reduction(h, columns)
        d.sum(dy[o, i, j] * x[q, i, j * stride + r * dilation - pad], (o, q, r))
        d = Domain()
        q, i, j = d.parallel(c, h, w)
        o, r = d.reduction(k, taps)
        d.sum(dy[o, i, j - r * dilation + pad] * weight[o, q, r], (q, i, j))
        d = Domain()
        q, i, j = d.parallel(c, h, w)
        (r,) = d.reduction(taps)
        d.argmax(sc.select(x[q, i, j + r - pad] > 0.25, x[q, i, j + r - pad], 0.0), (q, i, j))
        d = Domain()
        q, i = d.parallel(c, h)
        (j,) = d.reduction(w)
        d.sum(x[q, i, j] * sc.exp(x[q, i, 0]), (q, i))
    ops = [op for op in graph.ops if isinstance(op, StructuredOp)]
    with_epilogue(ops[0], bias)
    with_second_sum(ops[4], x)
    return ops


def with_epilogue(op: StructuredOp, bias: Value) -> None:
    (nest,) = op.nests
    start = read(bias, (Affine.iterator(0),))
    acc = accumulator(DType.F32)
    result = replace(nest.results[0], start=start, final=sc.select(acc < 0.0, acc * 0.5, acc + start))
    op.nests = (replace(nest, results=(result,)),)


def with_second_sum(op: StructuredOp, x: Value) -> None:
    (nest,) = op.nests
    second = Value("second", op.outputs[0].shape, DType.F32)
    first = nest.results[0]
    term = read(x, (Affine.iterator(0), Affine.iterator(1), Affine.iterator(2)))
    more = replace(first, outputs=(second,), combiner="max", exprs=(term * 2.0,))
    op.nests = (replace(nest, results=(first, more)),)
    op.outputs = (*op.outputs, second)


@needs_compiler
@pytest.mark.parametrize("seed", range(8))
def test_convolutions_with_borders_of_every_kind(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(100 + seed)
    ops = [op for _ in range(3) for op in convolution(rng)]
    check(ops, tmp_path, seed, 5, {})


@needs_compiler
def test_the_structures_that_the_cluster_gets(tmp_path: Path) -> None:
    """What `choose_mapping` decides for the cluster, on whole operations and on tiles."""
    rng = np.random.default_rng(5)
    target = get_target("siracusa")
    ops = [op for _ in range(6) for op in convolution(rng)]
    variants = []
    for op in ops:
        (nest,) = op.nests
        mine = []
        for _ in range(3):
            drawn = draw_variant(op, rng)
            sizes = tuple(drawn.steps.get(k, extent) for k, extent in enumerate(nest.extents))
            mine.append(Variant((choose_mapping(nest, target, sizes),), drawn.steps, drawn.even, drawn.padded))
        variants.append(mine)
    library = Library(ops, variants, tmp_path, COMPILERS[-1])
    for n, op in enumerate(ops):
        library.check(n, {v: contents(v, rng) for v in op.operands})


def test_more_work_is_never_estimated_to_take_less_time() -> None:
    rng = np.random.default_rng(6)
    target = get_target("siracusa")
    for op in convolution(rng):
        (nest,) = op.nests
        mapping: Mapping = choose_mapping(nest, target)
        whole = nest_cycles(nest, target, nest.extents, mapping)
        assert whole > 0
        for k, extent in enumerate(nest.extents):
            half = tuple((extent + 1) // 2 if j == k else n for j, n in enumerate(nest.extents))
            assert nest_cycles(nest, target, half, mapping) <= whole * 1.05


def masked(rng: np.random.Generator) -> list[StructuredOp]:
    """Pooling behind ReLU and its gradients: maxima that are cut off from below, selects by position inside others."""
    c, h, w, window = (int(n) for n in rng.integers(1, 6, 4))
    bound = float(rng.choice([0.0, -0.0, 0.5, -1.0]))
    z = Value("z", (c, h, w * window), DType.F32, Kind.PARAMETER)
    m = Value("m", (c,), DType.F32, Kind.PARAMETER)
    at = Value("at", (c, h, w), DType.I32, Kind.INPUT)
    dp = Value("dp", (c, h, w), DType.F32, Kind.PARAMETER)

    def cut(y: Expr, other: Expr | float = bound) -> Expr:
        return sc.select((y > bound) | y.differs(y), y, other)

    def gradient(q: Affine, i: Affine, j: Affine, r: Affine) -> Expr:
        y = z[q, i, j * window + r] - m[q]
        chosen = sc.select(at[q, i, j].equals(sc.index(r)), dp[q, i, j], 0.0)
        return sc.select((y > 0.0) | y.differs(y), chosen, 0.0)

    graph = Graph("masked")
    with graph.building():
        d = Domain()
        q, i, j = d.parallel(c, h, w)
        (r,) = d.reduction(window)
        d.argmax(cut(z[q, i, j * window + r] - m[q]), (q, i, j))
        d = Domain()
        q, i, j = d.parallel(c, h, w)
        (r,) = d.reduction(window)
        d.max(cut(z[q, i, j * window + r]), (q, i, j))
        d = Domain()
        q, i = d.parallel(c, h)
        j, r = d.reduction(w, window)
        d.sum(gradient(q, i, j, r), (q, i))
        d = Domain()
        q, i = d.parallel(c, h)
        j, r = d.reduction(w, window)
        d.sum(gradient(q, i, j, r) * (z[q, i, j * window + r] - m[q]), (q, i))
        d = Domain()
        q, i, j, r = d.parallel(c, h, w, window)
        d.assign(sc.fma(m[q], gradient(q, i, j, r), z[q, i, j * window + r] - m[q]), (q, i, j, r))
    return [op for op in graph.ops if isinstance(op, StructuredOp)]


@needs_compiler
@pytest.mark.parametrize("seed", range(3))
def test_masks_and_maxima_that_are_cut_off(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(300 + seed)
    ops = [op for _ in range(4) for op in masked(rng)]
    check(ops, tmp_path, seed, 5, {})
