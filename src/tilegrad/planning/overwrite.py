"""Whether an operation may compute an output in the place of an operand."""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import Nest, StructuredOp, Value


def may_overwrite(op: StructuredOp, output: Value, operand: Value) -> bool:
    """True where every element of `operand` is read only for the element of `output` that takes its place.

    Pieces of an operation write disjoint elements; so each may overwrite what it reads at the place that it writes.
    """
    if len(op.outputs) != 1 or op.init is not None:
        return False
    if output.shape != operand.shape or output.dtype is not operand.dtype:
        return False
    return all(_replaces(nest, operand) for nest in op.nests)


def _replaces(nest: Nest, operand: Value) -> bool:
    if nest.scatter or operand in nest.tables():
        return False
    unit = {k: Affine() for k, extent in enumerate(nest.extents) if extent == 1}

    def rows(index: Sequence[Affine]) -> list[Affine]:
        return [row.substitute(unit) for row in index]

    index = rows(nest.results[0].index)
    return all(rows(access.index) == index for access in nest.accesses() if access.value is operand)
