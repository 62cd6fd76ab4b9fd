"""Softmax, log-softmax and log-sum-exp against PyTorch: stability, rows of -inf, NaN, gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import check_onnx
from operator_harness import check, draw

from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators import registry, softmax
from tilegrad.operators.registry import UnsupportedCall


def aten(name: str, *args: Any) -> Any:
    function = registry.find_aten(f"aten.{name}")
    assert function is not None
    return function(*args)


PAIRS = {
    "softmax": (lambda x, axis: aten("softmax.int", x, axis), torch.softmax),
    "log_softmax": (lambda x, axis: aten("log_softmax.int", x, axis), torch.log_softmax),
    "logsumexp": (lambda x, axis: aten("logsumexp.default", x, [axis]), torch.logsumexp),
    "_softmax": (lambda x, axis: aten("_softmax.default", x, axis, False), torch.softmax),
    "_log_softmax": (lambda x, axis: aten("_log_softmax.default", x, axis, False), torch.log_softmax),
    "_safe_softmax": (lambda x, axis: aten("_safe_softmax.default", x, axis), torch.ops.aten._safe_softmax.default),
}


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=10, derandomize=True, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data(),
    scale=st.sampled_from([1.0, 50.0, 1000.0]),
)  # fmt: skip
def test_any_axis_and_magnitude(name: str, shape: list[int], data: st.DataObject, scale: float) -> None:
    mine, theirs = PAIRS[name]
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(lambda x: mine(x, axis), lambda x: theirs(x, axis), draw(*shape) * scale)


@pytest.mark.parametrize("name", PAIRS)
def test_infinities_and_nan(name: str) -> None:
    mine, theirs = PAIRS[name]
    x = draw(5, 3)
    x[0], x[1, 1], x[2, 0], x[3, 2] = -np.inf, np.inf, np.nan, -np.inf
    check(lambda x: mine(x, 1), lambda x: theirs(x, 1), x)


def test_a_fully_masked_row_is_nan_or_zero() -> None:
    x = np.full((1, 3), -np.inf)
    graph = Graph("test")
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with graph.building():
        plain, safe = softmax.softmax(value, 1), softmax.safe_softmax(value, 1)
    env = run(graph, {value: x})
    assert np.isnan(env[plain]).all()
    assert (env[safe] == 0).all()


def test_scalars() -> None:
    for name in ("softmax", "log_softmax"):
        mine, theirs = PAIRS[name]
        check(lambda x, f=mine: f(x, -1), lambda x, f=theirs: f(x, -1), np.array(1.5))


def test_several_axes() -> None:
    x = draw(3, 4, 5) * 200
    for axes, keepdim in (((0, 2), False), ((0, 2), True), ((-1, 0, 1), False)):
        check(
            lambda x, a=axes, k=keepdim: aten("logsumexp.default", x, list(a), k),
            lambda x, a=axes, k=keepdim: torch.logsumexp(x, a, k), x,
        )  # fmt: skip


@pytest.mark.parametrize("function", [softmax.softmax, softmax.safe_softmax, softmax.log_softmax, softmax.logsumexp])
def test_gradients_are_central_differences(function: Any) -> None:
    check_differences(lambda x: function(x, 1), draw(2, 4, 2))


def test_large_logits_keep_their_differences_in_float32() -> None:
    x = np.array([[1e6, 1e6 + 1.0, 1e6 - 2.0]])
    graph = Graph("test")
    value = Value("x", x.shape, DType.F32, Kind.INPUT)
    with graph.building():
        result = softmax.log_softmax(value, 1)
    wanted = torch.log_softmax(torch.tensor(x), 1).numpy()
    np.testing.assert_allclose(run(graph, {value: x}, np.float32)[result], wanted, rtol=1e-6)


def test_types() -> None:
    x = np.array([[1, 2, 4]], np.int64)
    check(
        lambda x: aten("softmax.int", x, 1, torch.float32),
        lambda x: torch.softmax(x, 1, torch.float32),
        x,
        tolerance=1e-6,
        gradient=False,
    )
    for arguments in ((1,), (1, torch.float64)):
        with pytest.raises(UnsupportedCall):
            check(lambda x, a=arguments: aten("softmax.int", x, *a), lambda x: x, x)


def test_onnx() -> None:
    x = draw(2, 3, 4).astype(np.float32)
    for axis in (None, 0, 1, -1):
        attributes = {} if axis is None else {"axis": axis}
        check_onnx("Softmax", [x], attributes)
        check_onnx("LogSoftmax", [x], attributes)
    axes = np.array([0, 2])
    check_onnx("ReduceLogSumExp", [x, axes], {"keepdims": 0}, constants=(1,))
    check_onnx("ReduceLogSumExp", [x], {"axes": [1]}, opset=13)
    check_onnx("ReduceLogSumExp", [x], {})
    check_onnx("ReduceLogSumExp", [x, np.array([], np.int64)], {"noop_with_empty_axes": 1}, constants=(1,))
    with pytest.raises(UnsupportedCall, match="compile time"):
        check_onnx("ReduceLogSumExp", [x, axes], {})


def test_minus_infinity_costs_nothing_beside_finite_logits() -> None:
    x = np.array([[0.0, -math.inf, 1.0]])
    check(lambda x: softmax.softmax(x, 1), lambda x: torch.softmax(x, 1), x)
