"""What is merged into the reduction before it, what is not, and that no bit changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, reduce_max, reduce_mean, reduce_sum, reshape, transpose
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.training.autodiff import gradients
from tilegrad.transforms.cleanup import eliminate_dead
from tilegrad.transforms.epilogue import merge_epilogues
from tilegrad.transforms.pipeline import transform


def value(name: str, *shape: int, dtype: DType = DType.F32, kind: Kind = Kind.INPUT) -> Value:
    return Value(name, shape, dtype, kind)


def merged(graph: Graph, *results: Value) -> list[StructuredOp]:
    """The operations that are left when `results` are stored."""
    for result in results:
        graph.stores.append(Store(Value("o", result.shape, result.dtype, Kind.OUTPUT), result))
    eliminate_dead(graph)
    merge_epilogues(graph)
    verify_graph(graph)
    return [op for op in graph.ops if isinstance(op, StructuredOp)]


def finals(ops: Sequence[StructuredOp]) -> list[str]:
    """The final expressions in print, those of all pieces."""
    return [repr(r.final) for op in ops for nest in op.nests for r in nest.results if r.final is not None]


def convolution(x: Value, w: Value, pad: int = 1) -> Value:
    d = Domain()
    k, i = d.parallel(w.shape[0], x.shape[1])
    c, r = d.reduction(x.shape[0], w.shape[2])
    return d.sum(x[c, i + r - pad] * w[k, c, r], (k, i), "y")


def test_a_bias_is_added_before_the_sum_is_stored() -> None:
    graph, x, w, b = Graph(), value("x", 3, 8), value("w", 4, 3, 3), value("b", 4)
    with graph.building():
        y = elementwise(lambda v, u: v + u, convolution(x, w), reshape(b, (4, 1)))
    (op,) = merged(graph, y)
    assert op.outputs == (y,) and finals([op]) == ["(acc + t[i0, 0])"]


def test_a_chain_of_readers_is_merged_as_a_whole() -> None:
    """A reciprocal standard deviation: sum, mean, shifted, root, reciprocal."""
    graph, x = Graph(), value("x", 5, 9)
    with graph.building():
        y = 1.0 / elementwise(sc.sqrt, reduce_mean(x * x, 1) + 1e-5)
    ops = merged(graph, y)
    assert len(ops) == 2  # the squares are a product of their own until they are inlined
    assert finals(ops) == ["(1.0 / sqrt(((acc / 9.0) + 9.999999747378752e-06)))"]


def test_a_chain_stops_where_a_value_has_two_readers() -> None:
    graph, x = Graph(), value("x", 5, 9)
    with graph.building():
        mean = reduce_mean(x, 1)
        a, b = elementwise(sc.exp, mean), elementwise(sc.log, mean)
    ops = merged(graph, a, b)
    assert len(ops) == 3 and finals(ops) == ["(acc / 9.0)"]


def test_what_is_stored_is_not_replaced() -> None:
    graph, x = Graph(), value("x", 5, 9)
    with graph.building():
        total = reduce_sum(x, 1)
        y = total * 2.0
    assert finals(merged(graph, total, y)) == []


def test_reads_of_one_element_more_than_once() -> None:
    graph, x = Graph(), value("x", 5, 9)
    with graph.building():
        y = elementwise(lambda v: v * v + v, reduce_sum(x, 1))
    assert finals(merged(graph, y)) == ["((acc * acc) + acc)"]


def test_through_views() -> None:
    graph, x, b = Graph(), value("x", 6, 4, 9), value("b", 2, 3, 4)
    with graph.building():
        y = elementwise(lambda v, u: v - u, reshape(reduce_sum(x, 2), (24,)), reshape(b, (24,)))
    (op,) = merged(graph, y)
    assert op.outputs == (y,) and finals([op]) == ["(acc - t.2[4*i0 + i1])"]


def test_a_view_that_splits_an_axis_is_left_alone() -> None:
    """Row and column of a split axis are no affine functions of it."""
    graph, x, b = Graph(), value("x", 6, 9), value("b", 2, 3)
    with graph.building():
        y = elementwise(lambda v, u: v - u, reshape(reduce_sum(x, 1), (2, 3)), b)
    assert finals(merged(graph, y)) == []


@pytest.mark.parametrize("reader", [
    lambda t, b: transpose(t, (1, 0)) * 2.0,  # another order in memory
    lambda t, b: elementwise(lambda v, u: v + u, reshape(t, (4, 6, 1)), reshape(b, (1, 1, 24))),  # read many times
    lambda t, b: elementwise(lambda v, u: v + u, t, reshape(elementwise(sc.exp, b), (4, 6))),  # known only later
])  # fmt: skip
def test_what_does_not_fit_is_left_alone(reader: Callable[[Value, Value], Value]) -> None:
    graph, x, b = Graph(), value("x", 4, 6, 5), value("b", 24)
    with graph.building():
        y = reader(reduce_sum(x, 2), b)
    assert finals(merged(graph, y)) == []


def test_of_two_sums_the_later_one_takes_the_reader() -> None:
    graph, x, w = Graph(), value("x", 4, 5), value("w", 4, 5)
    with graph.building():
        y = reduce_sum(x, 1) + reduce_sum(w, 1)
    first, second = merged(graph, y)
    assert finals([first]) == [] and finals([second]) == ["(t[i0] + acc)"]


def test_all_pieces_of_a_strided_gradient_take_the_mask() -> None:
    graph, x, w, seed = Graph(), value("x", 9), value("w", 3), value("g", 4)
    with graph.building():
        d = Domain()
        (i,) = d.parallel(4)
        (r,) = d.reduction(3)
        y = d.sum(elementwise(lambda v: sc.select(v > 0.0, v, 0.0), x)[2 * i + r] * w[r], (i,))
        found = gradients(graph, y, seed, [x])
    ops = merged(graph, found[x])
    (op,) = ops
    assert len(op.nests) > 1 and len(finals(ops)) + sum(
        r.combiner == "assign" for nest in op.nests for r in nest.results
    ) == len(op.nests)


def test_elements_that_are_only_initialised_keep_the_operation_apart() -> None:
    graph, x = Graph(), value("x", 4, 5)
    with graph.building():
        d = Domain()
        i, j = d.parallel(4, 2)
        (r,) = d.reduction(2)
        y, seed = d.sum(x[i, 2 * j + r], (i, j)), value("g", 4, 2)
        found = gradients(graph, y, seed, [x])
        z = found[x] + 1.0
    assert finals(merged(graph, z)) == []


def test_phases_stay_apart_and_the_optimizer_stays_as_it_is() -> None:
    for phases in (("forward", "backward"), ("backward", "optimizer"), ("optimizer", "optimizer")):
        graph, x = Graph(), value("x", 4, 5)
        with graph.building():
            with graph.scope(phase=phases[0]):
                total = reduce_sum(x, 1)
            with graph.scope(phase=phases[1]):
                y = total * 0.1
        assert finals(merged(graph, y)) == []


def test_state_that_is_read_in_between_is_not_replaced_earlier() -> None:
    """Computed with the sum, the new state would have to wait in another place for the reader of the old one."""
    for late_reader in (False, True):
        graph, x, state = Graph(), value("x", 4, 5), value("s", 4, kind=Kind.BUFFER)
        with graph.building():
            total = reduce_sum(x, 1)
            other = elementwise(lambda s: s * 3.0, state) if late_reader else x * 3.0
            new = elementwise(lambda s, t: s + t, state, total)
        graph.stores.append(Store(state, new))
        assert len(finals(merged(graph, other))) == (0 if late_reader else 1)


def test_a_mask_that_is_inlined_afterwards_is_not_a_contraction_operand() -> None:
    """The final expression is evaluated once per element, so what it reads is recomputed there, not stored."""
    graph, x, w, g = Graph(), value("x", 3, 8), value("w", 4, 3, 3), value("g", 4, 8)
    with graph.building():
        z = elementwise(lambda v: v * 2.0 - 1.0, x)
        y = convolution(elementwise(lambda v: sc.select(v > 0.0, v, 0.0), z), w)
        found = gradients(graph, y, g, [x])
    graph.stores.append(Store(Value("o", x.shape, DType.F32, Kind.OUTPUT), found[x]))
    transform(graph)
    (op,) = (op for op in graph.ops if isinstance(op, StructuredOp))
    assert op.outputs[0].shape == x.shape and x in op.operands


Body = Callable[[Value], Value]
BODIES: dict[str, Body] = {
    "bias and mask": lambda y: elementwise(lambda v: sc.select(v > 0.0, v + 0.5, v * 0.1), y),
    "function": lambda y: elementwise(lambda v: 1.0 / sc.sqrt(sc.absolute(v) + 0.3), y),
    "comparison": lambda y: elementwise(lambda v: v > 0.25, y),
    "another type": lambda y: elementwise(lambda v: sc.cast(v * 7.0, DType.I32), y),
    "position": lambda y: times_position(y),
}


def times_position(y: Value) -> Value:
    d = Domain()
    rows = d.parallel(*y.shape)
    return d.assign(y[rows] * sc.cast(sc.index(rows[-1]), DType.F32), rows)


@pytest.mark.parametrize("body", sorted(BODIES))
def test_no_bit_changes_in_any_form(body: str) -> None:
    """Rows, chains, blocks, maxima, integers and blocked sums against the plain code, and against the interpreter."""
    graph = Graph()
    x, w = value("x", 3, 40), value("w", 4, 3, 3)
    wide, deep, whole = value("v", 6, 7), value("u", 5, 3, 80), value("n", 4, 9, dtype=DType.I32)
    with graph.building():
        sums = [convolution(x, w), reduce_sum(wide, 1), reduce_max(wide, 0), reduce_sum(deep, (1, 2))]
        counted = elementwise(lambda v: sc.cast(v, DType.F32), reduce_sum(whole, 1))
        outputs = [BODIES[body](y) for y in [*sums, counted]]
    rng = np.random.default_rng(3)
    feeds = {v: rng.uniform(-1, 1, v.shape).astype(np.float32) for v in (x, w, wide, deep)}
    feeds[whole] = rng.integers(-50, 50, whole.shape).astype(np.int32)
    plain = run_compiled(graph, outputs, feeds, optimize=False, optimization="-O1")
    fast = run_compiled(graph, outputs, feeds)
    for output, a, b in zip(outputs, plain, fast, strict=True):
        assert same_bits(a, b), output.name
    expected = run(graph, feeds, np.float64)
    expected = [expected[output] for output in outputs]
    ops = merged(graph, *outputs)
    assert len(finals(ops)) == len(outputs)
    env = run(graph, feeds, np.float64)
    for store, wanted in zip(graph.stores, expected, strict=True):
        np.testing.assert_allclose(env[store.value], wanted, rtol=1e-12)
