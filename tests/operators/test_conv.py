"""Convolutions against PyTorch and ONNX's reference, forward and backward."""

from __future__ import annotations

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
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import StructuredOp
from tilegrad.ir.printer import format_nest
from tilegrad.operators import registry
from tilegrad.operators.conv import conv, conv_transpose

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CONV_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def operands(x: tuple[int, ...], w: tuple[int, ...], bias: int = 0) -> list[NDArray[Any]]:
    return [draw(*x), draw(*w, seed=1), *([draw(bias, seed=2)] if bias else [])]


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((2, 3, 9), (4, 3, 3), {}),
        ((2, 3, 9), (4, 3, 4), {"stride": 3, "padding": 2}),
        ((1, 3, 7, 8), (4, 3, 3, 2), {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}),
        ((2, 4, 6, 5), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
        ((2, 4, 6, 5), (8, 1, 3, 3), {"groups": 4, "stride": 2}),
        ((2, 6, 5, 5), (4, 3, 1, 1), {"groups": 2}),
        ((2, 3, 9, 9), (2, 3, 2, 2), {"stride": 4}),
        ((2, 3, 9, 9), (2, 3, 3, 3), {"stride": 2, "dilation": 2, "padding": 3}),
        ((2, 3, 10), (2, 3, 3), {"stride": 6, "dilation": 4, "padding": 4}),
        ((2, 3, 10), (2, 3, 5), {"stride": 3, "dilation": 2, "padding": 4}),
        ((1, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"stride": (2, 1, 1), "padding": (1, 0, 1)}),
        ((2, 3, 7, 6), (4, 3, 4, 3), {"padding": "same"}),
        ((2, 3, 8, 8), (4, 3, 2, 3), {"padding": "same", "dilation": (3, 2)}),
        ((2, 3, 7, 6), (4, 3, 2, 3), {"padding": "valid", "stride": 2}),
        ((3, 7, 6), (4, 3, 2, 3), {"padding": 1}),
    ],
)
def test_convolution(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    reference = CONV[len(w) - 2]
    check(lambda *t: conv(*t, **attributes), lambda *t: reference(*t, **attributes), *operands(x, w))
    check(lambda *t: conv(*t, **attributes), lambda *t: reference(*t, **attributes), *operands(x, w, w[0]))


@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((2, 3, 5), (3, 4, 3), {}),
        ((2, 3, 5), (3, 4, 3), {"stride": 2, "output_padding": 1}),
        ((2, 3, 4, 5), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
        ((2, 3, 4, 5), (3, 2, 2, 2), {"stride": 2}),
        ((2, 3, 4, 3), (3, 2, 2, 2), {"stride": (3, 4), "output_padding": (2, 0)}),
        ((2, 4, 4, 5), (4, 3, 3, 3), {"stride": 2, "groups": 2, "dilation": 2, "output_padding": 1}),
        ((2, 4, 4, 5), (4, 1, 3, 3), {"groups": 4, "padding": 2}),
        ((1, 2, 3, 2, 3), (2, 3, 2, 3, 2), {"stride": (1, 2, 2), "padding": (0, 1, 0)}),
        ((2, 3, 5), (3, 4, 4), {"stride": 3, "dilation": 2, "padding": 2}),
        ((3, 4, 5), (3, 2, 3, 3), {"stride": 2}),
    ],
)
def test_transposed_convolution(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any]) -> None:
    reference = CONV_TRANSPOSE[len(w) - 2]
    features = w[1] * attributes.get("groups", 1)
    for bias in (0, features):
        arrays = operands(x, w, bias)
        check(lambda *t: conv_transpose(*t, **attributes), lambda *t: reference(*t, **attributes), *arrays)


@st.composite
def windows(draw_: st.DrawFn) -> tuple[int, int, dict[str, Any], tuple[int, ...], tuple[int, ...]]:
    """Groups, channels per group, attributes, kernel and spatial extents that fit them."""
    rank = draw_(st.integers(1, 2))

    def axes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw_(st.integers(low, high)) for _ in range(rank))

    kernel, dilation = axes(1, 3), axes(1, 3)
    attributes = {"stride": axes(1, 4), "padding": axes(0, 3), "dilation": dilation, "groups": draw_(st.integers(1, 3))}
    extents = tuple(d * (r - 1) + 1 + draw_(st.integers(0, 4)) for d, r in zip(dilation, kernel, strict=True))
    return attributes["groups"], draw_(st.integers(1, 2)), attributes, kernel, extents


