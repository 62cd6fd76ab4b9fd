"""Scaled dot-product attention against PyTorch and ONNX's reference."""

from __future__ import annotations

import math
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
from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators import registry
from tilegrad.operators.attention import scaled_dot_product_attention as attention

#: Literals such as the scale are rounded to float32, also where the interpreter computes in float64.
LITERALS = 1e-6


def compare(*arrays: NDArray[Any], tolerance: float = LITERALS, **attributes: Any) -> None:
    def reference(*t: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(*t, **attributes)

    check(lambda *t: attention(*t, **attributes), reference, *arrays, tolerance=tolerance)


def operands(length: int, keys: int, extent: int = 4, value: int = 3, *batch: int) -> list[NDArray[Any]]:
    return [draw(*batch, length, extent), draw(*batch, keys, extent, seed=1), draw(*batch, keys, value, seed=2)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
@pytest.mark.parametrize(("length", "keys"), [(5, 5), (3, 6), (6, 3), (1, 1)])
def test_attention(length: int, keys: int, batch: tuple[int, ...], causal: bool) -> None:
    compare(*operands(length, keys, 4, 3, *batch), is_causal=causal)


@pytest.mark.parametrize("shape", [(4, 5), (2, 1, 4, 5), (2, 3, 4, 5), (1, 5)])
def test_masks_broadcast(shape: tuple[int, ...]) -> None:
    arrays = operands(4, 5, 4, 3, 2, 3)
    compare(*arrays, draw(*shape, seed=4))
    compare(*arrays, draw(*shape, seed=4) > -0.5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_fully_masked_row_is_zero_and_has_no_gradient(causal: bool) -> None:
    mask = np.ones((4, 4), bool)
    mask[1] = False
    mask[2, 0] = False
    arrays = operands(4, 4, 4, 3, 1, 1)
    if causal:  # PyTorch's float64 kernel takes either; the intersection is the reference

        def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(q, k, v, m & torch.ones(4, 4, dtype=torch.bool).tril())

        check(lambda *t: attention(*t, is_causal=True), reference, *arrays, mask, tolerance=LITERALS)
    else:
        compare(*arrays, mask)
        compare(*arrays, np.where(mask, draw(4, 4, seed=5), -math.inf))


def test_scale() -> None:
    compare(*operands(3, 4, 4, 3, 2), scale=0.25)
    compare(*operands(3, 4, 4, 3, 2), scale=1.0, is_causal=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_grouped_heads(heads: int, causal: bool) -> None:
    arrays = [draw(2, 4, 3, 4), draw(2, heads, 5, 4, seed=1), draw(2, heads, 5, 3, seed=2)]
    compare(*arrays, enable_gqa=True, is_causal=causal)


@pytest.mark.parametrize("shape", [(3, 5), (2, 1, 3, 5), (1, 4, 3, 5)])
def test_masks_of_grouped_heads(shape: tuple[int, ...]) -> None:
    arrays = [draw(2, 4, 3, 4), draw(2, 2, 5, 4, seed=1), draw(2, 2, 5, 3, seed=2)]
    compare(*arrays, draw(*shape, seed=3), enable_gqa=True)


def test_large_scores_do_not_overflow() -> None:
    compare(*(100 * x for x in operands(3, 4)), tolerance=1e-4)


def test_nan_propagates_to_its_row_only() -> None:
    q, k, v = operands(3, 3)
    q[1, 0] = math.nan
    graph, values, (y,), _, _ = build(attention, [q, k, v])
    found = run(graph, dict(zip(values, [q, k, v], strict=True)), np.float64)[y]
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2]]).all()


@settings(derandomize=True, deadline=None, max_examples=20)
@given(
    st.lists(st.integers(1, 3), max_size=2), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4),
    st.sampled_from(["none", "causal", "bool", "float"]), st.integers(0, 99),
)  # fmt: skip
def test_any_shape(batch: list[int], length: int, keys: int, extent: int, kind: str, seed: int) -> None:
    arrays = operands(length, keys, extent, 2, *batch)
    mask = draw(length, keys, seed=seed)
    extra = {"bool": [mask > 0], "float": [mask]}.get(kind, [])
    compare(*arrays, *extra, is_causal=kind == "causal")


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_agree_with_central_differences(causal: bool) -> None:
    check_differences(lambda *t: attention(*t, is_causal=causal), *operands(3, 4), draw(3, 4, seed=3))


