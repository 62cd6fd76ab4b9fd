"""Guards as bounds of loops."""

from __future__ import annotations

from tilegrad.codegen.c_expr import CScope, format_sum
from tilegrad.ir.affine import Guard
from tilegrad.planning.interior import ascending


def solve_guard(guard: Guard, iterator: int, scope: CScope) -> tuple[str, str]:
    """Bounds that a guard without lookups sets for one iterator: smallest value, and one above the largest."""
    index, lower, upper, coefficient = ascending(guard, iterator)
    terms = [(scope.iterator(i), -c) for i, c in index.terms if i != iterator]
    texts = [format_sum(terms, limit - index.constant) for limit in (lower, upper)]
    if coefficient == 1:
        return texts[0], texts[1]
    return f"tg_ceil_div({texts[0]}, {coefficient})", f"tg_ceil_div({texts[1]}, {coefficient})"


def solve_at(guard: Guard, iterator: int, values: dict[int, int]) -> tuple[int, int] | None:
    """The bounds of `solve_guard` as numbers for given values of the other iterators; None where one is missing."""
    index, lower, upper, coefficient = ascending(guard, iterator)
    rest = index.constant
    for i, c in index.terms:
        if i != iterator:
            if i not in values:
                return None
            rest += c * values[i]
    return -(-(lower - rest) // coefficient), -(-(upper - rest) // coefficient)
