"""Scaled dot-product attention: scores, a masked softmax and a weighted sum of the values.

A causal mask is a guard: the terms above the diagonal do not exist, in the scores, in the sums over keys and in all
gradients. Other masks select.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, elementwise, reshape, transpose, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.operators.contraction import contract
from tilegrad.operators.dropout import dropout
from tilegrad.operators.registry import OnnxCall, UnsupportedCall, aten, onnx
from tilegrad.operators.softmax import safe_softmax

#: What becomes of a score before the mask: scaled, perhaps capped.
Score = Callable[[Expr], Expr]


@aten("aten.scaled_dot_product_attention.default")
def scaled_dot_product_attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``softmax(query @ key^T * scale + mask) @ value``; a row whose keys are all masked gives 0, as in PyTorch.

    Args:
        query: f32[..., H, L, E].
        key: f32[..., H, S, E]; leading axes broadcast.
        value: f32[..., H, S, V].
        attn_mask: bool (True takes part) or f32 (added), broadcast to [..., H, L, S]; with `is_causal` both apply.
        dropout_p: probability with which a weight is dropped in training.
        is_causal: row i sees the keys up to i.
        scale: factor of the scores; ``1 / sqrt(E)`` if None.
        enable_gqa: key and value may have fewer heads, each of which serves a group of query heads.

    Returns:
        f32[..., H, L, V].

    Raises:
        ShapeError: if the shapes do not fit.
    """
    _check(query, key, value)
    factor = scale if scale is not None else 1 / math.sqrt(query.shape[-1])
    attend = _attend_grouped if enable_gqa else _attend
    return attend(query, key, value, attn_mask, lambda s: s * factor, is_causal, dropout_p)


@onnx("Attention")
def onnx_attention(
    call: OnnxCall, query: Value, key: Value, value: Value, mask: Value | None = None, *cache: Value | None
) -> Value | tuple[Value, ...]:
    """ONNX Attention (opset 23) without a cache: operands f32[B, H, L, E], or f32[B, L, H * E] with q_num_heads."""
    if any(entry is not None for entry in cache):
        raise UnsupportedCall("past_key and past_value; attention over the given keys only is supported")
    if len(call.outputs) > 3 and call.outputs[3]:
        raise UnsupportedCall("the output qk_matmul_output; Y, present_key and present_value are supported")
    flat = query.rank == 3
    if flat:
        heads, kv_heads = int(call.required("q_num_heads")), int(call.required("kv_num_heads"))
        query, key, value = _split_heads(query, heads), _split_heads(key, kv_heads), _split_heads(value, kv_heads)
    _check(query, key, value)
    if query.rank != 4:
        raise ShapeError(f"node {call.node!r}: the query has shape {query.shape}, expected three or four axes")
    factor = call.attribute("scale")
    factor = 1 / math.sqrt(query.shape[-1]) if factor is None else float(factor)
    cap = float(call.attribute("softcap", 0.0))

    def score(s: Expr) -> Expr:
        return sc.tanh(s * (factor / cap)) * cap if cap > 0 else s * factor

    y = _attend_grouped(query, key, value, mask, score, bool(call.attribute("is_causal", 0)), 0.0)
    if flat:
        batch, heads, length, extent = y.shape
        y = reshape(transpose(y, (0, 2, 1, 3)), (batch, length, heads * extent))
    return y if len(call.outputs) < 2 else (y, key, value)[: len(call.outputs)]


