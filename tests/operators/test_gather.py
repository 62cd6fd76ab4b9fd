"""Embedding, indexing and gathering against PyTorch and ONNX's reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_harness import adapter, check_onnx
from operator_harness import build, check, draw
from tests.compiled import run_compiled
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import constant
from tilegrad.ir.graph import StructuredOp
from tilegrad.operators import gather, registry

Array = NDArray[Any]


def integers(*shape: int, high: int, low: int = 0, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape)


def aten(name: str) -> Callable[..., Any]:
    function = registry.find_aten(f"aten.{name}")
    assert function is not None, f"{name} is not registered"
    return function


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(), (4,), (2, 5), (2, 1, 3)])
def test_embedding(shape: tuple[int, ...], dtype: Any) -> None:
    indices = np.asarray(integers(*shape, high=6)).astype(dtype)
    check(gather.embedding, lambda w, i: functional.embedding(i, w), draw(6, 3), indices)


def test_the_padding_row_of_an_embedding_gets_no_gradient() -> None:
    indices = np.array([[0, 2, 2], [5, 2, 1]])
    check(
        lambda w, i: aten("embedding.default")(w, i, 2), lambda w, i: functional.embedding(i, w, padding_idx=2),
        draw(6, 3), indices,
    )  # fmt: skip
    constant_indices = constant_like(indices)
    check(
        lambda w: gather.embedding(w, constant_indices(), 2),
        lambda w: functional.embedding(torch.tensor(indices), w, padding_idx=2), draw(6, 3),
    )  # fmt: skip


def constant_like(array: Array) -> Callable[[], Any]:
    """A constant of the graph under construction."""
    return lambda: constant(array)


def test_scaled_gradients_of_an_embedding_are_unsupported() -> None:
    with pytest.raises(registry.UnsupportedCall, match="scale_grad_by_freq"):
        build(lambda w, i: gather.embedding(w, i, -1, True), [draw(3, 2), integers(2, high=3)])


def test_positions_out_of_range_read_nothing() -> None:
    indices = np.array([0, 6, -1, 5, 1 << 30, -(1 << 30)])
    graph, (w, i), (y,), (seed,), gradients = build(gather.embedding, [draw(6, 3), indices])
    ones = np.ones((6, 3))
    env = run(graph, {w: draw(6, 3), i: indices, seed: ones}, np.float64)
    inside = np.array([True, False, False, True, False, False])
    np.testing.assert_array_equal(env[y][~inside], 0)
    np.testing.assert_allclose(env[y][inside], draw(6, 3)[[0, 5]])
    np.testing.assert_array_equal(env[gradients[w]].sum(1), [3, 0, 0, 0, 0, 3])


def test_positions_out_of_range_read_nothing_in_c() -> None:
    indices = np.array([0, 6, -1, 5, 1 << 31, (1 << 32) + 2, 1 - (1 << 33)])
    graph, (w, i), (y,), (seed,), gradients = build(gather.embedding, [draw(6, 3), indices])
    feeds = {w: draw(6, 3), i: indices, seed: np.ones((7, 3))}
    rows, slope = run_compiled(graph, [y, gradients[w]], feeds)
    expected = np.where(np.isin(np.arange(7), [0, 3])[:, None], draw(6, 3)[indices % 6], 0)
    np.testing.assert_array_equal(rows, expected.astype(np.float32))
    np.testing.assert_array_equal(slope.sum(1), [3, 0, 0, 0, 0, 3])


@pytest.mark.parametrize(("dim", "shape"), [(0, (4,)), (1, (7,)), (-1, ()), (2, (1,))])
def test_index_select(dim: int, shape: tuple[int, ...]) -> None:
    index = np.asarray(integers(*shape, high=3))
    check(
        lambda x, i: aten("index_select.default")(x, dim, i), lambda x, i: torch.index_select(x, dim, i),
        draw(3, 4, 5), index,
    )  # fmt: skip


@pytest.mark.parametrize(("dim", "index"), [(0, 0), (1, -1), (-1, 2)])
def test_select(dim: int, index: int) -> None:
    check(lambda x: aten("select.int")(x, dim, index), lambda x: x.select(dim, index), draw(3, 4, 5))


@pytest.mark.parametrize(
    ("x", "dim", "index"), [((3, 4), 0, (5, 4)), ((3, 4), 1, (2, 6)), ((5,), -1, (3,)), ((), 0, ())]
)
def test_gather(x: tuple[int, ...], dim: int, index: tuple[int, ...]) -> None:
    array = np.asarray(draw(*x))
    positions = np.asarray(integers(*index, high=x[dim] if x else 1))
    check(lambda a, i: aten("gather.default")(a, dim, i), lambda a, i: torch.gather(a, dim, i), array, positions)


def test_take_and_take_along_dim() -> None:
    take_along, take = aten("take_along_dim.default"), aten("take.default")
    x, along = draw(3, 4, 5), integers(3, 1, 2, high=5)
    check(lambda a, i: take_along(a, i, 2), lambda a, i: torch.take_along_dim(a, i, 2), x, along)
    check(take_along, torch.take_along_dim, x, integers(7, high=60))
    check(take, torch.take, x, integers(2, 3, low=-60, high=60))


INDEXED: list[tuple[str, Callable[..., Any], list[int]]] = [
    ("first", lambda i, j: [i], [0]),
    ("middle", lambda i, j: [None, i], [1]),
    ("last", lambda i, j: [None, None, i], [2]),
    ("adjacent", lambda i, j: [None, i, j], [1, 2]),
    ("apart", lambda i, j: [i, None, j], [0, 2]),
    ("all", lambda i, j: [i, j, i], [0, 1, 2]),
]


@pytest.mark.parametrize(("pattern", "axes"), [case[1:] for case in INDEXED], ids=[case[0] for case in INDEXED])
@pytest.mark.parametrize(("left", "right"), [((4,), (4,)), ((2, 3), (3,)), ((2, 1), (3,)), ((), (2,)), ((1,), (2, 2))])
def test_index(pattern: Any, axes: list[int], left: tuple[int, ...], right: tuple[int, ...]) -> None:
    i, j = np.asarray(integers(*left, low=-3, high=3)), np.asarray(integers(*right, low=-3, high=3, seed=1))

    def reference(x: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.index.Tensor(x, pattern(i, j))  # Python's brackets select where a tensor has no axes

    check(lambda x, i, j: aten("index.Tensor")(x, pattern(i, j)), reference, draw(3, 4, 3, 2), i, j)


def test_constant_masks_are_positions() -> None:
    mask = np.array([[True, False, True, True], [False, False, True, False], [False] * 4])
    found = constant_like(mask)
    check(lambda x: gather.index_tensor(x, [found()]), lambda x: x[torch.tensor(mask)], draw(3, 4, 2))


def test_masks_known_at_run_time_are_unsupported() -> None:
    with pytest.raises(registry.UnsupportedCall, match=r"torch\.where"):
        build(lambda x, m: gather.index_tensor(x, [m]), [draw(3), np.array([True, False, True])])


def test_constant_positions_that_count_evenly_need_no_table() -> None:
    for positions in ([0, 2], [3, 2, 1], [-1], [[0, 1], [2, 3]]):
        table = np.array(positions)
        found = constant_like(table)
        check(lambda x, f=found: gather.index_select(x, 1, f()), lambda x, t=table: x[:, torch.tensor(t)], draw(3, 4))
        graph, *_ = build(lambda x, f=found: gather.index_select(x, 1, f()), [draw(3, 4)])
        nests = [nest for op in graph.ops if isinstance(op, StructuredOp) for nest in op.nests]
        assert not any(row.lookups for nest in nests for row in nest.indices())
    uneven = constant_like(np.array([0, 1, 3, 0]))
    check(lambda x: gather.index_select(x, 1, uneven()), lambda x: x[:, [0, 1, 3, 0]], draw(3, 4))


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.data())
def test_any_index(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    common = data.draw(st.lists(st.integers(1, 3), max_size=2))
    indices: list[Array | None] = []
    for axis, extent in enumerate(shape[: data.draw(st.integers(1, len(shape)))]):
        if data.draw(st.booleans()):
            indices.append(None)
            continue
        own = [1 if data.draw(st.booleans()) else n for n in common]
        indices.append(np.asarray(integers(*own, low=-extent, high=extent, seed=axis)))
    tensors = [index for index in indices if index is not None]

    def pattern(given_: tuple[Any, ...]) -> list[Any]:
        remaining = iter(given_)
        return [None if index is None else next(remaining) for index in indices]

    def reference(x: torch.Tensor, *t: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten.index.Tensor(x, pattern(t)) if t else x * 1.0

    check(lambda x, *t: gather.index_tensor(x, pattern(t)), reference, draw(*shape), *tensors)


def test_one_hot() -> None:
    check(
        lambda i: aten("one_hot.default")(i, 5),
        lambda i: functional.one_hot(i, 5),
        integers(2, 3, high=5),
        gradient=False,
    )
    with pytest.raises(registry.UnsupportedCall, match="num_classes"):
        build(gather.one_hot, [integers(2, high=3)])


def test_gradients_agree_with_central_differences() -> None:
    check_differences(gather.embedding, draw(4, 2), np.array([1, 3, 1]))
    check_differences(lambda x, i: gather.index_tensor(x, [i, None, i]), draw(3, 2, 3), np.array([[0, 2], [2, -1]]))


def f32(*shape: int) -> Array:
    return draw(*shape).astype(np.float32)


@pytest.mark.parametrize(("axis", "shape"), [(0, ()), (1, (2, 3)), (-1, (4,)), (2, (1, 1))])
@pytest.mark.parametrize("constants", [(), (1,), (0, 1)])
def test_onnx_gather(axis: int, shape: tuple[int, ...], constants: tuple[int, ...]) -> None:
    index = np.asarray(integers(*shape, low=-3, high=3))
    check_onnx("Gather", [f32(3, 4, 5), index], {"axis": axis}, constants=constants)


@pytest.mark.parametrize("constants", [(), (1,)])
def test_onnx_gather_elements(constants: tuple[int, ...]) -> None:
    check_onnx("GatherElements", [f32(3, 4), integers(5, 4, low=-3, high=3)], {"axis": 0}, constants=constants)
    check_onnx("GatherElements", [f32(3, 4), integers(3, 6, low=-4, high=4)], {"axis": 1}, constants=constants)


@pytest.mark.parametrize(
    ("x", "indices", "batch"),
    [
        ((3, 4), (5, 2), 0),
        ((3, 4), (5, 1), 0),
        ((3, 3, 3), (2, 2, 3), 0),
        ((2, 3, 4), (2, 1), 1),
        ((2, 3, 3), (2, 5, 2), 1),
    ],
)
@pytest.mark.parametrize("constants", [(), (1,)])
def test_onnx_gather_nd(x: tuple[int, ...], indices: tuple[int, ...], batch: int, constants: tuple[int, ...]) -> None:
    positions = integers(*indices, low=-3, high=3)
    check_onnx("GatherND", [f32(*x), positions], {"batch_dims": batch}, constants=constants)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_onnx_one_hot(axis: int) -> None:
    inputs = [integers(2, 3, low=-4, high=4), np.array(4), np.array([-1.5, 2.5], np.float32)]
    check_onnx("OneHot", inputs, {"axis": axis}, constants=(1,))
    with pytest.raises(registry.UnsupportedCall, match="static"):
        build(adapter("OneHot"), inputs)


@pytest.mark.parametrize(
    ("function", "arrays", "message"),
    [
        (lambda x, i: gather.index_select(x, 2, i), [draw(3, 4), integers(2, high=3)], "axis 2 does not fit"),
        (lambda x, i: gather.index_select(x, 0, i), [draw(3, 4), draw(2)], "must hold i32 or i64"),
        (lambda x: gather.select(x, 0, 3), [draw(3, 4)], "out of range"),
        (lambda x, i: gather.gather(x, 0, i), [draw(3, 4), integers(2, 5, high=3)], "does not fit x0"),
        (lambda x, i: gather.index_tensor(x, [i, i]), [draw(3), integers(2, high=3)], "2 indices"),
        (lambda x: gather.index_select(x, 0, constant(np.array([3]))), [draw(3)], "outside an axis of extent 3"),
    ],
)
def test_what_does_not_fit_is_named(function: Any, arrays: list[Array], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(function, arrays)
