"""Comparisons, logic, minimum and maximum, clamp and where, against PyTorch and the ONNX reference."""

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
from tilegrad.operators.registry import UnsupportedCall

X, Y, ROW = draw(2, 3, 4), draw(2, 3, 4, seed=1), draw(4, seed=2)
INTEGERS = np.array([[3, -4, 0], [1, 2, 2]])
TIES = np.array([1.0, 2.0, 2.0, 0.0, -0.0, 3.0])
NAN = math.nan


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extrema(name: str) -> None:
    check_aten(f"{name}.default", X, Y)
    check_aten(f"{name}.default", X, ROW)
    check_aten(f"{name}.default", ROW, draw(3, 1))
    check_aten(f"{name}.default", INTEGERS, np.array(1))
    check_aten(f"{name}.default", np.array([True, False]), np.array([True, True]))


@pytest.mark.parametrize("name", ["maximum.default", "minimum.default", "max.other", "min.other"])
def test_ties_split_the_gradient_and_nan_passes(name: str) -> None:
    check_aten(name, TIES, TIES[::-1].copy())
    check_aten(name, np.array([NAN, 1.0, NAN, math.inf]), np.array([1.0, NAN, NAN, math.inf]))


BOUNDS = [(-0.5, 0.5), (None, 0.25), (-0.25, None), (1.0, -1.0), (-1, 1)]
EDGES = np.array([-0.5, 0.5, 0.25, -0.25, 1.0, -1.0, 0.0, NAN, math.inf, -math.inf])


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_clamp_to_numbers(low: Any, high: Any) -> None:
    for name in ("clamp", "clip"):
        check_aten(f"{name}.default", X, low, high)
        check_aten(f"{name}_.default", X, low, high)
        check_aten(f"{name}.default", EDGES, low, high)


def test_clamp_of_integers_and_single_bounds() -> None:
    check_aten("clamp.default", INTEGERS, 0, 2)
    check_aten("clamp.default", INTEGERS, 0.5, None)
    check_aten("clamp_min.default", EDGES, 0.25)
    check_aten("clamp_max.default", EDGES, 0.25)
    with pytest.raises(ShapeError, match="min or max"):
        find("clamp.default")(None)


def test_clamp_to_tensors() -> None:
    check_aten("clamp.Tensor", X, ROW - 1, ROW + 1)
    check_aten("clamp.Tensor", X, None, ROW)
    check_aten("clamp_min.Tensor", X, draw(3, 1))
    check_aten("clamp_max.Tensor", X, np.array(0.5))
    v = np.array([0.0, 5.0, 0.0, 1.0, 2.0, NAN, 0.0])
    check_aten("clamp.Tensor", v, np.array([0.0, 0, 1, 1, 2, 0, NAN]), np.ones(7))
    check_aten("clamp.Tensor", INTEGERS, np.array([0, 0, 1]), np.array([2, 1, 1]))


CONDITION = np.array([True, False, True, False])


def test_where() -> None:
    check_aten("where.self", CONDITION, X, Y)
    check_aten("where.self", CONDITION, ROW, draw(3, 1))
    check_aten("where.ScalarOther", CONDITION, X, -1.5)
    check_aten("where.self", CONDITION, np.arange(4), X)


def test_where_with_two_numbers() -> None:
    check(lambda c: find("where.Scalar")(c, 1.0, 0.0), lambda c: torch.where(c, 1.0, 0.0), CONDITION)
    check(lambda c: find("where.Scalar")(c, 3, 4), lambda c: torch.where(c, 3, 4), CONDITION)


def test_a_branch_that_is_not_taken_does_not_reach_the_result() -> None:
    bad = np.array([1.0, NAN, 2.0, math.inf])
    check_aten("where.self", CONDITION, bad, ROW)
    check_aten("masked_fill.Scalar", bad, ~CONDITION, 0.0)


def test_masked_fill() -> None:
    for suffix in ("", "_"):
        check_aten(f"masked_fill{suffix}.Scalar", X, CONDITION, -math.inf)
        check_aten(f"masked_fill{suffix}.Tensor", X, CONDITION, np.array(2.5))
    check_aten("masked_fill.Scalar", INTEGERS, INTEGERS > 1, 9)


@pytest.mark.parametrize("name", ["lt", "le", "gt", "ge", "eq", "ne"])
def test_comparisons(name: str) -> None:
    check_aten(f"{name}.Tensor", TIES, TIES[::-1].copy())
    check_aten(f"{name}.Tensor", np.array([NAN, 1.0]), np.array([NAN, NAN]))
    check_aten(f"{name}.Scalar", INTEGERS, 1.5)
    check_aten(f"{name}.Tensor", INTEGERS, draw(3))
    check_aten(f"{name}.Scalar", np.array([True, False]), True)


