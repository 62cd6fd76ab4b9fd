"""Reverse mode: scalar rules, ties, composites with gradients of their own, what is not used."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilegrad.errors import InternalError
from tilegrad.interpreter.execute import run
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import Domain, elementwise, reduce_max, reduce_sum, reshape, temporary, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, StructuredOp, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.training.autodiff import _FLAT, SCALAR_RULES, gradients

ONE = Value("one", (), DType.F32, Kind.CONSTANT, np.array(1.0, np.float32))
A = np.array([0.3, -0.7, 1.4, -2.1, 0.05])
B = np.array([1.1, 0.6, -0.4, 2.2, -1.3])
POSITIVE = np.abs(A) + 0.2

#: For every rule: a body over up to two operands, and where to differentiate it.
BODIES: dict[str, tuple[Callable[..., Expr], tuple[np.ndarray, ...]]] = {
    "add": (lambda a, b: a + b, (A, B)),
    "sub": (lambda a, b: a - b, (A, B)),
    "mul": (lambda a, b: a * b * a, (A, B)),
    "div": (lambda a, b: a / b, (A, B)),
    "neg": (lambda a: -a, (A,)),
    "fma": (lambda a, b: sc.fma(a, b, a), (A, B)),
    "select": (lambda a, b: sc.select(a < b, a * 2.0, b * 3.0), (A, B)),
    "abs": (sc.absolute, (A,)),
    "sqrt": (sc.sqrt, (POSITIVE,)),
    "exp": (sc.exp, (A,)),
    "expm1": (sc.expm1, (A,)),
    "log": (sc.log, (POSITIVE,)),
    "log1p": (sc.log1p, (POSITIVE,)),
    "tanh": (sc.tanh, (A,)),
    "erf": (sc.erf, (A,)),
    "sin": (lambda a: sc.unary("sin", a), (A,)),
    "cos": (lambda a: sc.unary("cos", a), (A,)),
    "pow": (sc.power, (POSITIVE, B)),
}


def value(name: str, *shape: int) -> Value:
    return Value(name, shape, DType.F32, Kind.PARAMETER)


def slopes(body: Callable[..., Expr], arrays: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """The derived gradients of the elements, in float64."""
    graph = Graph()
    operands = [value(f"x{k}", *a.shape) for k, a in enumerate(arrays)]
    with graph.building():
        total = reduce_sum(elementwise(body, *operands))
        found = gradients(graph, total, ONE, operands)
    env = run(graph, dict(zip(operands, arrays, strict=True)), np.float64)
    return [env[found[x]] if x in found else np.zeros(x.shape) for x in operands]


def test_every_rule_has_a_case() -> None:
    assert BODIES.keys() == SCALAR_RULES.keys()
    assert not set(SCALAR_RULES) & _FLAT


@pytest.mark.parametrize("name", sorted(BODIES))
def test_scalar_rules_against_central_differences(name: str) -> None:
    body, arrays = BODIES[name]
    graph = Graph()
    operands = [value(f"x{k}", *a.shape) for k, a in enumerate(arrays)]
    with graph.building():
        y = elementwise(body, *operands)
    found = slopes(body, arrays)
    for k, array in enumerate(arrays):
        h = 1e-6
        ends = []
        for sign in (1, -1):
            moved = [a + sign * h if j == k else a for j, a in enumerate(arrays)]
            ends.append(run(graph, dict(zip(operands, moved, strict=True)), np.float64)[y])
        np.testing.assert_allclose(found[k], (ends[0] - ends[1]) / (2 * h), rtol=1e-7, atol=1e-8)
        assert array.shape == found[k].shape


@pytest.mark.parametrize("name", ["floor", "ceil", "round", "trunc"])
def test_steps_are_flat(name: str) -> None:
    assert not slopes(lambda a: sc.unary(name, a) + 0.0, (A,))[0].any()


def test_kinks() -> None:
    zero = np.zeros(1)
    assert slopes(sc.absolute, (zero,))[0] == 0.0
    assert slopes(lambda a: sc.power(a, 0.0), (zero,))[0] == 0.0
    assert slopes(sc.power, (zero, np.array([2.0])))[1] == 0.0  # not 0 * log(0)
    assert slopes(sc.power, (zero, zero))[0] == 0.0


def test_a_select_passes_the_gradient_of_the_chosen_branch_only() -> None:
    """The branch that is not taken may be infinite."""
    (found,) = slopes(lambda a: sc.select(a > 0.0, sc.sqrt(a), 0.0), (np.array([0.0, 4.0]),))
    assert found[1] == 0.25 and np.isnan(found[0])  # as in PyTorch: 0 * inf, not hidden


def maximum_gradient(data: list[float], pad: int = 0) -> list[float]:
    graph, x = Graph(), value("x", len(data))
    with graph.building():
        d = Domain()
        (r,) = d.reduction(len(data) + 2 * pad)
        y, _ = d.argmax(x[r - pad], ())
        found = gradients(graph, y, ONE, [x])
    env = run(graph, {x: np.array(data)}, np.float64)
    return [float(v) for v in env[found[x]]]


def test_the_first_maximum_gets_the_gradient() -> None:
    assert maximum_gradient([1, 3, 2, 3]) == [0, 1, 0, 0]
    assert maximum_gradient([2, 2]) == [1, 0]
    assert maximum_gradient([-np.inf, -np.inf]) == [1, 0]
    assert maximum_gradient([1, np.nan, np.nan, 9]) == [0, 1, 0, 0]
    assert maximum_gradient([-1, -3], pad=1) == [1, 0]  # padding is no element


def test_overlapping_windows_add() -> None:
    graph, x = Graph(), value("x", 4)
    with graph.building():
        d = Domain()
        (w,) = d.parallel(3)
        (r,) = d.reduction(2)
        y, _ = d.argmax(x[w + r], (w,))
        found = gradients(graph, reduce_sum(y), ONE, [x])
    env = run(graph, {x: np.array([0.0, 5.0, 1.0, 2.0])}, np.float64)
    assert env[found[x]].tolist() == [0, 2, 0, 1]


def test_contributions_add_in_the_order_of_their_discovery() -> None:
    graph, x = Graph(), value("x", 2)
    with graph.building():
        total = reduce_sum(elementwise(lambda a: a * 2.0, x) + elementwise(lambda a: a * 3.0, x) + reshape(x, (2,)))
        found = gradients(graph, total, ONE, [x])
    assert run(graph, {x: np.ones(2)}, np.float64)[found[x]].tolist() == [6, 6]
    assert all(op.phase == "backward" for op in graph.ops if found[x] in op.outputs)


def test_composites_give_their_own_gradient() -> None:
    """The derived gradient of the operations inside is not used, and unused outputs arrive as None."""
    seen: list[tuple[bool, bool]] = []
    graph, x = Graph(), value("x", 3)
    with graph.building():
        inner = elementwise(sc.exp, x)
        first, second = inner + 1.0, inner * 2.0

        def vjp(g: Value | None, h: Value | None) -> tuple[Value]:
            seen.append((g is None, h is None))
            assert g is not None
            return (g * 10.0,)

        with_gradient((x,), (first, second), vjp)
        found = gradients(graph, reduce_sum(first), ONE, [x])
    assert seen == [(False, True)]
    assert run(graph, {x: np.zeros(3)}, np.float64)[found[x]].tolist() == [10, 10, 10]


def test_inner_values_used_outside_still_get_theirs() -> None:
    graph, x = Graph(), value("x", 3)
    with graph.building():
        inner = x * 3.0
        outer = inner * inner
        with_gradient((inner,), (outer,), lambda g: (g * 100.0,))
        found = gradients(graph, reduce_sum(outer + inner), ONE, [x])
    assert run(graph, {x: np.ones(3)}, np.float64)[found[x]].tolist() == [303, 303, 303]


def test_a_rule_must_answer_for_every_input() -> None:
    graph, x = Graph(), value("x", 3)
    with graph.building():
        y = x * 3.0
        with_gradient((x,), (y,), lambda g: (g, g))
        with pytest.raises(InternalError, match="2 gradients for 1 input"):
            gradients(graph, reduce_sum(y), ONE, [x])


def test_a_gradient_of_another_shape_is_refused() -> None:
    graph, x = Graph(), value("x", 3)
    with graph.building():
        y = reshape(x, (3, 1)) * 1.5
        with_gradient((x,), (y,), lambda g: (g,))
        with pytest.raises(InternalError, match="shape"):
            gradients(graph, reduce_sum(y), ONE, [x])


def test_what_the_loss_does_not_depend_on_has_no_gradient() -> None:
    graph, x, y, z = Graph(), value("x", 3), value("y", 3), value("z", 3)
    with graph.building():
        unused = y * 2.0
        flat = elementwise(lambda a: sc.cast(sc.cast(a, DType.I32), DType.F32), z)
        found = gradients(graph, reduce_sum(x + flat), ONE, [x, y, z])
    assert list(found) == [x] and unused not in found
    assert not any(op.phase == "backward" and any(v in (y, z) for v in op.operands) for op in graph.ops)


def test_gradients_are_derived_only_where_they_are_wanted() -> None:
    graph, x, w = Graph(), value("x", 3), value("w", 3)
    with graph.building():
        loss = reduce_sum(x * w)
        gradients(graph, loss, ONE, [w])
    made = [output.name for op in graph.ops if op.phase == "backward" for output in op.outputs]
    assert not any(name.startswith("d.x") for name in made)


def test_what_has_no_derivative_is_refused() -> None:
    graph, x, s = Graph(), value("x", 3), value("s")
    with graph.building():
        with pytest.raises(InternalError, match="'max'"):
            gradients(graph, reduce_max(x), ONE, [x])
        d = Domain()
        (r,) = d.reduction(3)
        y = temporary(())
        graph.add(StructuredOp((y,), (d.nest((y,), (), "sum", (x[r],), start=s[()]),)))
        with pytest.raises(InternalError, match="starts from a value"):
            gradients(graph, y, ONE, [x])
