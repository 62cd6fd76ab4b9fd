"""Views, permutations and repetitions against PyTorch and the ONNX reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from aten_harness import check_aten
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx, evaluate
from operator_harness import build, draw

from tilegrad.errors import ShapeError
from tilegrad.ir.builder import constant
from tilegrad.ir.graph import ReshapeOp
from tilegrad.operators import shape as ops
from tilegrad.operators.registry import UnsupportedCall

X = draw(2, 3, 4)
EXACT = 1e-12


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("view.default", ([6, 4],)), ("reshape.default", ([-1, 2],)), ("_unsafe_view.default", ([24],)),
        ("flatten.using_ints", ()), ("flatten.using_ints", (1,)), ("flatten.using_ints", (0, -2)),
        ("unflatten.int", (2, [2, -1])), ("unflatten.int", (-1, [1, 4])), ("unsqueeze.default", (0,)),
        ("unsqueeze.default", (-1,)), ("unsqueeze.default", (1,)), ("transpose.int", (0, 2)),
        ("transpose.int", (-1, 1)), ("swapaxes.default", (0, 1)), ("permute.default", ([2, 0, 1],)),
        ("permute.default", ([-1, 1, 0],)), ("numpy_T.default", ()), ("mT.default", ()), ("movedim.int", (0, 2)),
        ("movedim.intlist", ([0, 1], [-1, 0])), ("moveaxis.int", (2, 0)), ("expand.default", ([5, 2, 3, 4],)),
        ("expand.default", ([-1, 3, -1],)), ("repeat.default", ([2, 1, 3],)), ("repeat.default", ([2, 1, 2, 1],)),
        ("tile.default", ([2],)), ("repeat_interleave.self_int", (3, 1)), ("repeat_interleave.self_int", (2,)),
        ("diagonal.default", (0, 1, 2)), ("diagonal.default", (1, 2, 0)), ("diagonal.default", (-2, 0, 1)),
        ("ravel.default", ()), ("squeeze.default", ()), ("broadcast_to.default", ([2, 2, 3, 4],)),
        ("squeeze.dim", (0,)),
    ],
)  # fmt: skip
def test_views(name: str, arguments: tuple[Any, ...]) -> None:
    check_aten(name, X, *arguments, tolerance=EXACT)


def test_squeeze() -> None:
    x = draw(1, 3, 1, 2)
    check_aten("squeeze.default", x)
    check_aten("squeeze.dim", x, -2)
    check_aten("squeeze.dim", x, 1)
    check_aten("squeeze.dims", x, [0, 1])
    check_aten("squeeze.dim", draw(), 0)


def test_forms_that_take_another_tensor() -> None:
    check_aten("view_as.default", X, draw(6, 4))
    check_aten("expand_as.default", draw(3, 1), X)
    check_aten("broadcast_tensors.default", [draw(3, 1), draw(4)])
    check_aten("t.default", draw(2, 3))
    check_aten("t.default", draw(3))


@pytest.mark.parametrize("indexing", ["ij", "xy"])
def test_meshgrid(indexing: str) -> None:
    check_aten("meshgrid.indexing", [draw(3), draw(2, seed=1), draw(2, seed=2)], indexing=indexing)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_shuffles(lead: tuple[int, ...]) -> None:
    check_aten("pixel_shuffle.default", draw(*lead, 8, 3, 2), 2, tolerance=EXACT)
    check_aten("pixel_unshuffle.default", draw(*lead, 2, 6, 4), 2, tolerance=EXACT)


def test_channel_shuffle() -> None:
    check_aten("channel_shuffle.default", draw(2, 6, 3), 3, gradient=False)
    check_aten("channel_shuffle.default", draw(2, 6, 3, 2), 2, gradient=False)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("view.default", ([5, -1],), "cannot view"), ("permute.default", ([0, 0, 1],), "not a permutation"),
        ("transpose.int", (0, 3), "axis 3 does not exist"), ("unflatten.int", (2, [3, 2]), "has extent 4"),
        ("expand.default", ([3, 3, 4],), "not broadcast"), ("expand.default", ([3, 4],), "no place"),
        ("pixel_shuffle.default", (2,), "multiple of 4"), ("repeat.default", ([-1, 1, 1],), "negative"),
        ("flatten.using_ints", (2, 0), "behind"), ("movedim.intlist", ([0, 0], [1, 2]), "distinct"),
        ("t.default", (), "at most 2"), ("diagonal.default", (0, 1, 1), "are the same"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(name: str, arguments: tuple[Any, ...], message: str) -> None:
    from aten_harness import find

    with pytest.raises(ShapeError, match=message):
        build(lambda x: find(name)(x, *arguments), [X])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_any_permutation_and_repetition(shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    check_aten("permute.default", draw(*shape), list(order), tolerance=EXACT)
    counts = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    check_aten("repeat.default", draw(*shape), counts, tolerance=EXACT)


def test_a_reshape_is_a_view() -> None:
    graph, _, _, _, _ = build(lambda x: ops.reshape(x, [6, 4]), [X])
    assert isinstance(graph.ops[0], ReshapeOp)


def test_a_reshaped_constant_is_a_constant() -> None:
    graph, _, (y,), _, _ = build(lambda: ops.permute(ops.reshape(constant(np.arange(6)), [2, 3]), [1, 0]), [])
    assert not graph.ops
    np.testing.assert_array_equal(y.data, np.arange(6).reshape(2, 3).T)


F = X.astype(np.float32)
ONNX_CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    ("Reshape", [F, np.array([0, -1])], {}), ("Reshape", [F, np.array([4, 6])], {}),
    ("Flatten", [F], {}), ("Flatten", [F], {"axis": 0}), ("Flatten", [F], {"axis": -1}), ("Flatten", [F], {"axis": 3}),
    ("Squeeze", [F[:1, :, None], np.array([0, 2])], {}), ("Squeeze", [F[:1]], {}),
    ("Unsqueeze", [F, np.array([0, -1])], {}), ("Unsqueeze", [F, np.array([1])], {}),
    ("Transpose", [F], {}), ("Transpose", [F], {"perm": [1, 2, 0]}),
    ("Expand", [F[:, :1], np.array([3, 1])], {}), ("Expand", [F, np.array([2, 2, 1, 1])], {}),
    ("Tile", [F, np.array([2, 1, 3])], {}),
    ("DepthToSpace", [draw(2, 8, 2, 3).astype(np.float32)], {"blocksize": 2}),
    ("DepthToSpace", [draw(2, 8, 2, 3).astype(np.float32)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [draw(2, 2, 4, 6).astype(np.float32)], {"blocksize": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("op_type", "inputs", "attributes"), ONNX_CASES)
def test_onnx_names(op_type: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    check_onnx(op_type, inputs, attributes, constants=[1] if len(inputs) > 1 else [])


def test_onnx_reshape_with_zero_extents() -> None:
    empty = np.zeros((0, 3), np.float32)
    (y,) = evaluate("Reshape", [empty, np.array([3, 0])], {"allowzero": 1}, constants=[1])
    assert y.shape == (3, 0)


def test_onnx_shapes_that_are_computed_at_run_time_are_refused() -> None:
    with pytest.raises(UnsupportedCall, match="known at compile time"):
        evaluate("Reshape", [F, np.array([24])])


@pytest.mark.parametrize(
    ("op_type", "attributes"), [("DepthToSpace", {"blocksize": 3}), ("SpaceToDepth", {"blocksize": 3})]
)
def test_onnx_blocks_that_do_not_fit(op_type: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match=op_type):
        build(adapter(op_type, **attributes), [draw(1, 4, 4, 4)])


def test_gradients_agree_with_central_differences() -> None:
    from tilegrad.interpreter.execute import run

    graph, (x,), (y,), (seed,), gradients = build(
        lambda v: ops.diagonal(ops.repeat(ops.permute(v, [1, 0]), [2, 2]), 1), [draw(3, 2)]
    )
    array, weights = draw(3, 2), draw(*y.shape, seed=1)
    env = run(graph, {x: array, seed: weights}, np.float64)
    for place in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[place] = 1e-6
        ahead, behind = (run(graph, {x: array + s * step, seed: weights}, np.float64)[y] for s in (1, -1))
        wanted = math.fsum((weights * (ahead - behind)).ravel()) / 2e-6
        assert env[gradients[x]][place] == pytest.approx(wanted, abs=1e-6)
