"""Scalar expressions and indices as C text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import InternalError
from tilegrad.ir.affine import Affine, Guard
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType
from tilegrad.planning.identities import branch_of, lazy_parts

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/",
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=",
    "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
}  # fmt: skip
#: Integer arithmetic that may overflow: it wraps, where C leaves signed overflow undefined.
_WRAPPING = {"add", "sub", "mul"}
#: C functions of the run-time library and of the compiler.
_FUNCTIONS = {
    "abs": "__builtin_fabsf", "fma": "__builtin_fmaf", "round": "tg_round_even",
    **{name: f"tg_{name}" for name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "sqrt", "floor",
                                       "ceil", "trunc", "pow", "philox")},
}  # fmt: skip
_LOCAL_TYPE = {
    DType.F32: "float", DType.I32: "int32_t", DType.I64: "int64_t", DType.U32: "uint32_t", DType.U8: "int32_t",
    DType.BOOL: "int",
}  # fmt: skip


def iterator_name(position: int) -> str:
    """The C variable of an iterator."""
    return f"i{position}"


def literal(value: float | int | bool, dtype: DType) -> str:
    """A C literal that denotes exactly `value`."""
    if dtype is DType.F32:
        number = float(value)
        if math.isnan(number):
            return '__builtin_nanf("")'
        if math.isinf(number):
            return "__builtin_inff()" if number > 0 else "(-__builtin_inff())"
        text = np.format_float_positional(np.float32(number), unique=True, trim="0")
        if len(text) > 16:
            text = np.format_float_scientific(np.float32(number), unique=True, trim="0")
        return f"{text}f" if number >= 0 and not text.startswith("-") else f"({text}f)"
    if dtype is DType.U32:
        return f"{int(value)}u"
    if dtype is DType.I64:
        return "INT64_MIN" if int(value) == -(2**63) else f"INT64_C({int(value)})"
    if int(value) == -(2**31):
        return "INT32_MIN"
    return str(int(value)) if int(value) >= 0 else f"({int(value)})"


def literals(array: NDArray[Any], dtype: DType) -> list[str]:
    """The elements of an array as literals for an initialiser, in flat order."""
    flat = array.reshape(-1)
    if dtype is not DType.F32:
        return [literal(x, dtype) for x in flat.tolist()]
    # Shortest decimals that denote the same float32, a whole array at a time: there may be millions.
    texts = [f"{text}f" for text in flat.astype(np.float32).astype("U16").tolist()]
    for place in np.flatnonzero(~np.isfinite(flat)):
        texts[place] = literal(float(flat[place]), dtype)
    return texts


def least(dtype: DType) -> str:
    """What a maximum without terms is, as C text."""
    return {DType.F32: "-__builtin_inff()", DType.I32: "INT32_MIN", DType.I64: "INT64_MIN", DType.U32: "0u"}[dtype]


def add(a: str, b: str, dtype: DType) -> str:
    """A sum as C text."""
    return f"tg_add_{dtype.value}({a}, {b})" if dtype in (DType.I32, DType.I64) else f"{a} + {b}"


def local_type(dtype: DType) -> str:
    """The C type of a scalar variable."""
    return _LOCAL_TYPE[dtype]


def format_sum(terms: Sequence[tuple[str, int]], constant: int) -> str:
    """``constant + sum(coefficient * name)`` in C."""
    text = ""
    for name, coefficient in terms:
        sign = "-" if coefficient < 0 else "+"
        factor = name if abs(coefficient) == 1 else f"{abs(coefficient)} * {name}"
        text += f" {sign} {factor}" if text else (factor if sign == "+" else f"-{factor}")
    if constant or not text:
        text += f" {'-' if constant < 0 else '+'} {abs(constant)}" if text else str(constant)
    return text


@dataclass(frozen=True)
class Place:
    """Where the elements of a tensor are: element ``(i, j)`` is ``pointer[i * strides[0] + j * strides[1] - origin]``.

    Attributes:
        pointer: the C text of a pointer to elements.
        strides: distance in elements between neighbours along every axis.
        origin: the C text of an integer, the position that the tensor's first element has or would have before the
            one pointed to; empty for 0.
    """

    pointer: str
    strides: tuple[int, ...]
    origin: str = ""


def natural_places(names: Mapping[Value, str]) -> dict[Value, Place]:
    """Whole tensors under the names of pointers to their first elements."""
    return {value: Place(name, value.strides) for value, name in names.items()}


@dataclass
class CScope:
    """Where C text is produced: places of tensors, and the numbering of temporaries.

    Attributes:
        places: where the elements of each tensor are.
        iterators: the C text of an iterator where it differs from its own variable.
        accumulator: the C text of the finished accumulator, while a final expression is written.
        known: expressions whose value a local holds, and its name.
        branches: whether selects with cheap tests become branches, which suits scalar cores.
        selected: for a select that becomes a branch, lines to write where its value is not the constant; ``{}`` stands
            for the name of the value.
        shortcuts: pointers into the middle of tensors: the position that each points to, and its name.
    """

    places: Mapping[Value, Place]
    iterators: dict[int, str] = field(default_factory=dict)
    counter: int = 0
    accumulator: str = ""
    known: dict[Expr, str] = field(default_factory=dict)
    branches: bool = False
    selected: dict[Expr, list[str]] = field(default_factory=dict)
    shortcuts: dict[Value, list[tuple[Affine, str]]] = field(default_factory=dict)

    def fresh(self, prefix: str = "t") -> str:
        """A new local variable."""
        self.counter += 1
        return f"{prefix}{self.counter}"

    def iterator(self, position: int) -> str:
        """The C text of an iterator."""
        return self.iterators.get(position, iterator_name(position))

    def affine(self, row: Affine, integer: str = "int32_t") -> str:
        """An index as C text; entries of looked-up tensors are converted to the type `integer`."""
        terms = [(self.iterator(i), c) for i, c in row.terms]
        terms += [(f"({integer}){self.element(x.value, x.index)}", x.coefficient) for x in row.lookups]
        return format_sum(terms, row.constant)

    def element(self, value: Value, index: Sequence[Affine]) -> str:
        """A tensor element as C text, its strides multiplied out."""
        flat = self.flat(value, index)
        near = [(flat - position, name) for position, name in self.shortcuts.get(value, ())]
        near = [(distance, name) for distance, name in near if distance.is_constant]
        if near:
            distance, name = min(near, key=lambda found: abs(found[0].constant))
            return f"{name}[{distance.constant}]"
        place = self.places[value]
        origin = f" - {place.origin}" if place.origin else ""
        return f"{place.pointer}[{self.affine(flat)}{origin}]"

    def flat(self, value: Value, index: Sequence[Affine]) -> Affine:
        """The position of an element from the origin of its place."""
        flat = Affine()
        for row, stride in zip(index, self.places[value].strides, strict=True):
            flat = flat + row * stride
        return flat

    def address(self, value: Value, flat: Affine) -> str:
        """C text of a pointer to a position from the origin of a tensor's place."""
        place = self.places[value]
        origin = f" - {place.origin}" if place.origin else ""
        return f"{place.pointer} + ({self.affine(flat)}{origin})"

    def guard(self, guard: Guard) -> str:
        """A predicate as C text; looked-up entries can be anything, so they are judged in 64 bits."""
        text = self.affine(guard.index, "int64_t")
        return f"({text} >= {guard.lower} && {text} < {guard.upper})"

    def uses(self, roots: Sequence[Expr]) -> dict[Expr, int]:
        """How often every subexpression without a name is used by `roots` and below them."""
        counts: dict[Expr, int] = {}
        lazy = self._lazy(roots)
        for node in self._unnamed(roots, lazy):
            for arg in self._needs(node, lazy):
                counts[arg] = counts.get(arg, 0) + 1
        for root in roots:
            counts[root] = counts.get(root, 0) + 1
        return counts

    def _lazy(self, roots: Sequence[Expr]) -> dict[Expr, list[Expr]]:
        return lazy_parts(roots, self.known) if self.branches else {}

    def _unnamed(self, roots: Sequence[Expr], lazy: Mapping[Expr, list[Expr]]) -> list[Expr]:
        """Every distinct node below `roots`, operands first, down to those that have a name already."""
        seen: set[Expr] = set()
        found: list[Expr] = []
        stack = [(root, False) for root in reversed(roots)]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                found.append(node)
            elif node not in seen and node not in self.known:
                seen.add(node)
                stack.append((node, True))
                stack.extend((arg, False) for arg in reversed(self._needs(node, lazy)))
        return found

    def evaluate(
        self, roots: Sequence[Expr], emit: Callable[[str], None], uses: dict[Expr, int] | None = None
    ) -> list[str]:
        """C text of every root; subexpressions used more than once become locals through `emit`.

        Args:
            roots: what to evaluate.
            emit: takes the lines that declare locals.
            uses: how often subexpressions are used here and in what is evaluated behind it in the same block; then the
                locals are remembered in `known`.
        """
        lazy = self._lazy(roots)
        nodes = self._unnamed(roots, lazy)
        counts = self.uses(roots) if uses is None else uses
        # Operands of a select are read before it, never inside: a conditional load becomes a masked one, which GCC 12
        # gets wrong under AVX when the predicate holds for NaN (its -O3 drops elements of `x <= 0 ? 0 : y[i]`).
        selects = any(node.op == "select" for node in nodes)
        text: dict[Expr, str] = {}
        for node in nodes:
            if node in lazy:
                text[node] = self._branch(
                    node, {part: self.known.get(part) or text[part] for part in self._needs(node, lazy)}, emit
                )
                if uses is not None:
                    self.known[node] = text[node]
                continue
            written = self._node(node, [self.known.get(arg) or text[arg] for arg in node.args])
            shared = counts.get(node, 1) > 1 and node.op not in ("const", "index", "acc")
            if shared or len(written) > 100 or (selects and node.op in ("read", "acc")):
                name = self.name(node, written, emit)
                if uses is not None:
                    self.known[node] = name
                written = name
            text[node] = written
        return [self.known.get(root) or text[root] for root in roots]

    def _needs(self, node: Expr, lazy: Mapping[Expr, list[Expr]]) -> Sequence[Expr]:
        """What has to be evaluated before a node."""
        if node not in lazy:
            return node.args
        branch = branch_of(node, self.known)
        assert branch is not None
        return [*branch.cheap, *lazy[node]]

    def _branch(self, node: Expr, texts: dict[Expr, str], emit: Callable[[str], None]) -> str:
        """A select whose costly parts are evaluated only where its cheap tests hold."""
        branch = branch_of(node, self.known)
        assert branch is not None
        name, known = self.fresh(), self.known
        emit(f"{_LOCAL_TYPE[node.dtype]} {name} = {literal(branch.other.attr, branch.other.dtype)};")
        tests = [self.known.get(test) or texts[test] for test in branch.cheap]
        # Without the hint, compilers evaluate everything and select: on scalar cores the branch is what is quick.
        emit(f"if (__builtin_expect({' && '.join(tests)}, 0)) {{")
        self.known = known | texts
        *tests, value = self.evaluate([*branch.costly, branch.value], lambda line: emit(f"    {line}"))
        self.known = known
        lines = [f"{name} = {value};", *(line.format(name) for line in self.selected.pop(node, ()))]
        if tests and len(lines) == 1:
            lines = [f"if ({' && '.join(tests)}) {lines[0]}"]
        elif tests:
            lines = [f"if ({' && '.join(tests)}) {{", *(f"    {line}" for line in lines), "}"]
        for line in lines:
            emit(f"    {line}")
        emit("}")
        return name

    def name(self, node: Expr, text: str, emit: Callable[[str], None]) -> str:
        """A new local that holds the value of a node."""
        name = self.fresh()
        emit(f"const {_LOCAL_TYPE[node.dtype]} {name} = {text};")
        return name

    def _node(self, node: Expr, args: list[str]) -> str:
        if not node.args:
            return self._leaf(node)
        if node.op == "div" and node.dtype is not DType.F32:
            return f"tg_div_{node.dtype.value}({args[0]}, {args[1]})"
        if node.op in _WRAPPING and node.dtype in (DType.I32, DType.I64):
            return f"tg_{node.op}_{node.dtype.value}({args[0]}, {args[1]})"
        if node.op in _INFIX:
            return f"({args[0]} {_INFIX[node.op]} {args[1]})"
        if node.op == "neg":
            return _negated(args[0], node.dtype)
        if node.op == "not":
            return f"(!{args[0]})"
        if node.op == "abs" and node.dtype is not DType.F32:
            return f"({args[0]} < 0 ? {_negated(args[0], node.dtype)} : {args[0]})"
        if node.op == "select":
            return f"({args[0]} ? {args[1]} : {args[2]})"
        if node.op == "cast":
            return _cast(args[0], node.args[0].dtype, node.dtype)
        if node.op not in _FUNCTIONS:
            raise InternalError(f"no C for the scalar operation {node.op!r}")
        return f"{_FUNCTIONS[node.op]}({', '.join(args)})"

    def _leaf(self, node: Expr) -> str:
        if node.op == "const":
            return literal(node.attr, node.dtype)
        if node.op == "read":
            return self.element(node.attr.value, node.attr.index)
        if node.op == "acc":
            return self.accumulator
        return f"({self.affine(node.attr)})"


def _negated(text: str, dtype: DType) -> str:
    return f"tg_sub_{dtype.value}(0, {text})" if dtype in (DType.I32, DType.I64) else f"(-{text})"


def _cast(text: str, source: DType, target: DType) -> str:
    if target is DType.BOOL:
        return f"({text} != 0)"
    if source is DType.F32 and target is not DType.F32:
        return f"tg_f32_to_{target.value}({text})"
    return f"({_LOCAL_TYPE[target]})({text})"
