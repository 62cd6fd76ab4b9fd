"""The contraction of two tensors over labelled axes: what matrix products, linear layers and einsum have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from tilegrad.errors import ShapeError
from tilegrad.ir.affine import Affine
from tilegrad.ir.builder import Domain
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value

Labels = Sequence[Hashable]


def label_extents(*operands: tuple[Value, Labels]) -> dict[Hashable, int]:
    """The extent of every label, in order of first appearance; an axis of extent 1 broadcasts.

    Raises:
        ShapeError: if a tensor has another number of axes than labels, or two extents of a label do not fit.
    """
    extents: dict[Hashable, int] = {}
    for value, labels in operands:
        if len(labels) != value.rank:
            raise ShapeError(f"{value.name} of shape {value.shape} has {value.rank} axes, expected {len(labels)}")
        for axis, (label, extent) in enumerate(zip(labels, value.shape, strict=True)):
            known = extents.setdefault(label, extent)
            if known == 1:
                extents[label] = extent
            elif extent not in (1, known):
                raise ShapeError(f"axis {axis} of {value.name} has extent {extent}, expected {known} to fit the others")
    return extents


def contract(
    a: tuple[Value, Labels],
    b: tuple[Value, Labels],
    output: Labels,
    restrict: Callable[[Domain, dict[Hashable, Affine]], None] | None = None,
) -> Value:
    """``out[output] = sum a[labels] * b[labels]`` over the labels that `output` leaves out, in order of appearance.

    Equal labels within one operand read a diagonal. One loop nest: the labels of the output are its parallel iterators.

    Args:
        a: a tensor and one label per axis.
        b: another one.
        output: the labels of the result's axes, each one of the operands' and none twice.
        restrict: adds guards, given the domain and the iterator of every label.

    Returns:
        The result; its extents are those of its labels.

    Raises:
        ShapeError: if the extents of a label do not fit, or the element types differ.
    """
    extents = label_extents(a, b)
    inner = [label for label in extents if label not in output]
    d = Domain()
    iterators = dict(zip(output, d.parallel(*(extents[label] for label in output)), strict=True))
    kept = [iterators[label] for label in output]
    iterators.update(zip(inner, d.reduction(*(extents[label] for label in inner)), strict=True))
    if restrict is not None:
        restrict(d, iterators)
    body = _element(a, iterators) * _element(b, iterators)
    return d.sum(body, kept) if inner or d.guards else d.assign(body, kept)


def _element(operand: tuple[Value, Labels], iterators: dict[Hashable, Affine]) -> Expr:
    value, labels = operand
    rows = [Affine() if n == 1 else iterators[label] for label, n in zip(labels, value.shape, strict=True)]
    return value[tuple(rows)]
