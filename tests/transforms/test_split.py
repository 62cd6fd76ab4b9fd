"""Readers of what is written block by block: which ones compute it themselves, in which pieces, with the same bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, Pieces, elementwise, reduce_sum, reshape
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.transforms.split import read_through_blocks

SIZE = 3


def value(name: str, *shape: int, dtype: DType = DType.F32) -> Value:
    return Value(name, shape, dtype, Kind.INPUT)


def unpooled(graph: Graph, width: int, name: str = "d") -> tuple[Value, Value, Value]:
    """The gradient of a maximum over three columns: f32[4, 5, width], and what it is made of."""
    blocks = width // SIZE
    g, at = value(f"{name}.g", 4, 5, blocks), value(f"{name}.at", 4, 5, blocks, dtype=DType.I32)
    pieces = Pieces((4, 5, width), init=None if width % SIZE == 0 else 0.0, name=name)
    d = Domain()
    i, j, q, r = d.parallel(4, 5, blocks, SIZE)
    pieces.assign(d, sc.select(sc.index(r).equals(at[i, j, q]), g[i, j, q], 0.0), (i, j, q * SIZE + r))
    return pieces.finish(), g, at


def read_through(graph: Graph, *results: Value) -> list[StructuredOp]:
    """The operations that are left when `results` are stored."""
    for result in results:
        graph.stores.append(Store(Value("o", result.shape, result.dtype, Kind.OUTPUT), result))
    rng = np.random.default_rng(0)
    feeds = {
        v: rng.normal(size=v.shape) if v.dtype.is_float else rng.integers(0, SIZE, v.shape)
        for v in graph.persistent()
        if v.kind is Kind.INPUT
    }
    before = run(graph, feeds, np.float64)
    expected = [before[result] for result in results]
    read_through_blocks(graph)
    verify_graph(graph)
    after = run(graph, feeds, np.float64)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(after[result], wanted, rtol=1e-12, atol=1e-12)
    return [op for op in graph.ops if isinstance(op, StructuredOp)]


def test_an_elementwise_reader_in_two_pieces() -> None:
    graph, x = Graph(), value("x", 4, 5, 11)
    with graph.building():
        d, _, _ = unpooled(graph, 11)
        y = elementwise(lambda a, b: a * 2.0 + b, d, x)
    (op,) = read_through(graph, y)
    assert [nest.extents for nest in op.nests] == [(4, 5, 3, SIZE), (4, 5, 2)]
    assert repr(op.nests[1].results[0].exprs[0]) == "(0.0 + x[i0, i1, i2 + 9])"  # constants are folded


def test_whole_blocks_need_one_piece() -> None:
    graph, x = Graph(), value("x", 4, 5, 12)
    with graph.building():
        d, _, _ = unpooled(graph, 12)
        y = elementwise(lambda a, b: a * 2.0 + b, d, x)
        z = reduce_sum(d, (1, 2), False, lambda a, b: a * b, x)
    first, second = read_through(graph, y, z)
    assert [nest.extents for op in (first, second) for nest in op.nests] == [(4, 5, 4, SIZE), (4, 5, 4, SIZE)]


def test_a_sum_of_products_goes_on_behind_the_blocks() -> None:
    """Zero times infinity is NaN: products with the constant are terms, too."""
    graph, x = Graph(), value("x", 4, 5, 11)
    with graph.building():
        d, _, _ = unpooled(graph, 11)
        y = reduce_sum(d, 2, False, lambda a, b: a * b, x)
    head, tail = read_through(graph, y)
    assert head.nests[0].extents == (4, 5, 3, SIZE) and tail.nests[0].extents == (4, 5, 2)
    assert tail.nests[0].results[0].start is head.outputs[0][tail.nests[0].results[0].index]
    assert tail.outputs == (y,)


def test_a_sum_of_zeros_behind_the_blocks_is_dropped() -> None:
    graph = Graph()
    with graph.building():
        d, _, _ = unpooled(graph, 11)
        y = reduce_sum(d, 2)
    (op,) = read_through(graph, y)
    assert op.outputs == (y,) and op.nests[0].extents == (4, 5, 3, SIZE)


def blocks_of_both_axes(height: int, width: int) -> tuple[Graph, Value]:
    """The gradient of a pooling of rows and columns, two by three."""
    graph, g = Graph(), value("g", 4, height // 2, width // 3)
    with graph.building():
        exact = height % 2 == 0 and width % 3 == 0
        pieces = Pieces((4, height, width), init=None if exact else 0.0)
        d = Domain()
        c, p, q, r, s = d.parallel(4, height // 2, width // 3, 2, 3)
        pieces.assign(d, g[c, p, q] * 0.5, (c, p * 2 + r, q * 3 + s))
        return graph, pieces.finish()


def test_blocks_along_two_axes() -> None:
    graph, d = blocks_of_both_axes(6, 9)
    x = value("x", 4, 6, 9)
    with graph.building():
        y, z = d * x, reduce_sum(d * 1.5, (1, 2))
    ops = read_through(graph, y, z)
    assert all(nest.extents == (4, 3, 2, 3, 3) for op in ops[:1] for nest in op.nests)
    graph, d = blocks_of_both_axes(7, 10)
    x = value("x", 4, 7, 10)
    with graph.building():
        y = d * x
    (op,) = read_through(graph, y)
    assert [nest.extents for nest in op.nests] == [(4, 3, 2, 3, 3), (4, 6, 1), (4, 1, 10)]


Reader = Callable[[Value], Value]


def contraction(d: Value) -> Value:
    domain, w = Domain(), value("w", 5, 11)
    i, j, k = domain.parallel(4, 5, 5)
    (s,) = domain.reduction(11)
    return domain.sum(d[i, j, s] * w[k, s], (i, j, k))


def shifted(d: Value) -> Value:
    domain = Domain()
    i, j, k = domain.parallel(4, 5, 10)
    return domain.assign(d[i, j, k + 1] * 2.0, (i, j, k))


def twice(d: Value) -> Value:
    domain = Domain()
    i, j, k = domain.parallel(4, 5, 11)
    return domain.assign(d[i, j, k] - d[i, j, 10 - k], (i, j, k))


def largest(d: Value) -> Value:
    domain = Domain()
    i, j = domain.parallel(4, 5)
    (k,) = domain.reduction(11)
    return domain.max(d[i, j, k], (i, j))


@pytest.mark.parametrize("reader", [
    lambda d: reduce_sum(d, (1, 2)),  # the blocks of all rows, and then what is behind them: another order
    contraction, shifted, twice, largest,
    lambda d: reshape(d, (20, 11)),
])  # fmt: skip
def test_what_cannot_be_read_through_is_stored(reader: Reader) -> None:
    graph = Graph()
    with graph.building():
        d, _, _ = unpooled(graph, 11)
        others = elementwise(lambda v: v + 1.0, d)  # one reader that could is no reason to compute it twice
        y = reader(d)
    before = len(graph.ops)
    read_through(graph, y, others)
    assert len(graph.ops) == before


def test_what_is_stored_is_read() -> None:
    graph = Graph()
    with graph.building():
        d, _, _ = unpooled(graph, 12)
        y = d + 1.0
    assert len(read_through(graph, d, y)) == 2


def test_positions_of_maxima_stay() -> None:
    graph, x = Graph(), value("x", 4, 5, 12)
    with graph.building():
        d, _, _ = unpooled(graph, 12)
        domain = Domain()
        i, j = domain.parallel(4, 5)
        (k,) = domain.reduction(12)
        y, at = domain.argmax(d[i, j, k] + x[i, j, k], (i, j))
    (op,) = read_through(graph, y, at)
    assert op.nests[0].extents == (4, 5, 4, SIZE)


@pytest.mark.parametrize("width", [11, 12])
def test_no_bit_changes(width: int) -> None:
    """Signed zeros, infinities and NaN in whole blocks and behind them."""
    graph, x = Graph(), value("x", 4, 5, width)
    with graph.building():
        d, g, at = unpooled(graph, width)
        masked = elementwise(lambda v, u: sc.select(u > 0.0, v, 0.0), d, x)
        outputs = [
            masked * x, reduce_sum(masked, 2), reduce_sum(masked, 2, False, lambda v, u: v * u, x),
            reduce_sum(masked, 2, False, lambda v, u: v + u, x),
        ]  # fmt: skip
    rng = np.random.default_rng(5)
    feeds = {v: rng.uniform(-1, 1, v.shape).astype(np.float32) for v in (g, x)}
    feeds[at] = rng.integers(0, SIZE, at.shape).astype(np.int32)
    feeds[x][0, 0, -1], feeds[x][1, 0, -1], feeds[x][2, 0, -1] = np.inf, np.nan, -0.0
    feeds[x][:, 1], feeds[g][:, 2], feeds[g][0, 3] = -0.0, -0.0, np.inf
    plain = run_compiled(graph, outputs, feeds, optimize=False, optimization="-O1")
    fast = run_compiled(graph, outputs, feeds)
    for output, a, b in zip(outputs, plain, fast, strict=True):
        assert same_bits(a, b), output.name
