"""Tensors that are known at compile time, against PyTorch and the ONNX reference."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from aten_harness import find
from onnx_harness import adapter, check_onnx, evaluate
from operator_harness import build, check, draw

from tilegrad.errors import ShapeError
from tilegrad.ir.types import DType
from tilegrad.operators import arithmetic, slicing
from tilegrad.operators.registry import UnsupportedCall

_TYPES = {torch.float32: DType.F32, torch.int64: DType.I64, torch.int32: DType.I32, torch.bool: DType.BOOL}


@pytest.mark.parametrize(
    ("name", "arguments", "keywords"),
    [
        ("full.default", ([2, 3], 1.5), {}), ("full.default", ([2], 3), {}), ("full.default", ([], True), {}),
        ("full.default", ([2], 3), {"dtype": torch.float32}), ("zeros.default", ([2, 3],), {}),
        ("zeros.default", ([2],), {"dtype": torch.int64}), ("ones.default", ([3],), {"dtype": torch.bool}),
        ("ones.default", ([0, 3],), {}), ("scalar_tensor.default", (2.5,), {}), ("arange.default", (5,), {}),
        ("scalar_tensor.default", (2,), {"dtype": torch.int64}), ("arange.default", (2.5,), {}),
        ("arange.start", (2, 7), {}), ("arange.start_step", (7, 1, -2), {}), ("arange.start_step", (0, 1, 0.25), {}),
        ("arange.default", (4,), {"dtype": torch.float32}), ("arange.default", (4,), {"dtype": torch.int32}),
        ("linspace.default", (0.0, 1.0, 5), {}), ("linspace.default", (-2, 2, 4), {}), ("eye.default", (3,), {}),
        ("eye.m", (2, 4), {}), ("eye.default", (2,), {"dtype": torch.bool}), ("tril_indices.default", (3, 4, 1), {}),
        ("triu_indices.default", (3, 4, -1), {}),
        ("zeros.default", ([2],), {"device": torch.device("cpu"), "layout": torch.strided, "pin_memory": False}),
    ],
)  # fmt: skip
def test_constants(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    operator, overload = name.split(".")
    wanted = getattr(getattr(torch.ops.aten, operator), overload)(*arguments, **keywords)
    graph, _, (y,), _, _ = build(lambda: find(name)(*arguments, **keywords), [])
    assert y.is_constant and y.data is not None
    assert not [op for op in graph.ops if op.origin == "op"]
    assert y.dtype is _TYPES[wanted.dtype]
    np.testing.assert_allclose(y.data, wanted.numpy(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("zeros_like", ()), ("ones_like", ()), ("full_like", (2.5,)), ("new_zeros", ([2, 2],)), ("new_ones", ([3],)),
        ("new_full", ([2], 7.0)),
    ],
)  # fmt: skip
def test_forms_like_another_tensor(name: str, arguments: tuple[Any, ...]) -> None:
    function = find(f"{name}.default")
    reference = getattr(torch.ops.aten, name).default
    check(lambda x: function(x, *arguments), lambda x: reference(x, *arguments), draw(2, 3))
    check(
        lambda x: function(x, *arguments, dtype=torch.int64),
        lambda x: reference(x, *arguments, dtype=torch.int64),
        draw(2, 3),
    )


def test_a_filled_constant_is_a_number_to_its_readers() -> None:
    graph, _, _, _, _ = build(lambda x: x * find("full.default")([4], 2.5), [draw(4)])
    assert all(operand.shape != (4,) or operand.name == "x0" for operand in graph.ops[0].operands)


def test_full_of_a_number_computed_at_run_time() -> None:
    check(lambda v: find("full.default")([2, 3], v), lambda v: torch.ones(2, 3, dtype=torch.float64) * v, np.array(1.5))


@pytest.mark.parametrize("diagonal", [-3, -1, 0, 1, 2, 5])
@pytest.mark.parametrize("name", ["tril", "triu"])
def test_triangles(name: str, diagonal: int) -> None:
    for suffix in ("", "_"):
        function = find(f"{name}{suffix}.default")
        reference = getattr(torch, name)
        check(
            functools.partial(function, diagonal=diagonal),
            functools.partial(reference, diagonal=diagonal),
            draw(2, 3, 4),
        )
    check(lambda x: find(f"{name}.default")(x), getattr(torch, name), np.arange(12).reshape(3, 4))


def test_triangles_hide_what_they_do_not_keep() -> None:
    x = np.array([[1.0, np.nan], [np.inf, 2.0]])
    check(find("tril.default"), torch.tril, x)


def test_forms_that_are_refused() -> None:
    with pytest.raises(ShapeError, match="does not end"):
        find("arange.start_step")(0, 5, 0)
    with pytest.raises(ShapeError, match="not a matrix"):
        build(find("tril.default"), [draw(3)])
    with pytest.raises(UnsupportedCall, match="float64"):
        find("zeros.default")([2], dtype=torch.float64)
    with pytest.raises(UnsupportedCall, match="compile time"):
        build(lambda v: find("arange.default")(v), [np.array(3.0)])


F = draw(2, 3, 4).astype(np.float32)


def test_onnx_constants() -> None:
    for attributes, wanted in (
        ({"value": np.array([1, 2], np.int64)}, np.array([1, 2], np.int64)), ({"value_float": 2.5}, np.float32(2.5)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)), ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4], np.int64)),
    ):  # fmt: skip
        (y,) = evaluate("Constant", [], attributes)
        np.testing.assert_array_equal(y, wanted, strict=True)
    for attributes in ({"value_string": "x"}, {"value": np.zeros(2, np.float16)}):
        with pytest.raises(UnsupportedCall, match="Constant"):
            evaluate("Constant", [], attributes)


def test_onnx_constants_of_shape() -> None:
    shape = np.array([2, 3], np.int64)
    np.testing.assert_array_equal(evaluate("ConstantOfShape", [shape], constants=[0])[0], np.zeros((2, 3), np.float32))
    (y,) = evaluate("ConstantOfShape", [shape], {"value": np.array([7], np.int64)}, constants=[0])
    np.testing.assert_array_equal(y, np.full((2, 3), 7), strict=True)


def test_onnx_shapes_and_ranges() -> None:
    check_onnx("Shape", [F])
    check_onnx("Shape", [F], {"start": -2, "end": 3})
    check_onnx("Size", [F])
    for bounds in ((1, 9, 3), (9, 1, -2), (5, 1, 1)):
        check_onnx("Range", [np.array(n, np.int64) for n in bounds], constants=[0, 1, 2])
    check_onnx("Range", [np.array(n, np.float32) for n in (0.0, 1.0, 0.3)], constants=[0, 1, 2])


def test_onnx_identities_and_triangles() -> None:
    check_onnx("EyeLike", [F[0]], {"k": 1})
    check_onnx("EyeLike", [F[0]], {"dtype": 7})
    for upper in (0, 1):
        check_onnx("Trilu", [F], {"upper": upper})
        check_onnx("Trilu", [F, np.array(1, np.int64)], {"upper": upper}, constants=[1])


def test_shapes_of_an_onnx_model_leave_nothing_to_compute() -> None:
    """Shape, gather, arithmetic and concatenation before a reshape are done when the graph is built."""

    def function(x: Any) -> Any:
        extents = adapter("Shape")(x)
        rows = slicing.strided(extents, 0, 0, 1)
        rest = arithmetic.mul(slicing.strided(extents, 0, 1, 1), slicing.strided(extents, 0, 2, 1))
        return adapter("Reshape")(x, adapter("Concat", axis=0)(rows, rest))

    graph, _, (y,), _, _ = build(function, [draw(2, 3, 4)])
    assert y.shape == (2, 12)
    assert [op.outputs[0] for op in graph.ops if op.origin == "op" and op.phase == "forward"] == [y]
