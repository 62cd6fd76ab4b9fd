"""The textual form of expressions, operations and graphs; tests and `tilegrad inspect` print it."""

from __future__ import annotations

from collections.abc import Iterator

from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, Nest, ReshapeOp, StructuredOp, Value

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
}  # fmt: skip


def iterator_name(position: int) -> str:
    """The name of an iterator in print: i0, i1, ..."""
    return f"i{position}"


def format_affine(affine: Affine) -> str:
    """An index, such as ``2*i0 + i3 - 1``."""
    parts = [iterator_name(i) if c == 1 else f"{c}*{iterator_name(i)}" for i, c in affine.terms]
    for lookup in affine.lookups:
        text = f"{lookup.value.name}[{', '.join(map(format_affine, lookup.index))}]"
        parts.append(text if lookup.coefficient == 1 else f"{lookup.coefficient}*{text}")
    if affine.constant or not parts:
        parts.append(str(affine.constant))
    return " + ".join(parts).replace("+ -", "- ")


def format_guard(guard: Guard) -> str:
    """A guard, such as ``0 <= i0 + i1 - 2 < 7``."""
    return f"{guard.lower} <= {format_affine(guard.index)} < {guard.upper}"


def format_access(value: Value, index: tuple[Affine, ...]) -> str:
    """An element, such as ``x[i0, i1 + i3]``."""
    return f"{value.name}[{', '.join(map(format_affine, index))}]"


def format_expr(expr: Expr) -> str:
    """An expression in infix form."""
    if expr.op == "const":
        return repr(expr.attr)
    if expr.op == "read":
        return format_access(expr.attr.value, expr.attr.index)
    if expr.op == "index":
        return f"({format_affine(expr.attr)})"
    if expr.op == "acc":
        return "acc"
    args = [format_expr(arg) for arg in expr.args]
    if expr.op in _INFIX:
        return f"({args[0]} {_INFIX[expr.op]} {args[1]})"
    if expr.op == "cast":
        return f"{expr.dtype.value}({args[0]})"
    return f"{expr.op}({', '.join(args)})"


def format_nest(nest: Nest) -> Iterator[str]:
    """The lines of one nest."""
    names = [f"{iterator_name(k)}:{extent}" for k, extent in enumerate(nest.extents)]
    head = f"P({', '.join(names[: nest.parallel])})"
    if nest.parallel < len(nest.extents):
        head += f" R({', '.join(names[nest.parallel :])})"
    if nest.scatter:
        head += " scatter"
    if nest.guards:
        head += " where " + " and ".join(map(format_guard, nest.guards))
    yield head
    for result in nest.results:
        target = ", ".join(format_access(value, result.index) for value in result.outputs)
        body = ", ".join(map(format_expr, result.exprs))
        start = "" if result.start is None else f" from {format_expr(result.start)}"
        symbol = {"assign": "=", "sum": "+=", "dot": "fma=", "max": "max=", "argmax": "argmax="}[result.combiner]
        final = "" if result.final is None else f" then {format_expr(result.final)}"
        yield f"  {target} {symbol} {body}{start}{final}"


def format_value(value: Value) -> str:
    """Name, type and shape: ``x: f32[1, 14]``."""
    return f"{value.name}: {value.dtype.value}[{', '.join(map(str, value.shape))}]"


def format_graph(graph: Graph) -> str:
    """The whole graph as text."""
    lines = [f"graph {graph.name}({', '.join(map(format_value, graph.inputs))})"]
    for kind, values in (("parameter", graph.parameters), ("buffer", graph.buffers)):
        lines.extend(f"  {kind} {format_value(value)}" for value in values.values())
    for op in graph.ops:
        outputs = ", ".join(map(format_value, op.outputs))
        note = f"  # {op.phase} {op.origin}".rstrip()
        if isinstance(op, ReshapeOp):
            lines.append(f"  {outputs} = view {op.source.name}{note}")
            continue
        assert isinstance(op, StructuredOp)
        init = "" if op.init is None else f" init {op.init}"
        lines.append(f"  {outputs} ={init}{note}")
        for nest in op.nests:
            lines.extend("    " + line for line in format_nest(nest))
    lines.extend(f"  store {store.target.name} <- {store.value.name}" for store in graph.stores)
    if graph.results:
        lines.append(f"  return {', '.join(value.name for value in graph.results)}")
    return "\n".join(lines) + "\n"
