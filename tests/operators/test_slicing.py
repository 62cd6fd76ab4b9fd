"""Slices, parts and joints against PyTorch and the ONNX reference."""

from __future__ import annotations

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
from tilegrad.ir.graph import StructuredOp
from tilegrad.operators import slicing
from tilegrad.operators.registry import UnsupportedCall

X = draw(5, 6, 4)
EXACT = 1e-12


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("slice.Tensor", ()), ("slice.Tensor", (1, 1, 5)), ("slice.Tensor", (1, -3, -1)),
        ("slice.Tensor", (0, 1, 99, 2)),
        ("slice.Tensor", (2, None, None, 3)), ("slice.Tensor", (-2, 0, 9223372036854775807)),
        ("slice.Tensor", (1, 4, 2)), ("narrow.default", (1, 2, 3)), ("narrow.default", (0, -2, 2)),
        ("flip.default", ([0, 2],)), ("flip.default", ([-2],)), ("fliplr.default", ()), ("flipud.default", ()),
        ("roll.default", ([2], [0])), ("roll.default", ([-1, 7], [1, 2])), ("roll.default", ([5],)),
        ("unfold.default", (1, 3, 2)), ("unfold.default", (0, 2, 1)), ("unfold.default", (2, 4, 5)),
        ("split.Tensor", (2, 1)), ("split.Tensor", (4, 0)), ("split_with_sizes.default", ([1, 3, 2], 1)),
        ("chunk.default", (2, 0)), ("chunk.default", (4, 1)), ("chunk.default", (1, 1)),
        ("tensor_split.sections", (4, 1)), ("tensor_split.indices", ([1, 4], 1)), ("unbind.int", ()),
        ("unbind.int", (-1,)), ("unsafe_chunk.default", (2, 1)), ("unsafe_split.Tensor", (3, 1)),
    ],
)  # fmt: skip
def test_parts(name: str, arguments: tuple[Any, ...]) -> None:
    check_aten(name, X, *arguments, tolerance=EXACT)


def test_the_gradient_of_parts_that_are_not_used_is_zero() -> None:
    check(lambda x: slicing.split(x, 2, 1)[1], lambda x: x.split(2, 1)[1], X)
    check(lambda x: slicing.unbind(x, 0)[3] * 2.0, lambda x: x.unbind(0)[3] * 2.0, X)


def test_the_gradient_of_all_parts_is_one_operation() -> None:
    graph, _, _, _, _ = build(lambda x: slicing.split_at(x, 0, [1] * 5), [X])
    joined = [
        op
        for op in graph.ops
        if isinstance(op, StructuredOp) and op.outputs[0].shape == X.shape and op.phase == "backward"
    ]
    assert len(joined) == 1


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_joints(dim: int) -> None:
    shapes = [tuple(n + (k if axis == dim % 3 else 0) for axis, n in enumerate((2, 3, 4))) for k in range(3)]
    check_aten("cat.default", [draw(*shape, seed=k) for k, shape in enumerate(shapes)], dim, tolerance=EXACT)
    check_aten("stack.default", [draw(2, 3, seed=k) for k in range(3)], dim, tolerance=EXACT)


def test_other_joints() -> None:
    check_aten("cat.default", [draw(2, 3)], 0)
    check_aten("cat.default", [draw(0), draw(2, 3)], 1)
    check_aten("cat.default", [np.array([1, 2]), draw(3)])
    for name in ("hstack.default", "vstack.default"):
        check_aten(name, [draw(3), draw(3, seed=1)])
        check_aten(name, [draw(2, 3), draw(2, 3, seed=1)])


def test_the_same_tensor_twice() -> None:
    check(lambda x: slicing.cat([x, x], 1), lambda x: torch.cat([x, x], 1), X)


def test_assignment_to_parts() -> None:
    check_aten("slice_scatter.default", X, draw(5, 2, 4), 1, 2, 4)
    check_aten("slice_scatter.default", X, draw(5, 6, 4, seed=1), 1)
    check_aten("slice_scatter.default", X, draw(2, 6, 4, seed=1), 0, 3)
    check_aten("select_scatter.default", X, draw(5, 4, seed=1), 1, -2)
    with pytest.raises(UnsupportedCall, match="step 2"):
        build(lambda x, y: slicing.slice_scatter(x, y, 1, 0, 6, 2), [X, draw(5, 3, 4)])


