"""Largest and smallest elements: positions, ties, NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from aten_harness import check_aten, find
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx
from operator_harness import build, check, draw

from tilegrad.errors import ShapeError

X = draw(2, 3, 4)
TIES = np.array([[1.0, 3.0, 3.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
INTEGERS = np.array([[3, -4, 3], [1, 2, 2]])


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", ["max.dim", "min.dim", "argmax.default", "argmin.default"])
def test_along_an_axis(name: str, dim: int, keep: bool) -> None:
    check_aten(name, X, dim, keep)


@pytest.mark.parametrize("name", ["max.dim", "min.dim"])
def test_the_first_of_equal_elements_gets_the_gradient(name: str) -> None:
    check_aten(name, TIES, 1)
    check_aten(name, TIES, 0)


@pytest.mark.parametrize("name", ["amax.default", "amin.default"])
@pytest.mark.parametrize("axes", [[], [1], [0, 1], [-2]])
def test_equal_elements_share_the_gradient(name: str, axes: list[int]) -> None:
    check_aten(name, TIES, axes)
    check_aten(name, TIES, axes, True)
    check_aten(name, X, axes)


@pytest.mark.parametrize("name", ["max.default", "min.default"])
def test_of_all_elements(name: str) -> None:
    check_aten(name, X)
    check_aten(name, TIES)
    check_aten(name, np.array([1.0, math.nan, 2.0, math.nan]))
    check_aten(name, draw())


@pytest.mark.parametrize("name", ["max.dim", "min.dim", "argmax.default", "argmin.default"])
def test_nan_is_the_largest_and_the_smallest(name: str) -> None:
    check_aten(name, np.array([[1.0, math.nan, 5.0, math.nan], [math.inf, -math.inf, 0.0, 1.0]]), 1)


@pytest.mark.parametrize("name", ["amax.default", "amin.default"])
def test_nan_propagates(name: str) -> None:
    # PyTorch's gradient is NaN everywhere in this case; here it goes to the NaNs, as that of max() does.
    check_aten(name, np.array([[1.0, math.nan], [2.0, 3.0]]), [1], gradient=False)


@pytest.mark.parametrize("name", ["argmax.default", "argmin.default"])
def test_positions_among_all_elements(name: str) -> None:
    check_aten(name, X)
    check_aten(name, X, None, True)
    check_aten(name, TIES)


def test_integers_and_bools() -> None:
    for name in ("max.dim", "min.dim"):
        check_aten(name, INTEGERS, 1)
    check_aten("amax.default", INTEGERS, [0])
    check_aten("max.default", INTEGERS.astype(np.int32))
    check_aten("argmin.default", INTEGERS, 0)
    check_aten("amin.default", INTEGERS > 1, [1])
    check_aten("max.dim", INTEGERS > 1, 1)


def test_both_at_once() -> None:
    check_aten("aminmax.default", X)
    check_aten("aminmax.default", TIES, dim=1)
    check_aten("aminmax.default", X, dim=0, keepdim=True)


def test_nothing_has_no_extremum() -> None:
    for name, arguments in (("max.dim", (1,)), ("amax.default", ([1],))):
        with pytest.raises(ShapeError, match="no largest or smallest"):
            build(lambda x, n=name, a=arguments: find(n)(x, *a), [np.zeros((2, 0))])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data(), st.booleans())
def test_small_integers_have_ties(shape: list[int], data: st.DataObject, keep: bool) -> None:
    x = np.asarray(np.round(draw(*shape)))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    check_aten("amax.default", x, axes, keep)
    check_aten("min.dim", x, data.draw(st.integers(0, len(shape) - 1)), keep)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_onnx_positions(op_type: str, last: int) -> None:
    for attributes in ({"axis": 1}, {"axis": -2, "keepdims": 0}, {}):
        check_onnx(op_type, [TIES.astype(np.float32)], {"select_last_index": last, **attributes})


def test_onnx_gradient() -> None:
    def reference(x: Any) -> Any:
        return x.amax((1,), keepdim=True)

    check(adapter("ReduceMax", axes=[1]), reference, TIES)