def dropped(training: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """The weights of an attention with and without dropout: the values are the unit matrix."""
    q, k, _ = operands(8, 16)
    arrays = [q, k, np.eye(16)]
    graph = Graph("test", training=training)
    values = [Value(f"x{n}", a.shape, DType.F32, Kind.INPUT) for n, a in enumerate(arrays)]
    with graph.building():
        y, whole = attention(*values, dropout_p=0.5), attention(*values)
    env = run(graph, dict(zip(values, arrays, strict=True)), np.float64)
    return env[y], env[whole]


def test_dropout_scales_what_it_keeps() -> None:
    got, whole = dropped(training=True)
    kept = got != 0
    assert 0.25 < kept.mean() < 0.75
    np.testing.assert_allclose(got[kept], 2 * whole[kept], rtol=1e-6)


def test_dropout_does_nothing_in_inference() -> None:
    got, whole = dropped(training=False)
    np.testing.assert_array_equal(got, whole)


def test_a_causal_mask_is_a_guard_of_every_sum() -> None:
    graph, *_ = build(lambda *t: attention(*t, is_causal=True), operands(4, 4))
    sums = [
        nest
        for op in graph.ops
        if op.origin == "op" and isinstance(op, StructuredOp)
        for nest in op.nests
        if nest.parallel < len(nest.extents)
    ]
    assert len(sums) == 9  # scores, maximum, total, result; gradients of value, weights, logits, query, key
    assert all(len(nest.guards) == 1 for nest in sums)


def test_aten_name() -> None:
    function = registry.find_aten("aten.scaled_dot_product_attention.default")
    assert function is not None
    arrays = operands(4, 4, 4, 3, 2)
    check(
        lambda *t: function(*t, None, 0.0, True),
        lambda *t: functional.scaled_dot_product_attention(*t, is_causal=True), *arrays, tolerance=LITERALS,
    )  # fmt: skip


def f32(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
    return [a.astype(np.float32) for a in arrays]


@pytest.mark.parametrize(
    "attributes",
    [{}, {"is_causal": 1}, {"scale": 0.125}, {"softcap": 2.0}, {"softcap": 2.0, "is_causal": 1}],
)
def test_onnx_attention(attributes: dict[str, Any]) -> None:
    arrays = f32(*operands(4, 4, 4, 3, 2, 2))
    check_onnx("Attention", arrays, attributes, opset=23, tolerance=1e-5)
    mask = draw(4, 4, seed=6) > -1.0
    mask[2] = False
    check_onnx("Attention", [*arrays, mask], attributes, opset=23, tolerance=1e-5)
    check_onnx("Attention", [*arrays, *f32(draw(2, 1, 4, 4))], attributes, opset=23, tolerance=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_onnx_attention_over_flat_heads(heads: int) -> None:
    arrays = f32(draw(2, 3, 16), draw(2, 5, heads * 4, seed=1), draw(2, 5, heads * 2, seed=2))
    check_onnx("Attention", arrays, {"q_num_heads": 4, "kv_num_heads": heads}, opset=23, tolerance=1e-5)


def test_onnx_attention_hands_out_keys_and_values() -> None:
    check_onnx("Attention", f32(*operands(3, 5, 4, 3, 2, 2)), opset=23, outputs=3, tolerance=1e-5)


def test_onnx_softcap_has_a_gradient() -> None:
    check_differences(adapter("Attention", 23, softcap=1.5), *operands(2, 3, 4, 2, 1, 1))


def test_onnx_attention_with_a_cache_is_unsupported() -> None:
    past = [draw(1, 1, 2, 4), draw(1, 1, 2, 3)]
    with pytest.raises(registry.UnsupportedCall, match="past_key"):
        build(lambda q, k, v, *p: adapter("Attention", 23)(q, k, v, None, *p), [*operands(3, 3, 4, 3, 1, 1), *past])
    with pytest.raises(registry.UnsupportedCall, match="qk_matmul_output"):
        build(adapter("Attention", 23, outputs=4), operands(3, 3, 4, 3, 1, 1))


@pytest.mark.parametrize(
    ("shapes", "attributes", "message"),
    [
        ([(3, 4), (5, 3), (5, 2)], {}, "do not fit"),
        ([(3, 4), (5, 4), (4, 2)], {}, "do not fit"),
        ([(4,), (5, 4), (5, 2)], {}, "do not fit"),
        ([(2, 3, 4), (3, 5, 4), (3, 5, 2)], {}, "to fit the others"),
        ([(4, 3, 4), (3, 5, 4), (3, 5, 2)], {"enable_gqa": True}, "do not divide evenly"),
        ([(3, 4), (5, 4), (5, 2), (2, 3, 5)], {}, "does not broadcast to the scores"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: Any, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(lambda *t: attention(*t, **attributes), [draw(*shape) for shape in shapes])
