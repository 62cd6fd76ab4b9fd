"""What becomes one operation, what stays apart, and that no bit changes."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, reduce_max, reduce_sum, reshape
from tilegrad.ir.expr import walk
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.transforms.cleanup import eliminate_dead
from tilegrad.transforms.pipeline import transform
from tilegrad.transforms.siblings import RESULT_LIMIT, TINY, merge_siblings

LARGE = 2 * TINY


def value(name: str, *shape: int, kind: Kind = Kind.INPUT) -> Value:
    return Value(name, shape, DType.F32, kind)


def merged(graph: Graph, *results: Value) -> list[StructuredOp]:
    """The operations that are left when `results` are stored."""
    for result in results:
        graph.stores.append(Store(Value("o", result.shape, result.dtype, Kind.OUTPUT), result))
    rng = np.random.default_rng(0)
    feeds = {v: rng.normal(size=v.shape) for v in graph.persistent() if v.dtype.is_float}
    before = run(graph, feeds, np.float64)
    merge_siblings(graph)
    verify_graph(graph)
    after = run(graph, feeds, np.float64)
    for store in graph.stores:
        np.testing.assert_array_equal(after[store.value], before[store.value])
    return [op for op in graph.ops if isinstance(op, StructuredOp)]


def counts(ops: list[StructuredOp]) -> list[int]:
    """How many results each operation has."""
    return [len(op.outputs) for op in ops]


def test_sums_over_the_same_data_are_one_pass() -> None:
    """The two sums of batch normalisation's backward pass, whose mask is computed once."""
    graph, x, g = Graph(), value("x", 4, LARGE), value("g", 4, LARGE)
    with graph.building():
        d = Domain()
        (c,) = d.parallel(4)
        (i,) = d.reduction(LARGE)
        masked = sc.select(x[c, i] > 0.0, g[c, i], 0.0)
        a, b = d.sum(masked, (c,)), d.sum(masked * x[c, i], (c,))
    (op,) = merged(graph, a, b)
    assert [result.combiner for result in op.nests[0].results] == ["sum", "dot"]
    assert sum(node.op == "select" for node in walk(*op.nests[0].exprs)) == 1


def test_sums_over_other_data_stay_apart() -> None:
    graph, x, g = Graph(), value("x", 4, LARGE), value("g", 4, LARGE)
    with graph.building():
        a, b = reduce_sum(x, 1), reduce_sum(g, 1)
    assert counts(merged(graph, a, b)) == [1, 1]


def test_products_of_matrices_stay_apart() -> None:
    """They read the same matrix, but each element many times: they are blocked one by one."""
    graph, x = Graph(), value("x", 64, 64)
    results = []
    with graph.building():
        for name in ("w", "v"):
            w = value(name, 64, 64)
            d = Domain()
            i, j = d.parallel(64, 64)
            (k,) = d.reduction(64)
            results.append(d.sum(x[i, k] * w[k, j], (i, j)))
    assert counts(merged(graph, *results)) == [1, 1]


def test_small_operations_share_a_call() -> None:
    graph, x, y = Graph(), value("x", 16), value("y", 16)
    with graph.building():
        results = [elementwise(sc.exp, x), elementwise(sc.log, y)]
    assert counts(merged(graph, *results)) == [2]


def test_a_small_operation_on_the_result_of_another_one() -> None:
    """The reciprocal deviation and its product with a weight: the deviation is computed once, beside it."""
    graph, x, w = Graph(), value("x", 16), value("w", 16)
    with graph.building():
        inverse = elementwise(lambda v: 1.0 / sc.sqrt(sc.absolute(v) + 1.0), x)
        scaled = elementwise(lambda v, u: v * u, inverse, w)
    (op,) = merged(graph, inverse, scaled)
    assert sum(node.op == "sqrt" for node in walk(*op.nests[0].exprs)) == 1
    assert inverse not in op.operands


def test_other_elements_of_another_result_are_waited_for() -> None:
    graph, x = Graph(), value("x", 16)
    with graph.building():
        a = elementwise(sc.exp, x)
        d = Domain()
        (i,) = d.parallel(16)
        b = d.assign(a[15 - i], (i,))
    assert counts(merged(graph, a, b)) == [1, 1]


def test_a_sum_that_needs_the_other_one_stays_behind_it() -> None:
    """Mean and variance."""
    graph, x = Graph(), value("x", 4, LARGE)
    with graph.building():
        a = reduce_sum(x, 1)
        b = reduce_sum(x, 1, False, lambda v, m: (v - m) * (v - m), reshape(a, (4, 1)))
    assert counts(merged(graph, a, b)) == [1, 1]


