"""Random numbers: a counter-based generator, so that a number depends on where it is drawn, not on when.

Every operator that draws takes a stream of its own. The number for element e of stream s in pass t is the first word of
Philox4x32-10 with counter (e, s, t, 0) under the key ``random.seed``; no state is carried from element to element.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import ShapeError
from tilegrad.interpreter.philox import philox
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain
from tilegrad.ir.graph import Value, current_graph
from tilegrad.ir.types import DType, Kind

SEED_NAME = "random.seed"
STEP_NAME = "random.step"


def random_settings() -> tuple[Value, Value]:
    """The key (u32[2]) and the pass counter (u32[1]) of the graph under construction, made on first use."""
    graph = current_graph()
    if graph.random_seed is None:
        graph.random_seed = Value(SEED_NAME, (2,), DType.U32, Kind.SETTING)
    if graph.random_step is None:
        graph.random_step = Value(STEP_NAME, (1,), DType.U32, Kind.SETTING)
    return graph.random_seed, graph.random_step


def next_stream() -> int:
    """A stream of random numbers that no other operator of the graph draws from."""
    graph = current_graph()
    stream = graph.random_streams
    graph.random_streams += 1
    return stream


def threshold(p: float) -> int:
    """How many of the 2**32 words of the generator drop an element with probability `p`, computed exactly.

    Raises:
        ShapeError: if `p` is not a probability.
    """
    if not 0.0 <= p <= 1.0:
        raise ShapeError(f"a dropout probability lies between 0 and 1, not {p}")
    return min(round(Fraction(p) * 2**32), 2**32 - 1)


def keep_mask(shape: Sequence[int], p: float) -> Value:
    """A bool tensor, each element False with probability `p`, drawn from a new stream."""
    limit = threshold(p)
    seed, step = random_settings()
    stream = next_stream()
    d = Domain()
    index = d.parallel(*shape)
    element = Affine()
    for row, extent in zip(index, shape, strict=True):
        element = element * int(extent) + row
    bits = sc.philox(
        sc.cast(sc.index(element), DType.U32), sc.constant(stream, DType.U32), step[0],
        sc.constant(0, DType.U32), seed[0], seed[1],
    )  # fmt: skip
    return d.assign(bits >= sc.constant(limit, DType.U32), index)


def dropout_mask(shape: Sequence[int], p: float, seed: Sequence[int], step: int, stream: int) -> NDArray[np.bool_]:
    """The mask that the compiled program uses, in NumPy: what a reference multiplies with.

    Args:
        shape: of the mask.
        p: probability that an element is dropped (False).
        seed: the two words of ``random.seed``.
        step: the contents of ``random.step``.
        stream: which drawing operator of the graph, counted from 0 in execution order.

    Returns:
        bool array of `shape`, True where an element is kept.
    """
    if p >= 1.0:
        return np.zeros(tuple(shape), np.bool_)
    size = int(np.prod(tuple(shape), dtype=np.int64))
    words = [np.asarray(word, np.uint32) for word in (stream, step, 0, *seed)]
    bits = philox(np.arange(size, dtype=np.uint32), *words)
    return np.asarray(bits.reshape(tuple(shape)) >= np.uint32(threshold(p)))
