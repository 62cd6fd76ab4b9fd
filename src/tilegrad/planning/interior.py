"""Where the guards of a nest cannot fail."""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.ir.affine import Affine, Guard


def ascending(guard: Guard, iterator: int) -> tuple[Affine, int, int, int]:
    """The guard with a positive coefficient of `iterator`: index, lower and upper bound, coefficient."""
    index, lower, upper = guard.index, guard.lower, guard.upper
    coefficient = index.coefficient(iterator)
    if coefficient < 0:
        return -index, 1 - upper, 1 - lower, -coefficient
    return index, lower, upper, coefficient


def interior(guard: Guard, iterator: int, extents: Sequence[int]) -> tuple[int, int]:
    """Where a guard without lookups holds for every value of the other iterators: first, and one past the last."""
    index, lower, upper, coefficient = ascending(guard, iterator)
    rest = (index - Affine.iterator(iterator) * coefficient).interval(extents)
    assert rest is not None
    return -(-(lower - rest[0]) // coefficient), -(-(upper - rest[1]) // coefficient)
