"""How frontend tests compare an imported graph with the model it came from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tilegrad.frontends.torch_export import import_torch
from tilegrad.interpreter.execute import Environment, initial, run
from tilegrad.ir.builder import constant, reduce_sum
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType
from tilegrad.training.autodiff import gradients


def evaluate(graph: Graph, arrays: Sequence[NDArray[Any]], dtype: type[np.floating[Any]] = np.float64) -> Environment:
    """Run a graph in the interpreter on these inputs."""
    return run(graph, dict(zip(graph.inputs, arrays, strict=True)), dtype)


def contents(env: Environment, value: Value) -> NDArray[Any]:
    """What a value holds after a run, persistent ones included that nothing reads."""
    return env[value] if value in env else initial(value)


def check_module(
    module: nn.Module, *tensors: torch.Tensor, training: bool = True, tolerance: float = 1e-6
) -> tuple[Graph, Environment]:
    """Import a module, compare results and buffers after one pass with PyTorch in float64.

    The tolerance is that of literals, which the graph holds in float32 also where the interpreter computes in float64.

    Returns:
        The graph and the interpreter's environment.
    """
    graph = import_torch(module, tensors, training=training)
    env = evaluate(graph, [tensor.numpy() for tensor in tensors])
    twin = copy.deepcopy(module).double()
    wide = [tensor.double() if tensor.is_floating_point() else tensor.clone() for tensor in tensors]
    expected = flatten(twin(*wide))
    assert len(graph.results) == len(expected)
    for value, wanted in zip(graph.results, expected, strict=True):
        got = contents(env, value)
        assert got.shape == tuple(wanted.shape)
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=tolerance, atol=tolerance)
    stored = {store.target: store.value for store in graph.stores}
    for name, buffer in twin.named_buffers():
        value = graph.buffers[graph.aliases.get(name, name)]
        got = contents(env, stored.get(value, value))
        np.testing.assert_allclose(got, buffer.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)
    return graph, env


def flatten(results: Any) -> list[torch.Tensor]:
    """The tensors that a module returns, in the order of the graph's results; numbers as tensors, None left out."""
    if results is None:
        return []
    if isinstance(results, torch.Tensor):
        return [results]
    if isinstance(results, bool | int | float):
        return [torch.tensor(results)]
    items = results.values() if isinstance(results, dict) else results
    return [tensor for item in items for tensor in flatten(item)]


def check_gradients(module: nn.Module, *tensors: torch.Tensor, tolerance: float = 1e-6) -> dict[str, NDArray[Any]]:
    """Compare the gradient of the sum of all float results with PyTorch in float64.

    Returns:
        The gradients by parameter name; those that do not exist are left out.
    """
    graph = import_torch(module, tensors, training=True)
    with graph.building():
        sums = [reduce_sum(value) for value in graph.results if value.dtype.is_float]
        total = sums[0]
        for part in sums[1:]:
            total = total + part
        one = constant(1.0, DType.F32)
        found = gradients(graph, total, one, list(graph.parameters.values()))
    env = evaluate(graph, [tensor.numpy() for tensor in tensors])
    twin = copy.deepcopy(module).double()
    wide = [tensor.double() if tensor.is_floating_point() else tensor.clone() for tensor in tensors]
    sum(tensor.sum() for tensor in flatten(twin(*wide)) if tensor.is_floating_point()).backward()  # type: ignore[union-attr]
    got: dict[str, NDArray[Any]] = {}
    for name, parameter in twin.named_parameters():
        value = graph.parameters[name]
        assert (value in found) == (parameter.grad is not None), f"{name}: gradient on one side only"
        if parameter.grad is not None:
            got[name] = contents(env, found[value])
            np.testing.assert_allclose(got[name], parameter.grad.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)
    return got
