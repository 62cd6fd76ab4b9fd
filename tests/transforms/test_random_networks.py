"""Drawn networks, forward and backward, before and behind all passes: values by the interpreter, bits in C."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.compiled import run_compiled, same_bits

from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, reduce_mean, reshape
from tilegrad.ir.graph import Graph, Store, StructuredOp, Value, clone
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.training.autodiff import gradients
from tilegrad.transforms.pipeline import transform


class Network:
    """Layers drawn from a seed over f32[channels, width]."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("drawn")
        self.feeds: dict[Value, NDArray[Any]] = {}
        self.outputs: list[Value] = []
        with self.graph.building():
            self._draw()

    def tensor(self, *shape: int) -> Value:
        value = Value(f"x{len(self.feeds)}", shape, DType.F32, Kind.PARAMETER)
        self.feeds[value] = self.rng.uniform(-1, 1, shape).astype(np.float32)
        return value

    def _draw(self) -> None:
        y = self.tensor(int(self.rng.integers(1, 4)), int(self.rng.integers(9, 40)))
        layers = [self.convolution, self.bias, self.relu, self.normalise, self.pool, self.average, self.residual]
        for _ in range(int(self.rng.integers(3, 8))):
            y = layers[int(self.rng.integers(len(layers)))](y)
        one = Value("seed", y.shape, DType.F32, Kind.INPUT)
        self.feeds[one] = self.rng.uniform(-1, 1, y.shape).astype(np.float32)
        found = gradients(self.graph, y, one, [v for v in self.feeds if v.kind is Kind.PARAMETER])
        self.outputs = [v for v in dict.fromkeys([y, *found.values()]) if v.kind is Kind.TEMPORARY]

    def convolution(self, x: Value) -> Value:
        taps, pad = int(self.rng.integers(1, 4)), int(self.rng.integers(0, 2))
        stride = int(self.rng.integers(1, 3))
        w = self.tensor(int(self.rng.integers(1, 5)), x.shape[0], taps)
        count = (x.shape[1] + 2 * pad - taps) // stride + 1
        if count < 1:
            return x
        d = Domain()
        k, i = d.parallel(w.shape[0], count)
        c, r = d.reduction(x.shape[0], taps)
        return d.sum(x[c, i * stride + r - pad] * w[k, c, r], (k, i))

    def bias(self, x: Value) -> Value:
        return elementwise(lambda v, u: v + u, x, reshape(self.tensor(x.shape[0]), (x.shape[0], 1)))

    def relu(self, x: Value) -> Value:
        return elementwise(lambda v: sc.select(v > 0.0, v, 0.0), x)

    def normalise(self, x: Value) -> Value:
        centred = elementwise(lambda v, m: v - m, x, reduce_mean(x, 1, True))
        deviation = elementwise(lambda v: 1.0 / sc.sqrt(v + 0.1), reduce_mean(centred * centred, 1, True))
        return elementwise(lambda v, s: v * s, centred, deviation)

    def pool(self, x: Value) -> Value:
        size = int(self.rng.integers(2, 5))
        if x.shape[1] < size:
            return x
        d = Domain()
        c, i = d.parallel(x.shape[0], x.shape[1] // size)
        (r,) = d.reduction(size)
        return d.argmax(x[c, i * size + r], (c, i))[0]

    def average(self, x: Value) -> Value:
        size = int(self.rng.integers(2, 5))
        if x.shape[1] < size:
            return x
        d = Domain()
        c, i = d.parallel(x.shape[0], x.shape[1] // size)
        (r,) = d.reduction(size)
        return d.sum(x[c, i * size + r], (c, i)) / float(size)

    def residual(self, x: Value) -> Value:
        w = self.tensor(x.shape[0], x.shape[0])
        d = Domain()
        k, i = d.parallel(*x.shape)
        (c,) = d.reduction(x.shape[0])
        return elementwise(lambda v, u: v + u, x, d.sum(x[c, i] * w[k, c], (k, i)))


@pytest.mark.parametrize("first", range(0, 120, 30))
def test_values_stay(first: int) -> None:
    fewer = 0
    for seed in range(first, first + 30):
        network = Network(seed)
        feeds = {v: array.astype(np.float64) for v, array in network.feeds.items()}
        before = run(network.graph, feeds, np.float64)
        graph = clone(network.graph, "train")
        stores = [Store(Value("o", v.shape, v.dtype, Kind.OUTPUT), v) for v in network.outputs]
        graph.stores = stores
        transform(graph)
        verify_graph(graph)
        after = run(graph, feeds, np.float64)
        for k, (store, output) in enumerate(zip(graph.stores, network.outputs, strict=True)):
            np.testing.assert_allclose(after[store.value], before[output], rtol=1e-9, atol=1e-9, err_msg=f"{seed} {k}")
        fewer += _operations(network.graph) - _operations(graph)
    assert fewer > 30 * 5  # the passes did something


def _operations(graph: Graph) -> int:
    return sum(isinstance(op, StructuredOp) for op in graph.ops)


@pytest.mark.parametrize("seed", [200, 201, 202])
def test_bits_stay(seed: int) -> None:
    network = Network(seed)
    plain = run_compiled(network.graph, network.outputs, network.feeds, optimize=False, optimization="-O1")
    fast = run_compiled(network.graph, network.outputs, network.feeds)
    for k, (a, b) in enumerate(zip(plain, fast, strict=True)):
        assert same_bits(a, b), k
