"""Multiply-adds are counted as the loops execute them: terms that a guard excludes do not count."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import tilegrad as tg
from tilegrad.ir.affine import Affine, Guard, Lookup
from tilegrad.ir.graph import Nest, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.models import build_model
from tilegrad.report.work import guarded_points, pass_multiply_adds

TABLE = Value("table", (4,), DType.I32, Kind.CONSTANT, np.array([0, 2, -1, 3], np.int32))
UNKNOWN = Value("indices", (4,), DType.I32, Kind.INPUT)


@st.composite
def indices(draw: st.DrawFn, rank: int) -> Affine:
    terms = draw(st.dictionaries(st.integers(0, rank - 1), st.sampled_from([-2, -1, 1, 3]), max_size=2))
    return Affine(tuple(sorted(terms.items())), draw(st.integers(-3, 3)))


@st.composite
def nests(draw: st.DrawFn) -> Nest:
    extents = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    guards = []
    for _ in range(draw(st.integers(0, 3))):
        index = draw(indices(len(extents)))
        if draw(st.booleans()):
            place = (Affine.iterator(draw(st.integers(0, len(extents) - 1))),)
            index = index + Affine((), 0, (Lookup(1, TABLE, place),))
        lower = draw(st.integers(-3, 3))
        guards.append(Guard(index, lower, lower + draw(st.integers(0, 5))))
    return Nest(extents, len(extents), tuple(guards), ())


def value_at(index: Affine, point: tuple[int, ...]) -> int:
    total = index.constant + sum(coefficient * point[iterator] for iterator, coefficient in index.terms)
    assert TABLE.data is not None
    return total + sum(x.coefficient * int(TABLE.data[value_at(x.index[0], point)]) for x in index.lookups)


@given(nests())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_guarded_points_are_those_of_a_walk_over_the_box(nest: Nest) -> None:
    points = itertools.product(*map(range, nest.extents))
    expected = sum(all(g.lower <= value_at(g.index, point) < g.upper for g in nest.guards) for point in points)
    assert guarded_points(nest) == expected


def test_a_guard_that_reads_run_time_data_counts_as_one_that_holds() -> None:
    index = Affine((), 0, (Lookup(1, UNKNOWN, (Affine.iterator(0),)),))
    assert guarded_points(Nest((4, 3), 2, (Guard(index, 0, 1),), ())) == 12


def test_a_perceptron_has_three_products_per_weight_but_two_in_the_first_layer() -> None:
    module, inputs = build_model("mlp")
    module.train()
    inputs = (inputs[0].expand(3, -1).contiguous(),)
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD())
    weights = [value.size for name, value in build.parameters.items() if name.endswith("weight")]
    batch = inputs[0].shape[0]
    assert pass_multiply_adds(build.plan) == batch * (3 * sum(weights) - weights[0])
