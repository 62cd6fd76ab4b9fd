"""Resampling against PyTorch and the ONNX reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aten_harness import check_aten
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx, evaluate
from operator_harness import build, check, draw
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.ir.graph import StructuredOp
from tilegrad.operators import resize
from tilegrad.operators.registry import UnsupportedCall

IMAGE, LINE = draw(2, 3, 4, 5), draw(2, 3, 7)
#: Weights are rounded to float32.
WEIGHTS = 1e-6


@pytest.mark.parametrize("size", [[8, 10], [4, 5], [9, 3], [2, 5], [13, 11], [1, 1]])
def test_images_to_a_size(size: list[int]) -> None:
    check_aten("upsample_nearest2d.default", IMAGE, size)
    check_aten("_upsample_nearest_exact2d.default", IMAGE, size)
    check_aten("upsample_nearest2d.vec", IMAGE, size, None)
    for align in (True, False):
        check_aten("upsample_bilinear2d.default", IMAGE, size, align, tolerance=WEIGHTS)
        check_aten("upsample_bilinear2d.vec", IMAGE, size, align, None, tolerance=WEIGHTS)
        check_aten("upsample_bicubic2d.vec", IMAGE, size, align, None, tolerance=WEIGHTS)


@pytest.mark.parametrize("factors", [[2.0, 2.0], [1.5, 0.5], [3.0, 1.0], [2.3, 1.7], [0.75, 2.5]])
def test_images_by_factors(factors: list[float]) -> None:
    check_aten("upsample_nearest2d.vec", IMAGE, None, factors)
    check_aten("_upsample_nearest_exact2d.vec", IMAGE, None, factors)
    for align in (True, False):
        check_aten("upsample_bilinear2d.vec", IMAGE, None, align, factors, tolerance=WEIGHTS)
        check_aten("upsample_bicubic2d.vec", IMAGE, None, align, factors, tolerance=WEIGHTS)


@pytest.mark.parametrize("size", [[14], [3], [10]])
def test_lines(size: list[int]) -> None:
    check_aten("upsample_nearest1d.default", LINE, size)
    check_aten("_upsample_nearest_exact1d.vec", LINE, size, None)
    check_aten("upsample_linear1d.default", LINE, size, False, tolerance=WEIGHTS)
    check_aten("upsample_linear1d.vec", LINE, None, True, [size[0] / 7 + 0.01], tolerance=WEIGHTS)


def test_volumes() -> None:
    volume = draw(1, 2, 3, 2, 4)
    check_aten("upsample_nearest3d.vec", volume, None, [2.0, 1.0, 1.5])
    check_aten("upsample_trilinear3d.vec", volume, [4, 3, 6], False, None, tolerance=WEIGHTS)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(1, 7), st.integers(1, 15), st.booleans())
def test_any_size(extent: int, size: int, align: bool) -> None:
    x = draw(1, 2, extent)
    check_aten("upsample_nearest1d.default", x, [size])
    check_aten("upsample_linear1d.default", x, [size], align, tolerance=WEIGHTS)


def test_functional_interpolate_by_two() -> None:
    check(
        lambda x: resize.upsample_linear(x, [8, 10], False),
        lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
        IMAGE,
        tolerance=WEIGHTS,
    )


def test_doubling_needs_no_table() -> None:
    graph, *_ = build(lambda x: resize.upsample_nearest(x, [8, 10]), [IMAGE])
    nests = [nest for op in graph.ops if isinstance(op, StructuredOp) for nest in op.nests]
    assert not any(row.lookups for nest in nests for row in nest.indices())


def test_nothing_is_scattered() -> None:
    """Gradients gather through the transposed table, so that they run in parallel."""
    for function in (lambda x: resize.upsample_linear(x, [9, 3], False), lambda x: resize.upsample_nearest(x, [9, 3])):
        graph, *_ = build(function, [IMAGE])
        assert not any(nest.scatter for op in graph.ops if isinstance(op, StructuredOp) for nest in op.nests)


def test_a_transposed_table_lists_every_use() -> None:
    taps = resize.linear_taps(3, np.array([0.0, 0.5, 1.5, 2.0]))
    dense = np.zeros((4, 3))
    for i, (row, weights) in enumerate(zip(taps.index, taps.weight, strict=True)):
        np.add.at(dense[i], row, weights)
    back = taps.transposed(3)
    again = np.zeros((3, 4))
    for i, (row, weights) in enumerate(zip(back.index, back.weight, strict=True)):
        for place, weight in zip(row, weights, strict=True):
            if place >= 0:
                again[i, place] += weight
    np.testing.assert_allclose(again, dense.T)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match="upsample"):
        build(lambda x: resize.upsample_nearest(x, [0, 3]), [IMAGE])
    with pytest.raises(ShapeError, match="4 axes"):
        check_aten("upsample_nearest2d.vec", LINE, [3, 3], None)


F = draw(1, 2, 4, 5).astype(np.float32)
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]


@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 0.6, 1.6], [1, 1, 3, 0.5]])
@pytest.mark.parametrize("coordinates", COORDINATES)
def test_onnx_scales(coordinates: str, scales: list[float]) -> None:
    if coordinates == "align_corners":
        scales = [max(round(scale), 1) for scale in scales]  # the reference takes the corners of an unrounded size
    inputs = [F, None, np.array(scales, np.float32)]
    for mode in ("linear", "cubic"):
        attributes = {"mode": mode, "coordinate_transformation_mode": coordinates}
        check_onnx("Resize", inputs, attributes, constants=[2], tolerance=2e-5)
    for rounding in NEAREST:
        attributes = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": coordinates}
        check_onnx("Resize", inputs, attributes, constants=[2])


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_onnx_sizes(coordinates: str) -> None:
    for mode in ("nearest", "linear", "cubic"):
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
        check_onnx("Resize", [F, None, None, np.array([1, 2, 7, 3])], attributes, constants=[3], tolerance=2e-5)
    attributes["axes"] = [2, 3]
    check_onnx("Resize", [F, None, None, np.array([3, 9])], attributes, constants=[3], tolerance=2e-5)


def test_onnx_cubic_attributes() -> None:
    attributes = {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
    check_onnx("Resize", [F, None, np.array([1, 1, 2, 1.5], np.float32)], attributes, constants=[2], tolerance=2e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"antialias": 1}, {"keep_aspect_ratio_policy": "not_larger"}, {"mode": "magic"},
        {"coordinate_transformation_mode": "tf_crop_and_resize"}, {"nearest_mode": "magic"},
    ],
)  # fmt: skip
def test_onnx_forms_that_are_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedCall, match="Resize"):
        evaluate("Resize", [F, None, np.array([1, 1, 2, 2], np.float32)], attributes, constants=[2])


def test_onnx_upsample() -> None:
    scales = np.array([1, 1, 2, 3], np.float32)
    (y,) = evaluate("Upsample", [F, scales], {"mode": "nearest"}, opset=9, constants=[1])
    np.testing.assert_array_equal(y, F.repeat(2, 2).repeat(3, 3))
    (y,) = evaluate("Upsample", [F, scales], {"mode": "linear"}, opset=9, constants=[1])
    attributes = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    (wanted,) = evaluate("Resize", [F, None, scales], attributes, constants=[2])
    np.testing.assert_array_equal(y, wanted)
    with pytest.raises(UnsupportedCall, match="Upsample"):
        evaluate("Upsample", [F, scales], {"mode": "cubic"}, constants=[1])


def test_onnx_gradient() -> None:
    def resized(x: Any) -> Any:
        from tilegrad.ir.builder import constant

        return adapter("Resize", mode="linear")(x, None, None, constant(np.array([1, 2, 9, 3])))

    check(
        resized, lambda x: functional.interpolate(x, size=(9, 3), mode="bilinear"), draw(1, 2, 4, 5), tolerance=WEIGHTS
    )
