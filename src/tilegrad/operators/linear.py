"""Linear layers and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise, reshape
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value
from tilegrad.operators.contraction import contract
from tilegrad.operators.registry import OnnxCall, aten, onnx


@aten("aten.linear.default")
def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """``y[..., k] = sum_c x[..., c] * weight[k, c] + bias[k]``; a weight of one axis gives ``y[...]``.

    Args:
        x: f32[..., C].
        weight: f32[K, C] or f32[C].
        bias: f32[K] or None; added after the sum.
    """
    _need_rank(x, 1, "linear")
    if weight.rank not in (1, 2):
        raise ShapeError(f"the weight {weight.name} of linear has shape {weight.shape}, expected one or two axes")
    _same_extent(x, -1, weight, -1, "linear")
    rows = tuple(range(x.rank - 1))
    features = ("k",) * (weight.rank - 1)
    y = contract((x, (*rows, "c")), (weight, (*features, "c")), (*rows, *features))
    return _add_bias(y, bias)


def _add_bias(y: Value, bias: Value | None) -> Value:
    if bias is None:
        return y
    if bias.shape not in (y.shape[-1:], ()):
        raise ShapeError(f"the bias {bias.name} has shape {bias.shape}, expected {y.shape[-1:]}")
    return elementwise(lambda v, b: v + b, y, bias)


@aten("aten.matmul.default", "aten.linalg_matmul.default")
def matmul(a: Value, b: Value) -> Value:
    """The matrix product with PyTorch's rules: axes before the last two broadcast, an operand of one axis is a vector.

    Args:
        a: f32[..., M, K] or f32[K].
        b: f32[..., K, N] or f32[K].
    """
    return _product(a, b)


def _product(a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Value:
    """`matmul` that can read the matrices of either operand transposed."""
    _need_rank(a, 1, "matmul")
    _need_rank(b, 1, "matmul")
    left = ["m", "k"] if a.rank > 1 else ["k"]
    right = ["k", "n"] if b.rank > 1 else ["k"]
    left, right = left[::-1] if transpose_a else left, right[::-1] if transpose_b else right
    _same_extent(a, left.index("k") - len(left), b, right.index("k") - len(right), "matmul")
    # Batch axes are counted from the right, as broadcasting does.
    batch = [-axis for axis in range(max(a.rank, b.rank) - 2, 0, -1)]
    a_labels = [*batch[len(batch) - max(a.rank - 2, 0) :], *left]
    b_labels = [*batch[len(batch) - max(b.rank - 2, 0) :], *right]
    output = [*batch, *(label for label in ("m", "n") if label in (*left, *right))]
    return contract((a, a_labels), (b, b_labels), output)


@aten("aten.mm.default")
def mm(a: Value, b: Value) -> Value:
    """The product of two matrices: f32[M, K] and f32[K, N]."""
    return _exact(a, 2, b, 2, "mm")


@aten("aten.bmm.default")
def bmm(a: Value, b: Value) -> Value:
    """Products of matrices pair by pair: f32[B, M, K] and f32[B, K, N]; the batch does not broadcast."""
    if a.shape[:1] != b.shape[:1]:
        raise ShapeError(f"the batches of bmm differ: {a.name} has shape {a.shape}, {b.name} {b.shape}")
    return _exact(a, 3, b, 3, "bmm")


@aten("aten.mv.default")
def mv(a: Value, v: Value) -> Value:
    """A matrix f32[M, K] times a vector f32[K]."""
    return _exact(a, 2, v, 1, "mv")


@aten("aten.dot.default", "aten.vdot.default")
def dot(a: Value, b: Value) -> Value:
    """The scalar product of two vectors f32[K]."""
    return _exact(a, 1, b, 1, "dot")


@aten("aten.outer.default", "aten.ger.default")
def outer(a: Value, b: Value) -> Value:
    """``y[m, n] = a[m] * b[n]`` of two vectors."""
    _exact_rank(a, 1, "outer")
    _exact_rank(b, 1, "outer")
    return contract((a, "m"), (b, "n"), "mn")


@aten("aten.inner.default")
def inner(a: Value, b: Value) -> Value:
    """``sum_k a[..., k] * b[..., k]`` for all pairs of leading axes; a scalar operand multiplies."""
    if not a.rank or not b.rank:
        return a * b
    return tensordot(a, b, [-1], [-1])


@aten("aten.linalg_vecdot.default")
def vecdot(a: Value, b: Value, dim: int = -1) -> Value:
    """Scalar products along `dim`; the other axes broadcast."""
    rank = max(a.rank, b.rank)
    if not -rank <= dim < rank:
        raise ShapeError(f"axis {dim} of vecdot does not fit tensors of rank {rank}")
    labels = list(range(rank))
    kept = [axis for axis in labels if axis != dim % rank]
    return contract((a, labels[rank - a.rank :]), (b, labels[rank - b.rank :]), kept)


@aten("aten.tensordot.default")
def tensordot(a: Value, b: Value, dims_a: Sequence[int], dims_b: Sequence[int]) -> Value:
    """The sum of products over pairs of axes; the other axes of `a`, then those of `b` remain."""
    if len(dims_a) != len(dims_b):
        raise ShapeError(f"tensordot pairs {len(dims_a)} axes of {a.name} with {len(dims_b)} of {b.name}")
    left: list[Any] = [("a", axis) for axis in range(a.rank)]
    right: list[Any] = [("b", axis) for axis in range(b.rank)]
    for pair, (p, q) in enumerate(zip(dims_a, dims_b, strict=True)):
        left[p] = right[q] = pair
    output = [label for label in (*left, *right) if isinstance(label, tuple)]
    return contract((a, left), (b, right), output)


@aten("aten.kron.default")
def kron(a: Value, b: Value) -> Value:
    """The Kronecker product; the operand of lower rank gets leading axes of extent 1."""
    rank = max(a.rank, b.rank)
    a, b = (reshape(x, (1,) * (rank - x.rank) + x.shape) for x in (a, b))
    left, right = [(axis, 0) for axis in range(rank)], [(axis, 1) for axis in range(rank)]
    output = [label for pair in zip(left, right, strict=True) for label in pair]
    return reshape(contract((a, left), (b, right), output), [m * n for m, n in zip(a.shape, b.shape, strict=True)])


@aten("aten.linalg_multi_dot.default", "aten.chain_matmul.default")
def multi_dot(tensors: Sequence[Value]) -> Value:
    """The product of a chain of matrices, left to right; the first and the last may be vectors."""
    if not tensors:
        raise ShapeError("the chain of a matrix product is empty")
    total = tensors[0]
    for factor in tensors[1:]:
        total = matmul(total, factor)
    return total


@aten("aten.bilinear.default")
def bilinear(a: Value, b: Value, weight: Value, bias: Value | None = None) -> Value:
    """``y[..., k] = sum_ij a[..., i] * weight[k, i, j] * b[..., j] + bias[k]``."""
    _exact_rank(weight, 3, "bilinear")
    if a.shape[:-1] != b.shape[:-1]:
        raise ShapeError(f"the leading axes of bilinear differ: {a.name} has shape {a.shape}, {b.name} {b.shape}")
    _same_extent(a, -1, weight, 1, "bilinear")
    _same_extent(b, -1, weight, 2, "bilinear")
    rows = tuple(range(a.rank - 1))
    half = contract((a, (*rows, "i")), (weight, "kij"), (*rows, "k", "j"))
    y = contract((half, (*rows, "k", "j")), (b, (*rows, "j")), (*rows, "k"))
    return _add_bias(y, bias)


def _blend(product: Value, addend: Value, beta: float, alpha: float) -> Value:
    """``alpha * product + beta * addend``; a beta of 0 ignores the addend, NaN included. `addend` broadcasts."""

    def body(p: Expr, *c: Expr) -> Expr:
        if not c:
            return p * alpha
        scaled = c[0] if beta == 1 else c[0] * beta
        if alpha == 1:
            return p + scaled if beta == 1 or not p.dtype.is_float else sc.fma(c[0], beta, p)
        return sc.fma(p, alpha, scaled) if p.dtype.is_float else p * alpha + scaled

    y = elementwise(body, product, *((addend,) if beta != 0 else ()))
    if y.shape != product.shape:
        raise ShapeError(f"{addend.name} of shape {addend.shape} does not broadcast to the product's {product.shape}")
    return y


@aten("aten.addmm.default", "aten.addmm_.default")
def addmm(c: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * c + alpha * a @ b`` for matrices."""
    return _blend(mm(a, b), c, beta, alpha)


