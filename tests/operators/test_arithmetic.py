"""Arithmetic against PyTorch and the ONNX reference: promotion, broadcasting, rounding, powers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from aten_harness import check_aten
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx, evaluate
from operator_harness import build, check, draw

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.operators import arithmetic
from tilegrad.operators.registry import UnsupportedCall

X, Y = draw(2, 3, 4), draw(2, 3, 4, seed=1)
ROW = draw(4, seed=2)
POSITIVE = draw(3, 4, low=0.1, high=3.0)
INTEGERS = np.array([[7, -7, 8, 0], [1, -1, 5, -9]])
DIVISORS = np.array([[2, 2, -3, 5], [-4, 3, -5, 2]])
BOOLS = np.array([True, False, True, True])


@pytest.mark.parametrize("suffix", ["", "_"])
@pytest.mark.parametrize("other", [Y, ROW, np.array(1.5), 2.5, 3], ids=["tensor", "row", "scalar", "float", "int"])
@pytest.mark.parametrize("name", ["add", "sub", "mul", "div"])
def test_operations_of_two(name: str, other: Any, suffix: str) -> None:
    check_aten(f"{name}{suffix}.{'Tensor' if isinstance(other, np.ndarray) else 'Scalar'}", X, other)


@pytest.mark.parametrize("name", ["add", "sub", "rsub"])
@pytest.mark.parametrize("other", [Y, ROW, 2.5])
def test_alpha(name: str, other: Any) -> None:
    check_aten(f"{name}.{'Tensor' if isinstance(other, np.ndarray) else 'Scalar'}", X, other, alpha=0.3)


@pytest.mark.parametrize("name", ["add.Tensor", "mul.Tensor", "sub.Tensor", "div.Tensor"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (INTEGERS, DIVISORS), (INTEGERS.astype(np.int32), DIVISORS), (INTEGERS.astype(np.int32), np.array(3)),
        (INTEGERS, ROW), (INTEGERS, np.array(1.5)), (ROW, np.array(3)), (INTEGERS > 0, X[0, :2]),
        (INTEGERS > 0, INTEGERS),
    ],
    ids=["i64", "i32-i64", "i32-scalar", "int-float", "int-float-scalar", "float-int-scalar", "bool-float", "bool-int"],
)  # fmt: skip
def test_promotion(name: str, a: Any, b: Any) -> None:
    if name.startswith("sub") and a.dtype == bool:
        a, b = b, b > 1.0  # PyTorch subtracts no bool tensors at all
        with pytest.raises(ShapeError, match="no difference"):
            check_aten(name, b, b)
        return
    check_aten(name, a, b)


@pytest.mark.parametrize("name", ["add.Tensor", "mul.Tensor"])
def test_bools(name: str) -> None:
    check_aten(name, BOOLS, ~BOOLS)
    check_aten(name, BOOLS, True)


def test_integers_with_numbers() -> None:
    check_aten("add.Scalar", INTEGERS, 3, alpha=2)
    check_aten("mul.Scalar", INTEGERS, 2.5)
    check_aten("add_.Tensor", INTEGERS.astype(np.int32), DIVISORS)


@pytest.mark.parametrize("mode", [None, "trunc", "floor"])
@pytest.mark.parametrize(("a", "b"), [(X * 3, Y), (INTEGERS, DIVISORS), (X * 9, 0.7)])
def test_rounded_division(a: Any, b: Any, mode: str | None) -> None:
    check_aten(f"div.{'Tensor' if isinstance(b, np.ndarray) else 'Scalar'}_mode", a, b, rounding_mode=mode)


@pytest.mark.parametrize("name", ["remainder", "fmod"])
@pytest.mark.parametrize(("a", "b"), [(X * 3, Y), (INTEGERS, DIVISORS), (X * 9, 0.7), (INTEGERS, 3)])
def test_remainders(name: str, a: Any, b: Any) -> None:
    check_aten(f"{name}.{'Tensor' if isinstance(b, np.ndarray) else 'Scalar'}", a, b)


def test_floor_division() -> None:
    check_aten("floor_divide.default", INTEGERS, DIVISORS)
    check_aten("floor_divide.Scalar", X * 9, 0.7, gradient=False)


def test_remainder_where_the_quotient_rounds_up_to_an_integer() -> None:
    a, b = np.array([1.0, -1.0, 1.0, 5.0]), np.array([0.1, 0.1, -0.1, np.inf])
    graph, operands, results, _, _ = build(
        lambda x, y: (arithmetic.remainder(x, y), arithmetic.fmod(x, y), arithmetic.floor_divide(x, y)), [a, b]
    )
    env = run(graph, dict(zip(operands, [a, b], strict=True)), np.float32)
    x, y = torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)
    wanted = (torch.remainder(x, y), torch.fmod(x, y), torch.div(x, y, rounding_mode="floor"))
    for result, reference in zip(results, wanted, strict=True):
        np.testing.assert_allclose(env[result], reference.numpy(), atol=1e-7)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 7, -1, -2, 0.5, -0.5, 1.5, 2.0, 11, -9])
def test_constant_powers(exponent: float) -> None:
    check_aten("pow.Tensor_Scalar", POSITIVE, exponent)
    if exponent == int(exponent):
        check_aten("pow.Tensor_Scalar", X, exponent, tolerance=1e-5)
        check_aten("pow_.Scalar", X, exponent, tolerance=1e-5)


def test_powers_at_zero() -> None:
    zeros = np.array([0.0, 0.0, 0.0, 2.0])
    check_aten("pow.Tensor_Scalar", zeros, 0)
    check_aten("pow.Tensor_Scalar", zeros, 2)
    check_aten("pow.Tensor_Tensor", zeros, np.array([0.0, 2.0, 1.0, 0.0]))


def test_powers_of_tensors() -> None:
    check_aten("pow.Tensor_Tensor", POSITIVE, draw(4))
    check_aten("pow.Tensor_Tensor", X[0], np.array([[2.0], [3.0], [1.0]]), gradient=False)
    check_aten("pow.Scalar", 2.5, X)
    check_aten("pow.Scalar", 2, X)
    check_aten("pow.Scalar", 0, np.array([0.0, 1.0, 2.5]))
    check_aten("pow.Tensor_Scalar", INTEGERS, 3)
    check_aten("pow.Tensor_Scalar", INTEGERS, 0.0, gradient=False)


def test_integer_powers_that_are_not_defined() -> None:
    with pytest.raises(ShapeError, match="convert them to float"):
        check_aten("pow.Tensor_Scalar", INTEGERS, -1)
    with pytest.raises(UnsupportedCall, match="convert them to float"):
        check_aten("pow.Scalar", 2, INTEGERS)


def test_interpolation_and_fused_forms() -> None:
    check_aten("lerp.Scalar", X, Y, 0.3)
    check_aten("lerp.Scalar", X, Y, 0.8)
    check_aten("lerp.Tensor", X, Y, draw(3, 1, low=-0.2, high=1.2))
    for value in (1, 0.7):
        check_aten("addcmul.default", X, Y, ROW, value=value)
        check_aten("addcdiv.default", X, Y, np.abs(ROW) + 1, value=value)


shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(shapes, st.data(), st.sampled_from(["add", "sub", "mul", "div"]))
def test_broadcasting(shape: list[int], data: st.DataObject, name: str) -> None:
    other = [data.draw(st.sampled_from([1, n])) for n in shape[data.draw(st.integers(0, len(shape))) :]]
    check_aten(f"{name}.Tensor", draw(*shape), draw(*other, seed=3, low=0.5))


@pytest.mark.parametrize("name", ["remainder.Tensor", "lerp.Scalar", "addcdiv.default", "pow.Tensor_Tensor"])
def test_gradients_agree_with_central_differences(name: str) -> None:
    from aten_harness import find

    arrays = [draw(6, low=0.4, high=3), draw(6, low=0.4, high=3, seed=1), draw(6, low=0.4, high=3, seed=2)]
    extra: tuple[float, ...] = (0.25,) if name == "lerp.Scalar" else ()
    arrays = arrays[: 3 if name.startswith("addc") else 2]
    graph, operands, (y,), (seed,), gradients = build(lambda *values: find(name)(*values, *extra), arrays)
    weights = draw(6, seed=9)
    feeds = dict(zip(operands, arrays, strict=True)) | {seed: weights}
    env = run(graph, feeds, np.float64)
    for operand, array in zip(operands, arrays, strict=True):
        ahead, behind = (run(graph, feeds | {operand: array + h}, np.float64)[y] for h in (1e-6, -1e-6))
        np.testing.assert_allclose(env[gradients[operand]], weights * (ahead - behind) / 2e-6, atol=1e-5)


F32 = np.float32
ONNX_CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Add", [X.astype(F32), ROW.astype(F32)], {}),
    ("Sub", [X.astype(F32), ROW.astype(F32)], {}),
    ("Mul", [X.astype(F32), ROW.astype(F32)], {}),
    ("Div", [X.astype(F32), ROW.astype(F32)], {}),
    ("Add", [INTEGERS, DIVISORS], {}),
    ("Mod", [INTEGERS, DIVISORS], {}),
    ("Mod", [INTEGERS, DIVISORS], {"fmod": 1}),
    ("Mod", [X.astype(F32), ROW.astype(F32)], {"fmod": 1}),
    ("Pow", [POSITIVE.astype(F32), draw(4).astype(F32)], {}),
    ("Pow", [X.astype(F32), np.array(2, np.int64)], {}),
    ("Sum", [X.astype(F32), Y.astype(F32), ROW.astype(F32)], {}),
    ("Mean", [X.astype(F32), Y.astype(F32), ROW.astype(F32)], {}),
    ("Sum", [X.astype(F32)], {}),
]


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), ONNX_CASES)
def test_onnx_names(op_type: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    constants = [1] if op_type == "Pow" and inputs[1].size == 1 else []
    check_onnx(op_type, inputs, attributes, constants=constants, tolerance=1e-5)


def test_onnx_integers_are_truncated() -> None:
    (quotient,) = evaluate("Div", [INTEGERS, DIVISORS])
    np.testing.assert_array_equal(quotient, np.trunc(INTEGERS / DIVISORS).astype(np.int64))


def test_onnx_gradients() -> None:
    check(adapter("Mean"), lambda a, b, c: (a + b + c) / 3, X, Y, ROW, tolerance=1e-6)
    check(adapter("Pow"), torch.pow, POSITIVE, draw(4))


def test_shape_arithmetic_is_done_at_compile_time() -> None:
    two = np.array([2, 3], np.int64)
    graph, _, (result,), _, _ = build(lambda: arithmetic.mul(arithmetic.add(_known(two), 1), _known(two)), [])
    assert result.is_constant and not graph.ops
    np.testing.assert_array_equal(result.data, [6, 12])


def _known(array: Any) -> Any:
    from tilegrad.ir.builder import constant

    return constant(array)
