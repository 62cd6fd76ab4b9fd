"""Dead operations go, equal ones are computed once."""

from __future__ import annotations

from tilegrad.ir.builder import Domain, Pieces, elementwise, reduce_sum, reshape
from tilegrad.ir.graph import Graph, Store, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.transforms.cleanup import eliminate_common, eliminate_dead

X = Value("x", (4,), DType.F32, Kind.INPUT)


def place(name: str, *shape: int) -> Value:
    return Value(name, shape, DType.F32, Kind.OUTPUT)


def test_what_no_store_needs_is_dropped() -> None:
    graph = Graph()
    with graph.building():
        kept = reshape(X * 2.0, (2, 2))
        _ = reduce_sum(kept) * 3.0
    graph.stores.append(Store(place("o", 2, 2), kept))
    eliminate_dead(graph)
    assert len(graph.ops) == 2
    verify_graph(graph)


def test_both_outputs_of_an_operation_stay() -> None:
    graph = Graph()
    with graph.building():
        d = Domain()
        (r,) = d.reduction(4)
        _, position = d.argmax(X[r], ())
    graph.stores.append(Store(Value("p", (), DType.I32, Kind.OUTPUT), position))
    eliminate_dead(graph)
    assert len(graph.ops) == 1


def test_equal_operations_are_computed_once() -> None:
    graph = Graph()
    with graph.building():
        a, b = elementwise(lambda v: v * 2.0, X), elementwise(lambda v: v * 2.0, X)
        c, d = reshape(a, (2, 2)), reshape(b, (2, 2))
        total = reduce_sum(c + d)
    graph.stores.append(Store(place("o"), total))
    eliminate_common(graph)
    eliminate_dead(graph)
    verify_graph(graph)
    assert len(graph.ops) == 4  # 2 x, its view, the sum of the view with itself, the total


def test_what_differs_in_a_bit_is_computed_twice() -> None:
    graph = Graph()
    with graph.building():
        a, b = elementwise(lambda v: v + 0.0, X), elementwise(lambda v: v + -0.0, X)
        c, d = reduce_sum(X), reduce_sum(reshape(X, (2, 2)))
        total = reduce_sum(a + b) + c + d
    graph.stores.append(Store(place("o"), total))
    before = len(graph.ops)
    eliminate_common(graph)
    assert len(graph.ops) == before


def test_values_that_stores_keep_stay_their_own() -> None:
    """So each can be computed in the place of its store's target."""
    graph = Graph()
    with graph.building():
        a, b = X * 2.0, X * 2.0
    graph.stores.extend([Store(place("o", 4), a), Store(place("p", 4), b)])
    eliminate_common(graph)
    assert len(graph.ops) == 2
    verify_graph(graph)


def test_pieces_without_elements_are_dropped() -> None:
    graph, empty = Graph(), Value("e", (0,), DType.F32, Kind.INPUT)
    with graph.building():
        pieces = Pieces((4,))
        for source, first in ((X, 0), (empty, 4)):
            d = Domain()
            (i,) = d.parallel(source.size)
            pieces.assign(d, source[i], (i + first,))
        joined = pieces.finish()
        d = Domain()
        (i,) = d.parallel(4)
        (r,) = d.reduction(0)
        total = d.sum(empty[r] * joined[i], (i,))
    graph.stores.extend([Store(place("o", 4), joined), Store(place("t", 4), total)])
    eliminate_dead(graph)
    verify_graph(graph)
    assert [op.operands for op in graph.ops] == [[X], [empty, joined]]  # a sum of nothing is still zero
