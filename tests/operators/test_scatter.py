"""Scattering against PyTorch and ONNX's reference."""

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

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.operators import registry, scatter

Array = NDArray[Any]


def distinct(extent: int, *shape: int, axis: int = 0, seed: int = 0) -> Array:
    """Positions below `extent` that differ along `axis`."""
    rng = np.random.default_rng(seed)
    others = [n for k, n in enumerate(shape) if k != axis]
    columns = [rng.permutation(extent)[: shape[axis]] for _ in range(int(np.prod(others)))]
    return np.ascontiguousarray(np.moveaxis(np.array(columns).reshape(*others, shape[axis]), -1, axis))


def aten(name: str) -> Callable[..., Any]:
    function = registry.find_aten(f"aten.{name}")
    assert function is not None, f"{name} is not registered"
    return function


SHAPES = [
    ((4, 3), 0, (4, 3), (4, 3)),
    ((4, 3), 1, (4, 2), (4, 3)),
    ((5, 3, 2), 0, (2, 3, 1), (3, 3, 2)),
    ((6,), -1, (4,), (4,)),
]


def used(src: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The part of a source that an index covers; PyTorch differentiates only where that is all of it."""
    return src[tuple(slice(n) for n in index.shape)]


@pytest.mark.parametrize(("x", "dim", "index", "src"), SHAPES)
def test_scatter(x: Any, dim: int, index: Any, src: Any) -> None:
    positions = distinct(x[dim], *index, axis=dim % len(x))
    check(
        lambda a, i, b: aten("scatter.src")(a, dim, i, b), lambda a, i, b: a.scatter(dim, i, used(b, i)),
        draw(*x), positions, draw(*src, seed=1),
    )  # fmt: skip
    check(lambda a, i: aten("scatter.value")(a, dim, i, 2.5), lambda a, i: a.scatter(dim, i, 2.5), draw(*x), positions)


@pytest.mark.parametrize(("x", "dim", "index", "src"), SHAPES)
def test_scatter_add(x: Any, dim: int, index: Any, src: Any) -> None:
    positions = np.random.default_rng(0).integers(0, x[dim], index)
    check(
        lambda a, i, b: aten("scatter_add.default")(a, dim, i, b),
        lambda a, i, b: a.scatter_add(dim, i, used(b, i)),
        draw(*x), positions, draw(*src, seed=1),
    )  # fmt: skip


def test_scatter_reduce_sums() -> None:
    index = np.array([1, 1, 2, 0])
    check(
        lambda a, i, b: aten("scatter_reduce.two")(a, 0, i, b, "sum"), lambda a, i, b: a.scatter_reduce(0, i, b, "sum"),
        draw(3), index, draw(4, seed=1),
    )  # fmt: skip
    with pytest.raises(registry.UnsupportedCall, match="'prod'"):
        build(lambda a, i, b: scatter.scatter_reduce(a, 0, i, b, "prod"), [draw(3), index, draw(4)])


def test_the_last_of_duplicates_stays_and_what_is_out_of_range_is_dropped() -> None:
    index, src = np.array([1, 7, 1, 0, -9]), np.arange(5.0) + 10
    graph, (x, i, s), (y,), _, _ = build(lambda *t: scatter.scatter(t[0], 0, t[1], t[2]), [np.zeros(3), index, src])
    assert run(graph, {x: np.zeros(3), i: index, s: src}, np.float64)[y].tolist() == [13.0, 12.0, 0.0]
    graph, (x, i, s), (y,), _, _ = build(lambda *t: scatter.scatter_add(t[0], 0, t[1], t[2]), [np.zeros(3), index, src])
    assert run(graph, {x: np.ones(3), i: index, s: src}, np.float64)[y].tolist() == [14.0, 23.0, 1.0]


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_index_add_copy_and_fill(dim: int) -> None:
    x, index = draw(4, 5, 6), distinct(4, 3)
    shape = list(x.shape)
    shape[dim] = 3
    source = draw(*shape, seed=1)
    repeated = np.array([1, 3, 1])
    check(
        lambda a, i, b: aten("index_add.default")(a, dim, i, b, alpha=0.5),
        lambda a, i, b: a.index_add(dim, i, b, alpha=0.5), x, repeated, source,
    )  # fmt: skip
    check(
        lambda a, i, b: aten("index_copy.default")(a, dim, i, b), lambda a, i, b: a.index_copy(dim, i, b),
        x, index, source,
    )  # fmt: skip
    check(
        lambda a, i: aten("index_fill.int_Scalar")(a, dim, i, -1.5),
        lambda a, i: a.index_fill(dim, i, -1.5),
        x,
        repeated,
    )


PUTS: list[tuple[Callable[..., list[Any]], tuple[int, ...]]] = [
    (lambda i, j: [i], (3, 4, 3)),
    (lambda i, j: [i], (3,)),
    (lambda i, j: [i, j], (3, 3)),
    (lambda i, j: [None, i, j], (4, 3)),
    (lambda i, j: [None, None, j], (4, 1, 3)),
    (lambda i, j: [i, j, i], (1,)),
]


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("pattern", "values"), PUTS)
def test_index_put(pattern: Any, values: tuple[int, ...], accumulate: bool) -> None:
    i, j = np.array([0, -1, 1]), np.array([2, 0, 1])
    if accumulate:
        i, j = np.array([0, 2, 0]), np.array([1, 0, 1])

    def reference(x: torch.Tensor, i: torch.Tensor, j: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        wanted = [slice(None) if entry is None else entry for entry in pattern(i, j)]
        result = x.clone()
        if not accumulate:
            result[tuple(wanted)] = v
            return result
        grid = torch.arange(x.numel()).reshape(x.shape)[tuple(wanted)]
        return x.reshape(-1).index_add(0, grid.reshape(-1), v.broadcast_to(grid.shape).reshape(-1)).reshape(x.shape)

    check(
        lambda x, i, j, v: aten("index_put.default")(x, pattern(i, j), v, accumulate), reference,
        draw(4, 4, 3), i, j, draw(*values, seed=2),
    )  # fmt: skip


def test_index_put_around_a_slice_is_unsupported() -> None:
    with pytest.raises(registry.UnsupportedCall, match="adjacent"):
        build(lambda x, i, v: scatter.index_put(x, [i, None, i], v), [draw(3, 2, 3), np.array([0]), draw(1, 2)])


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_any_scatter(shape: list[int], data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    index = [data.draw(st.integers(1, n)) for n in shape]
    positions = distinct(shape[dim], *index, axis=dim, seed=data.draw(st.integers(0, 9)))
    arrays = [draw(*shape), positions, draw(*index, seed=1)]
    check(lambda a, i, b: scatter.scatter(a, dim, i, b), lambda a, i, b: a.scatter(dim, i, b), *arrays)
    check(lambda a, i, b: scatter.scatter_add(a, dim, i, b), lambda a, i, b: a.scatter_add(dim, i, b), *arrays)


def test_gradients_agree_with_central_differences() -> None:
    index = np.array([[1, 0], [2, 0]])
    check_differences(lambda x, i, s: scatter.scatter(x, 0, i, s), draw(3, 2), index, draw(2, 2, seed=1))
    check_differences(lambda x, i, s: scatter.scatter_add(x, 0, i, s), draw(3, 2), index, draw(2, 2, seed=1))


def f32(*shape: int, seed: int = 0) -> Array:
    return draw(*shape, seed=seed).astype(np.float32)


@pytest.mark.parametrize("constants", [(), (1,)])
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_onnx_scatter_elements(reduction: str, constants: tuple[int, ...]) -> None:
    index = distinct(4, 2, 3) - 4
    inputs = [f32(4, 3), index, f32(2, 3, seed=1)]
    check_onnx("ScatterElements", inputs, {"reduction": reduction}, constants=constants)
    inputs = [f32(2, 4), distinct(4, 2, 3, axis=1), f32(2, 3, seed=1)]
    check_onnx("ScatterElements", inputs, {"axis": -1, "reduction": reduction}, constants=constants)


@pytest.mark.parametrize("constants", [(), (1,)])
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_onnx_scatter_nd(reduction: str, constants: tuple[int, ...]) -> None:
    rows = np.array([[[1], [-4]], [[2], [3]]])
    check_onnx("ScatterND", [f32(4, 3), rows, f32(2, 2, 3, seed=1)], {"reduction": reduction}, constants=constants)
    points = np.array([[1, 2], [0, -1], [-1, 0]])
    check_onnx("ScatterND", [f32(4, 3), points, f32(3, seed=1)], {"reduction": reduction}, constants=constants)


def test_onnx_other_reductions_are_unsupported() -> None:
    with pytest.raises(registry.UnsupportedCall, match="'mul'"):
        build(adapter("ScatterElements", reduction="mul"), [draw(3), np.array([0]), draw(1)])


@pytest.mark.parametrize(
    ("function", "arrays", "message"),
    [
        (lambda x, i, s: scatter.scatter(x, 0, i, s), [draw(3, 2), np.zeros((2, 3), int), draw(2, 3)], "do not fit x0"),
        (lambda x, i, s: scatter.scatter(x, 0, i, s), [draw(3, 2), np.zeros((2, 2), int), draw(1, 2)], "do not fit x0"),
        (lambda x, i, s: scatter.scatter(x, 0, i, s), [draw(3), np.array([0]), np.array([1])], "is i64, but"),
        (lambda x, i, s: scatter.index_add(x, 0, i, s), [draw(3, 2), np.array([0]), draw(2, 2)], "is written into"),
        (lambda x, i, s: scatter.index_add(x, 0, i, s), [draw(3), np.zeros((1, 1), int), draw(1)], "expected one axis"),
    ],
)
def test_what_does_not_fit_is_named(function: Any, arrays: list[Array], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(function, arrays)
