"""Layer, RMS and group normalisation against PyTorch and the ONNX reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import adapter, check_onnx
from operator_harness import check, draw
from torch.nn import functional

from tilegrad.errors import ShapeError
from tilegrad.operators import norm, registry
from tilegrad.operators.registry import UnsupportedCall

#: Exact in float32, so that the float64 interpreter and PyTorch use the same number.
EPS = 2.0**-14


def aten(name: str, *args: Any) -> Any:
    function = registry.find_aten(f"aten.{name}.default")
    assert function is not None
    return function(*args)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data(), affine=st.sampled_from(["", "w", "wb"])
)
def test_layer_norm(shape: list[int], data: st.DataObject, affine: str) -> None:
    axes = data.draw(st.integers(1, len(shape)))
    tail = tuple(shape[-axes:])
    operands = [draw(*shape), *(draw(*tail, seed=k + 1) for k in range(len(affine)))]

    def layer(x: Any, *rest: Any) -> Any:
        weight, bias = (*rest, None, None)[:2]
        return aten("layer_norm", x, list(tail), weight, bias, EPS, False)

    def reference(x: Any, *rest: Any) -> Any:
        return functional.layer_norm(x, tail, *rest, eps=EPS)

    check(layer, reference, *operands, tolerance=1e-8)


@pytest.mark.parametrize("shape, axes", [((2, 3, 4), 1), ((2, 3, 4), 2), ((3,), 1), ((2, 2, 1), 1)])
def test_rms_norm(shape: tuple[int, ...], axes: int) -> None:
    tail = shape[-axes:]
    check(
        lambda x, w: aten("rms_norm", x, list(tail), w, EPS),
        lambda x, w: functional.rms_norm(x, tail, w, EPS),
        draw(*shape), draw(*tail, seed=1),
    )  # fmt: skip
    check(
        lambda x: aten("rms_norm", x, list(tail), None, EPS),
        lambda x: functional.rms_norm(x, tail, None, EPS),
        draw(*shape),
    )


def test_rms_norm_without_eps_takes_that_of_float32() -> None:
    x = draw(2, 3) * 1e-3
    wanted = functional.rms_norm(torch.tensor(x, dtype=torch.float32), (3,)).double()
    check(lambda x: aten("rms_norm", x, [3]), lambda x: wanted, x, tolerance=1e-6, gradient=False)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    batch=st.integers(1, 3), groups=st.integers(1, 3), per_group=st.integers(1, 3),
    places=st.lists(st.integers(1, 3), max_size=2), affine=st.booleans(),
)  # fmt: skip
def test_group_norm(batch: int, groups: int, per_group: int, places: list[int], affine: bool) -> None:
    channels = groups * per_group
    if batch * per_group * int(np.prod(places)) < 2:
        return  # PyTorch rejects it
    operands = [draw(batch, channels, *places), *((draw(channels, seed=1), draw(channels, seed=2)) if affine else ())]
    check(
        lambda x, *rest: aten("group_norm", x, groups, *rest, *(() if affine else (None, None)), EPS, False),
        lambda x, *rest: functional.group_norm(x, groups, *rest, eps=EPS),
        *operands, tolerance=1e-8,
    )  # fmt: skip


def test_statistics_are_outputs_with_gradients() -> None:
    check(
        lambda x, w, b: aten("native_layer_norm", x, [4], w, b, EPS),
        lambda x, w, b: torch.ops.aten.native_layer_norm.default(x, [4], w, b, EPS),
        draw(2, 3, 4), draw(4, seed=1), draw(4, seed=2), gradient=False,
    )  # fmt: skip
    check(
        lambda x, w, b: aten("native_group_norm", x, w, b, 2, 4, 3, 2, EPS),
        lambda x, w, b: torch.ops.aten.native_group_norm.default(x, w, b, 2, 4, 3, 2, EPS),
        draw(2, 4, 3), draw(4, seed=1), draw(4, seed=2), gradient=False,
    )  # fmt: skip
    check_differences(lambda x: norm.layer_norm(x, 1, None, None, EPS).mean, draw(2, 3))


@pytest.mark.parametrize(
    "function, shapes",
    [
        (lambda x, w, b: norm.layer_norm(x, 2, w, b, EPS).output, [(2, 2, 3), (2, 3), (2, 3)]),
        (lambda x, w, b: norm.layer_norm(x, 2, w, b, EPS).output, [(2, 2, 3), (2, 1), (3,)]),
        (lambda x, w: norm.layer_norm(x, 1, w, None, EPS, centred=False).output, [(2, 4), (4,)]),
        (lambda x, w: norm.layer_norm(x, 2, w, None, EPS, centred=False).output, [(2, 2, 3), (2, 1)]),
        (lambda x, w, b: norm.group_norm(x, 2, w, b, EPS)[0], [(2, 4, 2), (4,), (4,)]),
        (lambda x, w, b: norm.group_norm(x, 2, w, b, EPS)[0], [(2, 4, 2), (2,), (2,)]),
        (adapter("LpNormalization", axis=1, p=2), [(2, 3)]),
        (adapter("LRN", size=3, alpha=0.5, beta=0.75, bias=1.5), [(2, 5, 2)]),
    ],
)
def test_gradients_are_central_differences(function: Any, shapes: list[tuple[int, ...]]) -> None:
    check_differences(function, *(draw(*shape, seed=k) for k, shape in enumerate(shapes)))


def f32(*shape: int, seed: int = 0) -> Any:
    return draw(*shape, seed=seed).astype(np.float32)


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_onnx_layer_normalization(axis: int) -> None:
    x = f32(2, 3, 4)
    tail = x.shape[axis % 3 :]
    check_onnx(
        "LayerNormalization", [x, f32(*tail, seed=1), f32(*tail, seed=2)], {"axis": axis}, outputs=3, tolerance=1e-5
    )
    check_onnx("LayerNormalization", [x, f32(*tail, seed=1)], {"axis": axis, "epsilon": 0.1}, tolerance=1e-5)


def test_onnx_rms_normalization() -> None:
    check(
        adapter("RMSNormalization", opset=23, axis=-1, epsilon=EPS),
        lambda x, w: functional.rms_norm(x, (4,), w, EPS), draw(2, 3, 4), draw(4, seed=1),
    )  # fmt: skip


def test_onnx_group_normalization_before_and_after_opset_21() -> None:
    x, channel, group = draw(2, 4, 3), draw(4, seed=1), draw(2, seed=1)
    check(
        adapter("GroupNormalization", opset=21, num_groups=2, epsilon=EPS),
        lambda x, w, b: functional.group_norm(x, 2, w, b, EPS), x, channel, draw(4, seed=2),
    )  # fmt: skip
    check(
        adapter("GroupNormalization", opset=18, num_groups=2, epsilon=EPS),
        lambda x, w, b: functional.group_norm(x, 2, w.repeat_interleave(2), b.repeat_interleave(2), EPS),
        x, group, draw(2, seed=2),
    )  # fmt: skip


def test_onnx_scale_of_the_wrong_opset_is_an_error() -> None:
    for opset, entries in ((18, 4), (21, 2)):
        with pytest.raises(ShapeError, match="expected"):
            check(
                adapter("GroupNormalization", opset=opset, num_groups=2),
                lambda *_: None,
                draw(2, 4, 3),
                draw(entries),
                draw(entries),
            )


def test_onnx_norms_and_neighbours() -> None:
    x = f32(3, 4)
    x[1] = 0.0
    check_onnx("LpNormalization", [x + 3], {"axis": 0, "p": 1})
    check_onnx("LpNormalization", [f32(3, 4)], {"p": 2})
    for size in (1, 3, 5):  # PyTorch and ONNX centre windows of even size differently
        check(
            adapter("LRN", size=size, alpha=0.5, beta=0.5, bias=2.0),
            lambda x, n=size: functional.local_response_norm(x, n, 0.5, 0.5, 2.0), draw(2, 4, 3, 2), tolerance=1e-7,
        )  # fmt: skip
    with pytest.raises(UnsupportedCall, match="p=3"):
        check(adapter("LpNormalization", p=3), lambda x: x, draw(2, 3))


def test_onnx_neighbours_of_an_even_window_start_at_the_channel_itself() -> None:
    check(
        adapter("LRN", size=2, alpha=2.0, beta=1.0, bias=1.0),
        lambda x: torch.stack([x[:, 0] / (1 + x[:, 0] ** 2 + x[:, 1] ** 2), x[:, 1] / (1 + x[:, 1] ** 2)], 1),
        draw(3, 2),
    )  # fmt: skip


def test_zero_vectors_have_finite_gradients_under_lp_normalisation() -> None:
    x = np.zeros((2, 3))
    check(adapter("LpNormalization", p=2), lambda x: x * 0, x)


def test_shapes_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ShapeError, match="normalized_shape"):
        check(lambda x: aten("layer_norm", x, [3]), lambda x: x, draw(2, 4))
    with pytest.raises(ShapeError, match="cannot be divided"):
        check(lambda x: aten("group_norm", x, 3), lambda x: x, draw(2, 4))
    with pytest.raises(ShapeError, match="one entry per channel"):
        check(lambda x, w: aten("group_norm", x, 2, w), lambda x: x, draw(2, 4), draw(2))