def test_what_is_in_between_stays_in_between() -> None:
    """The second sum needs an operation that needs the first one, through views."""
    graph, x = Graph(), value("x", 4, 8)
    with graph.building():
        a = reduce_sum(x, 1)
        middle = reshape(elementwise(sc.exp, reshape(a, (2, 2))), (4, 1))
        b = reduce_sum(x, 1, False, lambda v, m: v * m, middle)
    assert counts(merged(graph, a, b)) == [1, 1, 1]


def test_the_first_one_waits_where_the_second_one_cannot_come_earlier() -> None:
    graph, x = Graph(), value("x", 4, LARGE)
    with graph.building():
        a = reduce_sum(x, 1)
        other = reduce_max(x, 0)
        b = reduce_sum(x, 1, False, lambda v, m: v * m, reshape(other, (1, LARGE)))
    ops = merged(graph, a, b)
    assert counts(ops) == [1, 2] and ops[1].outputs == (a, b)


def test_views_move_with_their_readers() -> None:
    graph, x = Graph(), value("x", 4, 6)
    with graph.building():
        a = reduce_sum(x, 1)
        b = reduce_sum(reshape(reshape(x, (24,)), (4, 6)), 1, False, lambda v: v * v)
    assert counts(merged(graph, a, b)) == [2]


def test_phases_and_updates_stay_apart() -> None:
    for phases in (("forward", "backward"), ("optimizer", "optimizer")):
        graph, x = Graph(), value("x", 16)
        results = []
        with graph.building():
            for phase, body in zip(phases, (sc.exp, sc.log), strict=True):
                with graph.scope(phase=phase):
                    results.append(elementwise(body, x))
        assert counts(merged(graph, *results)) == [1, 1]


def test_state_that_is_read_is_replaced_by_an_operation_of_its_own() -> None:
    graph, x, state = Graph(), value("x", 16), value("s", 16, kind=Kind.BUFFER)
    with graph.building():
        new = elementwise(lambda s, v: s * 0.9 + v, state, x)
        other = elementwise(sc.exp, x)
    graph.stores.append(Store(state, new))
    assert counts(merged(graph, other)) == [1, 1]


def test_a_reader_of_state_does_not_move_behind_its_update() -> None:
    graph, x, state = Graph(), value("x", 16), value("s", 16, kind=Kind.BUFFER)
    with graph.building():
        first = elementwise(lambda s: s * 3.0, state)
        new = elementwise(lambda s, v: s * 0.9 + v, state, x)
        middle = reduce_sum(elementwise(sc.exp, x), 0)
        second = elementwise(lambda v, m: v * m, x, middle)
    graph.stores.append(Store(state, new))
    ops = merged(graph, first, second)
    assert all(op.outputs != (first, second) for op in ops)


def test_operations_do_not_grow_without_end() -> None:
    graph, x = Graph(), value("x", 16)
    with graph.building():
        results = [elementwise(lambda v, k=k: v * float(k + 2), x) for k in range(RESULT_LIMIT + 1)]
    assert counts(merged(graph, *results)) == [RESULT_LIMIT, 1]


@pytest.mark.parametrize("guarded", [False, True])
def test_no_bit_changes(guarded: bool) -> None:
    graph, x, w = Graph(), value("x", 6, 300), value("w", 6)
    with graph.building():
        d = Domain()
        (c,) = d.parallel(6)
        (i,) = d.reduction(300)
        if guarded:
            d.require(i + c, 2, 299)
        term = sc.select(x[c, i] > 0.0, x[c, i], 0.0)
        sums = [d.sum(term, (c,)), d.sum(term * x[c, i], (c,)), d.max(term, (c,))]
        deviation = elementwise(lambda a, b: 1.0 / sc.sqrt(a * a + b + 1.0), sums[0], sums[1])
        scaled = elementwise(lambda v, u: v * u, deviation, w)
    outputs = [*sums, deviation, scaled]
    rng = np.random.default_rng(1)
    feeds = {v: rng.uniform(-1, 1, v.shape).astype(np.float32) for v in (x, w)}
    plain = run_compiled(graph, outputs, feeds, optimize=False, optimization="-O1")
    fast = run_compiled(graph, outputs, feeds)
    for output, a, b in zip(outputs, plain, fast, strict=True):
        assert same_bits(a, b), output.name
    for output in outputs:
        graph.stores.append(Store(Value("o", output.shape, output.dtype, Kind.OUTPUT), output))
    transform(graph)
    eliminate_dead(graph)
    assert sum(isinstance(op, StructuredOp) for op in graph.ops) == 2
