"""How operator tests compare TileGrad with PyTorch: forward and every gradient, in float64 and in compiled C.

check(lambda x, w: conv(x, w, ...), lambda x, w: torch.nn.functional.conv2d(x, w), x, w)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import temporary  # noqa: F401  (re-exported for tests that build graphs by hand)
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.training.autodiff import gradients

Array = NDArray[Any]


def draw(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    """Reproducible float64 numbers, distinct, so that maxima have no ties unless a test makes them."""
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, size=shape)


def build(
    function: Callable[..., Any], arrays: Sequence[Array]
) -> tuple[Graph, list[Value], list[Value], list[Value], dict[Value, Value]]:
    """The graph of `function` and of its gradients: graph, operands, results, seeds, gradient of each float operand.

    Float arrays become parameters, others inputs. Every float result gets a seed, and the differentiated quantity is
    the sum of ``result * seed``.
    """
    graph = Graph("test")
    operands = [
        Value(f"x{k}", a.shape, DType.of(a), Kind.PARAMETER if a.dtype.kind == "f" else Kind.INPUT)
        for k, a in enumerate(arrays)
    ]
    with graph.building():
        with graph.scope("op"):
            found = function(*operands)
        results = list(found) if isinstance(found, tuple | list) else [found]
        seeds = [Value(f"seed{k}", r.shape, DType.F32, Kind.INPUT) for k, r in enumerate(results) if r.dtype.is_float]
        floats = [r for r in results if r.dtype.is_float]
        wrt = [v for v in operands if v.dtype.is_float]
        found_gradients: dict[Value, Value] = {}
        if floats:
            from tilegrad.ir.builder import reduce_sum

            total = None
            for r, s in zip(floats, seeds, strict=True):
                part = reduce_sum(r * s)
                total = part if total is None else total + part
            assert total is not None
            one = Value("one", (), DType.F32, Kind.CONSTANT, np.array(1.0, np.float32))
            found_gradients = gradients(graph, total, one, wrt)
    return graph, operands, results, seeds, found_gradients


def check(
    function: Callable[..., Any],
    reference: Callable[..., Any],
    *arrays: Array,
    tolerance: float = 1e-9,
    gradient: bool = True,
) -> None:
    """Compare results and gradients with torch.autograd in float64.

    Args:
        function: on `Value`s.
        reference: on float64 tensors.
        arrays: operands.
        tolerance: allowed error relative to the largest magnitude of each compared array (at least 1).
        gradient: compare gradients too.
    """
    graph, operands, results, seeds, found = build(function, arrays)
    tensors = [torch.tensor(a, requires_grad=a.dtype.kind == "f" and gradient) for a in arrays]
    expected = reference(*tensors)
    expected = list(expected) if isinstance(expected, tuple | list) else [expected]
    feeds: dict[Value, Array] = dict(zip(operands, arrays, strict=True))
    seed_arrays = [np.random.default_rng(77 + k).normal(size=s.shape) for k, s in enumerate(seeds)]
    feeds.update(zip(seeds, seed_arrays, strict=True))
    env = run(graph, feeds, np.float64)
    assert len(results) == len(expected)
    for result, reference_result in zip(results, expected, strict=True):
        wanted = reference_result.detach().numpy(force=True)
        assert result.shape == wanted.shape
        _close(result.data if result.is_constant else env.get(result, feeds.get(result)), wanted, tolerance, "result")
    if not gradient:
        return
    floats = [e for e in expected if e.dtype.is_floating_point]
    total = sum((e * torch.tensor(s)).sum() for e, s in zip(floats, seed_arrays, strict=True))
    if isinstance(total, torch.Tensor) and total.requires_grad:
        total.backward()
    for operand, tensor in zip(operands, tensors, strict=True):
        if tensor.grad is None:
            assert operand not in found or not np.any(env.get(found[operand], 0)), (
                f"{operand.name}: gradient where PyTorch has none"
            )
            continue
        wanted = tensor.grad.numpy(force=True)
        gradient_value = found.get(operand)
        if gradient_value is None:
            got = np.zeros_like(wanted)
        else:
            got = gradient_value.data if gradient_value.is_constant else env[gradient_value]
        _close(got, wanted, tolerance, f"gradient of operand {operand.name}")


def _close(got: Any, wanted: Array, tolerance: float, what: str) -> None:
    finite = np.abs(wanted[np.isfinite(wanted)]) if wanted.dtype.kind == "f" else np.abs(wanted)
    scale = max(1.0, float(finite.max())) if finite.size else 1.0
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale, err_msg=what, equal_nan=True)
