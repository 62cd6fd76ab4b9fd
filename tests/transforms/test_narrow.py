"""Which positions are stored in one byte, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, lookup, reshape
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.transforms.narrow import has_terms, narrow_positions


def pooled(graph: Graph, size: int, taps: int, stride: int, pad: int, floor: int = 0) -> tuple[Value, Value, Value]:
    """A maximum over windows of a padded row, from the column `floor` on: operand, maximum and position."""
    x = Value("x", (3, size), DType.F32, Kind.INPUT)
    count = (size + 2 * pad - taps) // stride + 1
    with graph.building():
        d = Domain()
        c, i = d.parallel(3, count)
        (r,) = d.reduction(taps)
        if floor:
            d.require(stride * i + r - pad, floor, size)
        y, at = d.argmax(x[c, stride * i + r - pad], (c, i))
    return x, y, at


def kept(graph: Graph, at: Value) -> Value:
    """Something that depends on every position."""
    with graph.building():
        return elementwise(lambda p: sc.cast(p * 3 - 1, DType.F32), at)


def narrowed(graph: Graph, *results: Value) -> list[DType]:
    """The types of all positions."""
    for result in results:
        graph.stores.append(Store(Value("o", result.shape, result.dtype, Kind.OUTPUT), result))
    rng = np.random.default_rng(0)
    feeds = {v: rng.normal(size=v.shape) for v in graph.persistent() if v.kind is Kind.INPUT}
    before = run(graph, feeds, np.float64)
    expected = [before[store.value] for store in graph.stores]
    narrow_positions(graph)
    verify_graph(graph)
    after = run(graph, feeds, np.float64)
    for store, wanted in zip(graph.stores, expected, strict=True):
        np.testing.assert_array_equal(after[store.value], wanted)
    ops = [op for op in graph.ops if isinstance(op, StructuredOp)]
    return [
        r.outputs[1].dtype for op in ops for nest in op.nests for r in nest.results if r.combiner == "argmax"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "taps", "stride", "pad", "floor", "dtype"),
    [
        (12, 3, 3, 0, 0, DType.U8),
        (12, 3, 2, 1, 0, DType.U8),  # padding, but a term in every window
        (12, 2, 2, 2, 0, DType.I32),  # the first and the last window are empty: position -1
        (12, 3, 3, 0, 3, DType.I32),  # a guard empties the first window
        (256, 256, 1, 0, 0, DType.U8),
        (257, 257, 1, 0, 0, DType.I32),
    ],
)
def test_positions_that_fit(size: int, taps: int, stride: int, pad: int, floor: int, dtype: DType) -> None:
    graph = Graph()
    _, y, at = pooled(graph, size, taps, stride, pad, floor)
    assert narrowed(graph, y, kept(graph, at)) == [dtype]


def test_positions_that_are_seen_from_outside_stay() -> None:
    graph = Graph()
    _, y, at = pooled(graph, 12, 3, 3, 0)
    assert narrowed(graph, y, at) == [DType.I32]
    graph = Graph()
    _, y, at = pooled(graph, 12, 3, 3, 0)
    with graph.building():
        view = reshape(at, (12,))
    assert narrowed(graph, y, view) == [DType.I32]


def test_positions_inside_indices() -> None:
    graph = Graph()
    _, y, at = pooled(graph, 12, 3, 3, 0)
    z = Value("z", (3, 3), DType.F32, Kind.INPUT)
    with graph.building():
        d = Domain()
        i, j = d.parallel(3, 4)
        gathered = d.assign(z[i, lookup(at, i, j)], (i, j), init=0.0)
    assert narrowed(graph, y, gathered) == [DType.U8]


def test_guards_by_tables_prove_nothing() -> None:
    graph, x, t = Graph(), Value("x", (5,), DType.F32, Kind.INPUT), Value("t", (4, 2), DType.I32, Kind.INPUT)
    with graph.building():
        d = Domain()
        (i,) = d.parallel(4)
        (r,) = d.reduction(2)
        d.argmax(x[lookup(t, i, r)], (i,))
    (op,) = graph.ops
    assert isinstance(op, StructuredOp) and not has_terms(op.nests[0])


@pytest.mark.parametrize("pad", [0, 1])
def test_no_bit_changes(pad: int) -> None:
    graph = Graph()
    x, y, at = pooled(graph, 30, 3, 2, pad)
    outputs = [y, kept(graph, at)]
    feeds = {x: np.random.default_rng(2).uniform(-1, 1, x.shape).astype(np.float32)}
    feeds[x][1, 4:9] = np.nan
    feeds[x][2, 5:20] = -np.inf
    plain = run_compiled(graph, outputs, feeds, optimize=False, optimization="-O1")
    fast = run_compiled(graph, outputs, feeds)
    for output, a, b in zip(outputs, plain, fast, strict=True):
        assert same_bits(a, b), output.name
