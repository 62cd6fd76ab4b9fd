"""Nests with drawn domains, strides, dilations, padding and broadcasts: derived gradients and compiled bits.

Gradients are compared with float64 central differences of the interpreter, compiled code with the interpreter in value
and with the plain C oracle in bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import Domain, elementwise, reduce_sum, reshape
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.training.autodiff import gradients


@dataclass(frozen=True)
class Window:
    """One windowed axis: ``x[stride * w + dilation * r - pad]``."""

    size: int
    taps: int
    stride: int
    dilation: int
    pad: int

    @property
    def steps(self) -> int:
        """How many windows there are."""
        return (self.size + 2 * self.pad - self.dilation * (self.taps - 1) - 1) // self.stride + 1


def windows() -> st.SearchStrategy[Window]:
    drawn = st.builds(
        Window, size=st.integers(1, 23), taps=st.integers(1, 5), stride=st.integers(1, 4), dilation=st.integers(1, 3),
        pad=st.integers(0, 4),
    )  # fmt: skip
    return drawn.filter(lambda w: w.steps >= 1)


def _value(name: str, *shape: int) -> Value:
    return Value(name, shape, DType.F32, Kind.PARAMETER)


def contraction(window: Window, second: Window, channels: int, filters: int) -> tuple[Graph, list[Value], Value]:
    """A convolution over two drawn axes with an elementwise producer and consumer around it."""
    graph = Graph("test")
    x = _value("x", 2, channels, window.size, second.size)
    w = _value("w", filters, channels, window.taps, second.taps)
    b = _value("b", filters)
    with graph.building():
        d = Domain()
        n, k, i, j = d.parallel(2, filters, window.steps, second.steps)
        c, r, s = d.reduction(channels, window.taps, second.taps)
        row = i * window.stride + r * window.dilation - window.pad
        column = j * second.stride + s * second.dilation - second.pad
        shifted = elementwise(lambda v: v * 2.0 + 0.5, x)
        y = d.sum(shifted[n, c, row, column] * w[k, c, r, s], (n, k, i, j))
        z = elementwise(lambda v, u: v + u, y, reshape(b, (filters, 1, 1)))
    return graph, [x, w, b], z


def pooling(window: Window, second: Window, channels: int, filters: int) -> tuple[Graph, list[Value], Value]:
    """A maximum over drawn windows."""
    graph = Graph("test")
    x = _value("x", channels, window.size, second.size)
    with graph.building():
        d = Domain()
        c, i, j = d.parallel(channels, window.steps, second.steps)
        r, s = d.reduction(window.taps, second.taps)
        row = i * window.stride + r * window.dilation - window.pad
        column = j * second.stride + s * second.dilation - second.pad
        y, _ = d.argmax(x[c, row, column], (c, i, j))
        y = elementwise(lambda v: v * v, y)
    return graph, [x], y


CASES = {"contraction": contraction, "pooling": pooling}


def _finite(window: Window) -> bool:
    """Every window of a maximum must hold at least one element."""
    return all(
        any(0 <= window.stride * w + window.dilation * r - window.pad < window.size for r in range(window.taps))
        for w in range(window.steps)
    )


@given(
    kind=st.sampled_from(sorted(CASES)), window=windows(), second=windows(), channels=st.integers(1, 5),
    filters=st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=30, derandomize=True, deadline=None)
def test_gradients_equal_central_differences(
    kind: str, window: Window, second: Window, channels: int, filters: int
) -> None:
    if kind == "pooling" and not (_finite(window) and _finite(second)):
        return
    graph, operands, y = CASES[kind](window, second, channels, filters)
    seed = Value("seed", y.shape, DType.F32, Kind.INPUT)
    with graph.building():
        loss = reduce_sum(y * seed)
        one = Value("one", (), DType.F32, Kind.CONSTANT, np.array(1.0, np.float32))
        found = gradients(graph, loss, one, operands)
    rng = np.random.default_rng(1)
    feeds = {v: rng.uniform(-1, 1, v.shape) for v in [*operands, seed]}
    env = run(graph, feeds, np.float64)
    for operand in operands:
        direction = rng.choice([-1.0, 1.0], operand.shape)
        h = 1e-6
        ends = [
            run(graph, feeds | {operand: feeds[operand] + sign * h * direction}, np.float64)[loss] for sign in (1, -1)
        ]
        expected = float(ends[0] - ends[1]) / (2 * h)
        derived = float((env[found[operand]] * direction).sum()) if operand in found else 0.0
        assert abs(derived - expected) < 1e-6 * max(1.0, abs(expected)), operand.name


@given(
    kind=st.sampled_from(sorted(CASES)), window=windows(), second=windows(), channels=st.integers(1, 5),
    filters=st.integers(1, 9),
)  # fmt: skip
@settings(max_examples=12, derandomize=True, deadline=None)
def test_optimised_code_has_the_bits_of_the_plain_code(
    kind: str, window: Window, second: Window, channels: int, filters: int
) -> None:
    if kind == "pooling" and not (_finite(window) and _finite(second)):
        return
    graph, operands, y = CASES[kind](window, second, channels, filters)
    seed = Value("seed", y.shape, DType.F32, Kind.INPUT)
    with graph.building():
        found = gradients(graph, y, seed, operands)
    rng = np.random.default_rng(2)
    feeds = {v: rng.uniform(-1, 1, v.shape).astype(np.float32) for v in [*operands, seed]}
    outputs = [y, *found.values()]
    env = run(graph, feeds, np.float64)
    plain = run_compiled(graph, outputs, feeds, optimize=False, optimization="-O1")
    fast = run_compiled(graph, outputs, feeds)
    for output, a, b in zip(outputs, plain, fast, strict=True):
        assert same_bits(a, b), output.name
        scale = max(1.0, float(np.abs(env[output]).max(initial=0.0)))
        np.testing.assert_allclose(b, env[output], rtol=0, atol=2e-6 * scale, err_msg=output.name)
