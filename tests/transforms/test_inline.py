"""What is fused into its readers, what is not, and that guards survive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.builder import Domain, elementwise, lookup, reduce_sum, reshape, transpose
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.training.autodiff import gradients
from tilegrad.transforms.cleanup import eliminate_common, eliminate_dead
from tilegrad.transforms.inline import delinearise, inline_elementwise, linear_index

A, B, C = (Affine.iterator(k) for k in range(3))


def value(name: str, *shape: int) -> Value:
    return Value(name, shape, DType.F32, Kind.INPUT)


def fused(graph: Graph, *results: Value) -> list[StructuredOp]:
    """The operations that are left when `results` are stored."""
    for result in results:
        graph.stores.append(Store(Value("o", result.shape, result.dtype, Kind.OUTPUT), result))
    verify_graph(graph)
    eliminate_dead(graph)
    inline_elementwise(graph)
    eliminate_common(graph)
    verify_graph(graph)
    return [op for op in graph.ops if isinstance(op, StructuredOp)]


def same_before_and_after(graph: Graph, *results: Value) -> list[StructuredOp]:
    """Transform a graph and compare the results with those before."""
    rng = np.random.default_rng(0)
    inputs = {v: rng.normal(size=v.shape) for v in graph.persistent() if not v.is_constant and v.dtype.is_float}
    before = run(graph, inputs, np.float64)
    expected = [before[result] for result in results]
    ops = fused(graph, *results)
    after = run(graph, inputs, np.float64)
    for store, wanted in zip(graph.stores, expected, strict=True):
        np.testing.assert_allclose(after[store.value], wanted, rtol=1e-12, atol=1e-12)
    return ops


def convolution(x: Value, w: Value, pad: int) -> Value:
    d = Domain()
    (i,) = d.parallel(x.shape[0])
    (r,) = d.reduction(w.shape[0])
    return d.sum(x[i + r - pad] * w[r], (i,), "y")


def test_an_elementwise_chain_is_one_loop() -> None:
    graph, x = Graph(), value("x", 4, 6)
    with graph.building():
        y = elementwise(sc.exp, transpose(-(x * 2.0) + 1.0, (1, 0)))
    assert len(same_before_and_after(graph, y)) == 1


def test_padding_survives_what_is_inlined() -> None:
    """conv(2x + 5): the padding is no element, not 2 * 0 + 5."""
    graph, x, w = Graph(), value("x", 4), value("w", 2)
    with graph.building():
        y = convolution(elementwise(lambda v: v * 2.0 + 5.0, x), w, 1)
    (op,) = same_before_and_after(graph, y)
    assert op.nests[0].guards == (Guard(A + B - 1, 0, 4),)


def test_a_maximum_over_padding_of_a_negated_operand() -> None:
    """max-pool(-x): what is padded must not become +inf."""
    graph, x = Graph(), value("x", 5)
    with graph.building():
        d = Domain()
        (i,) = d.parallel(5)
        (r,) = d.reduction(2)
        y = d.max((-x)[i + r - 1], (i,))
    (op,) = same_before_and_after(graph, y)
    assert op.nests[0].guards == (Guard(A + B - 1, 0, 5),)


def test_the_gradient_of_a_guarded_sum_keeps_the_guard() -> None:
    graph, x, w = Graph(), value("x", 6), value("w", 3)
    one = Value("one", (), DType.F32, Kind.CONSTANT, np.array(1.0, np.float32))
    with graph.building():
        y = reduce_sum(convolution(elementwise(lambda v: v * v, x), w, 2))
        found = gradients(graph, y, one, [x, w])
    same_before_and_after(graph, found[x], found[w])


def test_reversed_producers_bring_their_own_guard() -> None:
    graph, x, w = Graph(), value("x", 6), value("w", 2)
    with graph.building():
        d = Domain()
        (i,) = d.parallel(6)
        y = convolution(d.assign(x[5 - i], (i,)), w, 1)
    assert len(same_before_and_after(graph, y)) == 1


def test_moved_elements_are_never_stored() -> None:
    graph, x = Graph(), value("x", 8, 8)
    with graph.building():
        t = transpose(x, (1, 0))
        d = Domain()
        i, j = d.parallel(8, 8)
        (k,) = d.reduction(8)
        y = d.sum(t[i, k] * t[k, j], (i, j))
    assert len(same_before_and_after(graph, y)) == 1


def test_arithmetic_is_not_repeated_for_every_reader() -> None:
    """A per-row reciprocal stays a tensor of its own; so does the operand of a contraction."""
    graph, x, s, w = Graph(), value("x", 8, 8), value("s", 8), value("w", 8, 8)
    with graph.building():
        scaled = elementwise(lambda v, r: v * r, x, reshape(elementwise(lambda v: 1.0 / v, s), (8, 1)))
        d = Domain()
        i, j = d.parallel(8, 8)
        (k,) = d.reduction(8)
        y = d.sum(scaled[i, k] * w[k, j], (i, j))
    assert len(same_before_and_after(graph, y)) == 3


@pytest.mark.parametrize("body, operations", [
    (lambda v: v * 2.0, 2),
    (lambda v: sc.exp(v), 3),  # too dear to compute twice
])  # fmt: skip
def test_several_readers_recompute_what_is_cheap(body: Callable[..., sc.Expr], operations: int) -> None:
    graph, x = Graph(), value("x", 4, 4)
    with graph.building():
        shared = elementwise(body, x)
        results = (reduce_sum(shared, 0), reduce_sum(shared, 1))
    assert len(same_before_and_after(graph, *results)) == operations


def test_what_is_stored_for_one_reader_is_read_by_all() -> None:
    """The product touches every element four times and needs the tensor; the sum then reads it, too."""
    graph, x, w = Graph(), value("x", 4, 4), value("w", 4, 4)
    with graph.building():
        y = x * 2.0
        d = Domain()
        i, j = d.parallel(4, 4)
        (k,) = d.reduction(4)
        results = d.sum(y[i, k] * w[k, j], (i, j)), reduce_sum(y, 0)
    ops = same_before_and_after(graph, *results)
    assert [op.operands for op in ops] == [[x], [y, w], [y]]


def test_copies_are_looked_through_before_arithmetic_is_judged() -> None:
    """What only a copy hides from a product is stored once, and neither the copy nor a second computation is made."""
    graph, x, w = Graph(), value("x", 4, 4), value("w", 4, 4)
    with graph.building():
        y = x * 2.0
        copied = transpose(y, (1, 0))
        d = Domain()
        i, j = d.parallel(4, 4)
        (k,) = d.reduction(4)
        results = d.sum(copied[i, k] * w[k, j], (i, j)), reduce_sum(y, 0)
    ops = same_before_and_after(graph, *results)
    assert [op.operands for op in ops] == [[x], [y, w], [y]]


def test_what_is_stored_stays() -> None:
    graph, x = Graph(), value("x", 4)
    with graph.building():
        kept = x * 2.0
        y = kept + 1.0
    assert len(same_before_and_after(graph, kept, y)) == 2


def test_bodies_stop_growing() -> None:
    graph, x = Graph(), value("x", 4)
    with graph.building():
        y = x
        for k in range(200):
            y = elementwise(lambda v, k=k: v * float(k + 2) + 1.0, y)
    fused(graph, y)
    assert 2 <= len(graph.ops) < 20


def test_operations_with_guards_are_not_substituted() -> None:
    graph, x = Graph(), value("x", 4)
    with graph.building():
        d = Domain()
        (i,) = d.parallel(6)
        padded = d.assign(x[i - 1], (i,), init=7.0)
        y = padded * 2.0
    assert len(same_before_and_after(graph, y)) == 2


def test_reads_through_views() -> None:
    graph, x = Graph(), value("x", 4, 6)
    with graph.building():
        y = reduce_sum(elementwise(lambda v: v * v, reshape(x + 1.0, (2, 2, 6))), (1, 2))
    ops = same_before_and_after(graph, y)
    assert [op.nests[0].results[0].combiner for op in ops] == ["sum"]  # as it was made


def test_gathered_producers() -> None:
    graph, x = Graph(), value("x", 4)
    table = Value("t", (3,), DType.I32, Kind.CONSTANT, np.array([3, 0, 3], np.int32))
    with graph.building():
        d = Domain()
        (i,) = d.parallel(3)
        y = d.assign((x * 2.0)[lookup(table, i)], (i,))
    assert len(same_before_and_after(graph, y)) == 1


def test_inlining_neither_makes_nor_removes_a_fused_multiply_add() -> None:
    graph, x, w = Graph(), value("x", 4), value("w", 4)
    with graph.building():
        product = x * w
        d = Domain()
        (r,) = d.reduction(4)
        y = d.sum(product[r], ())
    (op,) = fused(graph, y)
    (result,) = op.nests[0].results
    assert result.combiner == "sum" and result.exprs[0].op == "mul"


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    coefficients=st.lists(st.integers(-2, 12), min_size=3, max_size=3),
    constant=st.integers(-2, 6),
    extents=st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
@settings(max_examples=300, derandomize=True, deadline=None)
def test_splitting_a_flat_position(
    shape: list[int], coefficients: list[int], constant: int, extents: list[int]
) -> None:
    """Where a split is found, it is right at every point of the box, and inside the tensor."""
    flat = A * coefficients[0] + B * coefficients[1] + C * coefficients[2] + constant
    rows = delinearise(flat, shape, extents)
    if rows is None:
        return
    for row, extent in zip(rows, shape, strict=True):
        bounds = row.interval(extents)
        assert bounds is not None and bounds[0] >= 0 and bounds[1] < extent
    back = linear_index(Value("v", tuple(shape)), rows)
    for point in np.ndindex(*extents):
        here = [Affine.of(k) for k in point]
        assert back.substitute(here) == flat.substitute(here)


def test_splits_that_exist_are_found() -> None:
    assert delinearise(A * 6 + B * 3 + C, (4, 2, 3), (4, 2, 3)) == (A, B, C)
    assert delinearise(A * 6 + B, (4, 2, 3), (4, 6, 1)) is None  # row and column of B are not affine
    assert delinearise(A * 12 + 7, (4, 2, 3), (2, 1, 1)) == (2 * A + 1, Affine(), Affine.of(1))
    assert delinearise(A, (3, 0), (3,)) is None