@aten("aten.baddbmm.default", "aten.baddbmm_.default")
def baddbmm(c: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * c + alpha * a @ b`` for batches of matrices."""
    return _blend(bmm(a, b), c, beta, alpha)


@aten("aten.addbmm.default", "aten.addbmm_.default")
def addbmm(c: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * c + alpha * sum_batch a @ b``."""
    _exact_rank(a, 3, "addbmm")
    _exact_rank(b, 3, "addbmm")
    if a.shape[0] != b.shape[0]:
        raise ShapeError(f"the batches of addbmm differ: {a.name} has shape {a.shape}, {b.name} {b.shape}")
    _same_extent(a, -1, b, -2, "addbmm")
    return _blend(contract((a, "bmk"), (b, "bkn"), "mn"), c, beta, alpha)


@aten("aten.addmv.default", "aten.addmv_.default")
def addmv(c: Value, a: Value, v: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * c + alpha * a @ v`` for a matrix and a vector."""
    return _blend(mv(a, v), c, beta, alpha)


@aten("aten.addr.default", "aten.addr_.default")
def addr(c: Value, a: Value, b: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * c + alpha * outer(a, b)``."""
    return _blend(outer(a, b), c, beta, alpha)


@onnx("MatMul")
def onnx_matmul(call: OnnxCall, a: Value, b: Value) -> Value:
    """ONNX MatMul: `matmul`."""
    return matmul(a, b)


@onnx("Gemm")
def onnx_gemm(call: OnnxCall, a: Value, b: Value, c: Value | None = None) -> Value:
    """ONNX Gemm: ``alpha * A' @ B' + beta * C``; C broadcasts, axes before the last two are a batch."""
    _need_rank(a, 2, "Gemm")
    _need_rank(b, 2, "Gemm")
    product = _product(a, b, bool(call.attribute("transA", 0)), bool(call.attribute("transB", 0)))
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    if c is None:
        return product if alpha == 1 else elementwise(lambda p: p * alpha, product)
    return _blend(product, c, beta, alpha)


def _need_rank(x: Value, rank: int, what: str) -> None:
    if x.rank < rank:
        raise ShapeError(f"{x.name} of shape {x.shape} is an operand of {what}, which needs at least {rank} axes")


def _exact_rank(x: Value, rank: int, what: str) -> None:
    if x.rank != rank:
        raise ShapeError(f"{x.name} of shape {x.shape} is an operand of {what}, which expects {rank} axes here")


def _exact(a: Value, rank_a: int, b: Value, rank_b: int, what: str) -> Value:
    _exact_rank(a, rank_a, what)
    _exact_rank(b, rank_b, what)
    return matmul(a, b)


def _same_extent(a: Value, axis_a: int, b: Value, axis_b: int, what: str) -> None:
    """Sums over pairs of axes do not broadcast."""
    if a.shape[axis_a] != b.shape[axis_b]:
        raise ShapeError(
            f"{what} sums over an axis of extent {a.shape[axis_a]} in {a.name} {a.shape}, "
            f"but of extent {b.shape[axis_b]} in {b.name} {b.shape}"
        )
