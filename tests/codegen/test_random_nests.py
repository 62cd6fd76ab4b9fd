"""Nests with drawn domains, strides, dilations, padding and broadcasts: derived gradients and compiled bits.

Gradients are compared with float64 central differences of the interpreter, compiled code with the interpreter in value
and with the plain C oracle in bits.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.codegen.random_nests import Artist
from tests.compiled import run_compiled, same_bits, write_graph

from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import Domain, elementwise, reduce_sum, reshape
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
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
@settings(max_examples=6, derandomize=True, deadline=None)
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


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_gradients_of_any_nest(first: int) -> None:
    """Lookups, scatters, diagonals, reversed and mixed-radix indices, several pieces, views, every combiner."""
    for seed in range(first, first + 10):
        drawn = Artist(seed).draw(3)
        verify_graph(drawn.graph)
        if drawn.loss is None:
            continue
        env = run(drawn.graph, drawn.feeds, np.float64)
        for operand, slope in drawn.slopes.items():
            direction = np.random.default_rng(seed).choice([-1.0, 1.0], operand.shape)
            ends = []
            for sign in (1e-6, -1e-6):
                moved = drawn.feeds | {operand: drawn.feeds[operand] + sign * direction}
                ends.append(float(run(drawn.graph, moved, np.float64)[drawn.loss]))
            expected = (ends[0] - ends[1]) / 2e-6
            allowed = 1e-5 * max(1.0, abs(expected)) + 1e-9 * abs(ends[0])
            assert abs(float((env[slope] * direction).sum()) - expected) < allowed, (seed, operand.name)


@pytest.mark.parametrize("seed", [1000, 1001, 1002])
def test_any_nest_has_one_set_of_bits(seed: int) -> None:
    """Fused and blocked code against the plain oracle in bits, the interpreter in value, and under sanitizers."""
    drawn = Artist(seed).draw(8)
    outputs = [o for o in [*drawn.outputs, *drawn.slopes.values()] if not o.is_constant]
    feeds = {v: np.asarray(array).astype(v.dtype.numpy) for v, array in drawn.feeds.items()}
    env = run(drawn.graph, feeds, np.float64)
    compilers = ["zig", *(cc for cc in ("gcc", "clang") if shutil.which(cc))]
    fast = run_compiled(drawn.graph, outputs, feeds, cc=compilers[seed % len(compilers)])
    with tempfile.TemporaryDirectory() as folder:
        project = write_graph(drawn.graph, outputs, Path(folder) / "project", optimize=False)
        plain = project.run(feeds, cc="gcc" if "gcc" in compilers else "zig", optimization="-O1", sanitize=True)
    for output, a, b in zip(outputs, plain, fast, strict=True):
        assert same_bits(a, b), output.name
        scale = max(1.0, float(np.abs(env[output]).max(initial=0.0)))
        np.testing.assert_allclose(b, env[output], rtol=0, atol=1e-5 * scale, err_msg=output.name)
