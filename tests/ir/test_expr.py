"""Scalar expressions: sharing, exact folding, types."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType, Kind

X = Value("x", (4,))
N = Value("n", (4,), DType.I32)
U = Affine.iterator(0)
FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3.4028235e38])


def f32(value: float) -> Expr:
    return sc.constant(value, DType.F32)


def test_equal_expressions_are_one_object() -> None:
    assert X[U] * 2.0 + 1.0 is X[U] * 2.0 + 1.0
    assert X[U] is not X[U + 1]
    assert X[U] + X[U + 1] is not X[U + 1] + X[U]


def test_signed_zeros_are_different_and_nans_the_same() -> None:
    assert f32(0.0) is not f32(-0.0)
    assert f32(math.nan) is f32(math.nan)


def test_numbers_take_the_type_of_the_other_operand() -> None:
    assert (N[U] + 1).args[1].dtype is DType.I32
    assert (X[U] + 1).args[1].dtype is DType.F32
    assert (X[U] < 1).dtype is DType.BOOL


@pytest.mark.parametrize("build", [
    lambda: X[U] + N[U],
    lambda: sc.select(X[U] < 0.0, X[U], N[U]),
    lambda: sc.exp(N[U]),
    lambda: N[U] * 0.5,
    lambda: N[U] + 2**31,
    lambda: N[U] + math.inf,
    lambda: sc.constant(-1, DType.U32),
    lambda: (X[U] < 0.0) + (X[U] > 1.0),
    lambda: X[U, U],
])  # fmt: skip
def test_what_does_not_fit_is_refused(build: object) -> None:
    with pytest.raises(ShapeError):
        build()  # type: ignore[operator]


def test_literals_are_rounded_to_float32() -> None:
    assert f32(0.1).attr == float(np.float32(0.1))
    assert f32(1e300).attr == math.inf


_NUMPY = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


@given(st.sampled_from(sorted(_NUMPY)), FLOATS, FLOATS)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_folding_is_that_of_float32(op: str, a: float, b: float) -> None:
    with np.errstate(all="ignore"):
        expected = _NUMPY[op](np.float32(a), np.float32(b))
    folded = sc.binary(op, f32(a), f32(b))
    assert folded.op == "const"
    found = np.float32(folded.attr)
    assert (np.isnan(found) and np.isnan(expected)) or found.tobytes() == expected.tobytes()


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_folded_integers_wrap(a: int, b: int) -> None:
    product = sc.binary("mul", sc.constant(a, DType.I32), sc.constant(b, DType.I32))
    assert product.attr == (a * b + 2**31) % 2**32 - 2**31


def test_only_exact_identities_simplify() -> None:
    assert X[U] * 1.0 is X[U] and 1.0 * X[U] is X[U] and X[U] / 1.0 is X[U]
    assert sc.unary("neg", -X[U]) is X[U]
    assert (X[U] * 0.0).op == "mul"  # NaN * 0, -1 * 0
    assert (X[U] + 0.0).op == "add"  # -0 + 0
    assert (X[U] - X[U]).op == "sub"  # inf - inf
    assert X[U].equals(X[U]).op == "eq"  # NaN
    assert sc.fma(X[U], 1.0, 0.0).op == "fma"


def test_run_time_functions_are_not_folded() -> None:
    assert sc.exp(f32(1.0)).op == "exp"
    assert (f32(1.0) / f32(3.0)).op == "div"


def test_folded_selects() -> None:
    assert sc.select(f32(1.0) < f32(2.0), X[U], 0.0) is X[U]
    assert sc.select(f32(math.nan) < f32(2.0), X[U], 5.0) is f32(5.0)
    assert sc.select(X[U] < 0.0, X[U], X[U]) is X[U]


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from([DType.I32, DType.I64, DType.U32]))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_integer_casts_wrap(value: int, dtype: DType) -> None:
    found = sc.cast(sc.constant(value, DType.I64), dtype)
    assert found.attr == int(np.array(value, np.int64).astype(dtype.numpy))


def test_casts_to_bool_compare_with_zero() -> None:
    assert sc.cast(sc.constant(256, DType.I32), DType.BOOL).attr is True
    assert sc.cast(X[U], DType.F32) is X[U]


@given(FLOATS, FLOATS)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_extrema_propagate_nan_from_either_side(a: float, b: float) -> None:
    for build, expected in ((sc.maximum, np.maximum), (sc.minimum, np.minimum)):
        np.testing.assert_array_equal(build(f32(a), f32(b)).attr, expected(np.float32(a), np.float32(b)))


def test_a_nan_literal_propagates_through_extrema() -> None:
    assert sc.maximum(X[U], math.nan) is f32(math.nan)
    assert sc.minimum(math.nan, X[U]).args[0].op == "or"


def test_the_first_of_equal_operands_is_the_extremum() -> None:
    assert str(sc.maximum(f32(0.0), f32(-0.0)).attr) == "0.0"
    assert str(sc.maximum(f32(-0.0), f32(0.0)).attr) == "-0.0"


def test_walk_yields_operands_before_users_once() -> None:
    shared = X[U] * 2.0
    nodes = list(sc.walk(shared + shared, sc.exp(shared)))
    assert len(nodes) == len(set(map(id, nodes))) == 5
    places = {id(node): k for k, node in enumerate(nodes)}
    assert all(places[id(arg)] < places[id(node)] for node in nodes for arg in node.args)


def test_substitution_moves_reads_and_indices() -> None:
    body = X[U] + sc.cast(sc.index(U * 2), DType.F32)
    moved = sc.substitute(body, {0: U + 1})
    assert moved is X[U + 1] + sc.cast(sc.index(U * 2 + 2), DType.F32)


def test_rewriting_does_not_simplify() -> None:
    """A pass may not change the arithmetic: what a read becomes is not folded into what uses it."""
    body = X[U] * (X[U + 1] + 1.0)
    rewritten = sc.rewrite(body, lambda node: f32(1.0) if node.op == "read" else node)
    assert rewritten.op == "mul" and rewritten.args[1].op == "add"


def test_folding_keeps_bits() -> None:
    """Arithmetic on constants and selects without a choice go; products with zero and sums with it do not."""
    x = Value("x", (4,), DType.F32, Kind.INPUT)[Affine.iterator(0)]
    zero, one = sc.constant(0.0, DType.F32), sc.constant(1.0, DType.F32)

    def with_zero(root: Expr, name: str = "y") -> Expr:
        def leaf(node: Expr) -> Expr:
            return zero if node.op == "read" and node.attr.value.name == name else node

        return sc.folded(sc.rewrite(root, leaf))

    y = Value("y", (4,), DType.F32, Kind.INPUT)[Affine.iterator(0)]
    assert with_zero(sc.select(x > 0.0, y, 0.0)) is zero
    assert with_zero(y + 1.0) is one
    assert with_zero(sc.select(y < 1.0, x, one)) is x
    assert with_zero(sc.cast(sc.cast(y + 2.0, DType.I32), DType.F32)).op == "cast"
    for root in (x * y, x + y, sc.fma(x, y, 1.0), sc.exp(y), x / y):
        assert with_zero(root).op == root.op