def test_windows_of_images() -> None:
    check_aten("im2col.default", draw(2, 3, 6, 5), [3, 2], [1, 2], [1, 0], [2, 1])
    check_aten("im2col.default", draw(3, 6, 5), [2, 2], [1, 1], [1, 1], [1, 1])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("slice.Tensor", (0, 0, 5, -1), "must be positive"), ("narrow.default", (0, 4, 2), "not in axis 0"),
        ("split_with_sizes.default", ([2, 2],), "do not add up"), ("roll.default", ([1, 2], [0]), "2 shifts"),
        ("unfold.default", (0, 6, 1), "do not fit"), ("split.Tensor", (0,), "positive"),
    ],
)  # fmt: skip
def test_parts_that_do_not_exist(name: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(lambda x: find(name)(x, *arguments), [X])


def test_joints_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="do not fit"):
        build(lambda x, y: slicing.cat([x, y], 0), [draw(2, 3), draw(2, 4)])
    with pytest.raises(ShapeError, match="must be the same"):
        build(lambda x, y: slicing.stack([x, y], 0), [draw(2, 3), draw(2, 4)])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(1, 9), st.integers(-12, 12), st.integers(-12, 12), st.integers(1, 4), st.integers(0, 1))
def test_any_slice(extent: int, start: int, end: int, step: int, axis: int) -> None:
    x = draw(*((extent, 2) if axis == 0 else (2, extent)))
    check_aten("slice.Tensor", x, axis, start, end, step, tolerance=EXACT)


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.integers(1, 7), st.integers(1, 4), st.integers(1, 3))
def test_any_window(extent: int, size: int, step: int) -> None:
    check_aten("unfold.default", draw(2, max(extent, size)), 1, size, step, tolerance=EXACT)


def test_tables_are_cut_into_affine_pieces() -> None:
    assert slicing.runs([2, 1, 0, 1, 2, 3]) == [(0, 3, 2, -1), (3, 3, 1, 1)]
    assert slicing.runs([0, 0, 0, 1]) == [(0, 3, 0, 0), (3, 1, 1, 1)]
    assert slicing.runs([]) == []


def test_gradients_agree_with_central_differences() -> None:
    from tilegrad.interpreter.execute import run

    def function(v: Any) -> Any:
        return slicing.roll(slicing.unfold(slicing.flip(v, [1]), 1, 3, 2), [1], [1])

    graph, (x,), (y,), (seed,), gradients = build(function, [draw(2, 7)])
    array, weights = draw(2, 7), draw(*(2, 3, 3), seed=1)
    env = run(graph, {x: array, seed: weights}, np.float64)
    for place in np.ndindex(2, 7):
        step = np.zeros((2, 7))
        step[place] = 1e-6
        ahead, behind = (run(graph, {x: array + s * step, seed: weights}, np.float64)[y] for s in (1, -1))
        assert env[gradients[x]][place] == pytest.approx(float((weights * (ahead - behind)).sum() / 2e-6), abs=1e-6)


F = X.astype(np.float32)
LARGEST, SMALLEST = np.iinfo(np.int64).max, np.iinfo(np.int64).min
SLICES: list[tuple[list[int], list[int], list[int] | None, list[int] | None]] = [
    ([1, 0], [4, 99], None, None),
    ([0, 1], [5, 5], [-1, 0], None),
    ([-1], [0], [1], [-1]),
    ([LARGEST], [SMALLEST], [1], [-2]),
    ([4], [-99], [0], [-1]),
    ([1], [LARGEST], [1], [2]),
    ([-3], [-1], [2], [1]),
    ([3], [1], [0], [1]),
    ([0], [-99], [0], [1]),
]


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), SLICES)
def test_onnx_slice(starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None) -> None:
    inputs = [F, *(None if v is None else np.array(v, np.int64) for v in (starts, ends, axes, steps))]
    check_onnx("Slice", inputs, constants=[1, 2, 3, 4])


def test_onnx_concat_and_split() -> None:
    check_onnx("Concat", [F, F[:, :2]], {"axis": 1})
    check_onnx("Concat", [F, F], {"axis": -1})
    check_onnx("Split", [F, np.array([1, 2, 3])], {"axis": 1}, outputs=3, constants=[1])
    check_onnx("Split", [F], {"axis": 1, "num_outputs": 4}, outputs=4)
    check_onnx("Split", [F], {"axis": 1}, outputs=2, opset=13)


def test_onnx_shapes_are_sliced_and_joined_at_compile_time() -> None:
    (y,) = evaluate("Concat", [np.array([2, 3]), np.array([4])], {"axis": 0}, constants=[0, 1])
    np.testing.assert_array_equal(y, [2, 3, 4])


def test_onnx_steps_of_zero_are_refused() -> None:
    with pytest.raises(ShapeError, match="do not fit"):
        evaluate("Slice", [F, np.array([0]), np.array([2]), np.array([0]), np.array([0])], constants=[1, 2, 3, 4])