@pytest.mark.parametrize("name", ["logical_and", "logical_or", "logical_xor"])
def test_logic(name: str) -> None:
    check_aten(f"{name}.default", CONDITION, CONDITION[::-1].copy())
    check_aten(f"{name}.default", np.array([0.0, NAN, 2.0, 0.0]), CONDITION)
    check_aten(f"{name}_.default", CONDITION, ~CONDITION)


def test_negation() -> None:
    check_aten("logical_not.default", np.array([0.0, -0.0, NAN, 2.0]))
    check_aten("bitwise_not.default", INTEGERS)
    check_aten("bitwise_not.default", CONDITION)
    with pytest.raises(ShapeError, match="bitwise_not"):
        check_aten("bitwise_not.default", X)


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bits(name: str) -> None:
    check_aten(f"{name}.Tensor", INTEGERS, np.array([1, 2, 7]))
    check_aten(f"{name}.Scalar", INTEGERS, 6)
    check_aten(f"{name}.Tensor", CONDITION, ~CONDITION)
    with pytest.raises(ShapeError, match="needs integers"):
        check_aten(f"{name}.Scalar", X, 2)


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data(), st.sampled_from(["maximum", "minimum"]))
def test_broadcast_extrema_of_small_integers_have_ties(shape: list[int], data: st.DataObject, name: str) -> None:
    other = [data.draw(st.sampled_from([1, n])) for n in shape[data.draw(st.integers(0, len(shape))) :]]
    check_aten(f"{name}.default", np.round(draw(*shape)), np.asarray(np.round(draw(*other, seed=5))))


@pytest.mark.parametrize("name", ["maximum.default", "clamp.Tensor"])
def test_gradients_agree_with_central_differences(name: str) -> None:
    arrays = (
        [draw(3, 4), draw(4, seed=1)] if name != "clamp.Tensor" else [draw(3, 4), draw(4, seed=1) - 1, draw(3, 1) + 1]
    )
    graph, operands, (y,), (seed,), gradients = build(find(name), arrays)
    weights = draw(3, 4, seed=9)
    feeds = dict(zip(operands, arrays, strict=True)) | {seed: weights}
    env = run(graph, feeds, np.float64)
    for operand, array in zip(operands, arrays, strict=True):
        for place in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[place] = 1e-6
            ahead, behind = (run(graph, feeds | {operand: array + s * step}, np.float64)[y] for s in (1, -1))
            wanted = float((weights * (ahead - behind)).sum() / 2e-6)
            assert env[gradients[operand]][place] == pytest.approx(wanted, abs=1e-5)


def _float32(*arrays: Any) -> list[Any]:
    return [array.astype(np.float32) if array.dtype.kind == "f" else array for array in arrays]


@pytest.mark.parametrize(
    ("op_type", "inputs"),
    [
        ("Less", [X, ROW]), ("LessOrEqual", [X, X]), ("Greater", [X, ROW]), ("GreaterOrEqual", [INTEGERS, INTEGERS]),
        ("Equal", [INTEGERS, np.array([3, 2, 2])]), ("And", [CONDITION, ~CONDITION]), ("Or", [CONDITION, ~CONDITION]),
        ("Xor", [CONDITION, CONDITION]), ("Not", [CONDITION]), ("Where", [CONDITION, X, ROW]), ("Max", [X, ROW, Y]),
        ("Min", [X, ROW, Y]), ("Max", [X]), ("BitwiseAnd", [INTEGERS, np.array([1, 2, 7])]),
        ("BitwiseOr", [INTEGERS, np.array([1, 2, 7])]), ("BitwiseXor", [INTEGERS, np.array([1, 2, 7])]),
        ("BitwiseNot", [INTEGERS]),
    ],
)  # fmt: skip
def test_onnx_names(op_type: str, inputs: list[Any]) -> None:
    check_onnx(op_type, _float32(*inputs))


@pytest.mark.parametrize("constants", [(), (1, 2)])
def test_onnx_clip(constants: tuple[int, ...]) -> None:
    low, high = np.array(-0.5, np.float32), np.array(0.5, np.float32)
    for bounds in ((low, high), (low, None), (None, high)):
        check_onnx("Clip", [X.astype(np.float32), *bounds], constants=constants)
    check(adapter("Clip"), lambda x, a, b: torch.clamp(x, a, b), X, np.array(-0.5), np.array(0.5))
    check(adapter("Clip"), lambda x: x * 1.0, X)


def test_onnx_clip_of_old_opsets_is_refused() -> None:
    with pytest.raises(UnsupportedCall, match="opset 13"):
        adapter("Clip", min=0.0)(None)
