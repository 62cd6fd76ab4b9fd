"""Clipping of the global gradient norm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilegrad.errors import UserError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise, reduce_sum
from tilegrad.ir.expr import Expr
from tilegrad.ir.graph import Value

#: What `torch.nn.utils.clip_grad_norm_` adds to the norm before it divides.
NORM_OFFSET = 1e-6


def check_max_norm(max_norm: float) -> None:
    """Check a largest norm.

    Raises:
        UserError: if it is not a positive number that a float32 holds.
    """
    if not 0.0 < max_norm <= float(np.finfo(np.float32).max):
        raise UserError(f"the largest gradient norm is {max_norm}, expected a positive finite number")


def global_norm(gradients: Sequence[Value]) -> Value:
    """The Euclidean norm of all gradients taken together, f32 scalar.

    The squares are added tensor by tensor, then the tensors in the order given.
    """
    squares = [reduce_sum(gradient, body=lambda g: g * g) for gradient in gradients]

    def root(*terms: Expr) -> Expr:
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return sc.sqrt(total)

    return elementwise(root, *squares)


def clip_gradients(gradients: Sequence[Value], max_norm: float) -> list[Value]:
    """Scale gradients so that their global norm is at most `max_norm`, as ``torch.nn.utils.clip_grad_norm_``.

    The factor is ``min(max_norm / (norm + 1e-6), 1)`` with the Euclidean norm; NaN makes every gradient NaN.

    Args:
        gradients: f32 tensors of any shapes.
        max_norm: the largest norm.

    Returns:
        The scaled gradients, in order.

    Raises:
        UserError: if there are no gradients, or `max_norm` is not a positive finite number.
    """
    check_max_norm(max_norm)
    if not gradients:
        raise UserError("there are no gradients to clip")
    norm = global_norm(gradients)
    factor = elementwise(lambda n: sc.minimum(sc.constant(max_norm, n.dtype) / (n + NORM_OFFSET), 1.0), norm)
    return [elementwise(lambda g, c: g * c, gradient, factor) for gradient in gradients]


def clip_coefficient(norm: float, max_norm: float) -> float:
    """The factor for a norm, in float64: the reference of `clip_gradients`."""
    factor = max_norm / (norm + NORM_OFFSET)
    return factor if math.isnan(factor) else min(factor, 1.0)
