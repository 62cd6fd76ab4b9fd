"""Functions of one variable against PyTorch and the ONNX reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from aten_harness import check_aten, find
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import check_onnx
from operator_harness import build, draw

from tilegrad.interpreter.execute import run
from tilegrad.operators.registry import UnsupportedCall

ANYWHERE = [
    "exp",
    "exp2",
    "expm1",
    "square",
    "neg",
    "negative",
    "abs",
    "sin",
    "cos",
    "erf",
    "erfc",
    "frac",
    "sign",
    "sgn",
]
POSITIVE = ["log", "log1p", "log2", "log10", "sqrt", "rsqrt", "reciprocal"]
ROUNDING = ["floor", "ceil", "round", "trunc"]
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5])


@pytest.mark.parametrize("suffix", ["", "_"])
@pytest.mark.parametrize("name", ANYWHERE + ROUNDING)
def test_forward_and_gradient(name: str, suffix: str) -> None:
    check_aten(f"{name}{suffix}.default", draw(3, 5))
    check_aten(f"{name}{suffix}.default", SPECIAL)


@pytest.mark.parametrize("suffix", ["", "_"])
@pytest.mark.parametrize("name", POSITIVE)
def test_forward_and_gradient_of_positive_numbers(name: str, suffix: str) -> None:
    check_aten(f"{name}{suffix}.default", draw(3, 5, low=0.1, high=4.0), tolerance=1e-5)


@pytest.mark.parametrize("name", [*ANYWHERE, *POSITIVE, *ROUNDING])
def test_nan_and_infinities(name: str) -> None:
    value = np.array([math.nan, math.inf])
    check_aten(f"{name}.default", value, gradient=name not in ("frac", "erfc", "erf", "sin", "cos", "exp2", "sgn"))


@pytest.mark.parametrize("name", ["sqrt", "rsqrt", "reciprocal", "log"])
def test_at_zero(name: str) -> None:
    check_aten(f"{name}.default", np.array([0.0, 4.0]), gradient=name != "rsqrt")


@pytest.mark.parametrize("name", ["isnan", "isinf", "isfinite"])
def test_tests_of_numbers(name: str) -> None:
    check_aten(f"{name}.default", np.array([0.0, math.nan, math.inf, -math.inf, 3e38]))
    check_aten(f"{name}.default", np.array([0, 1, 2]))


def test_nan_to_num() -> None:
    x = np.array([0.5, math.nan, math.inf, -math.inf])
    check_aten("nan_to_num.default", x, 1.0, 2.0, -3.0)
    graph, operands, (y,), _, _ = build(find("nan_to_num.default"), [x])
    largest = np.finfo(np.float32).max
    np.testing.assert_array_equal(run(graph, {operands[0]: x})[y], np.array([0.5, 0, largest, -largest], np.float32))


@pytest.mark.parametrize("name", ["abs", "neg", "sign", "square", "floor", "round"])
def test_integers_stay_integers(name: str) -> None:
    check_aten(f"{name}.default", np.array([3, -4, 0]))


@pytest.mark.parametrize("name", ["exp", "sqrt", "log1p", "reciprocal", "erf"])
def test_integers_become_floats(name: str) -> None:
    from aten_harness import aten_op
    from operator_harness import check

    # PyTorch computes float functions of integers in float32.
    check(find(f"{name}.default"), aten_op(f"{name}.default"), np.array([3, 4, 1]), tolerance=1e-6)


def test_rounding_to_decimals_is_refused() -> None:
    check_aten("round.decimals", draw(4), decimals=0)
    with pytest.raises(UnsupportedCall, match="decimals=2"):
        check_aten("round.decimals", draw(4), decimals=2)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.sampled_from(ANYWHERE), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 99))
def test_any_shape(name: str, shape: list[int], seed: int) -> None:
    check_aten(f"{name}.default", draw(*shape, seed=seed))


@pytest.mark.parametrize("name", ["exp2", "expm1", "rsqrt", "log10", "erf", "cos", "log1p"])
def test_gradient_agrees_with_central_differences(name: str) -> None:
    array, weights = draw(7, low=0.3, high=2.0), draw(7, seed=4)
    graph, (x,), (y,), (seed,), gradients = build(find(f"{name}.default"), [array])
    env = run(graph, {x: array, seed: weights}, np.float64)
    ahead, behind = (run(graph, {x: array + h, seed: weights}, np.float64)[y] for h in (1e-6, -1e-6))
    np.testing.assert_allclose(env[gradients[x]], weights * (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "op_type",
    ["Exp", "Log", "Sqrt", "Reciprocal", "Neg", "Abs", "Sign", "Sin", "Cos", "Erf", "Floor", "Ceil", "Round", "IsNaN"],
)
def test_onnx_names(op_type: str) -> None:
    low = 0.1 if op_type in ("Log", "Sqrt", "Reciprocal") else -3.0
    check_onnx(op_type, [draw(3, 4, low=low, high=3.0).astype(np.float32)])


@pytest.mark.parametrize("attributes", [{}, {"detect_positive": 0}, {"detect_negative": 0}])
def test_onnx_is_inf(attributes: dict[str, Any]) -> None:
    check_onnx("IsInf", [np.array([0.0, math.nan, math.inf, -math.inf], np.float32)], attributes)
