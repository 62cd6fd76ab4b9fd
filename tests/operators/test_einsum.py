"""Einstein summation against PyTorch and ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from central_differences import check_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_harness import check_onnx
from operator_harness import build, check, draw

from tilegrad.errors import ShapeError
from tilegrad.ir.graph import StructuredOp
from tilegrad.ir.printer import format_nest
from tilegrad.operators import registry
from tilegrad.operators.einsum import einsum, trace

CASES: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    ("bij,bkj->bik", [(2, 3, 4), (2, 5, 4)]),
    ("ij->ji", [(2, 3)]),
    ("ij", [(2, 3)]),
    ("ba", [(2, 3)]),
    ("ij->", [(2, 3)]),
    ("ij->j", [(2, 3)]),
    ("ii->i", [(3, 3)]),
    ("ii", [(3, 3)]),
    ("iji->j", [(3, 2, 3)]),
    ("i,j", [(2,), (3,)]),
    ("ij,ij->ij", [(2, 3), (2, 3)]),
    (" i j , j k ", [(2, 3), (3, 4)]),
    ("...ij,...jk->...ik", [(5, 2, 3), (1, 3, 4)]),
    ("...ij,...jk", [(6, 1, 2, 3), (5, 3, 4)]),
    ("i...j->...", [(2, 5, 4, 3)]),
    ("...ij->ij", [(5, 2, 3)]),
    ("...,...->...", [(2, 3), (3,)]),
    ("ijk,jil->", [(2, 3, 4), (3, 2, 5)]),
    ("bii,i->b", [(2, 3, 3), (3,)]),
    ("ij,ik->jk", [(1, 3), (4, 5)]),
    ("Aa,aB->BA", [(2, 3), (3, 4)]),
    ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)]),
    ("a,a,a->a", [(3,), (3,), (3,)]),
    ("ab,cd,ac->bd", [(2, 3), (4, 5), (2, 4)]),
    ("bn,anm,bm->ba", [(2, 3), (5, 3, 4), (2, 4)]),
]


@pytest.mark.parametrize(("equation", "shapes"), CASES)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    arrays = [draw(*shape, seed=k) for k, shape in enumerate(shapes)]
    check(lambda *t: einsum(equation, t), lambda *t: torch.einsum(equation, *t), *arrays)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.data())
def test_any_equation(data: st.DataObject) -> None:
    extents = {letter: data.draw(st.integers(1, 3), letter) for letter in "abcd"}
    terms = data.draw(st.lists(st.text("abcd", max_size=4), min_size=1, max_size=3))
    used = sorted(set("".join(terms)))
    chosen = data.draw(st.lists(st.sampled_from(used), unique=True)) if used else []
    equation = ",".join(terms) + ("->" + "".join(chosen) if data.draw(st.booleans()) else "")
    arrays = [np.asarray(draw(*(extents[letter] for letter in term), seed=k)) for k, term in enumerate(terms)]
    check(lambda *t: einsum(equation, t), lambda *t: torch.einsum(equation, *t), *arrays)


@pytest.mark.parametrize(("equation", "shapes"), [case for case in CASES if case[0] not in ("...ij->ij", "ij,ik->jk")])
def test_onnx_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    arrays = [draw(*shape, seed=k).astype(np.float32) for k, shape in enumerate(shapes)]
    check_onnx("Einsum", arrays, {"equation": equation}, tolerance=1e-5)


def test_aten_name_ignores_advice_on_the_order() -> None:
    function = registry.find_aten("aten.einsum.default")
    assert function is not None
    check(
        lambda *t: function("ab,bc,cd->ad", t, path=[1, 2, 0, 1]), lambda *t: torch.einsum("ab,bc,cd->ad", *t),
        draw(2, 3), draw(3, 4, seed=1), draw(4, 5, seed=2),
    )  # fmt: skip


def test_trace() -> None:
    check(trace, torch.trace, draw(3, 3))
    check(trace, torch.trace, draw(2, 4))


def test_two_operands_are_one_nest_in_the_order_of_the_result() -> None:
    graph, *_ = build(lambda *t: einsum("bij,bkj->kbi", t), [draw(2, 3, 4), draw(2, 5, 4)])
    op = graph.ops[0]
    assert isinstance(op, StructuredOp)
    assert [next(format_nest(nest)) for nest in op.nests] == ["P(i0:5, i1:2, i2:3) R(i3:4)"]


def test_what_one_operand_holds_alone_is_summed_first() -> None:
    graph, *_ = build(lambda *t: einsum("ij,kl->ik", t), [draw(2, 3), draw(4, 5)])
    forward = [op for op in graph.ops if op.phase == "forward" and op.origin == "op" and isinstance(op, StructuredOp)]
    assert [next(format_nest(op.nests[0])) for op in forward] == ["P(i0:2) R(i1:3)", "P(i0:4) R(i1:5)", "P(i0:2, i1:4)"]


@pytest.mark.parametrize("equation", ["aab,bc->ac", "ab,bc,ca->"])
def test_gradients_agree_with_central_differences(equation: str) -> None:
    terms = equation.split("->")[0].split(",")
    check_differences(lambda *t: einsum(equation, t), *(draw(*[3] * len(term), seed=k) for k, term in enumerate(terms)))


@pytest.mark.parametrize(
    ("equation", "shapes", "message"),
    [
        ("ij,jk->ik", [(2, 3)], "has 2 operand"),
        ("ij->ik", [(2, 3)], "repeats a letter or has one that no operand has"),
        ("ij->ii", [(2, 3)], "repeats a letter"),
        ("ijk->i", [(2, 3)], "rank 2"),
        ("i->i", [(2, 3)], "rank 2"),
        ("i1->i", [(2, 3)], "rank 2"),
        ("ii->i", [(2, 3)], "no diagonal"),
        ("ij,jk->ik", [(2, 3), (4, 5)], "expected 3"),
    ],
)
def test_malformed_equations_are_named(equation: str, shapes: list[Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        build(lambda *t: einsum(equation, t), [draw(*shape) for shape in shapes])
