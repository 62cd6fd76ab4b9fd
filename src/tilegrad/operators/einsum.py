"""Einstein summation: any equation over one or more operands, contracted pair by pair from left to right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from tilegrad.errors import ShapeError
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain
from tilegrad.ir.graph import Value
from tilegrad.operators.contraction import contract, label_extents
from tilegrad.operators.registry import OnnxCall, aten, onnx

#: A label: a letter of the equation, or the position from the right of an axis that an ellipsis stands for.
Label = str | int


@aten("aten.einsum.default")
def einsum(equation: str, tensors: Sequence[Value], *, path: Sequence[int] | None = None) -> Value:
    """Sum of products by an equation such as ``"bij,bjk->bik"``.

    Ellipses broadcast, repeated letters of one operand read a diagonal, and without ``->`` the letters that occur once
    remain, in alphabetical order behind the axes of the ellipsis. Several operands are contracted left to right: `path`
    only advises on the order, and the order of a sum is fixed here.

    Raises:
        ShapeError: if the equation is malformed or does not fit the operands.
    """
    operands, output = _parse(equation, tensors)
    _diagonals_agree(operands)
    label_extents(*operands)
    total, labels = operands[0]
    for position, (factor, factor_labels) in enumerate(operands[1:], start=1):
        later: set[Hashable] = {label for _, others in operands[position + 1 :] for label in others}
        wanted = later | set(output)
        # What only one of the two holds and nobody reads later is summed before the product.
        left = _sum_alone((total, labels), wanted | set(factor_labels))
        right = _sum_alone((factor, factor_labels), wanted | set(left[1]))
        last = position == len(operands) - 1
        present = dict.fromkeys((*left[1], *right[1]))
        labels = list(output) if last else [label for label in present if label in wanted]
        total = contract(left, right, labels)
    return total if len(operands) > 1 else _rearrange((total, labels), output)


@aten("aten.trace.default")
def trace(x: Value) -> Value:
    """The sum of the diagonal of a matrix, which need not be square."""
    if x.rank != 2:
        raise ShapeError(f"trace of {x.name} of shape {x.shape}: expected a matrix")
    d = Domain()
    (i,) = d.reduction(min(x.shape))
    return d.sum(x[i, i], ())


@onnx("Einsum")
def onnx_einsum(call: OnnxCall, *tensors: Value) -> Value:
    """ONNX Einsum: `einsum`."""
    equation = call.required("equation")
    return einsum(equation.decode() if isinstance(equation, bytes) else equation, tensors)


Operand = tuple[Value, list[Label]]


def _parse(equation: str, tensors: Sequence[Value]) -> tuple[list[Operand], list[Label]]:
    text = equation.replace(" ", "")
    inputs, arrow, right = text.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(tensors):
        raise ShapeError(f"the equation {equation!r} has {len(terms)} operand(s), but {len(tensors)} are given")
    operands = [(value, _labels(term, value.rank, equation)) for term, value in zip(terms, tensors, strict=True)]
    counts = Counter(label for _, labels in operands for label in labels)
    covered: list[Label] = sorted((label for label in counts if isinstance(label, int)), reverse=True)
    if not arrow:
        letters: list[str] = sorted(x for x, n in counts.items() if isinstance(x, str) and n == 1)
        return operands, [*covered, *letters]
    hidden = len(covered) if "..." in right else 0
    output = _labels(right, len(right.replace("...", "")) + hidden, equation)
    if len(set(output)) != len(output) or any(label not in counts for label in output):
        raise ShapeError(f"the result of the equation {equation!r} repeats a letter or has one that no operand has")
    return operands, output


def _labels(term: str, rank: int, equation: str) -> list[Label]:
    """One label per axis; the axes of an ellipsis are counted from the right, as broadcasting does."""
    before, ellipsis, after = term.partition("...")
    letters = before + after
    hidden = rank - len(letters)
    if not all(x.isascii() and x.isalpha() for x in letters) or hidden < 0 or (hidden and not ellipsis):
        raise ShapeError(
            f"{term!r} in the equation {equation!r} does not describe a tensor of rank {rank}: "
            "expected one letter per axis, with '...' at most once for the axes without"
        )
    return [*before, *range(hidden, 0, -1), *after]


def _diagonals_agree(operands: Sequence[Operand]) -> None:
    for value, labels in operands:
        extents: dict[Label, int] = {}
        for label, extent in zip(labels, value.shape, strict=True):
            if extents.setdefault(label, extent) != extent:
                raise ShapeError(
                    f"{value.name} of shape {value.shape} has no diagonal for the repeated letter {label!r}"
                )


def _sum_alone(operand: Operand, wanted: set[Any]) -> Operand:
    """The operand summed over the labels that nothing else wants."""
    labels = operand[1]
    kept = [label for label in dict.fromkeys(labels) if label in wanted]
    if len(kept) == len(set(labels)):
        return operand
    return _rearrange(operand, kept), kept


def _rearrange(operand: Operand, output: Sequence[Label]) -> Value:
    """Transpose, read diagonals and sum over the labels that `output` leaves out."""
    value, labels = operand
    if labels == list(output):
        return value
    extents = label_extents(operand)
    inner = [label for label in extents if label not in output]
    d = Domain()
    iterators: dict[Hashable, Affine] = dict(zip(output, d.parallel(*(extents[x] for x in output)), strict=True))
    kept = [iterators[label] for label in output]
    iterators.update(zip(inner, d.reduction(*(extents[x] for x in inner)), strict=True))
    body = value[tuple(iterators[label] for label in labels)]
    return d.sum(body, kept) if inner else d.assign(body, kept)
