"""Maxima of terms that are cut off from below."""

from __future__ import annotations

from tilegrad.ir.expr import Expr


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
