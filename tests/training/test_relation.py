"""The gradient of a read: every kind of index, against additions one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilegrad.interpreter.execute import run
from tilegrad.ir.affine import Affine, Guard, Lookup
from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.ir.verifier import verify_graph
from tilegrad.training.relation import scatter_gradient

A, B, C, D = (Affine.iterator(k) for k in range(4))
Array = NDArray[Any]


def evaluate(row: Affine, point: Sequence[int]) -> int:
    total = row.constant + sum(c * point[i] for i, c in row.terms)
    for x in row.lookups:
        assert x.value.data is not None
        total += x.coefficient * int(x.value.data[tuple(evaluate(r, point) for r in x.index)])
    return total


def derive(
    shape: tuple[int, ...], index: Sequence[Affine], extents: Sequence[int], parallel: int, guards: Sequence[Guard] = ()
) -> StructuredOp:
    """Derive ``gradient[index(i)] += g[i]`` over the box, and compare it with doing so."""
    graph = Graph()
    x = Value("x", shape)
    g = Value("g", tuple(extents), DType.F32, Kind.INPUT)
    inside = [Guard(row, 0, extent) for row, extent in zip(index, shape, strict=True)]
    with graph.building():
        body = g[tuple(Affine.iterator(k) for k in range(len(extents)))]
        found = scatter_gradient(x, index, extents, parallel, [*guards, *inside], body)
    verify_graph(graph)
    terms = np.random.default_rng(0).normal(size=tuple(extents))
    expected = np.zeros(shape)
    for point in np.ndindex(*extents):
        if all(guard.lower <= evaluate(guard.index, point) < guard.upper for guard in [*guards, *inside]):
            expected[tuple(evaluate(row, point) for row in index)] += terms[point]
    np.testing.assert_allclose(run(graph, {g: terms}, np.float64)[found], expected, rtol=0, atol=1e-12)
    (op,) = graph.ops
    assert isinstance(op, StructuredOp)
    return op


def test_permutations_stay_writes() -> None:
    op = derive((3, 2), [B, A], [2, 3], 2)
    assert op.init is None and op.nests[0].results[0].combiner == "assign"


def test_patches_stay_writes() -> None:
    """Stride equal to the kernel: a mixed radix, every element written once."""
    op = derive((12,), [3 * A + B], [4, 3], 1)
    assert op.init is None and op.nests[0].results[0].combiner == "assign" and not op.nests[0].guards


def test_broadcast_operands_sum() -> None:
    op = derive((3,), [B], [2, 3], 2)
    assert op.nests[0].results[0].combiner == "sum" and op.nests[0].extents == (3, 2)


def test_unit_stride_windows_gather_taps_ascending() -> None:
    op = derive((7,), [A + B - 1], [7, 3], 1)
    (nest,) = op.nests
    assert nest.extents == (7, 3) and nest.parallel == 1
    assert nest.guards == (Guard(A - B + 1, 0, 7),)


def test_strides_split_by_residue() -> None:
    op = derive((9,), [2 * A + B - 1], [5, 3], 1)
    assert [nest.extents for nest in op.nests] == [(5,), (4, 2)]
    assert op.init is None


def test_residues_without_taps_are_zeroed() -> None:
    op = derive((9,), [3 * A], [3], 1)
    assert op.init == 0.0 and [nest.extents for nest in op.nests] == [(3,)]


def test_the_taps_of_a_residue_stand_where_their_axis_stood() -> None:
    """Rows before columns, whichever of them is strided."""
    op = derive((4, 8, 9), [C, 2 * A + D, B], [4, 9, 4, 4], 3)
    (nest, _) = op.nests
    assert nest.extents[nest.parallel :] == (2,)
    op = derive((9, 4), [2 * A + C, B + D - 1], [3, 4, 5, 3], 2)
    assert [nest.extents[2:] for nest in op.nests] == [(3, 3), (2, 3)]


def test_diagonals_write_the_diagonal() -> None:
    op = derive((3, 3), [A, A], [3], 1)
    assert op.init == 0.0 and op.nests[0].results[0].index == (A, A)


def test_reversed_axes() -> None:
    op = derive((4,), [3 - A], [4], 1)
    assert op.init is None and not op.nests[0].scatter


def test_run_time_positions_are_scattered() -> None:
    table = Value("t", (4,), DType.I32, Kind.INPUT, np.array([2, 0, 2, 7], np.int32))
    op = derive((3, 5), [Affine((), 0, (Lookup(1, table, (A,)),)), B], [4, 5], 2)
    (nest,) = op.nests
    assert nest.scatter and op.init == 0.0
    assert nest.extents[: nest.parallel] == (5,)  # what is not looked up stays parallel


def test_three_strided_iterators_are_scattered() -> None:
    assert derive((40,), [2 * A + 3 * B + 4 * C], [4, 4, 4], 1).nests[0].scatter


@pytest.mark.parametrize("row", [Affine.of(-1), Affine.of(9)])
def test_reads_that_are_never_inside_contribute_nothing(row: Affine) -> None:
    op = derive((3,), [row], [2], 1)
    assert op.nests == () and op.init == 0.0
    assert derive((3,), [A - 1], [1], 1).nests == ()


def test_scalars() -> None:
    op = derive((), [], [3, 2], 2)
    assert op.nests[0].extents == (3, 2) and op.nests[0].parallel == 0


def test_empty_tensors() -> None:
    derive((0,), [A], [0], 1)
    derive((3,), [A + B], [3, 0], 1)


ROWS = st.builds(
    lambda a, b, c, d: A * a + B * b + C * c + d,
    st.integers(-2, 4), st.integers(-2, 3), st.integers(-1, 2), st.integers(-3, 3),
)  # fmt: skip


@given(
    rows=st.lists(ROWS, min_size=1, max_size=3), shape=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    extents=st.lists(st.integers(1, 5), min_size=3, max_size=3), parallel=st.integers(0, 3), bound=st.integers(1, 6),
)  # fmt: skip
@settings(max_examples=120, derandomize=True, deadline=None)
def test_any_affine_read(rows: list[Affine], shape: list[int], extents: list[int], parallel: int, bound: int) -> None:
    derive(tuple(shape[: len(rows)]), rows, extents, parallel, [Guard(A + B, 0, bound)])
