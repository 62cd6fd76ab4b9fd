"""Padding against PyTorch and the ONNX reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from aten_harness import check_aten, find
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import check_onnx, evaluate
from operator_harness import build, check, draw

from tilegrad.errors import ShapeError
from tilegrad.operators import padding
from tilegrad.operators.registry import UnsupportedCall

X = draw(2, 3, 4, 5)
MODES = ["constant", "reflect", "replicate", "circular"]


@pytest.mark.parametrize("value", [0.0, -1.5, math.inf])
@pytest.mark.parametrize("pad", [[1, 2], [2, 0, 0, 3], [-1, 1], [-1, -2, 1, 0], [0, 0], [1, 1, -1, -1, 2, 0]])
def test_constant(pad: list[int], value: float) -> None:
    check_aten("constant_pad_nd.default", X, pad, value)
    check_aten("pad.default", X, pad, "constant", value)


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("pad", [[1, 2, 3, 0], [0, 4, 1, 1], [2, 2, 0, 0]])
def test_copies(pad: list[int], mode: str) -> None:
    check_aten("pad.default", X, pad, mode)
    check_aten("pad.default", X[0, :, :, 0], [1, 2], mode)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_names_by_rank(rank: int) -> None:
    x = draw(2, *range(3, 3 + rank))
    pad = [1, 2] * rank
    for name in ("reflection_pad", "replication_pad"):
        check_aten(f"{name}{rank}d.default", x, pad)


def test_negative_amounts_with_copies() -> None:
    check_aten("replication_pad2d.default", X, [-1, 2, 1, -1])
    check_aten("reflection_pad1d.default", X[0], [-1, 2])


def test_wide_replication() -> None:
    check_aten("replication_pad1d.default", draw(1, 2, 3), [5, 7])


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.integers(2, 5), min_size=3, max_size=3), st.sampled_from(MODES), st.data())
def test_any_amounts(shape: list[int], mode: str, data: st.DataObject) -> None:
    low = -1 if mode == "constant" else 0
    pad = [data.draw(st.integers(low, shape[-1] - 1)) for _ in range(2)]
    check_aten("pad.default", draw(*shape), pad, mode)


def test_integers_and_bools() -> None:
    check_aten("constant_pad_nd.default", np.array([[1, 2], [3, 4]]), [1, 0], 7)
    check_aten("constant_pad_nd.default", np.array([True, False]), [1, 0], True)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("pad.default", ([5, 0, 0, 0], "reflect"), "not smaller"),
        ("pad.default", ([6, 0, 0, 0], "circular"), "larger"),
        ("constant_pad_nd.default", ([-3, -3],), "removes more"), ("constant_pad_nd.default", ([1],), "do not fit"),
    ],
)  # fmt: skip
def test_amounts_that_do_not_fit(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(lambda x: find(name)(x, *arguments), [X])


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(UnsupportedCall, match="supported"):
        build(lambda x: padding.pad(x, [1, 1], "mirror"), [X])
    with pytest.raises(UnsupportedCall, match="supported"):
        evaluate("Pad", [X.astype(np.float32), np.zeros(8, np.int64)], {"mode": "mirror"}, constants=[1])


F = draw(2, 3, 4).astype(np.float32)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_onnx_modes(mode: str) -> None:
    pads = np.array([0, 1, 2, 1, 0, 3])
    check_onnx("Pad", [F, pads], {"mode": mode}, constants=[1])
    check_onnx("Pad", [F, np.array([1, 2, 3, 0]), None, np.array([2, -2])], {"mode": mode}, constants=[1, 3])


def test_onnx_values() -> None:
    check_onnx("Pad", [F, np.array([0, 1, 2, 1, 0, 3]), np.array(2.5, np.float32)], constants=[1, 2])
    (y,) = evaluate("Pad", [F, np.array([0, -1, 0, 0, 0, -2])], constants=[1])
    np.testing.assert_array_equal(y, F[:, 1:, :-2])


def test_repeated_reflection_of_onnx() -> None:
    check(
        lambda x: padding.pad_by_copying(x, [(7, 5)], "reflect"),
        lambda x: x[torch.from_numpy(np.pad(np.arange(4), (7, 5), "reflect"))],
        draw(4),
    )
    with pytest.raises(ShapeError, match="too short"):
        build(lambda x: padding.pad_by_copying(x, [(1, 0)], "reflect"), [draw(1)])
