"""Derived gradients against float64 central differences of the interpreter's own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from operator_harness import build

from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import Value

Array = NDArray[Any]


def check_differences(
    function: Callable[..., Any], *arrays: Array, step: float = 1e-5, tolerance: float = 1e-7
) -> None:
    """Perturb every element of every float operand and compare the change of the seeded sum with the gradient.

    Args:
        function: on `Value`s, smooth around the operands.
        arrays: operands, float64 or integers.
        step: the perturbation.
        tolerance: allowed error relative to the largest gradient (at least 1).
    """
    graph, operands, results, seeds, gradients = build(function, arrays)
    feeds: dict[Value, Array] = dict(zip(operands, arrays, strict=True))
    feeds.update({s: np.random.default_rng(k).normal(size=s.shape) for k, s in enumerate(seeds)})
    env = run(graph, feeds, np.float64)
    floats = [r for r in results if r.dtype.is_float]

    def objective(operand: Value, array: Array) -> float:
        found = run(graph, feeds | {operand: array}, np.float64)
        return sum(float((found[r] * feeds[s]).sum()) for r, s in zip(floats, seeds, strict=True))

    for operand, array in zip(operands, arrays, strict=True):
        if array.dtype.kind != "f":
            continue
        slope = np.empty_like(array)
        for place in np.ndindex(array.shape):
            moved = [array.copy(), array.copy()]
            moved[0][place] += step
            moved[1][place] -= step
            slope[place] = (objective(operand, moved[0]) - objective(operand, moved[1])) / (2 * step)
        scale = max(1.0, float(np.abs(slope).max()))
        np.testing.assert_allclose(env[gradients[operand]], slope, rtol=0, atol=tolerance * scale)
