"""What is evaluated when the graph is built, and what is left to the program."""

from __future__ import annotations

import numpy as np

from tilegrad.ir import expr as sc
from tilegrad.ir.builder import constant, elementwise, full, reduce_sum
from tilegrad.ir.folding import LIMITS, uniform
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind


def test_integers_are_evaluated() -> None:
    graph = Graph()
    with graph.building():
        y = elementwise(lambda a, b: a * b + 1, constant([1, 2, 3]), constant([4, 5, 6]))
    assert not graph.ops and y.is_constant
    np.testing.assert_array_equal(y.data, [5, 11, 19])


def test_floats_are_evaluated_only_where_every_machine_agrees() -> None:
    graph = Graph()
    floats = np.array([1.0, 2.5], np.float32)
    with graph.building():
        exact = elementwise(lambda a: a / 3.0, constant(floats))
        function = elementwise(sc.exp, constant(floats))
        fused = elementwise(lambda a: sc.fma(a, a, 0.1), constant(floats))
        total = reduce_sum(constant(floats))
    assert exact.is_constant
    np.testing.assert_array_equal(exact.data, floats / np.float32(3.0))
    assert not any(value.is_constant for value in (function, fused, total))
    assert [op.outputs[0] for op in graph.ops] == [function, fused, total]


def test_large_results_are_computed_where_they_are_read() -> None:
    graph = Graph()
    with graph.building():
        large = full((LIMITS[DType.F32] + 1,), 2.5)
        small = full((LIMITS[DType.F32],), 2.5)
    assert not large.is_constant and small.is_constant


def test_results_that_depend_on_an_input_are_kept() -> None:
    graph = Graph()
    x = Value("x", (2,), DType.I64, Kind.INPUT)
    with graph.building():
        y = elementwise(lambda a, b: a + b, x, constant([1, 2]))
    assert not y.is_constant and len(graph.ops) == 1


def test_a_uniform_constant_is_its_number() -> None:
    graph = Graph()
    with graph.building():
        assert uniform(constant(np.full((2, 3), 1.5, np.float32))) == 1.5
        assert uniform(constant([3, 3])) == 3
        assert uniform(constant(np.array([0.0, -0.0], np.float32))) is None
        assert uniform(constant([1, 2])) is None
        assert uniform(full((1000,), 1.0)) is None  # computed, so not known as data
