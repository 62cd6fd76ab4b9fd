"""The textual form, compared as a whole."""

from __future__ import annotations

import numpy as np

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain, Pieces, elementwise, lookup, reshape
from tilegrad.ir.graph import Graph, Nest, Result, Store, StructuredOp, Value
from tilegrad.ir.printer import format_graph
from tilegrad.ir.types import DType, Kind
from tilegrad.training.autodiff import gradients

CONVOLUTION = """\
graph conv(x: f32[1, 2, 7])
  parameter w: f32[3, 2, 3]
  y: f32[1, 3, 4] =  # forward conv
    P(i0:1, i1:3, i2:4) R(i3:2, i4:3) where 0 <= 2*i2 + i4 - 1 < 7
      y[i0, i1, i2] fma= x[i0, i3, 2*i2 + i4 - 1], w[i1, i3, i4]
  d.x: f32[1, 2, 7] =  # backward conv
    P(i0:2, i1:4) R(i2:3)
      d.x[0, i0, 2*i1] fma= seed[0, i2, i1], w[i2, i0, 1]
    P(i0:2, i1:3) R(i2:3, i3:2)
      d.x[0, i0, 2*i1 + 1] fma= seed[0, i2, i1 - 1*i3 + 1], w[i2, i0, 2*i3]
  d.w: f32[3, 2, 3] =  # backward conv
    P(i0:3, i1:2, i2:3) R(i3:4) where 0 <= i2 + 2*i3 - 1 < 7
      d.w[i0, i1, i2] fma= seed[0, i0, i3], x[0, i1, i2 + 2*i3 - 1]
"""


def test_a_strided_convolution_and_its_gradients() -> None:
    """Padding is a guard; the gradient of a strided read is split by residue, no tap multiplied by zero."""
    graph = Graph("conv")
    x = Value("x", (1, 2, 7), DType.F32, Kind.INPUT)
    w = Value("w", (3, 2, 3), DType.F32, Kind.PARAMETER)
    graph.inputs.append(x)
    graph.parameters["w"] = w
    with graph.building():
        with graph.scope("conv"):
            d = Domain()
            n, k, i = d.parallel(1, 3, 4)
            c, r = d.reduction(2, 3)
            y = d.sum(x[n, c, 2 * i + r - 1] * w[k, c, r], (n, k, i), "y")
        gradients(graph, y, Value("seed", y.shape, DType.F32, Kind.INPUT), [x, w])
    assert format_graph(graph) == CONVOLUTION


EVERYTHING = """\
graph all(x: f32[4])
  buffer b: f32[]
  v: f32[2, 2] = view x  # forward split
  y: f32[6] = init 0.5  # forward join
    P(i0:4)
      y[-1*i0 + 4] = select((x[i0] < 0.0), exp(x[i0]), (x[i0] * f32((2*i0 + 1))))
  s: f32[3] = init 0  # forward
    P() R(i0:4) scatter where 0 <= t[i0] < 3
      s[t[i0]] += x[i0]
  m: f32[], m.1: i32[] =  # forward
    P() R(i0:4)
      m[], m.1[] argmax= neg(x[i0])
  u: i32[4] =  # optimizer step
    P(i0:4)
      u[i0] = i32(x[i0])
  c: bool[] =  # forward
    P() R(i0:4)
      c[] += x[i0] from 2.0 then (acc > b[])
  store b <- m
  return y, s
"""


def test_every_form() -> None:
    graph = Graph("all")
    x = Value("x", (4,), DType.F32, Kind.INPUT)
    t = Value("t", (4,), DType.I32, Kind.INPUT)
    b = Value("b", (), DType.F32, Kind.BUFFER, np.zeros((), np.float32))
    graph.inputs.append(x)
    graph.buffers["b"] = b
    with graph.building():
        with graph.scope("split"):
            view = reshape(x, (2, 2))
            view.name = "v"
        with graph.scope("join"):
            pieces = Pieces((6,), init=0.5, name="y")
            d = Domain()
            (i,) = d.parallel(4)
            scaled = x[i] * sc.cast(sc.index(2 * i + 1), DType.F32)
            pieces.assign(d, sc.select(x[i] < 0.0, sc.exp(x[i]), scaled), (4 - i,))
            y = pieces.finish()
        pieces = Pieces((3,), init=0, name="s")
        d = Domain()
        (i,) = d.reduction(4)
        pieces.sum(d, x[i], (lookup(t, i),), scatter=True)
        s = pieces.finish()
        d = Domain()
        (i,) = d.reduction(4)
        largest, _ = d.argmax(-x[i], (), "m")
        with graph.scope("step", "optimizer"):
            elementwise(lambda e: sc.cast(e, DType.I32), x, name="u")
    c = Value("c", (), DType.BOOL)
    final = sc.accumulator(DType.F32) > b[()]
    result = Result((c,), (), "sum", (x[Affine.iterator(0)],), sc.constant(2.0, DType.F32), final)
    graph.add(StructuredOp((c,), (Nest((4,), 0, (), (result,)),)))
    graph.stores.append(Store(b, largest))
    graph.results.extend([y, s])
    assert format_graph(graph) == EVERYTHING
