"""Whole families of operators in compiled C: the bits of the plain oracle, the values of the interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx_harness import adapter
from operator_harness import build, draw
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir.types import DType
from tilegrad.operators import activation, arithmetic, functions, padding, reduction, resize, selection, shape, slicing
from tilegrad.operators.arguments import convert
from tilegrad.operators.cells import GRUCell, LSTMCell, PlainCell, State
from tilegrad.operators.creation import tril
from tilegrad.operators.extrema import amax, argmin, max_dim, min_dim
from tilegrad.operators.recurrent import Weights, run_direction

SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 100.0, -100.0, math.nan, math.inf, -math.inf])


def activations(x: Any) -> list[Any]:
    simple = [
        activation.relu, activation.relu6, activation.leaky_relu, activation.elu, activation.celu, activation.selu,
        activation.sigmoid, activation.log_sigmoid, activation.tanh, activation.silu, activation.mish, activation.gelu,
        activation.hardswish, activation.hardsigmoid, activation.softplus, activation.softsign, activation.hardshrink,
        activation.softshrink, activation.hardtanh,
    ]  # fmt: skip
    return [function(x) for function in simple] + [activation.gelu(x, "tanh"), activation.threshold(x, 0.5, 2.0)]


def functions_of_one(x: Any) -> list[Any]:
    simple = [
        functions.exp, functions.exp2, functions.expm1, functions.log, functions.log1p, functions.sqrt, functions.rsqrt,
        functions.reciprocal, functions.absolute, functions.sign, functions.sin, functions.cos, functions.erf,
        functions.floor, functions.ceil, functions.round_half_even, functions.trunc, functions.is_nan,
        functions.is_inf, functions.is_finite, functions.nan_to_num, functions.neg,
    ]  # fmt: skip
    return [function(x) for function in simple]


def arithmetic_of_two(x: Any, y: Any, m: Any, n: Any) -> list[Any]:
    floats = [
        arithmetic.add(x, y, 0.5), arithmetic.sub(x, y), arithmetic.mul(x, y), arithmetic.div(x, y),
        arithmetic.div(x, y, "floor"), arithmetic.remainder(x, y), arithmetic.fmod(x, y), arithmetic.pow(x, 3),
        arithmetic.pow(functions.absolute(x), y), arithmetic.lerp(x, y, 0.7), arithmetic.addcdiv(x, y, y, 0.3),
        selection.maximum(x, y), selection.minimum(x, y), selection.clamp(x, -0.5, 0.5), selection.clamp(x, y, None),
        selection.where(selection.gt(x, y), x, y), selection.masked_fill(x, selection.le(x, 0.0), 7.0),
    ]  # fmt: skip
    integers = [
        arithmetic.add(m, n), arithmetic.mul(m, n), arithmetic.floor_divide(m, n), arithmetic.remainder(m, n),
        arithmetic.fmod(m, n), selection.bitwise_and(m, n), selection.bitwise_xor(m, n), selection.bitwise_not(m),
        selection.eq(m, n), selection.logical_xor(m, n), convert(m, DType.I32), convert(m, DType.F32),
        convert(x, DType.I64), convert(x, DType.BOOL), arithmetic.pow(m, 3),
    ]  # fmt: skip
    return floats + integers


def rearrangements(x: Any) -> list[Any]:
    return [
        shape.permute(x, [2, 0, 3, 1]), shape.repeat(x, [1, 2, 1, 2]), shape.pixel_shuffle(x, 2),
        shape.diagonal(x, 1, 2, 3), shape.channel_shuffle(x, 2), *slicing.split(x, 3, 1),
        slicing.slice_axis(x, 3, 1, 6, 2), slicing.flip(x, [1, 3]), slicing.roll(x, [1, 2], [2, 3]),
        slicing.unfold(x, 3, 3, 2), slicing.cat([x, x], 2), slicing.stack([x, x], 1),
        slicing.im2col(x, [2, 2], [1, 1], [1, 0], [2, 1]), padding.pad(x, [1, 2, 2, 1], "constant", 1.5),
        padding.pad(x, [1, 2, 2, 1], "reflect"), padding.pad(x, [1, 2, 2, 1], "replicate"),
        padding.pad(x, [1, 2, 2, 1], "circular"), resize.upsample_nearest(x, [8, 12]),
        resize.upsample_nearest(x, [5, 4]), resize.upsample_linear(x, [7, 3], False),
        resize.upsample_cubic(x, [7, 3], True), tril(x, 1),
    ]  # fmt: skip


def reductions(x: Any) -> list[Any]:
    value, position = max_dim(x, 1)
    return [
        reduction.sum_over(x, [0, 2]), reduction.mean(x, [1]), *reduction.var_mean(x, [1, 2]),
        reduction.std(x, [0], 0), reduction.prod(x, 1), reduction.cumsum(x, 2), reduction.cumprod(x, 1),
        reduction.vector_norm(x, 2, [1]), reduction.vector_norm(x, 3, [1]), reduction.vector_norm(x, math.inf),
        reduction.any_of(x, [0]), reduction.all_of(x), reduction.count_nonzero(x, [1]), amax(x, [0, 1]), value,
        position, *min_dim(x, 2, True), argmin(x),
        reduction.running_sum(x, 1, exclusive=True, reverse=True),
    ]  # fmt: skip


def layers(x: Any, h: Any, c: Any, w: Any, u: Any, b: Any) -> list[Any]:
    found: list[Any] = []
    for cell, gates, reverse in (
        (LSTMCell(), 4, False), (LSTMCell(order=(0, 2, 3, 1)), 4, True), (GRUCell(), 3, False),
        (GRUCell(order=(1, 0), reset_after=False), 3, True), (PlainCell(), 1, False), (PlainCell(relu=True), 1, True),
    ):  # fmt: skip
        rows = gates * h.shape[1]
        weights = Weights(*(slicing.strided(v, 0, 0, rows) for v in (w, u, b, b)))
        y, state = run_direction(cell, x, State(h, c if cell.has_memory else None), weights, reverse=reverse)
        found += [y, state.h] + ([] if state.c is None else [state.c])
    return found


INTEGERS = np.array([[7, -7, 8], [0, -1, 5]])
DIVISORS = np.array([[2, -2, 3], [5, 4, -4]])
FAMILIES: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "activations": (activations, [np.concatenate([SPECIAL, draw(13, low=-6, high=8)])]),
    "functions": (functions_of_one, [np.concatenate([SPECIAL, draw(13, low=-3, high=3)])]),
    "arithmetic": (arithmetic_of_two, [draw(3, 4), draw(4, seed=1), INTEGERS, DIVISORS]),
    "rearrangements": (rearrangements, [draw(2, 4, 4, 6)]),
    "reductions": (reductions, [np.round(draw(3, 4, 5), 1)]),
    "recurrent": (
        layers,
        [draw(3, 2, 3), draw(2, 4), draw(2, 4, seed=1), draw(16, 3, seed=2), draw(16, 4, seed=3), draw(16, seed=4)],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family: str) -> None:
    function, arrays = FAMILIES[family]
    graph, operands, results, seeds, gradients = build(function, arrays)
    seed_arrays = [np.random.default_rng(3).normal(size=seed.shape) for seed in seeds]
    feeds = dict(zip(operands, arrays, strict=True)) | dict(zip(seeds, seed_arrays, strict=True))
    outputs = list(dict.fromkeys([*results, *gradients.values()]))
    env = run(graph, feeds, np.float32)
    optimized = run_compiled(graph, outputs, feeds, optimize=True, optimization="-O1")
    plain = run_compiled(graph, outputs, feeds, optimize=False, optimization="-O0")
    for value, mine, oracle in zip(outputs, optimized, plain, strict=True):
        assert same_bits(mine, oracle), value.name
        if value in gradients.values() and np.isnan(arrays[0]).any():
            continue  # one sum over all functions: NaN where any of them gives one
        wanted = env[value].astype(np.float64)
        scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)))
        np.testing.assert_allclose(mine.astype(np.float64), wanted, rtol=2e-6, atol=2e-6 * scale, err_msg=value.name)


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
