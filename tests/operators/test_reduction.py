"""Reductions against PyTorch and the ONNX reference: axes, dtypes, moments, norms, running sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from aten_harness import check_aten, find
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx
from operator_harness import build, check, draw

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import StructuredOp
from tilegrad.operators import reduction

X = draw(2, 3, 4)
INTEGERS = np.array([[3, -4, 0], [1, 2, 2]])
BOOLS = np.array([[True, False, True], [True, True, True]])
AXES: list[Any] = [None, [], [0], [1, 2], [-1], [0, 1, 2]]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("name", ["sum.dim_IntList", "mean.dim", "var.dim", "std.dim"])
def test_over_axes(name: str, axes: Any, keep: bool) -> None:
    extra = (True, keep) if name[0] in "v" or name.startswith("std") else (keep,)
    # PyTorch's own gradient of a variance over "no" axes, which stand for all of them, divides by zero.
    check_aten(name, X, axes, *extra, gradient=axes != [] or len(extra) == 1)


@pytest.mark.parametrize("name", ["sum", "mean", "var", "std", "prod", "norm", "any", "all"])
def test_over_everything(name: str) -> None:
    overload = "Scalar" if name == "norm" else "default"
    check_aten(f"{name}.{overload}", X)
    check_aten(f"{name}.{overload}", draw(5))


@pytest.mark.parametrize("array", [INTEGERS, INTEGERS.astype(np.int32), BOOLS])
def test_integers_are_counted_in_i64(array: Any) -> None:
    check_aten("sum.default", array)
    check_aten("sum.dim_IntList", array, [1])
    check_aten("cumsum.default", array, 1)
    check_aten("prod.dim_int", array, 0)
    check_aten("count_nonzero.default", array)
    check_aten("count_nonzero.dim_IntList", array, [0])


def test_integers_have_no_mean() -> None:
    with pytest.raises(ShapeError, match="convert it to float"):
        check_aten("mean.default", INTEGERS)


@pytest.mark.parametrize("correction", [0, 1, 2, 0.5, None])
@pytest.mark.parametrize("name", ["var", "std", "var_mean", "std_mean"])
def test_corrections(name: str, correction: Any) -> None:
    for axes in (None, [1], [0, 2]):
        check_aten(f"{name}.correction", draw(3, 4, 3), axes, correction=correction)
        check_aten(f"{name}.correction", draw(3, 4, 3), axes, correction=correction, keepdim=True)


def test_moments_of_equal_elements() -> None:
    check_aten("std.dim", np.ones((2, 3)), [1])
    check_aten("var.dim", draw(3, 1), [1], False)


def test_moments_without_degrees_of_freedom_are_nan() -> None:
    check_aten("var.dim", draw(3, 1), [1], gradient=False)


def test_the_gradient_of_the_variance_is_two_reductions() -> None:
    graph, *_ = build(lambda x: reduction.var(x, [1, 2]), [X])
    backward = [op for op in graph.ops if isinstance(op, StructuredOp) and op.phase == "backward"]
    assert all(nest.parallel == len(nest.extents) for op in backward for nest in op.nests)


def test_variance_far_from_zero_is_accurate_in_float32() -> None:
    array = 1000.0 + draw(64)
    graph, (x,), (y,), (seed,), gradients = build(lambda v: reduction.var(v), [array])
    env = run(graph, {x: array, seed: np.array(1.0)}, np.float32)
    rounded = array.astype(np.float32).astype(np.float64)
    assert env[y] == pytest.approx(rounded.var(ddof=1), rel=1e-4)
    np.testing.assert_allclose(env[gradients[x]], 2 * (rounded - rounded.mean()) / 63, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("extent", [1, 2, 3, 5, 8, 13])
def test_products(extent: int) -> None:
    check_aten("prod.dim_int", draw(2, extent, 3), 1)
    check_aten("prod.dim_int", draw(extent), 0, True)
    check_aten("cumprod.default", draw(2, extent), 1)


@pytest.mark.parametrize("zeros", [1, 2])
def test_products_with_zeros(zeros: int) -> None:
    x = draw(5)
    x[:zeros] = 0.0
    check_aten("prod.default", x)
    check_aten("cumprod.default", x, 0)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_running_sums(dim: int) -> None:
    check_aten("cumsum.default", X, dim)
    check_aten("cumsum.default", draw(), 0)


@pytest.mark.parametrize("order", [2, 1, 0, math.inf, -math.inf, 3, 1.5])
def test_norms(order: float) -> None:
    for axes in (None, [1], [0, 2]):
        check_aten("linalg_vector_norm.default", X, order, axes, tolerance=1e-5)
    check_aten("linalg_vector_norm.default", X, order, [2], True, tolerance=1e-5)
    check_aten("norm.ScalarOpt_dim", X, order, [1], tolerance=1e-5)


@pytest.mark.parametrize("order", [2, 1, math.inf, -math.inf, 3, 1.5])
def test_norms_at_zero_and_ties(order: float) -> None:
    check_aten("norm.Scalar", np.zeros(3), order)
    check_aten("norm.Scalar", np.array([2.0, -2.0, 0.5, 0.5]), order, tolerance=1e-5)


def test_other_names_of_the_norm() -> None:
    check_aten("norm.ScalarOpt_dim", X, None, [0, 1], True)
    check_aten("frobenius_norm.dim", X, [1, 2])


@pytest.mark.parametrize("array", [INTEGERS, BOOLS, np.array([[0.0, math.nan], [1.0, 0.0]])])
@pytest.mark.parametrize("name", ["any", "all"])
def test_logic(name: str, array: Any) -> None:
    check_aten(f"{name}.default", array)
    check_aten(f"{name}.dim", array, 1, True)
    check_aten(f"{name}.dims", array, [0, 1])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data(), st.booleans())
def test_any_axes(shape: list[int], data: st.DataObject, keep: bool) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    check_aten("sum.dim_IntList", draw(*shape), axes, keep)
    check_aten("var.dim", draw(*shape), axes, False, keep, gradient=bool(axes))
    check_aten("linalg_vector_norm.default", draw(*shape), 2, axes, keep)


@pytest.mark.parametrize("name", ["std.default", "prod.default", "norm.Scalar", "cumsum.default", "mean.default"])
def test_gradients_agree_with_central_differences(name: str) -> None:
    array = draw(3, 3)
    extra = (1,) if name.startswith("cumsum") else ()
    graph, (x,), (y,), (seed,), gradients = build(lambda v: find(name)(v, *extra), [array])
    weights = draw(*y.shape, seed=1)
    env = run(graph, {x: array, seed: weights}, np.float64)
    for place in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[place] = 1e-6
        ahead, behind = (run(graph, {x: array + s * step, seed: weights}, np.float64)[y] for s in (1, -1))
        wanted = float((weights * (ahead - behind)).sum() / 2e-6)
        assert env[gradients[x]][place] == pytest.approx(wanted, abs=1e-5)


F = (np.abs(X) + 0.25).astype(np.float32)
REDUCTIONS = [
    "ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceMax",
    "ReduceMin",
]  # fmt: skip


@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_onnx_reductions(op_type: str) -> None:
    for keep in (0, 1):
        for axes in ([1], [-1, 0]):
            check_onnx(op_type, [F, np.array(axes)], {"keepdims": keep}, constants=[1], tolerance=1e-5)
        check_onnx(op_type, [F], {"keepdims": keep}, tolerance=1e-5)
    if op_type != "ReduceSum":
        check_onnx(op_type, [F], {"axes": [0, 2]}, opset=13, tolerance=1e-5)


@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_onnx_reductions_over_nothing(op_type: str) -> None:
    elementwise = {
        "ReduceL1": np.abs, "ReduceL2": np.abs, "ReduceSumSquare": np.square, "ReduceLogSum": np.log,
    }  # fmt: skip
    wanted = elementwise.get(op_type, lambda v: v)(F)
    check(
        adapter(op_type, noop_with_empty_axes=1),
        lambda x: torch.tensor(wanted) * 1.0,
        F,
        gradient=False,
        tolerance=1e-6,
    )


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
def test_onnx_cumsum(exclusive: int, reverse: int) -> None:
    attributes = {"exclusive": exclusive, "reverse": reverse}
    for axis in (0, 2, -2):
        check_onnx("CumSum", [F, np.array(axis)], attributes, constants=[1], tolerance=1e-5)
