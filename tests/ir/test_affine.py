"""Indices: arithmetic, substitution, bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.builder import lookup
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType, Kind

U, V, W = (Affine.iterator(k) for k in range(3))


def table(data: list[int] | None, count: int = 4) -> Value:
    if data is None:
        return Value("t", (count,), DType.I32, Kind.INPUT)
    return Value("t", (len(data),), DType.I32, Kind.CONSTANT, np.array(data, np.int32))


def evaluate(row: Affine, point: tuple[int, ...]) -> int:
    total = row.constant + sum(c * point[i] for i, c in row.terms)
    for x in row.lookups:
        assert x.value.data is not None
        total += x.coefficient * int(x.value.data[tuple(evaluate(r, point) for r in x.index)])
    return total


def affines(depth: int = 1) -> st.SearchStrategy[Affine]:
    small = st.integers(-3, 3)
    return st.builds(lambda a, b, c, d: U * a + V * b + W * c + d, small, small, small, small)


def test_equal_terms_merge_and_vanish() -> None:
    assert 2 * U + V - U == U + V
    assert Affine() == U - U
    assert Affine() == (3 * U + 2) * 0
    assert 1 - U == -U + 1
    assert U + V == V + U


def test_what_is_a_plain_iterator() -> None:
    assert V.single == 1
    assert (2 * V).single is None and (V + 1).single is None and (U + V).single is None
    assert Affine.of(3).is_constant and not lookup(table([0, 1]), 0).is_constant


def test_iterators_of_nested_lookups_count() -> None:
    row = lookup(table(None), lookup(table(None), V) + W) + U
    assert set(row.iterators()) == {0, 1, 2}
    assert row.depth == 2 and U.depth == 0
    assert [t.name for t in row.tables()] == ["t", "t"]


@given(affines(), affines(), affines(), st.tuples(*[st.integers(0, 4)] * 3))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_substitution_composes(row: Affine, first: Affine, second: Affine, point: tuple[int, ...]) -> None:
    composed = row.substitute({0: first, 1: second})
    assert evaluate(composed, point) == evaluate(row, (evaluate(first, point), evaluate(second, point), point[2]))
    assert row.substitute([first, second, W]) == composed


def test_substitution_reaches_into_lookups() -> None:
    values = table([5, 7, 1, 2])
    row = (2 * lookup(values, U) + V).substitute({0: V + 1, 1: W})
    assert evaluate(row, (0, 2, 9)) == 2 * 2 + 9


@given(affines(), st.tuples(*[st.integers(1, 4)] * 3), st.integers(-9, 3), st.integers(0, 9))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_bounds_are_those_of_the_box(row: Affine, extents: tuple[int, ...], lower: int, upper: int) -> None:
    values = [evaluate(row, point) for point in np.ndindex(*extents)]
    assert row.interval(extents) == (min(values), max(values))
    assert Guard(row, lower, upper).always_holds(extents) == all(lower <= v < upper for v in values)


def test_bounds_of_lookups() -> None:
    assert (2 * lookup(table([3, -1, 2]), U) + 1).interval([3]) == (-1, 7)
    assert lookup(table(None), U).interval([4]) is None
    assert lookup(table([]), U).interval([0]) is None
    assert not Guard(lookup(table(None), U), 0, 9).always_holds([4])


def test_every_point_of_an_empty_box_satisfies_a_guard() -> None:
    assert Guard(U - 5, 0, 1).always_holds([0])
    assert not Guard(U - 5, 0, 1).always_holds([3])


@pytest.mark.parametrize("row", [U, 2 * U - V + 3, lookup(table([1, 2]), U)])
def test_indices_are_values(row: Affine) -> None:
    assert row == row + 0
    assert hash(row) == hash(row + 0)
