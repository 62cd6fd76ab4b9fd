"""Identities of scalar expressions that code generation makes use of and estimates take into account."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from tilegrad.ir.expr import Expr, walk


def floor_of(expr: Expr) -> tuple[Expr, float] | None:
    """The parts y and c of ``y > c or y is NaN ? y : c``, or None for any other expression.

    Behind a first term, a maximum of such terms is that of c and of all y: none of them is below c, and those that c
    replaces are never larger than what is there. So is the position of the first maximum, if c counts as the first
    term.
    """
    if expr.op != "select" or expr.args[2].op != "const" or not expr.dtype.is_float:
        return None
    test, y, c = expr.args
    if test.op != "or" or [arg.op for arg in test.args] != ["gt", "ne"] or c.attr != c.attr:
        return None
    above, odd = test.args
    return (y, c.attr) if above.args == (y, c) and odd.args == (y, y) else None


@dataclass(frozen=True)
class Branch:
    """``all of cheap and costly ? value : other``: where a cheap test fails, nothing else is evaluated.

    Attributes:
        cheap: comparisons of integers.
        costly: the other tests.
        value: what is selected where all hold.
        other: a constant.
    """

    cheap: tuple[Expr, ...]
    costly: tuple[Expr, ...]
    value: Expr
    other: Expr


def branch_of(expr: Expr, known: Container[Expr] = ()) -> Branch | None:
    """A select, or selects inside one another, with a cheap test that saves work; None for any other expression.

    Args:
        expr: the expression.
        known: what has been evaluated: as a test it is cheap.
    """
    if expr.op != "select" or expr.args[2].op != "const":
        return None
    other, tests = expr.args[2], []
    while expr.op == "select" and expr.args[2] is other and expr not in known:
        tests += _conjuncts(expr.args[0], known)
        expr = expr.args[1]
    cheap = tuple(test for test in tests if test in known or _is_cheap(test))
    costly = tuple(test for test in tests if test not in cheap)
    saves = any(root.args and root not in known for root in (*costly, expr))
    return Branch(cheap, costly, expr, other) if cheap and saves else None


def _conjuncts(test: Expr, known: Container[Expr]) -> list[Expr]:
    if test.op != "and" or test in known:
        return [test]
    return [part for arg in test.args for part in _conjuncts(arg, known)]


def _is_cheap(test: Expr) -> bool:
    return all(not node.dtype.is_float and node.op not in ("div", "philox") for node in walk(test))


def lazy_parts(roots: Sequence[Expr], known: Container[Expr] = ()) -> dict[Expr, list[Expr]]:
    """The branches below `roots`, and what has to be evaluated before each of them besides its cheap tests.

    That is what it shares with the rest, and all reads: a load inside a condition invites compilers to make it a
    masked one.

    Args:
        roots: the expressions.
        known: what has been evaluated.
    """
    every = [node for node in walk(*roots) if node.op == "select"]
    branches = {node: branch for node in every if (branch := branch_of(node, known)) is not None}
    if not branches:
        return {}
    outside: set[Expr] = set()
    order: list[Expr] = []
    stack = list(reversed(roots))
    while stack:
        node = stack.pop()
        if node in outside or node in known:
            continue
        outside.add(node)
        branch = branches.get(node)
        if branch is not None:
            order.append(node)
        stack.extend(reversed(branch.cheap if branch is not None else node.args))
    found: dict[Expr, list[Expr]] = {}
    for node in order:
        branch = branches[node]
        before: dict[Expr, None] = {}
        inside: set[Expr] = set()
        stack = list(reversed((*branch.costly, branch.value)))
        while stack:
            part = stack.pop()
            if part in known or part in inside or part.op in ("const", "index"):
                continue
            if part in outside or part.op in ("read", "acc"):
                before[part] = None
                continue
            inside.add(part)
            stack.extend(reversed(part.args))
        found[node] = list(before)
    return found
