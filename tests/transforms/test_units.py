"""Iterators with one value disappear from domain, indices, guards and positions."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.builder import Domain
from tilegrad.ir.graph import Graph, Nest, Result, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.transforms.units import assigned, drop_unit_iterators, without_units

A, B, C, D = (Affine.iterator(k) for k in range(4))


def windowed(combiner: str) -> tuple[Graph, Value, tuple[Value, ...]]:
    """Windows of three columns and one row, one sample, padding."""
    graph, x = Graph(), Value("x", (1, 2, 5, 6), DType.F32, Kind.INPUT)
    with graph.building():
        d = Domain()
        n, c, i, j = d.parallel(1, 2, 5, 6)
        p, q = d.reduction(1, 3)
        term = x[n, c, i + p, j + q - 1] * sc.cast(sc.index(p + q + n), DType.F32)
        index = (n, c, i, j)
        found = d.argmax(term, index) if combiner == "argmax" else (d.sum(term, index),)
    return graph, x, found


def test_domain_indices_and_guards_are_renumbered() -> None:
    graph, _, _ = windowed("sum")
    (op,) = graph.ops
    assert isinstance(op, StructuredOp)
    nest = without_units(op.nests[0])
    assert nest.extents == (2, 5, 6, 3) and nest.parallel == 3
    assert nest.guards == (Guard(C + D - 1, 0, 6),)
    assert nest.results[0].index == (Affine(), A, B, C)
    assert without_units(nest) is nest


def test_values_and_positions_stay() -> None:
    for combiner in ("sum", "argmax"):
        graph, x, found = windowed(combiner)
        for output in found:
            graph.stores.append(Store(Value("o", output.shape, output.dtype, Kind.OUTPUT), output))
        feeds = {x: np.random.default_rng(0).normal(size=x.shape)}
        before = run(graph, feeds, np.float64)
        drop_unit_iterators(graph)
        verify_graph(graph)
        after = run(graph, feeds, np.float64)
        for output in found:
            np.testing.assert_array_equal(after[output], before[output])


@pytest.mark.parametrize("combiner", ["sum", "dot", "max"])
def test_sums_of_one_term_are_assignments(combiner: str) -> None:
    """Signed zeros and NaN included: a sum starts at +0.0, so that the sum of -0.0 alone is +0.0."""
    graph, x, b = Graph(), Value("x", (8, 1), DType.F32, Kind.INPUT), Value("b", (8,), DType.F32, Kind.INPUT)
    y = Value("y", (8,))
    index = (A,)
    read = x[A, B]
    exprs = (read, read) if combiner == "dot" else (read,)
    start = None if combiner == "max" else sc.read(b, index)
    final = sc.accumulator(DType.F32) * 3.0 - sc.read(b, index)
    results = [Result((y,), index, combiner, exprs, start, final)]
    if combiner == "sum":
        results[0] = Result((y,), index, combiner, exprs)
    graph.ops.append(StructuredOp((y,), (Nest((8, 1), 1, (), tuple(results)),)))
    feeds = {
        x: np.array([[0.0], [-0.0], [np.inf], [-np.inf], [np.nan], [1e-45], [0.1], [-3.5]], np.float32),
        b: np.array([-0.0, -0.0, 1.0, 2.0, 3.0, -0.0, 1e-9, 7.0], np.float32),
    }
    (plain,) = run_compiled(graph, [y], feeds, optimize=False, optimization="-O1")
    (fast,) = run_compiled(graph, [y], feeds)
    assert same_bits(plain, fast)
    drop_unit_iterators(graph)
    verify_graph(graph)
    (op,) = graph.ops
    assert isinstance(op, StructuredOp) and op.is_elementwise


def test_guarded_and_longer_sums_stay() -> None:
    for extents, guards in (((8, 2), ()), ((8, 1), (Guard(A, 0, 4),))):
        x, y = Value("x", (8, 2), DType.F32, Kind.INPUT), Value("y", (8,))
        nest = Nest(extents, 1, guards, (Result((y,), (A,), "sum", (x[A, B],)),))
        assert assigned(without_units(nest)).results[0].combiner == "sum"
