"""Clipping agrees with torch.nn.utils.clip_grad_norm_."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tilegrad.errors import UserError
from tilegrad.interpreter.execute import run
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.training.clipping import clip_coefficient, clip_gradients

Array = NDArray[Any]
SHAPES = ((3, 4), (5,), (), (2, 1, 3))


def clip(arrays: list[Array], max_norm: float) -> list[Array]:
    graph = Graph("clip")
    values = [Value(f"g{k}", a.shape, DType.F32, Kind.GRADIENT) for k, a in enumerate(arrays)]
    with graph.building():
        clipped = clip_gradients(values, max_norm)
    env = run(graph, dict(zip(values, arrays, strict=True)), np.float64)
    return [env[value] for value in clipped]


def reference(arrays: list[Array], max_norm: float) -> tuple[list[Array], float]:
    parameters = [torch.nn.Parameter(torch.zeros(a.shape, dtype=torch.float64)) for a in arrays]
    for parameter, array in zip(parameters, arrays, strict=True):
        parameter.grad = torch.tensor(array)
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
    return [np.asarray(p.grad) for p in parameters], norm


@pytest.mark.parametrize("max_norm", [0.5, 2.0, 64.0])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4, 0.0])
def test_gradients_are_clipped_as_torch_does(max_norm: float, scale: float) -> None:
    random = np.random.default_rng(1)
    arrays = [np.asarray(random.normal(size=shape) * scale) for shape in SHAPES]
    expected, norm = reference(arrays, max_norm)
    for ours, theirs, before in zip(clip(arrays, max_norm), expected, arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0)
        np.testing.assert_allclose(before * clip_coefficient(norm, max_norm), theirs, rtol=1e-12, atol=0)


def test_a_norm_just_below_the_limit_is_still_scaled_by_the_offset() -> None:
    """The factor is ``max_norm / (norm + 1e-6)`` clamped to 1, not a comparison of norms."""
    arrays = [np.array([1.0])]
    assert clip(arrays, 1.0)[0][0] == pytest.approx(1.0 / (1.0 + 1e-6), rel=1e-9)
    assert clip(arrays, 1.5)[0][0] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_spreads_as_in_torch(bad: float) -> None:
    arrays = [np.array([1.0, bad]), np.array([2.0])]
    expected, norm = reference(arrays, 1.0)
    for ours, theirs in zip(clip(arrays, 1.0), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert clip_coefficient(norm, 1.0) == pytest.approx(1.0 / (norm + 1e-6), nan_ok=True)


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan, math.inf, 1e40])
def test_limits_that_make_no_sense_are_rejected(max_norm: float) -> None:
    with pytest.raises(UserError, match="norm"):
        clip([np.ones(2)], max_norm)


def test_no_gradients_are_rejected() -> None:
    with pytest.raises(UserError, match="no gradients"):
        clip([], 1.0)
