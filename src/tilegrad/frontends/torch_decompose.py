"""PyTorch's own composition of an operator that is not registered (for such a call), from operators that may be.

Only the one call is exported and decomposed; the rest of the model keeps its operators as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch._ops import OpOverload
from torch.export.graph_signature import InputKind, OutputKind

from tilegrad.frontends.torch_types import stored_array
from tilegrad.operators.registry import UnsupportedCall, find_aten


@dataclass(frozen=True)
class Decomposition:
    """One call as a program of its own.

    Attributes:
        module: the program.
        inputs: its placeholders for the call's tensors, in their order.
        constants: contents of its other placeholders.
        several: whether the call returns a tuple.
    """

    module: fx.GraphModule
    inputs: list[str]
    constants: dict[str, NDArray[Any]]
    several: bool


class _Call(nn.Module):
    """A module that makes one call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.call(*tensors)


def call_key(target: OpOverload, args: Any, kwargs: Any, operands: Sequence[fx.Node]) -> str:
    """A text that is equal for calls with equal decompositions."""
    known = {node: f"tensor{k}" for k, node in enumerate(operands)}
    kinds = [(tuple(node.meta["val"].shape), str(node.meta["val"].dtype)) for node in operands]
    return f"{target} {_fill(args, known)!r} {_fill(kwargs, known)!r} {kinds}"


def decompose(target: OpOverload, args: Any, kwargs: Any, operands: Sequence[fx.Node]) -> Decomposition | None:
    """Decompose a call until only registered operators are left, as far as PyTorch can.

    Args:
        target: the operator.
        args: its arguments, with nodes in place of tensors.
        kwargs: its keyword arguments, likewise.
        operands: those nodes.

    Returns:
        The program, or None where PyTorch has no composition of the operator.

    Raises:
        UnsupportedCall: if PyTorch fails to decompose this call.
    """

    def call(*tensors: torch.Tensor) -> Any:
        known: dict[fx.Node, Any] = dict(zip(operands, tensors, strict=True))
        return target(*_fill(args, known), **_fill(kwargs, known))

    values = [node.meta["val"] for node in operands]
    tensors = tuple(torch.zeros(tuple(value.shape), dtype=value.dtype) for value in values)
    table = {op: rule for op, rule in _table().items() if op is target or find_aten(str(op)) is None}
    if target not in table:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(_Call(call), tensors, strict=False)
            program = exported.run_decompositions(table)
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnsupportedCall(f"PyTorch cannot decompose it: {first}") from error
    inputs, constants = [], {}
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(name)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants[name] = stored_array(f"a constant of {target}", program.constants[str(spec.target)])
        else:
            return None  # tokens of effects such as assertions
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs):
        return None
    return Decomposition(program.graph_module, inputs, constants, len(target._schema.returns) != 1)


@cache
def _table() -> dict[Any, Callable[..., Any]]:
    table: Mapping[Any, Callable[..., Any]] = torch.export.default_decompositions()
    return dict(table.items())


def _fill(arg: Any, known: dict[fx.Node, Any]) -> Any:
    if isinstance(arg, fx.Node):
        return known[arg] if arg in known else arg.meta["val"]
    if isinstance(arg, list | tuple):
        return [_fill(item, known) for item in arg]
    if isinstance(arg, dict):
        return {key: _fill(item, known) for key, item in arg.items()}
    return arg
