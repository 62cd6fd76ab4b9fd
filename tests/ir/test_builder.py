"""How operators are written: guards are derived, orders are kept, mistakes are refused."""

from __future__ import annotations

import numpy as np
import pytest

from tilegrad.errors import InternalError, ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.affine import Guard
from tilegrad.ir.builder import (
    Domain,
    Pieces,
    broadcast_to,
    constant,
    elementwise,
    full,
    lookup,
    normalise_axes,
    reduce_max,
    reduce_mean,
    reduce_sum,
    reshape,
    transpose,
)
from tilegrad.ir.graph import Graph, Nest, ReshapeOp, StructuredOp, Value
from tilegrad.ir.types import DType, Kind


def value(*shape: int, dtype: DType = DType.F32) -> Value:
    return Value("x", shape, dtype, Kind.INPUT)


def nest_of(graph: Graph) -> Nest:
    op = graph.ops[-1]
    assert isinstance(op, StructuredOp)
    return op.nests[0]


def test_padding_becomes_a_guard() -> None:
    graph, x = Graph(), value(5)
    with graph.building():
        d = Domain()
        (w,) = d.parallel(5)
        (r,) = d.reduction(3)
        d.sum(x[w + r - 1], (w,))
    assert nest_of(graph).guards == (Guard(w + r - 1, 0, 5),)


def test_reads_that_stay_inside_need_no_guard() -> None:
    graph, x = Graph(), value(5)
    with graph.building():
        d = Domain()
        (w,) = d.parallel(3)
        (r,) = d.reduction(3)
        d.sum(x[w + r], (w,))
    assert nest_of(graph).guards == ()


def test_a_table_is_guarded_before_what_it_points_to() -> None:
    graph, x, t = Graph(), value(5), value(4, dtype=DType.I32)
    with graph.building():
        d = Domain()
        (w,) = d.parallel(4)
        row = lookup(t, w - 1)
        d.require(row, 1, 3)
        d.sum(x[row], (w,))
    assert [g.index.depth for g in nest_of(graph).guards] == [0, 1, 1]
    assert nest_of(graph).guards[0] == Guard(w - 1, 0, 4)


def test_products_are_accumulated_by_fused_multiply_adds() -> None:
    graph, x, n = Graph(), value(4), value(4, dtype=DType.I32)
    with graph.building():
        d = Domain()
        (r,) = d.reduction(4)
        d.sum(x[r] * x[r], ())
        assert nest_of(graph).results[0].combiner == "dot"
        d.sum(x[r] * x[r] + 0.0, ())
        assert nest_of(graph).results[0].combiner == "sum"
        d.sum(n[r] * n[r], ())
        assert nest_of(graph).results[0].combiner == "sum"


def test_what_the_builder_refuses() -> None:
    graph, x = Graph(), value(5)
    with pytest.raises(InternalError, match="outside"):
        reduce_sum(x)
    with graph.building():
        d = Domain()
        (w,) = d.parallel(5)
        with pytest.raises(InternalError, match="init"):
            d.assign(x[w - 1], (w,))
        with pytest.raises(InternalError, match="shape"):
            d.assign(x[w], (w + 1,))
        d.reduction(2)
        with pytest.raises(InternalError, match="before"):
            d.parallel(2)
        with pytest.raises(ShapeError, match="broadcast"):
            elementwise(lambda a, b: a + b, x, value(4))
        with pytest.raises(ShapeError):
            broadcast_to(x, (4,))
        with pytest.raises(ShapeError):
            reshape(x, (2, 3))
        with pytest.raises(ShapeError):
            reshape(x, (-1, -1))
        with pytest.raises(ShapeError, match="integers"):
            lookup(x, 0)
        for axes in ((0, 0), (1,), (0, -1)):
            with pytest.raises(ShapeError):
                normalise_axes(axes, 1)
    assert not any(isinstance(op, StructuredOp) for op in graph.ops)


def test_tensor_arithmetic_equals_numpy() -> None:
    graph, x, y = Graph(), value(2, 3), value(3)
    with graph.building():
        z = (1.0 - x * y) / 2.0 + (-x) - 3.0
        results = {
            "arithmetic": z,
            "transpose": transpose(x, (1, 0)),
            "broadcast": broadcast_to(y, (2, 3)),
            "sum": reduce_sum(x, -1, True),
            "mean": reduce_mean(x, 0),
            "max": reduce_max(x),
            "full": full((2, 100), 7.0),
            "view": reshape(x, (3, -1)),
            "body": reduce_sum(x, (), False, lambda a, b: a * a + b, y),
        }
    a, b = np.arange(6.0).reshape(2, 3), np.array([1.0, -2.0, 3.0])
    env = run(graph, {x: a, y: b}, np.float64)
    expected = {
        "arithmetic": (1 - a * b) / 2 - a - 3, "transpose": a.T, "broadcast": np.broadcast_to(b, (2, 3)),
        "sum": a.sum(-1, keepdims=True), "mean": a.mean(0), "max": a.max(), "full": np.full((2, 100), 7.0),
        "view": a.reshape(3, 2), "body": (a * a + b).sum(),
    }  # fmt: skip
    for name, found in results.items():
        np.testing.assert_allclose(env[found], expected[name], rtol=1e-15, err_msg=name)


def test_views_of_constants_are_constants() -> None:
    graph = Graph()
    with graph.building():
        c = constant(np.arange(6.0), DType.F32)
        assert reshape(c, (2, 3)).is_constant
        assert not isinstance(graph.ops[-1] if graph.ops else None, ReshapeOp)


def test_small_exact_operations_on_constants_are_evaluated() -> None:
    graph = Graph()
    with graph.building():
        c = constant(np.arange(4), DType.I32)
        doubled = elementwise(lambda v: v + v, c)
        large = full((1000,), 1.0)
        total = reduce_sum(constant(np.ones(3, np.float32)))
    assert doubled.is_constant and doubled.data is not None and doubled.data.tolist() == [0, 2, 4, 6]
    assert not large.is_constant
    assert not total.is_constant  # the order of float sums is the program's


def test_uniform_constants_are_numbers_in_bodies() -> None:
    graph, x = Graph(), value(3)
    with graph.building():
        y = elementwise(lambda a, b: a * b, x, constant(np.full((3,), -0.0, np.float32)))
    body = nest_of(graph).results[0].exprs[0]
    assert body.args[1].op == "const" and str(body.args[1].attr) == "-0.0"
    assert y.shape == (3,)


def test_pieces_define_one_tensor() -> None:
    graph, x = Graph(), value(4)
    with graph.building():
        pieces = Pieces((6,), init=9.0)
        d = Domain()
        (i,) = d.parallel(4)
        pieces.assign(d, x[3 - i], (i + 1,))
        y = pieces.finish()
    env = run(graph, {x: np.arange(4.0)}, np.float64)
    assert env[y].tolist() == [9, 3, 2, 1, 0, 9]


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2, 4)])
def test_empty_tensors(shape: tuple[int, ...]) -> None:
    graph, x = Graph(), value(*shape)
    with graph.building():
        moved, total, view = x + 1.0, reduce_sum(x), reshape(x, (0, 7))
        product = reduce_sum(x, None, False, lambda a, b: a * b, x)
        largest = reduce_max(x)
    env = run(graph, {x: np.zeros(shape)}, np.float64)
    assert env[moved].shape == shape and env[view].shape == (0, 7)
    assert env[total] == 0.0 and env[product] == 0.0 and env[largest] == -np.inf
