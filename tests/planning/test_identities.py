"""What code generation may take for something else, and what it may not."""

from __future__ import annotations

from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType, Kind
from tilegrad.planning.identities import branch_of, floor_of, lazy_parts

X = Value("x", (8,), DType.F32, Kind.PARAMETER)
AT = Value("at", (8,), DType.I32, Kind.INPUT)
I = Affine.iterator(0)  # noqa: E741


def relu(y: Expr, test: Expr | None = None) -> Expr:
    return sc.select((y > 0.0) | y.differs(y) if test is None else test, y, 0.0)


def test_a_term_that_is_cut_off_from_below_is_recognised_with_nan_passing() -> None:
    y = X[I] * 2.0
    assert floor_of(relu(y)) == (y, 0.0)
    assert floor_of(relu(y, y > 0.0)) is None  # NaN becomes 0
    assert floor_of(sc.select((y > 0.0) | y.differs(y), X[I], 0.0)) is None
    assert floor_of(sc.select((y > 1.0) | y.differs(y), y, 0.0)) is None
    assert floor_of(y) is None


def test_a_branch_has_a_cheap_test_and_saves_something() -> None:
    y = X[I] * 2.0
    equal = AT[I].equals(sc.index(I))
    found = branch_of(sc.select((y > 0.0) | y.differs(y), sc.select(equal, y, 0.0), 0.0))
    assert found is not None
    assert found.cheap == (equal,) and len(found.costly) == 1 and found.value is y
    assert branch_of(relu(y)) is None  # no cheap test
    assert branch_of(sc.select(equal, X[I], 0.0)) is None  # nothing to save: loads stay in front
    assert branch_of(sc.select(equal, sc.select(y > 0.0, y, 1.0), 0.0)).value.op == "select"  # type: ignore[union-attr]


def test_what_others_need_and_all_loads_are_evaluated_in_front_of_a_branch() -> None:
    shared = X[I] - 1.0
    y = shared * 2.0
    equal = AT[I].equals(sc.index(I))
    branch = sc.select(equal & (y > 0.0), y, 0.0)
    (parts,) = lazy_parts([branch, shared]).values()
    assert parts == [shared]
    (parts,) = lazy_parts([branch]).values()
    assert [part.op for part in parts] == ["read"]
