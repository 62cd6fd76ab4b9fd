"""Casts, copies and detach."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from aten_harness import check_aten, find
from onnx import TensorProto
from onnx_harness import adapter, check_onnx
from operator_harness import build, check, draw

from tilegrad.ir.types import DType
from tilegrad.operators.registry import UnsupportedCall

FLOATS = np.array([[-2.7, -0.5, 0.0], [0.5, 1.9, 3.0]])
INTEGERS = np.array([0, 3, -4])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("array", [FLOATS, INTEGERS, np.array([True, False])], ids=["float", "int", "bool"])
def test_casts(dtype: torch.dtype, array: np.ndarray) -> None:
    check_aten("_to_copy.default", array, dtype=dtype)
    check_aten("to.dtype", array, dtype)


def test_casts_to_float() -> None:
    for array in (INTEGERS, np.array([True, False])):
        check(lambda x: find("to.dtype")(x, torch.float32), lambda x: x.to(torch.float64), array)
        check(lambda x: find("type_as.default")(x, x), lambda x: x.type_as(x), array)


def test_a_cast_to_the_same_type_passes_the_gradient() -> None:
    check(lambda x: find("_to_copy.default")(x, dtype=torch.float32), lambda x: x * 1.0, FLOATS)
    check_aten("type_as.default", FLOATS, draw(2))


def test_other_types_are_refused() -> None:
    for dtype in (torch.float64, torch.float16, torch.uint8):
        with pytest.raises(UnsupportedCall, match="use float32"):
            check_aten("_to_copy.default", INTEGERS, dtype=dtype)


@pytest.mark.parametrize(
    "name", ["clone", "contiguous", "alias", "lift_fresh_copy", "positive", "resolve_conj", "resolve_neg"]
)
def test_the_identity(name: str) -> None:
    check_aten(f"{name}.default", FLOATS)


def test_detach_ends_the_gradient() -> None:
    check(lambda x: x * find("detach.default")(x), lambda x: x * x.detach(), FLOATS)
    *_, gradients = build(find("detach.default"), [FLOATS])
    assert not gradients


def test_placement_arguments_are_accepted_and_others_are_not() -> None:
    check_aten("_to_copy.default", FLOATS, device=torch.device("cpu"), layout=torch.strided, gradient=False)
    with pytest.raises(UnsupportedCall, match="wonder"):
        build(lambda x: find("_to_copy.default")(x, wonder=1), [FLOATS])
    with pytest.raises(UnsupportedCall, match="sparse"):
        build(lambda x: find("_to_copy.default")(x, layout=torch.sparse_coo), [FLOATS])


def test_copies_and_fills() -> None:
    check(find("copy.default"), lambda x, y: x * 0 + y, FLOATS, draw(3))
    check(lambda x: find("fill_.Scalar")(x, 2.5), lambda x: torch.full_like(x, 2.5), FLOATS)
    check(find("fill_.Tensor"), lambda x, v: x * 0 + v, FLOATS, np.array(1.5))
    check(find("zero_.default"), torch.zeros_like, FLOATS)


@pytest.mark.parametrize("target", [TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL])
def test_onnx_casts(target: int) -> None:
    for array in (FLOATS.astype(np.float32), INTEGERS, np.array([True, False])):
        check_onnx("Cast", [array], {"to": target})
    check_onnx("Identity", [FLOATS.astype(np.float32)])
    check_onnx("CastLike", [FLOATS.astype(np.float32), INTEGERS])


def test_onnx_types_that_are_refused() -> None:
    with pytest.raises(UnsupportedCall, match="float16"):
        build(adapter("Cast", to=TensorProto.FLOAT16), [FLOATS])


def test_a_bool_result_of_a_cast_has_type_bool() -> None:
    _, _, (y,), _, _ = build(lambda x: find("to.dtype")(x, torch.bool), [FLOATS])
    assert y.dtype is DType.BOOL
