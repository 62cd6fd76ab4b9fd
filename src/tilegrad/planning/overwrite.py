"""Whether an operation may compute an output in the place of an operand."""

from __future__ import annotations

from collections.abc import Sequence

from tilegrad.ir.affine import Affine
from tilegrad.ir.graph import StructuredOp, Value
from tilegrad.transforms.inline import reads_of


def may_overwrite(op: StructuredOp, output: Value, operand: Value) -> bool:
    """True where every element of `operand` is read only for the element of `output` that takes its place."""
    if len(op.nests) != 1 or len(op.outputs) != 1 or op.init is not None or op.nests[0].scatter:
        return False
    if output.shape != operand.shape or output.dtype is not operand.dtype:
        return False
    nest = op.nests[0]
    if operand in nest.tables():
        return False
    unit = {k: Affine() for k, extent in enumerate(nest.extents) if extent == 1}

    def rows(index: Sequence[Affine]) -> list[Affine]:
        return [row.substitute(unit) for row in index]

    index = rows(nest.results[0].index)
    return all(rows(read) == index for read in reads_of(op, operand))
