"""Standardisation over some axes with a scale and a shift that broadcast: what all normalisation layers share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilegrad.errors import ShapeError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise, reduce_sum, reshape, with_gradient
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value


@dataclass(frozen=True)
class Standardised:
    """The result of `standardise`; statistics keep the reduced axes with extent 1.

    Attributes:
        output: the normalised tensor, of the input's shape.
        mean: arithmetic mean; None where the input is not centred.
        square: mean square of the (centred) input: the biased variance.
        rstd: ``1 / sqrt(square + eps)``.
        count: number of elements behind one statistic.
    """

    output: Value
    mean: Value | None
    square: Value
    rstd: Value
    count: int


def standardise(
    x: Value, axes: Sequence[int], eps: float, scale: Value | None, shift: Value | None, *, centred: bool = True
) -> Standardised:
    """``(x - mean) / sqrt(variance + eps) * scale + shift`` with the statistics of `x` over `axes`.

    Args:
        x: any float tensor.
        axes: the axes that the mean and the biased variance are taken over, sorted.
        eps: added to the variance.
        scale: broadcasts to the shape of `x`; None is 1.
        shift: broadcasts to the shape of `x`; None is 0.
        centred: False leaves the mean in (RMS normalisation).

    Raises:
        ShapeError: if there is nothing to take the statistics of.
    """
    count = math.prod(x.shape[axis] for axis in axes)
    if count == 0:
        raise ShapeError(f"{x.name} of shape {x.shape} has no elements to normalise over axes {tuple(axes)}")
    mean = reduce_sum(x, axes, True) / float(count) if centred else None
    means = () if mean is None else (mean,)
    # Two passes: the variance of the deviations has no cancellation, whatever the mean.
    square = reduce_sum(x, axes, True, lambda v, *m: _centre(v, *m) * _centre(v, *m), *means) / float(count)
    rstd = elementwise(lambda v: 1.0 / sc.sqrt(v + eps), square)
    output = _apply(x, means, rstd, scale, shift, axes)
    gradient = _Gradient(x, tuple(axes), count, means, rstd, scale, shift)
    inputs = (x, *(v for v in (scale, shift) if v is not None))
    # Derived, the gradient goes through mean and variance in five reductions and some 37 operations an element; the
    # closed form (Ioffe and Szegedy, 2015) takes two reductions and three operations.
    with_gradient(inputs, (output,), gradient)
    return Standardised(output, mean, square, rstd, count)


def _centre(v: Expr, *mean: Expr) -> Expr:
    return v - mean[0] if mean else v


def _free_axes(value: Value | None, rank: int) -> tuple[int, ...]:
    """The axes of a tensor of `rank` axes along which `value` is repeated (or has nothing to repeat)."""
    if value is None:
        return tuple(range(rank))
    missing = rank - value.rank
    return tuple(axis for axis in range(rank) if axis < missing or value.shape[axis - missing] == 1)


def _sum(axes: Sequence[int], body: Callable[..., Expr], value: Value, *others: Value) -> Value:
    """The sum of ``body`` over `axes`, which stay with extent 1; over no axes, the terms themselves."""
    if not axes:
        return elementwise(body, value, *others)
    return reduce_sum(value, axes, True, body, *others)


def _apply(
    x: Value, means: Sequence[Value], rstd: Value, scale: Value | None, shift: Value | None, axes: Sequence[int]
) -> Value:
    """The normalised tensor: one fused multiply-add an element wherever scale * rstd is a smaller tensor than x."""
    offsets = () if shift is None else (shift,)
    if scale is not None and not set(axes) & set(_free_axes(scale, x.rank)):

        def each(v: Expr, r: Expr, s: Expr, *rest: Expr) -> Expr:
            normal = _centre(v, *rest[: len(means)]) * r
            return sc.fma(normal, s, rest[len(means)]) if offsets else normal * s

        return elementwise(each, x, rstd, scale, *means, *offsets)
    factor = rstd if scale is None else rstd * scale

    def fused(v: Expr, f: Expr, *rest: Expr) -> Expr:
        centred = _centre(v, *rest[: len(means)])
        return sc.fma(centred, f, rest[len(means)]) if offsets else centred * f

    return elementwise(fused, x, factor, *means, *offsets)


@dataclass(frozen=True)
class _Gradient:
    """The closed-form gradient of `standardise`: of the input, then of scale and shift where there are any.

    With xhat = (x - mean) * rstd and means over the normalised axes:
    dx = rstd * (dy * scale - mean(dy * scale) - xhat * mean(dy * scale * xhat)),
    dscale = sum dy * xhat and dshift = sum dy over the axes along which they are repeated.
    """

    x: Value
    axes: tuple[int, ...]
    count: int
    means: tuple[Value, ...]
    rstd: Value
    scale: Value | None
    shift: Value | None

    def __call__(self, dy: Value | None) -> tuple[Value, ...]:
        assert dy is not None  # the rule has one output
        common = tuple(axis for axis in self.axes if axis in _free_axes(self.scale, self.x.rank))
        dx, d_scale = self._repeated(dy, common) if common else self._full(dy)
        found = [dx]
        if self.scale is not None:
            assert d_scale is not None
            found.append(reshape(d_scale, self.scale.shape))
        if self.shift is not None:
            d_shift = _sum(_free_axes(self.shift, self.x.rank), lambda g: g, dy)
            found.append(reshape(d_shift, self.shift.shape))
        return tuple(found)

    def _repeated(self, dy: Value, common: tuple[int, ...]) -> tuple[Value, Value | None]:
        """Scale is repeated along `common` axes: two passes over the elements, then sums of small tensors."""
        x, rstd, scale, means = self.x, self.rstd, self.scale, self.means
        sums = _sum(common, lambda g: g, dy)
        products = _sum(common, lambda g, v, *m: g * _centre(v, *m), dy, x, *means)
        rest = tuple(axis for axis in self.axes if axis not in common)
        d_scale, factor, row, row_products = None, rstd, sums, products
        if scale is not None:
            free = tuple(axis for axis in _free_axes(scale, x.rank) if axis not in common)
            d_scale = _sum(free, lambda p, r: p * r, products, rstd)
            factor = rstd * scale
            row = _sum(rest, lambda s, w: s * w, sums, scale)
            row_products = _sum(rest, lambda p, w: p * w, products, scale)
        slope = self._slope(row_products, cubed=True)
        if not means:
            return elementwise(lambda g, v, f, k: sc.fma(v, k, f * g), dy, x, factor, slope), d_scale
        level = elementwise(lambda r, s: -(r * s / float(self.count)), rstd, row)
        dx = elementwise(
            lambda g, v, f, k, b, m: sc.fma(f, g, sc.fma(v - m, k, b)), dy, x, factor, slope, level, means[0]
        )
        return dx, d_scale

    def _full(self, dy: Value) -> tuple[Value, Value | None]:
        """Scale varies along every normalised axis (layer normalisation)."""
        x, rstd, scale, means = self.x, self.rstd, self.scale, self.means
        assert scale is not None
        free = _free_axes(scale, x.rank)
        d_scale = _sum(free, lambda g, v, r, *m: g * (_centre(v, *m) * r), dy, x, rstd, *means)
        products = _sum(self.axes, lambda g, v, w, *m: g * w * _centre(v, *m), dy, x, scale, *means)
        slope = self._slope(products, cubed=False)
        if not means:
            return elementwise(lambda g, v, w, r, k: sc.fma(v, k, g * w) * r, dy, x, scale, rstd, slope), d_scale
        row = _sum(self.axes, lambda g, w: g * w, dy, scale)
        level = elementwise(lambda s: -(s / float(self.count)), row)
        dx = elementwise(
            lambda g, v, w, r, k, b, m: sc.fma(v - m, k, sc.fma(g, w, b)) * r,
            dy, x, scale, rstd, slope, level, means[0],
        )  # fmt: skip
        return dx, d_scale

    def _slope(self, products: Value, *, cubed: bool) -> Value:
        def body(p: Expr, r: Expr) -> Expr:
            square = r * r * r if cubed else r * r
            return -(p * square / float(self.count))

        return elementwise(body, products, self.rstd)


def needs_channels(x: Value, operator: str, rank: int = 2) -> None:
    """Raise ShapeError unless `x` is a float tensor of at least `rank` axes."""
    if x.rank < rank or not x.dtype.is_float:
        raise ShapeError(
            f"{operator} needs a float tensor of at least {rank} axes, not {x.name}: {x.dtype.value}{x.shape}"
        )
