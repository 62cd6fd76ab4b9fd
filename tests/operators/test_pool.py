"""Pooling against PyTorch and the ONNX reference: windows, ties, NaN, indices, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx
from operator_harness import check, draw
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.operators import adaptive_pool, pool, registry
from tilegrad.operators.registry import UnsupportedCall

#: Reciprocals of counts are rounded to float32, also where the interpreter computes in float64.
RECIPROCALS = 1e-7


def aten(name: str, *args: Any) -> Any:
    function = registry.find_aten(f"aten.{name}.default")
    assert function is not None
    return function(*args)


def run_torch(name: str, x: torch.Tensor, *args: Any) -> Any:
    return getattr(torch.ops.aten, name).default(x, *args)


def accepted(name: str, shape: tuple[int, ...], *args: Any) -> bool:
    """Whether PyTorch takes these arguments; if it does not, neither may we."""
    try:
        run_torch(name, torch.zeros(shape), *args)
    except RuntimeError:
        with pytest.raises(ShapeError):
            check(lambda x: aten(name, x, *args), lambda x: x, np.zeros(shape))
        return False
    return True


@st.composite
def windows(draw_: st.DrawFn, spatial: int, dilated: bool = True) -> tuple[list[int], ...]:
    def entries(low: int, high: int) -> list[int]:
        return draw_(st.lists(st.integers(low, high), min_size=spatial, max_size=spatial))

    return entries(1, 3), entries(1, 3), entries(0, 1), entries(1, 2) if dilated else []


@settings(max_examples=25, derandomize=True, deadline=None)
@given(data=st.data(), spatial=st.integers(1, 2), ceil_mode=st.booleans(), batched=st.booleans())
def test_max_pool(data: st.DataObject, spatial: int, ceil_mode: bool, batched: bool) -> None:
    kernel, stride, padding, dilation = data.draw(windows(spatial))
    shape = (*([2] if batched else []), 2, *data.draw(st.lists(st.integers(2, 8), min_size=spatial, max_size=spatial)))
    name = "max_pool2d_with_indices" if spatial == 2 else "max_pool1d_with_indices"
    arguments = (kernel, stride, padding, dilation, ceil_mode)
    assume(accepted(name, shape, *arguments))
    check(lambda x: aten(name, x, *arguments), lambda x: run_torch(name, x, *arguments), draw(*shape))


@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    data=st.data(), spatial=st.integers(1, 2), ceil_mode=st.booleans(), padded=st.booleans(),
    divisor=st.sampled_from([None, 3, -2]),
)  # fmt: skip
def test_avg_pool(data: st.DataObject, spatial: int, ceil_mode: bool, padded: bool, divisor: int | None) -> None:
    kernel, stride, padding, _ = data.draw(windows(spatial, dilated=False))
    shape = (2, 2, *data.draw(st.lists(st.integers(2, 8), min_size=spatial, max_size=spatial)))
    rest = (divisor,) if spatial == 2 else ()
    arguments = (kernel, stride, padding, ceil_mode, padded, *rest)
    name = f"avg_pool{spatial}d"
    assume(accepted(name, shape, *arguments))
    check(
        lambda x: aten(name, x, *arguments),
        lambda x: run_torch(name, x, *arguments),
        draw(*shape),
        tolerance=RECIPROCALS,
    )


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("max_pool3d", ([2, 2, 2],)),
        ("max_pool3d", ([3, 2, 1], [2, 1, 1], [1, 1, 0], [1, 2, 1], True)),
        ("max_pool3d_with_indices", ([2, 3, 2], [1, 2, 2])),
        ("avg_pool3d", ([2, 3, 2], [2, 2, 2], [1, 1, 1], True, False)),
        ("avg_pool3d", ([2],)),
        ("max_pool2d", ([2, 2],)),
        ("max_pool2d", ([3], [2], 1, 1, True)),
        ("avg_pool2d", ([3, 3], [], [1, 1])),
        ("max_pool1d", ([2], [2])),
        ("avg_pool1d", ([2], [2])),
    ],
)
def test_argument_forms(name: str, arguments: tuple[Any, ...]) -> None:
    shape = {"1": (2, 2, 7), "2": (2, 2, 5, 6), "3": (1, 2, 4, 5, 4)}[name[8]]
    check(
        lambda x: aten(name, x, *arguments),
        lambda x: run_torch(name, x, *arguments),
        draw(*shape),
        tolerance=RECIPROCALS,
    )


def test_ties_go_to_the_first_maximum() -> None:
    x = np.array([[[1.0, 3.0, 3.0, 3.0, -1.0, -1.0], [0.0, -0.0, 0.0, 2.0, 2.0, 2.0]]])
    for stride in (1, 2, 3):
        check(
            lambda x, s=stride: aten("max_pool1d_with_indices", x, [3], [s], [1]),
            lambda x, s=stride: run_torch("max_pool1d_with_indices", x, [3], [s], [1]), x,
        )  # fmt: skip


def test_nan_and_infinities() -> None:
    x = draw(1, 2, 6, 6)
    x[0, 0, 2, 3], x[0, 0, 5, 5], x[0, 1, :3, :3], x[0, 1, 4, 4] = np.nan, np.inf, -np.inf, np.inf
    check(
        lambda x: aten("max_pool2d_with_indices", x, [2, 2], [2, 2], [1, 1]),
        lambda x: run_torch("max_pool2d_with_indices", x, [2, 2], [2, 2], [1, 1]), x,
    )  # fmt: skip
    check(lambda x: aten("avg_pool2d", x, [2, 2]), lambda x: functional.avg_pool2d(x, 2), x)
    check(lambda x: aten("adaptive_max_pool2d", x, [4, 4]), lambda x: run_torch("adaptive_max_pool2d", x, [4, 4]), x)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(data=st.data(), spatial=st.integers(1, 3), largest=st.booleans())
def test_adaptive_pool(data: st.DataObject, spatial: int, largest: bool) -> None:
    extents = data.draw(st.lists(st.integers(1, 7), min_size=spatial, max_size=spatial))
    size = data.draw(st.lists(st.integers(1, 8), min_size=spatial, max_size=spatial))
    name = f"adaptive_{'max' if largest else 'avg'}_pool{spatial}d"
    check(
        lambda x: aten(name, x, size), lambda x: run_torch(name, x, size), draw(2, 2, *extents), tolerance=RECIPROCALS
    )


def test_adaptive_pool_forms() -> None:
    x = draw(2, 5, 7)
    check(
        lambda x: adaptive_pool.adaptive_avg_pool(x, (None, 3)),
        lambda x: functional.adaptive_avg_pool2d(x, (None, 3)),
        x,
        tolerance=RECIPROCALS,
    )
    check(
        lambda x: aten("adaptive_avg_pool2d", x, [3]),
        lambda x: functional.adaptive_avg_pool2d(x, 3),
        x,
        tolerance=RECIPROCALS,
    )
    check(
        lambda x: aten("_adaptive_avg_pool2d", x, [2, 2]),
        lambda x: functional.adaptive_avg_pool2d(x, 2),
        x,
        tolerance=RECIPROCALS,
    )
    with pytest.raises(ShapeError, match="must be positive"):
        check(lambda x: aten("adaptive_avg_pool2d", x, [0, 2]), lambda x: x, x)


def test_the_adaptive_gradient_gathers() -> None:
    from operator_harness import build

    for function in (adaptive_pool.adaptive_avg_pool, lambda x, n: adaptive_pool.adaptive_max_pool(x, n)[0]):
        graph = build(lambda x, f=function: f(x, 3), [draw(1, 2, 7)])[0]
        assert not any(nest.scatter for op in graph.ops for nest in getattr(op, "nests", ()))


@pytest.mark.parametrize(
    "function, shape",
    [
        (lambda x: pool.max_pool(x, pool.windows([3, 2], [2, 1], [1, 1], [1, 2]), True)[0], (1, 2, 5, 6)),
        (lambda x: pool.avg_pool(x, pool.windows([3, 2], [2, 1], [1, 1]), True, False), (1, 2, 5, 6)),
        (lambda x: adaptive_pool.adaptive_avg_pool(x, (3, 4)), (1, 2, 5, 6)),
        (lambda x: adaptive_pool.adaptive_max_pool(x, (3, 4))[0], (1, 2, 5, 6)),
        (pool.global_avg_pool, (2, 2, 3)),
        (pool.global_max_pool, (2, 2, 3, 2)),
    ],
)
def test_gradients_are_central_differences(function: Any, shape: tuple[int, ...]) -> None:
    check_differences(function, draw(*shape))


def f32(*shape: int) -> Any:
    return draw(*shape).astype(np.float32)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 2], "strides": [3, 2], "pads": [0, 1, 1, 0]},
        {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"kernel_shape": [3, 2], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
        {"kernel_shape": [3, 2], "strides": [2, 2], "auto_pad": "VALID"},
    ],
)
@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_onnx_windows(op_type: str, attributes: dict[str, Any]) -> None:
    if op_type == "MaxPool" and attributes.get("auto_pad") == "SAME_LOWER":
        # The reference implementation rounds the extent down where the specification rounds up.
        check(
            adapter(op_type, **attributes),
            lambda x: functional.max_pool2d(functional.pad(x, (1, 0, 1, 1), value=-9), (3, 2), (1, 2)),
            draw(2, 2, 6, 7),
        )  # fmt: skip
        return
    check_onnx(op_type, [f32(2, 2, 6, 7)], attributes)
    if op_type == "AveragePool":
        check_onnx(op_type, [f32(2, 2, 6, 7)], {**attributes, "count_include_pad": 1})


def test_onnx_windows_of_other_ranks() -> None:
    check_onnx("MaxPool", [f32(2, 2, 7)], {"kernel_shape": [3], "strides": [2], "pads": [1, 1]})
    check_onnx("AveragePool", [f32(1, 2, 4, 5, 4)], {"kernel_shape": [2, 3, 2], "pads": [0, 1, 0, 1, 1, 1]})
    check(
        adapter("AveragePool", kernel_shape=[2], dilations=[2]),
        lambda x: (x[..., :-2] + x[..., 2:]) / 2, draw(1, 2, 6),
    )  # fmt: skip
    check(
        adapter("MaxPool", kernel_shape=[2, 2], dilations=[2, 1]),
        lambda x: functional.max_pool2d(x, 2, 1, 0, (2, 1)), draw(1, 2, 6, 4),
    )  # fmt: skip


def test_onnx_indices_count_through_the_whole_tensor() -> None:
    check_onnx("MaxPool", [f32(2, 3, 4, 5)], {"kernel_shape": [2, 2], "strides": [2, 2]}, outputs=2)
    with pytest.raises(UnsupportedCall, match="column-major"):
        check(adapter("MaxPool", outputs=2, kernel_shape=[2], storage_order=1), lambda x: x, draw(1, 1, 4))


def test_onnx_global_pools() -> None:
    for shape in ((2, 3, 4), (2, 3, 4, 2)):
        axes = tuple(range(2, len(shape)))
        check(adapter("GlobalMaxPool"), lambda x, a=axes: x.amax(a, keepdim=True), draw(*shape))
        check(adapter("GlobalAveragePool"), lambda x, a=axes: x.mean(a, keepdim=True), draw(*shape))


def test_arguments_that_make_no_sense_are_errors() -> None:
    x = draw(1, 2, 6, 6)
    for arguments in (
        ([0, 2],),
        ([2, 2], [0, 1]),
        ([2, 2], [1, 1], [2, 0]),
        ([7, 7],),
        ([2, 2, 2],),
        ([2, 2], [1, 1], [0, 0], [0, 1]),
    ):
        with pytest.raises(ShapeError):
            check(lambda x, a=arguments: aten("max_pool2d", x, *a), lambda x: x, x)
    with pytest.raises(ShapeError, match="divisor_override"):
        check(lambda x: aten("avg_pool2d", x, [2, 2], [], 0, False, True, 0), lambda x: x, x)
    with pytest.raises(UnsupportedCall, match="i64"):
        check(lambda x: aten("max_pool2d", x, [2, 2]), lambda x: x, np.ones((1, 2, 6, 6), np.int64))
    with pytest.raises(UnsupportedCall, match="auto_pad"):
        check(adapter("MaxPool", kernel_shape=[2, 2], auto_pad="SAME"), lambda x: x, x)
    with pytest.raises(ShapeError, match="kernel_shape"):
        check(adapter("MaxPool"), lambda x: x, x)