@settings(derandomize=True, deadline=None, max_examples=25)
@given(windows(), st.integers(1, 2))
def test_any_convolution(window: Any, features: int) -> None:
    groups, channels, attributes, kernel, extents = window
    arrays = operands((2, groups * channels, *extents), (groups * features, channels, *kernel), groups * features)
    reference = CONV[len(kernel)]
    check(lambda *t: conv(*t, **attributes), lambda *t: reference(*t, **attributes), *arrays)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(windows(), st.integers(1, 2), st.integers(0, 3))
def test_any_transposed_convolution(window: Any, features: int, extra: int) -> None:
    groups, channels, attributes, kernel, extents = window
    attributes["output_padding"] = tuple(min(extra, s - 1) for s in attributes["stride"])
    attributes["padding"] = tuple(min(p, d * (r - 1) // 2) for p, d, r in zip(
        attributes["padding"], attributes["dilation"], kernel, strict=True))  # fmt: skip
    arrays = operands((2, groups * channels, *extents), (groups * channels, features, *kernel), groups * features)
    reference = CONV_TRANSPOSE[len(kernel)]
    check(lambda *t: conv_transpose(*t, **attributes), lambda *t: reference(*t, **attributes), *arrays)


@pytest.mark.parametrize("attributes", [{}, {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}])
@pytest.mark.parametrize("function", [conv, conv_transpose])
def test_gradients_agree_with_central_differences(function: Any, attributes: dict[str, Any]) -> None:
    channels = 4 // attributes.get("groups", 1)
    check_differences(
        lambda *t: function(*t, **attributes), draw(1, 4, 5), draw(4, channels, 2, seed=1), draw(4, seed=2)
    )


def test_padding_is_a_guard_so_that_infinite_weights_do_not_meet_it() -> None:
    x, weight = np.array([[[1.0, 2.0, 3.0]]]), np.array([[[np.inf, 1.0, 1.0]]])
    graph, (a, b), (y,), _, _ = build(lambda *t: conv(*t, padding=1), [x, weight])
    np.testing.assert_array_equal(run(graph, {a: x, b: weight}, np.float64)[y], [[[3.0, np.inf, np.inf]]])


def nests(function: Any, *arrays: NDArray[Any]) -> list[str]:
    graph, *_ = build(function, arrays)
    first = next(op for op in graph.ops if isinstance(op, StructuredOp))
    return [next(format_nest(nest)) for nest in first.nests]


def test_a_convolution_is_one_nest() -> None:
    assert nests(lambda x, w: conv(x, w, padding=1), draw(2, 3, 8, 9), draw(4, 3, 3, 3)) == [
        "P(i0:2, i1:4, i2:8, i3:9) R(i4:3, i5:3, i6:3) where 0 <= i2 + i5 - 1 < 8 and 0 <= i3 + i6 - 1 < 9"
    ]


def test_groups_are_one_more_parallel_iterator() -> None:
    assert nests(lambda x, w: conv(x, w, groups=2), draw(2, 4, 8), draw(6, 2, 3)) == [
        "P(i0:2, i1:2, i2:3, i3:6) R(i4:2, i5:3)"
    ]


def test_the_gradient_of_a_transposed_convolution_is_not_split_by_residue() -> None:
    graph, *_ = build(lambda x, w: conv_transpose(x, w, stride=2), [draw(1, 2, 4, 4), draw(2, 3, 4, 4, seed=1)])
    backward = [op for op in graph.ops if op.phase == "backward" and op.origin == "op" and isinstance(op, StructuredOp)]
    assert [len(op.nests) for op in backward] == [1, 1]


def aten(name: str) -> Any:
    found = registry.find_aten(name)
    assert found is not None, f"{name} is not registered"
    return found


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_aten_names(rank: int) -> None:
    x, w, b = draw(2, 2, *[5] * rank), draw(2, 2, *[3] * rank, seed=1), draw(2, seed=2)
    two, one = [2] * rank, [1] * rank
    check(
        lambda *t: aten(f"aten.conv{rank}d.default")(*t, two, one, one, 1), lambda *t: CONV[rank](*t, two, one, one, 1),
        x, w, b,
    )  # fmt: skip
    check(
        lambda *t: aten(f"aten.conv{rank}d.padding")(*t, one, "same"), lambda *t: CONV[rank](*t, one, "same"), x, w, b
    )
    name = f"aten.conv_transpose{rank}d.{'default' if rank == 1 else 'input'}"
    check(
        lambda *t: aten(name)(*t, two, one, one, 1, one), lambda *t: CONV_TRANSPOSE[rank](*t, two, one, one, 1, one),
        x, w, b,
    )  # fmt: skip
    for transposed in (False, True):
        arguments = [two, one, one, transposed, [int(transposed)] * rank, 1]
        check(
            lambda *t, a=arguments: aten("aten.convolution.default")(*t, *a),
            lambda *t, a=arguments: torch.convolution(*t, *a),
            x, w, b,
        )  # fmt: skip


