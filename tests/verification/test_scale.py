"""The scale of a gradient is the sum of the magnitudes of its terms, found through views and additions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.verification.fake_build import make_batches, standard_build

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, lookup, reduce_max, reduce_sum, reshape, transpose
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.verification.scale import Scale, Scales

RANDOM = np.random.default_rng(0)
X, W = RANDOM.normal(size=(4, 6)), RANDOM.normal(size=(6, 5))


def scale_of(function: Callable[..., Value], *arrays: Any) -> Scale:
    graph = Graph("test")
    values = [Value(f"x{k}", np.shape(a), DType.of(np.asarray(a)), Kind.INPUT) for k, a in enumerate(arrays)]
    with graph.building():
        result = function(*values)
    env = run(graph, dict(zip(values, map(np.asarray, arrays), strict=True)), np.float64)
    before = {value: array.copy() for value, array in env.items()}
    scale = Scales(graph, env).of(result)
    assert all(np.array_equal(env[value], array) for value, array in before.items())
    assert scale.magnitude.shape == result.shape
    assert np.all(scale.magnitude >= np.abs(env[result]) * (1 - 1e-12))
    return scale


def matmul(x: Value, w: Value) -> Value:
    d = Domain()
    i, j = d.parallel(x.shape[0], w.shape[1])
    (k,) = d.reduction(x.shape[1])
    return d.sum(x[i, k] * w[k, j], (i, j))


def test_a_sum_of_products() -> None:
    scale = scale_of(matmul, X, W)
    np.testing.assert_allclose(scale.magnitude, np.abs(X) @ np.abs(W))
    assert scale.chain == 6


def test_a_sum() -> None:
    np.testing.assert_allclose(scale_of(lambda x: reduce_sum(x, 0), X).magnitude, np.abs(X).sum(0))


def test_views_and_permutations_are_looked_through() -> None:
    scale = scale_of(lambda x, w: transpose(reshape(matmul(x, w), (2, 2, 5)), (2, 0, 1)), X, W)
    expected = (np.abs(X) @ np.abs(W)).reshape(2, 2, 5).transpose(2, 0, 1)
    np.testing.assert_allclose(scale.magnitude, expected)


def test_additions_and_differences_are_looked_through() -> None:
    size = np.abs(X) @ np.abs(W)
    for function in (lambda a, b: a + b, lambda a, b: a - b, lambda a, b: -a - b):
        scale = scale_of(lambda x, w, f=function: f(matmul(x, w), matmul(x, w)), X, W)
        np.testing.assert_allclose(scale.magnitude, 2 * size)


def test_constant_factors_and_fused_additions_are_looked_through() -> None:
    size = np.abs(X) @ np.abs(W)
    scale = scale_of(lambda x, w: matmul(x, w) * -0.5 / 4.0, X, W)
    np.testing.assert_allclose(scale.magnitude, size / 8)
    scale = scale_of(lambda x, w: elementwise(lambda y: sc.fma(y, 0.0, y), matmul(x, w)), X, W)
    np.testing.assert_allclose(scale.magnitude, size)


def test_selections_take_the_side_that_they_select() -> None:
    scale = scale_of(lambda x, w: elementwise(lambda y: sc.select(y > 0.0, y, 0.0), matmul(x, w)), X, W)
    np.testing.assert_allclose(scale.magnitude, np.where(X @ W > 0, np.abs(X) @ np.abs(W), 0))


def test_a_factor_before_the_last_sum_is_looked_through() -> None:
    scale = scale_of(lambda x: reduce_sum(x, 1, True) * reduce_max(x, 1, True), X)
    np.testing.assert_allclose(scale.magnitude[:, 0], np.abs(X).sum(1) * np.abs(X.max(1)))
    scale = scale_of(lambda x: reduce_sum(x, 1) / reduce_max(x, 1), X)
    np.testing.assert_allclose(scale.magnitude, np.abs(X).sum(1) / np.abs(X.max(1)))


def test_a_factor_below_the_last_sum_is_not() -> None:
    def function(x: Value, w: Value) -> Value:
        y = matmul(x, w)
        return reduce_sum(y * y, 0)

    scale = scale_of(function, X, W)
    np.testing.assert_allclose(scale.magnitude, np.square(X @ W).sum(0))


def test_a_sum_of_sums_has_the_terms_of_both() -> None:
    scale = scale_of(lambda x, w: reduce_sum(matmul(x, w), 0), X, W)
    np.testing.assert_allclose(scale.magnitude, (np.abs(X) @ np.abs(W)).sum(0))
    assert scale.chain == 4 + 6


def test_what_is_no_sum_counts_with_its_magnitude() -> None:
    scale = scale_of(lambda x: elementwise(lambda v: sc.unary("sin", v), x), X)
    np.testing.assert_allclose(scale.magnitude, np.abs(np.sin(X)))
    np.testing.assert_allclose(scale_of(lambda x: reduce_max(x, 1), X).magnitude, np.abs(X.max(1)))


def test_additions_into_looked_up_places() -> None:
    from tilegrad.ir.builder import Pieces

    places = np.array([2, 0, 2, 1], np.int32)

    def function(x: Value, index: Value) -> Value:
        pieces = Pieces((3, 6), init=0.0)
        d = Domain()
        n, c = d.reduction(4, 6)
        pieces.sum(d, x[n, c], (lookup(index, n), c), scatter=True)
        return pieces.finish()

    expected = np.zeros((3, 6))
    np.add.at(expected, places, np.abs(X))
    np.testing.assert_allclose(scale_of(function, X, places).magnitude, expected)


def test_a_long_chain_needs_no_recursion() -> None:
    def function(x: Value) -> Value:
        total = reduce_sum(x, 1)
        for _ in range(1500):
            total = total + 1.0
        return total

    np.testing.assert_allclose(scale_of(function, X).magnitude, np.abs(X).sum(1) + 1500)


def test_cancelling_gradients_have_a_scale() -> None:
    """The bias in front of batch normalisation: its gradient is 0, its terms are not."""
    _, build = standard_build()
    graph = build.training_graph
    x, y = make_batches()[0]
    env = run(graph, dict(zip(graph.inputs, (x, y), strict=True)), np.float64)
    scales = Scales(graph, env)
    bias = build.gradient_values["inner.bias"]
    assert np.abs(env[bias]).max() < 1e-12
    assert scales.of(bias).magnitude.min() > 1e-3
    for value in build.gradient_values.values():
        assert np.all(scales.of(value).magnitude >= np.abs(env[value]) * (1 - 1e-9))
    assert float(scales.of(build.loss_value).magnitude) == pytest.approx(float(env[build.loss_value]), rel=10)


def test_an_infinite_allowance_passes_nothing() -> None:
    """A run that diverges spreads without bound; that must not excuse whatever the program computed."""
    from tilegrad.verification.compare import compare_tensor

    ones = np.ones(3)
    row = compare_tensor("w", "weight", ones * 2, ones, np.full(3, np.inf), ones, ones)
    assert not row.ok