def _split_heads(x: Value, heads: int) -> Value:
    """f32[B, L, H * E] as f32[B, H, L, E]."""
    if x.rank != 3 or heads < 1 or x.shape[2] % heads:
        raise ShapeError(f"{x.name} of shape {x.shape} does not split into {heads} heads")
    return transpose(reshape(x, (x.shape[0], x.shape[1], heads, x.shape[2] // heads)), (0, 2, 1, 3))


def _check(query: Value, key: Value, value: Value) -> None:
    fits = min(query.rank, key.rank, value.rank) >= 2
    if not fits or query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            f"query {query.shape}, key {key.shape} and value {value.shape} of an attention do not fit: expected "
            "[..., L, E], [..., S, E] and [..., S, V]"
        )


def _attend_grouped(
    query: Value, key: Value, value: Value, mask: Value | None, score: Score, causal: bool, dropout_p: float
) -> Value:
    """Attention in which every head of key and value serves the same number of consecutive query heads."""
    if query.rank < 3 or key.rank < 3 or query.shape[-3] == key.shape[-3] == value.shape[-3]:
        return _attend(query, key, value, mask, score, causal, dropout_p)
    heads, groups = query.shape[-3], key.shape[-3]
    if value.shape[-3] != groups or heads % groups:
        raise ShapeError(
            f"the {heads} heads of query {query.shape} do not divide evenly among the heads of key {key.shape} and "
            f"value {value.shape}"
        )

    def split(x: Value, *axes: int) -> Value:
        return reshape(x, (*x.shape[:-3], *axes, *x.shape[-2:]))

    if mask is not None and mask.rank > 2:
        mask = split(mask, 1, 1) if mask.shape[-3] == 1 else split(mask, groups, heads // groups)
    query, key, value = split(query, groups, heads // groups), split(key, groups, 1), split(value, groups, 1)
    y = _attend(query, key, value, mask, score, causal, dropout_p)
    return reshape(y, (*y.shape[:-4], heads, *y.shape[-2:]))


def _attend(
    query: Value, key: Value, value: Value, mask: Value | None, score: Score, causal: bool, dropout_p: float
) -> Value:
    restrict = _up_to_the_diagonal if causal else None
    rank = max(query.rank, key.rank)
    scores = contract(
        (query, _axes(query.rank, "i", "e")), (key, _axes(key.rank, "j", "e")), _axes(rank, "i", "j"), restrict
    )
    logits = _masked(scores, mask, score)
    weights = _causal_softmax(logits) if causal else safe_softmax(logits, -1)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p)
    output = _axes(max(rank, value.rank), "i", "v")
    return contract((weights, _axes(rank, "i", "j")), (value, _axes(value.rank, "j", "v")), output, restrict)


def _axes(rank: int, *last: Hashable) -> tuple[Hashable, ...]:
    """Labels of the axes: those before the last two are counted from the right, as broadcasting does."""
    return (*range(rank - 2, 0, -1), *last)


def _up_to_the_diagonal(d: Domain, iterators: dict[Hashable, Affine]) -> None:
    _require_causal(d, iterators["i"], iterators["j"])


def _require_causal(d: Domain, i: Affine, j: Affine) -> None:
    """Query `i` sees the keys up to `i`."""
    assert i.single is not None
    d.require(i - j, 0, d.extents[i.single])


def _masked(scores: Value, mask: Value | None, score: Score) -> Value:
    """The logits of the softmax: a masked one is minus infinity."""
    if mask is None:
        return elementwise(score, scores)
    if mask.dtype is DType.BOOL:
        logits = elementwise(lambda s, m: sc.select(m, score(s), -math.inf), scores, mask)
    elif mask.dtype.is_float:
        logits = elementwise(lambda s, m: score(s) + m, scores, mask)
    else:
        raise ShapeError(f"the mask {mask.name} of an attention is {mask.dtype.value}; expected bool or f32")
    if logits.shape != scores.shape:
        raise ShapeError(f"the mask {mask.name} of shape {mask.shape} does not broadcast to the scores' {scores.shape}")
    return logits


def _causal_softmax(logits: Value) -> Value:
    """Softmax over the keys up to the diagonal; a row of minus infinities becomes zeros."""

    def over_keys() -> tuple[Domain, tuple[Affine, ...], tuple[Affine, ...]]:
        d = Domain()
        rows = d.parallel(*logits.shape[:-1])
        (j,) = d.reduction(logits.shape[-1])
        _require_causal(d, rows[-1], j)
        return d, rows, (*rows, j)

    d, rows, index = over_keys()
    largest = d.max(logits[index], rows)
    # Where all are masked the maximum is minus infinity: subtract 0 there.
    offset = elementwise(lambda m: sc.select(m.equals(-math.inf), 0.0, m), largest)
    d = Domain()
    at = d.parallel(*logits.shape)
    visible = sc.index(at[-1]) <= sc.index(at[-2])
    powers = d.assign(sc.select(visible, sc.exp(logits[at] - offset[at[:-1]]), 0.0), at)
    d, rows, index = over_keys()
    total = d.sum(powers[index], rows)
    inverse = elementwise(lambda t: sc.select(t.equals(0.0), 0.0, 1.0 / t), total)
    d = Domain()
    at = d.parallel(*logits.shape)
    weights = d.assign(powers[at] * inverse[at[:-1]], at)

    # The derived gradient goes through the maximum and the quotient: ten operations an element instead of three.
    def vjp(g: Value) -> tuple[Value]:
        d, rows, index = over_keys()
        projection = d.sum(g[index] * weights[index], rows)
        d = Domain()
        at = d.parallel(*logits.shape)
        return (d.assign(weights[at] * (g[at] - projection[at[:-1]]), at),)

    with_gradient((logits,), (weights,), vjp)
    return weights
