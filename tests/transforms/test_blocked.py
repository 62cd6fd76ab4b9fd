"""Which sums are blocked is a function of their domain alone, and what they become."""

from __future__ import annotations

import numpy as np
import pytest

from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import Domain
from tilegrad.ir.expr import read
from tilegrad.ir.graph import Graph, Nest, StructuredOp, Value
from tilegrad.ir.printer import format_graph
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.transforms.blocked import block_reductions, outer_reduction


def summed(parallel: tuple[int, ...], reductions: tuple[int, ...], pad: int = 0) -> tuple[Graph, Value, Value]:
    graph = Graph()
    x = Value("x", (*parallel, *reductions), DType.F32, Kind.INPUT)
    with graph.building():
        d = Domain()
        outer = d.parallel(*parallel)
        inner = d.reduction(*reductions)
        rows = (*outer, *inner[:-1], inner[-1] - pad)
        y = d.sum(x[rows], outer, "y")
    return graph, x, y


def nest_of(graph: Graph, position: int = 0) -> Nest:
    op = graph.ops[position]
    assert isinstance(op, StructuredOp)
    return op.nests[0]


@pytest.mark.parametrize("parallel, reductions, outer", [
    ((8,), (4, 64), 1),
    ((63,), (2, 64), 1),
    ((64,), (4, 64), None),  # enough parallel elements
    ((8,), (4, 63), None),  # partial sums would be short
    ((8,), (1000,), None),  # there is no inner reduction
    ((8,), (1, 1000), None),  # an extent of 1 is no reduction
    ((8,), (1, 4, 64), 2),
    ((8,), (4, 1, 8, 8), 1),
    ((), (2, 64), 0),
    ((1, 1), (3, 4, 64), 2),
    ((8,), (4, 0), None),
])  # fmt: skip
def test_the_rule(parallel: tuple[int, ...], reductions: tuple[int, ...], outer: int | None) -> None:
    graph, _, _ = summed(parallel, reductions)
    assert outer_reduction(nest_of(graph)) == outer


def test_partial_sums_are_combined_in_order() -> None:
    graph, x, y = summed((3,), (5, 64), pad=1)
    verify_graph(graph)
    block_reductions(graph)
    verify_graph(graph)
    assert (
        format_graph(graph)
        == """\
graph graph()
  y.partial: f32[3, 5] =  # forward
    P(i0:3, i1:5) R(i2:64) where 0 <= i2 - 1 < 64
      y.partial[i0, i1] += x[i0, i1, i2 - 1]
  y: f32[3] =  # forward
    P(i0:3) R(i1:5)
      y[i0] += y.partial[i0, i1]
"""
    )
    data = np.random.default_rng(0).normal(size=x.shape)
    np.testing.assert_allclose(run(graph, {x: data}, np.float64)[y], data[..., :-1].sum((1, 2)), rtol=1e-12)


def test_the_outermost_reduction_counts_wherever_ones_stand() -> None:
    graph, x, y = summed((2,), (1, 3, 1, 70))
    block_reductions(graph)
    verify_graph(graph)
    assert nest_of(graph).extents == (2, 3, 1, 1, 70) and nest_of(graph).parallel == 2
    data = np.random.default_rng(0).normal(size=x.shape)
    np.testing.assert_allclose(run(graph, {x: data}, np.float64)[y], data.sum((1, 2, 3, 4)), rtol=1e-12)


def test_a_chain_that_continues_starts_the_combination() -> None:
    graph, x, _ = summed((3,), (5, 64))
    buffer = Value("b", (3,), DType.F32, Kind.GRADIENT)
    (op,) = graph.ops
    assert isinstance(op, StructuredOp)
    (result,) = op.nests[0].results
    started = result.__class__(result.outputs, result.index, result.combiner, result.exprs, read(buffer, result.index))
    op.nests = (Nest(op.nests[0].extents, 1, (), (started,)),)
    block_reductions(graph)
    verify_graph(graph)
    partial, combined = nest_of(graph, 0), nest_of(graph, 1)
    assert partial.results[0].start is None and combined.results[0].start is not None
    data, before = np.ones(x.shape), np.array([1.0, 2.0, 3.0])
    assert run(graph, {x: data, buffer: before}, np.float64)[op.outputs[0]].tolist() == [321, 322, 323]


def test_maxima_are_not_blocked() -> None:
    graph = Graph()
    x = Value("x", (4, 100), DType.F32, Kind.INPUT)
    with graph.building():
        d = Domain()
        r, s = d.reduction(4, 100)
        d.max(x[r, s], ())
    block_reductions(graph)
    assert len(graph.ops) == 1
