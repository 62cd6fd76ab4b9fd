"""Reverse-mode differentiation of graphs.

The gradient of a structured operation has the same domain and guards with the roles of the operands exchanged; what a
term contributes follows from differentiating the scalar body. Composites may define a gradient of their own
(`Graph.rules`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tilegrad.errors import InternalError
from tilegrad.ir import expr as sc
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import elementwise, reshape
from tilegrad.ir.expr import Access, Expr
from tilegrad.ir.graph import GradientRule, Graph, Nest, Op, ReshapeOp, Result, StructuredOp, Value
from tilegrad.training.relation import scatter_gradient

#: A rule maps (node, gradient of the node) to the gradients of its operands; None where there is none.
ScalarRule = Callable[[Expr, Expr], Sequence[Expr | None]]


def _pow_rule(y: Expr, g: Expr) -> Sequence[Expr | None]:
    base, exponent = y.args
    # x ** 0 is 1 everywhere, also at 0, where the formula would multiply 0 by infinity.
    d_base = sc.select(exponent.equals(0.0), 0.0, g * exponent * sc.power(base, exponent - 1.0))
    if exponent.op == "const":
        return (d_base if exponent.attr != 0 else None, None)
    vanishes = base.equals(0.0) & (exponent >= 0.0)
    return d_base, sc.select(vanishes, 0.0, g * y * sc.log(base))


_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

SCALAR_RULES: dict[str, ScalarRule] = {
    "add": lambda y, g: (g, g),
    "sub": lambda y, g: (g, -g),
    "mul": lambda y, g: (g * y.args[1], g * y.args[0]),
    "div": lambda y, g: (g / y.args[1], -(g * y / y.args[1])),
    "neg": lambda y, g: (-g,),
    "fma": lambda y, g: (g * y.args[1], g * y.args[0], g),
    "select": lambda y, g: (None, sc.select(y.args[0], g, 0.0), sc.select(y.args[0], 0.0, g)),
    "abs": lambda y, g: (sc.select(y.args[0] > 0.0, g, sc.select(y.args[0] < 0.0, -g, 0.0)),),
    "sqrt": lambda y, g: (g * 0.5 / y,),
    "exp": lambda y, g: (g * y,),
    "expm1": lambda y, g: (g * (y + 1.0),),
    "log": lambda y, g: (g / y.args[0],),
    "log1p": lambda y, g: (g / (y.args[0] + 1.0),),
    "tanh": lambda y, g: (g * sc.fma(-y, y, 1.0),),
    "erf": lambda y, g: (g * (sc.exp(-(y.args[0] * y.args[0])) * _TWO_OVER_SQRT_PI),),
    "sin": lambda y, g: (g * sc.unary("cos", y.args[0]),),
    "cos": lambda y, g: (-(g * sc.unary("sin", y.args[0])),),
    "pow": _pow_rule,
}
#: Operations whose result does not vary with their operands, or is not a float.
_FLAT = {"floor", "ceil", "round", "trunc", "cast", "not", "and", "or", "philox", *sc.COMPARISONS}


def scalar_gradients(roots: Sequence[tuple[Expr, Expr]], wanted: Callable[[Value], bool]) -> dict[Access, Expr]:
    """Differentiate scalar expressions.

    Args:
        roots: pairs (expression, its gradient).
        wanted: whether the gradient of reads of a tensor is needed.

    Returns:
        The gradient of every wanted read, in a fixed order.
    """
    gradients: dict[int, Expr] = {}

    def accumulate(node: Expr, g: Expr) -> None:
        before = gradients.get(id(node))
        gradients[id(node)] = g if before is None else before + g

    for root, g in roots:
        accumulate(root, g)
    order = list(sc.walk(*(root for root, _ in roots)))
    needed: dict[int, bool] = {}
    for node in order:
        reads = node.op == "read" and node.dtype.is_float and wanted(node.attr.value)
        needed[id(node)] = reads or (node.op not in _FLAT and any(needed[id(arg)] for arg in node.args))
    found: dict[Access, Expr] = {}
    for node in reversed(order):
        gradient = gradients.get(id(node))
        if gradient is None or not needed[id(node)]:
            continue
        if node.op == "read":
            found[node.attr] = gradient
            continue
        if node.op not in SCALAR_RULES:
            raise InternalError(f"the scalar operation {node.op!r} has no gradient rule")
        for arg, contribution in zip(node.args, SCALAR_RULES[node.op](node, gradient), strict=True):
            if contribution is not None and needed[id(arg)]:
                accumulate(arg, contribution)
    return {access: found[access] for access in reversed(list(found))}


def _nest_gradients(
    nest: Nest, result: Result, gradients: Mapping[Value, Value], needs: Callable[[Value], bool]
) -> list[tuple[Value, Value]]:
    """The contributions of one result of one nest: pairs (operand, gradient tensor)."""
    g = gradients.get(result.outputs[0])
    if g is None:
        return []
    if result.start is not None:
        raise InternalError("a sum that starts from a value of its own is made behind differentiation only")
    seed = sc.read(g, result.index)
    if result.combiner == "argmax":
        first, extents = nest.parallel, nest.extents[nest.parallel :]
        position, step = Affine(), 1
        for offset in reversed(range(len(extents))):
            position = position + Affine.iterator(first + offset) * step
            step *= extents[offset]
        chosen = sc.read(result.outputs[1], result.index).equals(sc.index(position))
        roots = [(result.exprs[0], sc.select(chosen, seed, 0.0))]
    elif result.combiner == "dot":
        a, b = result.exprs
        roots = [(a, seed * b), (b, seed * a)]
    elif result.combiner in ("assign", "sum"):
        roots = [(result.exprs[0], seed)]
    else:
        raise InternalError(f"no gradient is derived for the combiner {result.combiner!r}")
    if result.start is not None:
        raise InternalError("no gradient is derived for a sum that starts from a tensor")
    found = scalar_gradients(roots, needs)
    return [
        (access.value, scatter_gradient(access.value, access.index, nest.extents, nest.parallel, nest.guards, body))
        for access, body in found.items()
    ]


class _Tape:
    """Contributions to the gradient of every tensor, in the order in which they are added."""

    def __init__(self, needs: set[Value]) -> None:
        self.needs = needs
        self.parts: dict[Value, list[Value]] = {}

    def add(self, value: Value, gradient: Value | None) -> None:
        if gradient is None or value not in self.needs or not value.size:  # without elements there is no gradient
            return
        if gradient.shape != value.shape:
            raise InternalError(f"gradient of {value.name} has shape {gradient.shape}, expected {value.shape}")
        self.parts.setdefault(value, []).append(gradient)

    def total(self, value: Value) -> Value | None:
        """The sum of the contributions, first to last."""
        parts = self.parts.get(value)
        if not parts:
            return None
        if len(parts) > 1:
            total = elementwise(_chain_add, *parts, name=f"d.{value.name}")
            self.parts[value] = parts = [total]
        return parts[0]


def _chain_add(*terms: Expr) -> Expr:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _dependents(ops: Sequence[Op], sources: Sequence[Value], rules: Mapping[Value, GradientRule]) -> set[Value]:
    """Every float tensor whose value depends on `sources` in a differentiable way."""
    needs = set(sources)
    for op in ops:
        if any(operand in needs for operand in op.operands):
            needs.update(output for output in op.outputs if output.dtype.is_float)
    return needs


def gradients(graph: Graph, loss: Value, seed: Value, wrt: Sequence[Value]) -> dict[Value, Value]:
    """Append the backward pass to `graph`.

    Args:
        graph: the forward graph; must be the graph under construction.
        loss: the scalar (or tensor) to differentiate.
        seed: the gradient of `loss`, of its shape.
        wrt: the tensors whose gradients are wanted.

    Returns:
        The gradient of every tensor of `wrt` that `loss` depends on.
    """
    forward = list(graph.ops)
    tape = _Tape(_dependents(forward, wrt, graph.rules))
    tape.add(loss, seed)
    finished: set[int] = set()
    for op in reversed(forward):
        with graph.scope(op.origin, "backward"):
            rule_outputs = [output for output in op.outputs if output in graph.rules]
            if rule_outputs:
                rule = graph.rules[rule_outputs[0]]
                if id(rule) not in finished:
                    finished.add(id(rule))
                    _apply_rule(rule, tape)
                continue
            if isinstance(op, ReshapeOp):
                gradient = tape.total(op.output)
                if gradient is not None and op.source in tape.needs:
                    tape.add(op.source, reshape(gradient, op.source.shape))
                continue
            _differentiate(op, tape)
    with graph.scope(phase="backward"):
        found = {value: tape.total(value) for value in wrt}
    return {value: gradient for value, gradient in found.items() if gradient is not None}


def _differentiate(op: StructuredOp, tape: _Tape) -> None:
    totals = {output: tape.total(output) for output in op.outputs if output in tape.needs}
    known = {output: gradient for output, gradient in totals.items() if gradient is not None}
    if not known:
        return
    for nest in op.nests:
        for result in nest.results:
            for value, gradient in _nest_gradients(nest, result, known, tape.needs.__contains__):
                tape.add(value, gradient)


def _apply_rule(rule: GradientRule, tape: _Tape) -> None:
    totals = [tape.total(output) for output in rule.outputs]
    if all(total is None for total in totals):
        return
    found = rule.vjp(*totals)
    if len(found) != len(rule.inputs):
        raise InternalError(f"a gradient rule returned {len(found)} gradients for {len(rule.inputs)} inputs")
    for value, gradient in zip(rule.inputs, found, strict=True):
        tape.add(value, gradient)
