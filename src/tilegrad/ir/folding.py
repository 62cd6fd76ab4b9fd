"""Evaluation of operations whose operands are all known when the graph is built.

Frontends need it: shapes, axes and index tables reach an operator as the results of other operators. Only operations
whose result has the same bits on every machine are evaluated, and only where a stored table is not larger than
worthwhile: a mask is cheaper computed where it is read than loaded.
"""

from __future__ import annotations

import numpy as np

from tilegrad.ir.expr import walk
from tilegrad.ir.graph import StructuredOp, Value
from tilegrad.ir.types import DType, Kind

#: Largest result, in elements, that becomes a table in the program.
LIMITS = {DType.F32: 64, DType.BOOL: 4096, DType.I32: 65536, DType.I64: 65536, DType.U32: 65536, DType.U8: 65536}
#: Float operations that IEEE 754 defines exactly. fma is not among them: NumPy has none.
_EXACT = {
    "const", "read", "index", "add", "sub", "mul", "div", "neg", "abs", "sqrt", "lt", "le", "gt", "ge", "eq", "ne",
    "and", "or", "not", "select", "cast", "floor", "ceil", "round", "trunc",
}  # fmt: skip


def fold(op: StructuredOp) -> bool:
    """Evaluate `op` and turn its outputs into constants, where it depends on constants only.

    Returns:
        True where the outputs have become constants and the operation need not be kept.
    """
    operands = op.operands
    if not all(operand.is_constant and operand.data is not None for operand in operands):
        return False
    if any(output.size > LIMITS[output.dtype] for output in op.outputs) or not _is_exact(op):
        return False
    # The interpreter is built on this package; it is needed only once a graph is being built.
    from tilegrad.interpreter.execute import execute

    env = {operand: operand.data for operand in operands if operand.data is not None}
    with np.errstate(all="ignore"):
        execute(op, env, np.float32)
    for output in op.outputs:
        output.kind = Kind.CONSTANT
        output.data = np.ascontiguousarray(env[output].astype(output.dtype.numpy)).reshape(output.shape)
    return True


def _is_exact(op: StructuredOp) -> bool:
    for nest in op.nests:
        floats = any(expr.dtype.is_float for expr in nest.exprs)
        if floats and any(result.combiner in ("sum", "dot") for result in nest.results):
            return False  # NumPy sums floats in an order of its own
        if any(node.op not in _EXACT and node.dtype.is_float for node in walk(*nest.exprs)):
            return False
    return True


def uniform(value: Value) -> float | int | bool | None:
    """The number that every element of a constant is, or None where they differ or are not known."""
    if not value.is_constant or value.data is None or value.size == 0:
        return None
    elements = value.data.reshape(-1)
    raw = np.ascontiguousarray(elements).view(np.uint8).reshape(elements.size, -1)  # bits: -0.0 differs from 0.0
    if not (raw == raw[0]).all():
        return None
    number: float | int | bool = elements[0].item()
    return number