def f32(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    return [a.astype(np.float32) for a in arrays]


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [0, 1, 2, 0], "strides": [2, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
        {"auto_pad": "SAME_LOWER", "strides": [1, 1]},
        {"auto_pad": "VALID", "kernel_shape": [2, 3]},
        {"dilations": [2, 1], "pads": [1, 1, 1, 1]},
    ],
)
def test_onnx_conv(attributes: dict[str, Any]) -> None:
    check_onnx("Conv", f32(draw(2, 3, 7, 8), draw(4, 3, 2, 3, seed=1), draw(4, seed=2)), attributes, tolerance=1e-5)


def test_onnx_conv_with_groups() -> None:
    x, w = draw(2, 4, 6, 6), draw(6, 2, 3, 3, seed=1)
    check(adapter("Conv", group=2), lambda *t: functional.conv2d(*t, groups=2), x, w)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2, 3], "output_padding": [1, 2]},
        {"strides": [2, 2], "pads": [1, 0, 0, 1]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        {"dilations": [2, 2], "strides": [2, 1]},
    ],
)
def test_onnx_conv_transpose(attributes: dict[str, Any]) -> None:
    arrays = f32(draw(1, 3, 3, 4), draw(3, 2, 3, 3, seed=1), draw(2, seed=2))
    check_onnx("ConvTranspose", arrays, attributes, tolerance=1e-5)


@pytest.mark.parametrize(("auto_pad", "start"), [("NOTSET", 1), ("SAME_LOWER", 1), ("SAME_UPPER", 0)])
def test_onnx_output_shape_cuts_the_side_that_auto_pad_names(auto_pad: str, start: int) -> None:
    check(
        adapter("ConvTranspose", strides=[2, 3], output_shape=[8, 13], auto_pad=auto_pad),
        lambda *t: functional.conv_transpose2d(*t, stride=(2, 3), output_padding=(0, 1))[:, :, start : start + 8],
        draw(1, 3, 4, 4), draw(3, 2, 3, 3, seed=1),
    )  # fmt: skip


def test_onnx_conv_transpose_pads_of_either_side_with_gradient() -> None:
    x, w = draw(1, 2, 4), draw(2, 3, 3, seed=1)
    check(
        adapter("ConvTranspose", strides=[2], pads=[1, 0]),
        lambda *t: functional.conv_transpose1d(*t, stride=2)[..., 1:],
        x, w,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": (1, 3, 5), "w": (4, 2, 3)}, "expects 2"),
        ({"x": (1, 3, 5), "w": (4, 3, 6)}, "larger than"),
        ({"x": (1, 4, 5), "w": (3, 2, 3), "groups": 2}, "do not divide into 2 groups"),
        ({"x": (1, 3, 5, 5), "w": (4, 3, 3)}, "ranks do not fit"),
        ({"x": (1, 3, 5), "w": (4, 3, 3), "stride": 0}, "expected 1 numbers from 1"),
        ({"x": (1, 3, 5), "w": (4, 3, 3), "padding": "same", "stride": 2}, "needs stride 1"),
        ({"x": (1, 3, 5), "w": (4, 3, 3), "bias": 3}, "the bias"),
    ],
)
def test_shapes_that_do_not_fit_are_named(arguments: dict[str, Any], message: str) -> None:
    arrays = operands(arguments.pop("x"), arguments.pop("w"), arguments.pop("bias", 0))
    with pytest.raises(ShapeError, match=message):
        build(lambda *t: conv(*t, **arguments), arrays)


def test_a_transposed_convolution_rejects_too_much_output_padding() -> None:
    with pytest.raises(ShapeError, match="output_padding"):
        build(lambda *t: conv_transpose(*t, output_padding=1), operands((1, 3, 5), (3, 2, 3)))
