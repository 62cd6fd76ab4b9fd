"""Linear layers and matrix products against PyTorch and ONNX's reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx
from operator_harness import build, check, draw
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import StructuredOp
from tilegrad.ir.printer import format_nest
from tilegrad.operators import linear, registry


@pytest.mark.parametrize("rows", [(), (3,), (2, 3), (2, 1, 3)])
def test_linear(rows: tuple[int, ...]) -> None:
    check(linear.linear, functional.linear, draw(*rows, 5), draw(4, 5, seed=1), draw(4, seed=2))
    check(linear.linear, functional.linear, draw(*rows, 5), draw(4, 5, seed=1))


def test_linear_with_a_weight_of_one_axis() -> None:
    check(linear.linear, functional.linear, draw(3, 5), draw(5, seed=1))


def test_linear_is_one_nest_over_rows_features_and_channels() -> None:
    graph, *_ = build(linear.linear, [draw(2, 3, 5), draw(4, 5)])
    op = graph.ops[0]
    assert isinstance(op, StructuredOp)
    assert [next(format_nest(nest)) for nest in op.nests] == ["P(i0:2, i1:3, i2:4) R(i3:5)"]


RANKS = [
    ((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)), ((2, 3), (5, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((6, 1, 2, 3), (5, 3, 4)), ((2, 3, 1), (2, 1, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), RANKS)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check(linear.matmul, torch.matmul, draw(*a), draw(*b, seed=1))
    check_onnx("MatMul", [draw(*a).astype(np.float32), draw(*b, seed=1).astype(np.float32)], tolerance=1e-5)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.data())
def test_any_matmul(batch: list[int], m: int, k: int, n: int, data: st.DataObject) -> None:
    def some(shape: list[int]) -> list[int]:
        kept = shape[data.draw(st.integers(0, len(shape))) :]
        return [1 if data.draw(st.booleans()) else extent for extent in kept]

    check(linear.matmul, torch.matmul, draw(*some(batch), m, k), draw(*some(batch), k, n, seed=1))


def test_matmul_of_integers() -> None:
    a, b = np.arange(6).reshape(2, 3), np.arange(12).reshape(3, 4) - 5
    check(linear.matmul, torch.matmul, a, b, gradient=False)


CALLS: dict[str, tuple[Any, list[tuple[int, ...]], dict[str, Any]]] = {
    "aten.linear.default": (functional.linear, [(2, 3), (4, 3), (4,)], {}),
    "aten.matmul.default": (torch.matmul, [(2, 3), (3, 4)], {}),
    "aten.mm.default": (torch.mm, [(2, 3), (3, 4)], {}),
    "aten.bmm.default": (torch.bmm, [(2, 3, 4), (2, 4, 2)], {}),
    "aten.mv.default": (torch.mv, [(2, 3), (3,)], {}),
    "aten.dot.default": (torch.dot, [(3,), (3,)], {}),
    "aten.vdot.default": (torch.vdot, [(3,), (3,)], {}),
    "aten.outer.default": (torch.outer, [(3,), (4,)], {}),
    "aten.ger.default": (torch.ger, [(3,), (4,)], {}),
    "aten.inner.default": (torch.inner, [(2, 3), (4, 2, 3)], {}),
    "aten.linalg_vecdot.default": (torch.linalg.vecdot, [(2, 3, 4), (3, 1)], {"dim": 1}),
    "aten.kron.default": (torch.kron, [(2, 3), (4, 1, 2)], {}),
    "aten.bilinear.default": (functional.bilinear, [(2, 3, 4), (2, 3, 5), (6, 4, 5), (6,)], {}),
    "aten.addmm.default": (torch.addmm, [(4,), (2, 3), (3, 4)], {"beta": 0.5, "alpha": -2}),
    "aten.baddbmm.default": (torch.baddbmm, [(2, 3, 2), (2, 3, 4), (2, 4, 2)], {"alpha": 0.25}),
    "aten.addbmm.default": (torch.addbmm, [(3, 2), (2, 3, 4), (2, 4, 2)], {"beta": 2}),
    "aten.addmv.default": (torch.addmv, [(2,), (2, 3), (3,)], {}),
    "aten.addr.default": (torch.addr, [(2, 3), (2,), (3,)], {"beta": 0}),
}


@pytest.mark.parametrize("name", CALLS)
def test_aten_names(name: str) -> None:
    reference, shapes, attributes = CALLS[name]
    function = registry.find_aten(name)
    assert function is not None
    arrays = [draw(*shape, seed=k) for k, shape in enumerate(shapes)]
    check(lambda *t: function(*t, **attributes), lambda *t: reference(*t, **attributes), *arrays)


def test_tensordot_and_chains() -> None:
    tensordot, multi_dot = (
        registry.find_aten("aten.tensordot.default"),
        registry.find_aten("aten.linalg_multi_dot.default"),
    )
    assert tensordot is not None and multi_dot is not None
    check(
        lambda a, b: tensordot(a, b, [2, 0], [-1, 1]), lambda a, b: torch.tensordot(a, b, dims=([2, 0], [-1, 1])),
        draw(2, 3, 4), draw(5, 2, 4, seed=1),
    )  # fmt: skip
    chain = [draw(3), draw(3, 4, seed=1), draw(4, 2, seed=2)]
    check(lambda *t: multi_dot(t), lambda *t: torch.linalg.multi_dot(t), *chain)
    check(lambda a: linear.inner(a, a), lambda a: torch.inner(a, a), draw(seed=1).reshape(()))


def test_a_beta_of_zero_ignores_what_is_added() -> None:
    c = np.full((2, 2), math.nan)
    graph, operands, (y,), _, _ = build(lambda *t: linear.addmm(*t, beta=0), [c, draw(2, 3), draw(3, 2)])
    feeds = dict(zip(operands, [c, draw(2, 3), draw(3, 2)], strict=True))
    assert np.isfinite(run(graph, {**feeds}, np.float64)[y]).all()


@pytest.mark.parametrize(
    ("shapes", "attributes"),
    [
        ([(2, 3), (3, 4)], {}),
        ([(2, 3), (3, 4), (4,)], {}),
        ([(3, 2), (4, 3), (2, 1)], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": -2.0}),
        ([(2, 3), (4, 3), (1, 4)], {"transB": 1, "beta": 0.25}),
        ([(3, 2), (3, 4)], {"transA": 1, "alpha": 3.0}),
        ([(2, 3), (3, 4), ()], {}),
    ],
)
def test_gemm(shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> None:
    arrays = [np.asarray(draw(*shape, seed=k)) for k, shape in enumerate(shapes)]
    check_onnx("Gemm", [a.astype(np.float32) for a in arrays], attributes, tolerance=1e-5)

    def reference(a: torch.Tensor, b: torch.Tensor, *c: torch.Tensor) -> torch.Tensor:
        a, b = (a.T if attributes.get("transA") else a), (b.T if attributes.get("transB") else b)
        product = attributes.get("alpha", 1.0) * (a @ b)
        return product + attributes.get("beta", 1.0) * c[0] if c else product

    check(adapter("Gemm", **attributes), reference, *arrays)


def test_gemm_of_rank_three() -> None:
    check(
        adapter("Gemm", transB=1), lambda a, b, c: a @ b.transpose(-1, -2) + c,
        draw(2, 3, 4), draw(5, 4, seed=1), draw(5, seed=2),
    )  # fmt: skip


@pytest.mark.parametrize(("a", "b"), [((2, 3), (3, 4)), ((2, 2, 3), (3,))])
def test_gradients_agree_with_central_differences(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check_differences(linear.matmul, draw(*a), draw(*b, seed=1))


@pytest.mark.parametrize(
    ("function", "shapes", "message"),
    [
        (linear.linear, [(2, 3), (4, 2)], "extent 3 in x0"),
        (linear.linear, [(2, 3), (4, 3), (3,)], "the bias x2"),
        (linear.matmul, [(2, 3), (1, 4)], "extent 3 in x0"),
        (linear.matmul, [(2, 2, 3), (3, 3, 4)], "to fit the others"),
        (linear.matmul, [(), (3,)], "at least 1 axes"),
        (linear.mm, [(2, 2, 3), (3, 4)], "expects 2 axes"),
        (linear.bmm, [(1, 2, 3), (2, 3, 4)], "batches of bmm"),
        (linear.addmm, [(3, 2, 4), (2, 3), (3, 4)], "does not broadcast to the product"),
    ],
)
def test_shapes_that_do_not_fit_are_named(function: Any, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(function, [np.asarray(draw(*shape)) for shape in shapes])
