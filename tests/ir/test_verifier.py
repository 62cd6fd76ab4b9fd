"""The verifier catches each kind of broken graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilegrad.errors import InternalError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine, Guard, Lookup
from tilegrad.ir.graph import Graph, Nest, ReshapeOp, Result, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph

U, V = Affine.iterator(0), Affine.iterator(1)
X = Value("x", (4, 5), DType.F32, Kind.INPUT)
T = Value("t", (4,), DType.I32, Kind.INPUT)
S = Value("s", (4,), DType.F32, Kind.BUFFER)
C = Value("c", (4,), DType.F32, Kind.CONSTANT)


def value(*shape: int, dtype: DType = DType.F32) -> Value:
    return Value("y", shape, dtype)


def op(
    output: Value, index: tuple[Affine | int, ...], expr: sc.Expr, *, extents: tuple[int, ...] = (4, 5),
    parallel: int = 1, combiner: str = "sum", guards: tuple[Guard, ...] = (), scatter: bool = False,
    init: float | None = None, start: sc.Expr | None = None, final: sc.Expr | None = None,
) -> StructuredOp:  # fmt: skip
    rows = tuple(Affine.of(row) for row in index)
    result = Result((output,), rows, combiner, (expr,), start, final)
    return StructuredOp((output,), (Nest(extents, parallel, guards, (result,), scatter),), init)


def graph_of(*ops: StructuredOp | ReshapeOp, stores: tuple[Store, ...] = ()) -> Graph:
    graph = Graph()
    graph.ops.extend(ops)
    graph.stores.extend(stores)
    return graph


def sound() -> StructuredOp:
    return op(value(4), (U,), X[U, V])


def test_sound_graphs_pass() -> None:
    y, z = value(4), value(4)
    shifted = Guard(U + V - 1, 0, 5)
    looked = Affine((), 0, (Lookup(1, T, (U,)),))
    verify_graph(
        graph_of(op(y, (U,), X[U, U + V - 1], guards=(shifted,)), ReshapeOp(y, value(2, 2)), stores=(Store(S, y),))
    )
    verify_graph(graph_of(op(z, (looked,), X[U, V], scatter=True, init=0, parallel=0, guards=(Guard(looked, 0, 4),))))
    verify_graph(graph_of(op(value(4, 5), (U, V), X[U, V], parallel=2, combiner="assign")))
    verify_graph(graph_of(op(value(4), (U,), X[U, V], start=sc.read(S, (U,)))))
    verify_graph(graph_of(op(value(4), (U,), X[U, V], final=ACC * S[U] + X[U, 0])))
    verify_graph(graph_of(op(value(4, dtype=DType.BOOL), (U,), X[U, V], combiner="max", final=ACC > 0.0)))


ACC = sc.accumulator(DType.F32)
TABLE = Affine((), 0, (Lookup(1, T, (U + 1,)),))
BROKEN: dict[str, tuple[str, Callable[[], Graph]]] = {
    "read before": ("before it is defined", lambda: graph_of(op(value(4), (U,), value(4, 5)[U, V]))),
    "twice": ("defined twice", lambda: (lambda y: graph_of(op(y, (U,), X[U, V]), op(y, (U,), X[U, V])))(value(4))),
    "view": ("view changes", lambda: graph_of(ReshapeOp(X, value(7)))),
    "view type": ("view changes", lambda: graph_of(ReshapeOp(X, value(20, dtype=DType.I32)))),
    "iterator": ("outside the domain", lambda: graph_of(op(value(4), (U,), X[U, Affine.iterator(2)]))),
    "leaves": ("can leave", lambda: graph_of(op(value(4), (U,), X[U, V + 1]))),
    "wrong guard": ("can leave", lambda: graph_of(op(value(4), (U,), X[U, V + 1], guards=(Guard(V + 1, 0, 6),)))),
    "table leaves": ("can leave", lambda: graph_of(op(value(4), (U,), X[TABLE, V], guards=(Guard(TABLE, 0, 4),)))),
    "table order": (
        "before the guard",
        lambda: graph_of(op(value(4), (U,), X[TABLE, V], guards=(Guard(TABLE, 0, 4), Guard(U + 1, 0, 4)))),
    ),
    "guard's table": ("can leave", lambda: graph_of(op(value(4), (U,), X[U, V], guards=(Guard(TABLE, 0, 4),)))),
    "index' table": ("can leave", lambda: graph_of(op(value(4, dtype=DType.I32), (U,), sc.index(TABLE)))),
    "reduced output": ("reduction iterator", lambda: graph_of(op(value(5), (V,), X[U, V]))),
    "two terms": ("no reduction", lambda: graph_of(op(value(4), (U,), X[U, V], combiner="assign"))),
    "missing elements": (
        "other elements",
        lambda: graph_of(op(value(4), (U,), X[U, 0], extents=(4,), combiner="assign", guards=(Guard(U, 1, 4),))),
    ),
    "guarded write": ("can leave", lambda: graph_of(op(value(4), (U + 1,), X[U, V], guards=(Guard(U + 1, 0, 4),)))),
    "twice written": ("more than once", lambda: graph_of(op(value(5), (U,), X[U, 0], extents=(4, 2), parallel=2))),
    "overlapping digits": (
        "more than once",
        lambda: graph_of(op(value(8), (U + V,), X[U, V], parallel=2, combiner="assign")),
    ),
    "not written": ("4 of 5 elements", lambda: graph_of(op(value(5), (U,), X[U, V]))),
    "bool sum": (
        "truth values",
        lambda: graph_of(op(value(4, dtype=DType.BOOL), (U,), X[U, V] > 0.0)),
    ),
    "type": ("type of y", lambda: graph_of(op(value(4, dtype=DType.I32), (U,), X[U, V]))),
    "arity": ("takes 2 expressions", lambda: graph_of(op(value(4), (U,), X[U, V], combiner="dot"))),
    "scattered maximum": (
        "only sums",
        lambda: graph_of(op(value(4), (U,), X[U, V], combiner="max", scatter=True, init=0)),
    ),
    "scatter into nothing": ("initialised", lambda: graph_of(op(value(5), (V,), X[U, V], scatter=True))),
    "shared scatter": (
        "several parallel points",
        lambda: graph_of(op(value(5), (V,), X[U, V], scatter=True, init=0)),
    ),
    "late start": ("reduction iterator", lambda: graph_of(op(value(4), (U,), X[U, V], start=X[0, V]))),
    "guarded start": (
        "can leave",
        lambda: graph_of(op(value(4), (U,), X[U, V], start=S[U + 1], guards=(Guard(U + 1, 0, 4),))),
    ),
    "late final": ("reduction iterator", lambda: graph_of(op(value(4), (U,), X[U, V], final=ACC + X[0, V]))),
    "final position": (
        "reduction iterator",
        lambda: graph_of(op(value(4, dtype=DType.I32), (U,), X[U, V], final=sc.index(U + V))),
    ),
    "guarded final": (
        "can leave",
        lambda: graph_of(op(value(4), (U,), X[U, V], final=ACC + S[U + 1], guards=(Guard(U + 1, 0, 4),))),
    ),
    "type of the final": ("type of y", lambda: graph_of(op(value(4), (U,), X[U, V], final=ACC > 0.0))),
    "final of an assignment": (
        "only sums and maxima",
        lambda: graph_of(op(value(4), (U,), X[U, 0], extents=(4,), combiner="assign", final=ACC + 1.0)),
    ),
    "another accumulator": (
        "another type",
        lambda: graph_of(op(value(4), (U,), X[U, V], final=sc.cast(sc.accumulator(DType.I32), DType.F32))),
    ),
    "accumulator in a term": ("before it is finished", lambda: graph_of(op(value(4), (U,), X[U, V] + ACC))),
    "stored to a temporary": ("not persistent", lambda: graph_of(sound(), stores=(Store(value(4), X),))),
    "stored undefined": ("not defined", lambda: graph_of(stores=(Store(S, value(4)),))),
    "stored too large": ("does not fit", lambda: graph_of(stores=(Store(S, X),))),
    "stored twice": (
        "stored to twice",
        lambda: (lambda a: graph_of(a, stores=(Store(S, a.outputs[0]),) * 2))(sound()),
    ),
    "a stored constant": (
        "not persistent",
        lambda: (lambda a: graph_of(a, stores=(Store(C, a.outputs[0]),)))(sound()),
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_graphs_are_caught(name: str) -> None:
    message, build = BROKEN[name]
    with pytest.raises(InternalError, match=message):
        verify_graph(build())


def test_pieces_may_not_overlap() -> None:
    y = value(4)
    nests = [
        Nest((2,), 1, (), (Result((y,), (U + first,), "assign", (X[U, 0],)),)) for first in (0, 1)
    ]  # fmt: skip
    graph = graph_of(StructuredOp((y,), tuple(nests), 0.0))
    with pytest.raises(InternalError, match="written by two nests"):
        verify_graph(graph)
    disjoint = Nest((2,), 1, (), (Result((y,), (2 * U + 1,), "assign", (X[U, 0],)),))
    even = Nest((2,), 1, (), (Result((y,), (2 * U,), "assign", (X[U, 0],)),))
    verify_graph(graph_of(StructuredOp((y,), (even, disjoint))))


def test_empty_domains_are_sound() -> None:
    empty = Value("e", (0, 5), DType.F32, Kind.INPUT, np.zeros((0, 5), np.float32))
    verify_graph(graph_of(op(value(0), (U,), empty[U, V], extents=(0, 5))))
    verify_graph(graph_of(op(value(5), (U,), empty[V, U], extents=(5, 0))))
