"""Scalar expressions: the bodies of structured operations.

Expressions are typed, immutable and interned: structurally equal expressions are the same object, so that equality is
identity and common subexpressions are shared. A fused multiply-add (`fma`) is a node of its own, decided when an
operation is made; no pass creates or removes one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.errors import ShapeError
from tilegrad.ir.affine import Affine
from tilegrad.ir.types import DType

if TYPE_CHECKING:
    from tilegrad.ir.graph import Value

#: Functions of one float that the run-time library implements once for every target.
FLOAT_FUNCTIONS = (
    "exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "sqrt", "floor", "ceil", "round", "trunc",
)  # fmt: skip
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
#: Comparisons of unsigned numbers that are decided where this operand is 0.
_SIGN_TESTS = {"lt": 1, "ge": 1, "gt": 0, "le": 0}


@dataclass(frozen=True, slots=True)
class Access:
    """One element of a tensor: ``value[index]``."""

    value: Value
    index: tuple[Affine, ...]


class Expr:
    """A node of a scalar expression; build it with operators and the functions of this module.

    Attributes:
        op: the operation's name.
        args: the operands.
        dtype: the type of the result.
        attr: for ``const`` the number, for ``read`` the `Access`, for ``index`` the `Affine`; ``acc`` has none.
    """

    __slots__ = ("__weakref__", "args", "attr", "dtype", "op")

    def __init__(self, op: str, args: tuple[Expr, ...], dtype: DType, attr: Any) -> None:
        self.op = op
        self.args = args
        self.dtype = dtype
        self.attr = attr

    def __add__(self, other: ExprLike) -> Expr:
        return binary("add", self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return binary("add", other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return binary("sub", self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return binary("sub", other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return binary("mul", self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return binary("mul", other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return binary("div", self, other)

    def __rtruediv__(self, other: ExprLike) -> Expr:
        return binary("div", other, self)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __lt__(self, other: ExprLike) -> Expr:
        return binary("lt", self, other)

    def __le__(self, other: ExprLike) -> Expr:
        return binary("le", self, other)

    def __gt__(self, other: ExprLike) -> Expr:
        return binary("gt", self, other)

    def __ge__(self, other: ExprLike) -> Expr:
        return binary("ge", self, other)

    def __and__(self, other: ExprLike) -> Expr:
        return binary("and", self, other)

    def __or__(self, other: ExprLike) -> Expr:
        return binary("or", self, other)

    def __invert__(self) -> Expr:
        return unary("not", self)

    def equals(self, other: ExprLike) -> Expr:
        """The comparison ``self == other`` (``==`` itself stays Python's identity)."""
        return binary("eq", self, other)

    def differs(self, other: ExprLike) -> Expr:
        """The comparison ``self != other``."""
        return binary("ne", self, other)

    def __repr__(self) -> str:
        from tilegrad.ir.printer import format_expr

        return format_expr(self)


ExprLike = Expr | Affine | float | int | bool

_INTERNED: weakref.WeakValueDictionary[tuple[object, ...], Expr] = weakref.WeakValueDictionary()


def _make(op: str, args: tuple[Expr, ...], dtype: DType, attr: Any = None) -> Expr:
    if op in COMPARISONS and not args[0].dtype.is_float:
        # Integers compared with themselves, unsigned ones asked for a sign: C compilers take it for a mistake.
        if args[0] is args[1]:
            return constant(op in ("le", "ge", "eq"), DType.BOOL)
        if args[0].dtype is DType.U32 and op in _SIGN_TESTS and _is_const(args[_SIGN_TESTS[op]], 0):
            return constant(op in ("le", "ge"), DType.BOOL)
    # repr keeps -0.0 and 0.0, and NaN and NaN, apart and together as bits demand.
    key = (op, *map(id, args), dtype, repr(attr) if op == "const" else attr)
    found = _INTERNED.get(key)
    if found is None:
        found = Expr(op, args, dtype, attr)
        _INTERNED[key] = found
    return found


def constant(value: float | int | bool, dtype: DType) -> Expr:
    """A literal; a float is rounded to float32.

    Raises:
        ShapeError: if `dtype` is an integer type that does not hold the number.
    """
    if dtype is DType.F32:
        with np.errstate(over="ignore"):
            return _make("const", (), dtype, float(np.float32(value)))
    if dtype is DType.BOOL:
        return _make("const", (), dtype, bool(value))
    limits = np.iinfo(dtype.numpy.name)
    if not limits.min <= value <= limits.max or int(value) != value:
        raise ShapeError(f"the number {value} is not one of type {dtype.value}")
    return _make("const", (), dtype, int(value))


def read(value: Value, index: Sequence[Affine | int]) -> Expr:
    """The element of `value` at `index`, one entry per axis."""
    if len(index) != len(value.shape):
        raise ShapeError(f"{value.name} has {len(value.shape)} axes and is read with {len(index)} indices")
    return _make("read", (), value.dtype, Access(value, tuple(Affine.of(row) for row in index)))


def index(affine: Affine | int) -> Expr:
    """The value of an affine index as an i32."""
    affine = Affine.of(affine)
    if affine.is_constant:
        return constant(affine.constant, DType.I32)
    return _make("index", (), DType.I32, affine)


def accumulator(dtype: DType) -> Expr:
    """The finished accumulator of a reduction; it stands in the `Result.final` of that reduction only."""
    return _make("acc", (), dtype)


def as_expr(value: ExprLike, like: DType) -> Expr:
    """`value` as an expression; Python numbers take the type `like`."""
    if isinstance(value, Expr):
        return value
    if isinstance(value, Affine):
        return index(value)
    return constant(value, like)


def unary(op: str, a: Expr) -> Expr:
    """``neg``, ``abs``, ``not`` or one of `FLOAT_FUNCTIONS`."""
    if op == "neg" and a.op == "neg":
        return a.args[0]
    if op in FLOAT_FUNCTIONS and a.dtype is not DType.F32:
        raise ShapeError(f"{op} needs a float operand, not {a.dtype.value}")
    folded = _fold(op, (a,), a.dtype)
    return folded if folded is not None else _make(op, (a,), a.dtype)


def binary(op: str, a: ExprLike, b: ExprLike) -> Expr:
    """Arithmetic, comparison, logic or bit operation on two operands of one type.

    Raises:
        ShapeError: if the operand types differ.
    """
    like = a.dtype if isinstance(a, Expr) else b.dtype if isinstance(b, Expr) else DType.I32
    x, y = as_expr(a, like), as_expr(b, like)
    if x.dtype is not y.dtype:
        raise ShapeError(f"operands of {op} have different types: {x.dtype.value} and {y.dtype.value}")
    dtype = DType.BOOL if op in COMPARISONS else x.dtype
    if dtype is DType.BOOL and op in ("add", "sub", "mul", "div"):
        raise ShapeError(f"{op} of two truth values; combine them with & and |, or convert them to integers")
    folded = _fold(op, (x, y), dtype)
    if folded is not None:
        return folded
    if op == "mul":  # exact identities only: x * 0 and x + 0 are not, for NaN and signed zeros
        if _is_const(x, 1):
            return y
        if _is_const(y, 1):
            return x
    if op == "div" and _is_const(y, 1):
        return x
    return _make(op, (x, y), dtype)


def fma(a: ExprLike, b: ExprLike, c: ExprLike) -> Expr:
    """``a * b + c`` with one rounding."""
    args = tuple(as_expr(x, DType.F32) for x in (a, b, c))
    return _make("fma", args, DType.F32)


def select(condition: Expr, a: ExprLike, b: ExprLike) -> Expr:
    """``condition ? a : b``."""
    like = a.dtype if isinstance(a, Expr) else b.dtype if isinstance(b, Expr) else DType.F32
    x, y = as_expr(a, like), as_expr(b, like)
    if x.dtype is not y.dtype:
        raise ShapeError(f"branches of a select have different types: {x.dtype.value} and {y.dtype.value}")
    if x is y:
        return x
    if condition.op == "const":
        return x if condition.attr else y
    return _make("select", (condition, x, y), x.dtype)


def cast(a: ExprLike, dtype: DType) -> Expr:
    """`a` converted: float to integer truncates and clamps, integer to integer wraps, to bool compares with zero."""
    x = as_expr(a, dtype)
    if x.dtype is dtype:
        return x
    if x.op == "const" and x.dtype is not DType.F32:
        return constant(_wrapped(x.attr, dtype), dtype)
    return _make("cast", (x,), dtype)


def _wrapped(value: int, dtype: DType) -> int:
    """An integer modulo the range of an integer type."""
    if dtype in (DType.F32, DType.BOOL):
        return value
    limits = np.iinfo(dtype.numpy.name)
    return (int(value) - limits.min) % (1 << limits.bits) + limits.min


def power(a: ExprLike, b: ExprLike) -> Expr:
    """``a ** b`` with C's special cases."""
    return _make("pow", (as_expr(a, DType.F32), as_expr(b, DType.F32)), DType.F32)


def philox(c0: Expr, c1: Expr, c2: Expr, c3: Expr, k0: Expr, k1: Expr) -> Expr:
    """First word of Philox4x32-10 (Salmon et al., 2011) for a u32 counter and key."""
    return _make("philox", (c0, c1, c2, c3, k0, k1), DType.U32)


def absolute(a: Expr) -> Expr:
    """``|a|``."""
    return unary("abs", a)


def sqrt(a: Expr) -> Expr:
    """IEEE square root."""
    return unary("sqrt", a)


def exp(a: Expr) -> Expr:
    """The exponential function."""
    return unary("exp", a)


def expm1(a: Expr) -> Expr:
    """``exp(a) - 1`` without cancellation."""
    return unary("expm1", a)


def log(a: Expr) -> Expr:
    """Natural logarithm."""
    return unary("log", a)


def log1p(a: Expr) -> Expr:
    """``log(1 + a)`` without cancellation."""
    return unary("log1p", a)


def tanh(a: Expr) -> Expr:
    """Hyperbolic tangent."""
    return unary("tanh", a)


def erf(a: Expr) -> Expr:
    """The error function."""
    return unary("erf", a)


def maximum(a: ExprLike, b: ExprLike) -> Expr:
    """The larger operand; NaN propagates; a where both are equal."""
    return _extremum("gt", a, b)


def minimum(a: ExprLike, b: ExprLike) -> Expr:
    """The smaller operand; NaN propagates; a where both are equal."""
    return _extremum("lt", a, b)


def _extremum(better: str, a: ExprLike, b: ExprLike) -> Expr:
    like = a.dtype if isinstance(a, Expr) else b.dtype if isinstance(b, Expr) else DType.F32
    x, y = as_expr(a, like), as_expr(b, like)
    if y.op == "const" and y.attr != y.attr:
        return y
    takes_b = binary(better, y, x)
    if y.dtype.is_float and y.op != "const":
        takes_b = takes_b | y.differs(y)
    return select(takes_b, y, x)


def _is_const(x: Expr, value: float) -> bool:
    return x.op == "const" and bool(x.attr == value)


def _fold(op: str, args: tuple[Expr, ...], dtype: DType) -> Expr | None:
    """Constant folding, in the operand type only; functions of the run-time library are left to run time."""
    if any(a.op != "const" for a in args) or op not in _FOLDABLE:
        return None
    if args[0].dtype not in (DType.F32, DType.BOOL, DType.I32):
        return None
    with np.errstate(all="ignore"):
        numbers = [args[0].dtype.numpy.type(a.attr) for a in args]
        return constant(_FOLDABLE[op](*numbers).item(), dtype)


_FOLDABLE: dict[str, Callable[..., Any]] = {
    "neg": np.negative, "abs": np.abs, "add": np.add, "sub": np.subtract, "mul": np.multiply, "sqrt": np.sqrt,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "and": np.bitwise_and, "or": np.bitwise_or, "not": np.logical_not,
}  # fmt: skip


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every distinct node below `roots`, operands before their users, in a fixed order."""
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args))


def accesses(*roots: Expr) -> list[Access]:
    """The distinct tensor elements that the expressions read, in a fixed order; lookups are not included."""
    return [node.attr for node in walk(*roots) if node.op == "read"]


#: What replaces a leaf of an expression.
Leaf = Callable[[Expr], Expr]


def folded(root: Expr) -> Expr:
    """The expression with arithmetic on constants done and selects between equal operands gone; the same bits."""
    done: dict[int, Expr] = {}
    for node in walk(root):
        args = [done[id(arg)] for arg in node.args]
        if node.op == "select":
            done[id(node)] = select(*args)
        elif node.op == "cast":
            done[id(node)] = cast(args[0], node.dtype)
        elif node.op in _FOLDABLE:
            done[id(node)] = unary(node.op, args[0]) if len(args) == 1 else binary(node.op, args[0], args[1])
        else:
            done[id(node)] = _make(node.op, tuple(args), node.dtype, node.attr)
    return done[id(root)]


def rewrite(root: Expr, leaf: Leaf) -> Expr:
    """Rebuild an expression with its leaves (``read``, ``index``, ``const``, ``acc``) replaced."""
    done: dict[int, Expr] = {}
    for node in walk(root):
        if not node.args:
            done[id(node)] = leaf(node)
            continue
        args = tuple(done[id(arg)] for arg in node.args)
        same = all(a is b for a, b in zip(args, node.args, strict=True))
        done[id(node)] = node if same else _make(node.op, args, node.dtype, node.attr)
    return done[id(root)]


def substitute(root: Expr, mapping: Mapping[int, Affine] | Sequence[Affine]) -> Expr:
    """The expression over another domain: iterators replaced in every index."""

    def leaf(node: Expr) -> Expr:
        if node.op == "read":
            return read(node.attr.value, [row.substitute(mapping) for row in node.attr.index])
        if node.op == "index":
            return index(node.attr.substitute(mapping))
        return node

    return rewrite(root, leaf)
