"""Nests over drawn domains: any affine reads, lookups, guards, views, elementwise neighbours, every combiner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, Pieces, elementwise, lookup, reduce_sum, reshape
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.training.autodiff import gradients

Array = NDArray[Any]


@dataclass
class Drawn:
    """A graph of drawn nests.

    Attributes:
        graph: forward and backward.
        feeds: contents of all inputs.
        outputs: what the nests compute.
        loss: the sum of all outputs, weighted.
        slopes: every float operand with its gradient.
    """

    graph: Graph = field(default_factory=lambda: Graph("drawn"))
    feeds: dict[Value, Array] = field(default_factory=dict)
    outputs: list[Value] = field(default_factory=list)
    loss: Value | None = None
    slopes: dict[Value, Value] = field(default_factory=dict)


class Artist:
    """Draws nests from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn = Drawn()
        self.floats: list[Value] = []
        self.smooth: list[Value] = []

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def tensor(self, *shape: int) -> Value:
        value = Value(f"x{len(self.drawn.feeds)}", shape, DType.F32, Kind.PARAMETER)
        self.drawn.feeds[value] = self.rng.uniform(-1, 1, shape)
        self.floats.append(value)
        return value

    def table(self, count: int, upper: int) -> Value:
        """Positions, some of them outside [0, upper)."""
        value = Value(f"t{len(self.drawn.feeds)}", (count,), self.pick(DType.I32, DType.I64), Kind.INPUT)
        entries = self.rng.integers(-1, upper + 1, count)
        if value.dtype is DType.I64 and self.chance(0.3):
            entries[0] = 2**32  # its low half is a valid position
        self.drawn.feeds[value] = entries.astype(value.dtype.numpy)
        return value

    def row(self, iterators: tuple[Affine, ...], extents: list[int]) -> tuple[Affine, int]:
        """An index and the extent of the axis that it reads; it may leave the axis."""
        chosen = self.rng.permutation(len(iterators))[: int(self.rng.integers(0, 4))]
        row = Affine((), int(self.rng.integers(-2, 3)))
        reach = 1
        for k in chosen:
            next_digit = self.chance(0.3) and reach < 40  # of a mixed radix
            coefficient = reach if next_digit else self.pick(1, 1, 1, 2, 3, -1, -2)
            row = row + iterators[k] * coefficient
            reach += abs(coefficient) * (extents[k] - 1)
        if len(iterators) and self.chance(0.15):
            k = int(self.rng.integers(len(iterators)))
            row = row + lookup(self.table(extents[k] + 1, reach + 2), iterators[k] + self.pick(0, 1))
        return row, max(1, reach + int(self.rng.integers(-2, 3)))

    def operand(self, iterators: tuple[Affine, ...], extents: list[int]) -> Expr:
        """A read of a new tensor, of an elementwise function of one, or of a view of that."""
        rows = [self.row(iterators, extents) for _ in range(int(self.rng.integers(1, 4)))]
        shape = [extent for _, extent in rows]
        x = self.tensor(*shape)
        kind = self.pick("plain", "plain", "shifted", "rectified", "view")
        if kind == "shifted":
            x = elementwise(lambda v: v * 2.0 + 5.0, x)
        elif kind == "rectified":
            x = elementwise(lambda v: sc.select(v < 0.0, 0.0, v), x)
        elif kind == "view":
            x = reshape(elementwise(lambda v: -v, reshape(x, (x.size,))), shape)
        return x[tuple(row for row, _ in rows)]

    def body(self, iterators: tuple[Affine, ...], extents: list[int]) -> Expr:
        a, b = self.operand(iterators, extents), self.operand(iterators, extents)
        kind = self.pick("product", "product", "sum", "single", "chosen", "position")
        if kind == "product":
            return a * b
        if kind == "sum":
            return a + b * 0.5
        if kind == "chosen":
            return sc.select(a <= b, a, b * 3.0)
        if kind == "position" and iterators:
            return a * sc.cast(sc.index(iterators[-1] * 2 - 1), DType.F32)
        return a

    def nest(self) -> None:
        parallel = [int(n) for n in self.rng.integers(1, 6, int(self.rng.integers(0, 4)))]
        if parallel and self.chance(0.4):
            parallel[int(self.rng.integers(len(parallel)))] = self.pick(16, 33, 70)
        reductions = [int(n) for n in self.rng.integers(1, 6, int(self.rng.integers(0, 4)))]
        if reductions and self.chance(0.2):
            reductions[-1] = 67  # sums that are blocked
        combiner = self.pick("sum", "sum", "sum", "argmax", "max", "assign", "scatter")
        if combiner == "assign":
            reductions = []
        d = Domain()
        outer = d.parallel(*parallel)
        inner = d.reduction(*reductions)
        extents = [*parallel, *reductions]
        body = self.body((*outer, *inner), extents)
        order = [outer[k] for k in self.rng.permutation(len(outer))]
        if self.chance(0.3) and extents:
            k = int(self.rng.integers(len(extents)))
            d.require((*outer, *inner)[k] * self.pick(1, -1, 2), -2, int(self.rng.integers(1, 2 * extents[k] + 1)))
        if combiner == "sum":
            y = d.sum(body, order)
        elif combiner == "argmax":
            y, _ = d.argmax(body, order)
            y = elementwise(lambda v: sc.select(v < -1e30, 0.0, v), y)
        elif combiner == "max":
            y = d.max(body, order)
            y = elementwise(lambda v: sc.select(v < -1e30, 0.0, v), y)
        elif combiner == "assign":
            y = d.assign(body, order, init=1.5)
        else:
            upper = int(self.rng.integers(1, 6))
            at: list[Affine | int] = [*order]
            if inner:
                at.append(lookup(self.table(reductions[0], upper), inner[0]))
            shape = [extents[row.single] for row in order if row.single is not None]
            pieces = Pieces([*shape, *([upper] if inner else [])], init=0)
            pieces.sum(d, body, at, scatter=True)
            y = pieces.finish()
        if self.chance(0.5):
            y = elementwise(lambda v: v * v - 1.0, reshape(y, (y.size,)))
        self.drawn.outputs.append(y)
        if combiner != "max":  # no gradient is derived for it
            self.smooth.append(y)

    def draw(self, count: int) -> Drawn:
        drawn = self.drawn
        with drawn.graph.building():
            for _ in range(count):
                self.nest()
            for y in self.smooth:
                weight = Value(f"w{len(drawn.feeds)}", y.shape, DType.F32, Kind.INPUT)
                drawn.feeds[weight] = self.rng.uniform(-1, 1, y.shape)
                part = reduce_sum(y * weight)
                drawn.loss = part if drawn.loss is None else drawn.loss + part
            if drawn.loss is None:
                return drawn
            one = Value("one", (), DType.F32, Kind.CONSTANT, np.array(1.0, np.float32))
            drawn.slopes = gradients(drawn.graph, drawn.loss, one, self.floats)
        return drawn
