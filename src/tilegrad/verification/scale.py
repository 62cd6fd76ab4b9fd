"""The scale on which a gradient is judged: the sum of the magnitudes of the terms that it is the sum of.

A result of float32 arithmetic is wrong by rounding errors of its *terms*. Where they cancel, the error is large beside
the result (a convolution's bias in front of batch normalisation has a true gradient of zero) and still right. So errors
are divided by ``sum |terms|``, read off the graph: through views, additions and selections down to the last sum, whose
terms count with their own magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tilegrad.interpreter.execute import Environment, execute
from tilegrad.ir import expr as sc
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Graph, Nest, Op, ReshapeOp, Result, StructuredOp, Value

#: Combiners that add terms, or have just one.
_ADDITIVE = ("assign", "sum", "dot")


@dataclass(frozen=True)
class Scale:
    """Magnitudes of the terms of a tensor.

    Attributes:
        magnitude: float64, ``sum |terms|`` of every element.
        chain: how many additions in a row an element has at most.
    """

    magnitude: NDArray[np.float64]
    chain: int


#: A tensor, and whether factors in front of its last sum are looked through.
_Key = tuple[Value, bool]


class Scales:
    """Scales of the tensors of a graph that has been executed in float64.

    A gradient may be a last sum times something (batch normalisation's weight): factors are looked through until the
    first sum is reached, and not below it, where the search would go on to the beginning of the backward pass.

    Args:
        graph: the graph.
        env: the contents of its tensors.
    """

    def __init__(self, graph: Graph, env: Environment) -> None:
        self._producers: Mapping[Value, Op] = graph.producers()
        self._env = dict(env)
        self._known: dict[_Key, Scale] = {}
        self._shadows: dict[_Key, Value] = {}

    def of(self, value: Value) -> Scale:
        """The scale of one tensor."""
        # Tensors are settled operands first, without recursion: a chain may be as long as the model is deep.
        pending: list[_Key] = [(value, True)]
        while pending:
            waiting = [key for key in self._needed(pending[-1]) if key not in self._known]
            if waiting:
                pending.extend(waiting)
            else:
                self._settle(pending.pop())
        return self._known[value, True]

    def _needed(self, key: _Key) -> list[_Key]:
        """The tensors whose scales that of a tensor is made of."""
        value, factors = key
        op = self._producers.get(value)
        if isinstance(op, ReshapeOp):
            return [(op.source, factors)]
        if not isinstance(op, StructuredOp) or not _is_additive(op):
            return []
        below = _looks_through(op, factors)
        reads = dict.fromkeys(v for nest in op.nests for v in _additive_reads(_additive_exprs(nest), below))
        return [(v, below) for v in reads if v in self._producers and _is_additive(self._producers[v])]

    def _settle(self, key: _Key) -> None:
        if key in self._known:
            return
        value, factors = key
        op = self._producers.get(value)
        if isinstance(op, ReshapeOp):
            source = self._known[op.source, factors]
            self._known[key] = Scale(source.magnitude.reshape(value.shape), source.chain)
        elif isinstance(op, StructuredOp) and _is_additive(op):
            self._execute(op, factors)
        else:
            self._known[key] = Scale(np.abs(self._env[value]).astype(np.float64), 1)

    def _execute(self, op: StructuredOp, factors: bool) -> None:
        """Run the operation with its terms replaced by their magnitudes."""
        below = _looks_through(op, factors)
        outputs = {output: replace(output, name=f"{output.name}.scale") for output in op.outputs}
        nests = tuple(
            replace(nest, results=tuple(self._result(r, outputs, below) for r in nest.results)) for nest in op.nests
        )
        init = None if op.init is None else abs(op.init)
        with np.errstate(all="ignore"):
            shadow_op = replace(op, outputs=tuple(outputs.values()), nests=nests, init=init)
            execute(shadow_op, self._env, np.float64)
        inherited = max((self._known[key].chain for key in self._needed((op.outputs[0], factors))), default=0)
        own = max((math.prod(nest.extents[nest.parallel :]) for nest in op.nests), default=1)
        for output, shadow in outputs.items():
            self._known[output, factors] = Scale(np.asarray(self._env.pop(shadow), np.float64), own + inherited)

    def _result(self, result: Result, outputs: Mapping[Value, Value], factors: bool) -> Result:
        exprs: tuple[Expr, ...]
        if result.combiner == "dot" and not any(expr.op == "const" for expr in result.exprs):
            exprs = tuple(sc.absolute(expr) for expr in result.exprs)
        else:
            exprs = tuple(self._magnitude(expr, factors) for expr in result.exprs)
        start = None if result.start is None else self._magnitude(result.start, factors)
        return replace(result, outputs=tuple(outputs[v] for v in result.outputs), exprs=exprs, start=start)

    def _magnitude(self, expr: Expr, factors: bool) -> Expr:
        """The sum of the magnitudes of the terms that an expression adds."""
        if expr.op == "read" and (expr.attr.value, factors) in self._known:
            return sc.read(self._shadow((expr.attr.value, factors)), expr.attr.index)
        operands = _operands(expr, factors)
        parts = [self._magnitude(arg, factors) for arg in operands]
        if not parts:
            return sc.absolute(expr)
        if expr.op == "select":
            return sc.select(expr.args[0], *parts)
        if expr.op == "div":
            return parts[0] / sc.absolute(expr.args[1])
        if expr.op == "mul" and len(parts) == 2:
            a, b = map(sc.absolute, expr.args)
            return sc.maximum(a * parts[1], parts[0] * b)
        if expr.op == "mul":
            constant = expr.args[1] if operands[0] is expr.args[0] else expr.args[0]
            return parts[0] * sc.absolute(constant)
        if expr.op == "fma":
            return sc.absolute(expr.args[0] * expr.args[1]) + parts[0]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _shadow(self, key: _Key) -> Value:
        if key not in self._shadows:
            shadow = replace(key[0], name=f"{key[0].name}.scale")
            self._shadows[key] = shadow
            self._env[shadow] = self._known[key].magnitude
        return self._shadows[key]


def _looks_through(op: StructuredOp, factors: bool) -> bool:
    """Whether factors are looked through in the operands of an operation: not below a sum."""
    return factors and all(result.combiner == "assign" for nest in op.nests for result in nest.results)


def _is_additive(op: Op) -> bool:
    """Whether the tensors that an operation defines are float sums of terms, or views."""
    if isinstance(op, ReshapeOp):
        return op.output.dtype.is_float
    if not all(output.dtype.is_float for output in op.outputs):
        return False
    return all(result.combiner in _ADDITIVE for nest in op.nests for result in nest.results)


def _additive_exprs(nest: Nest) -> list[Expr]:
    found: list[Expr] = []
    for result in nest.results:
        if result.start is not None:
            found.append(result.start)
        if result.combiner != "dot" or any(expr.op == "const" for expr in result.exprs):
            found.extend(result.exprs)
    return found


def _operands(expr: Expr, factors: bool) -> tuple[Expr, ...]:
    """The operands that an expression adds or passes on, and with `factors` those that it multiplies."""
    args = expr.args
    if not expr.dtype.is_float:
        return ()
    if expr.op in ("add", "sub", "neg"):
        return args
    if expr.op == "select":
        return args[1:]
    if expr.op == "fma":
        return args[2:]
    if expr.op == "mul":
        varying = tuple(arg for arg in args if arg.op != "const")
        return varying if factors or len(varying) == 1 else ()
    if expr.op == "div" and (factors or args[1].op == "const"):
        return args[:1]
    return ()


def _additive_reads(roots: list[Expr], factors: bool) -> list[Value]:
    """The tensors that expressions add or pass on."""
    found, pending = [], list(roots)
    seen: set[int] = set()
    while pending:
        expr = pending.pop()
        if id(expr) in seen:
            continue
        seen.add(id(expr))
        if expr.op == "read":
            found.append(expr.attr.value)
        pending.extend(_operands(expr, factors))
    return found
