"""What a case of the operator catalogue is, and the data that cases are made of.

Numbers that a case writes down are multiples of 1/8, drawn ones never are: so kinks, ties and bounds can be told from
points around which an operator is smooth (`smooth_points`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.ir.graph import Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators import registry

Array = NDArray[Any]
#: What an operator is called with besides arrays: numbers, words, lists, None.
Argument = Any


@dataclass(frozen=True)
class Known:
    """An array that is known when the program is compiled."""

    array: Array


@dataclass(frozen=True)
class Buffer:
    """An array that is state of the model, such as a running mean."""

    array: Array


@dataclass(frozen=True)
class Case:
    """One call of one operator.

    Attributes:
        operator: its registered name; ONNX operators start with ``onnx.``.
        arguments: the arguments in order; arrays among them, also in lists, are tensors.
        keywords: keyword arguments of an ATen operator.
        call: the node of an ONNX operator.
        comparable: whether PyTorch's operator gives the same numbers; not so for random numbers, positions out of range
            and outputs that only PyTorch's own backward pass reads.
        differentiable: whether the gradient is that of the result; not so where the operator is there to cut it off.
    """

    operator: str
    arguments: tuple[Argument, ...]
    keywords: Mapping[str, Argument] = field(default_factory=dict)
    call: registry.OnnxCall | None = None
    comparable: bool = True
    differentiable: bool = True

    @property
    def function(self) -> registry.Adapter:
        """The registered adapter."""
        name = self.operator.removeprefix("onnx.")
        found = registry.find_aten(name) if self.call is None else registry.find_onnx(name, "")
        assert found is not None, f"{self.operator} is not registered"
        return found

    def operands(self) -> list[Value]:
        """New values for the tensors among the arguments, in their order."""
        return [_value(f"{self.operator}.x{k}", leaf) for k, leaf in enumerate(leaves(self.arguments))]

    def apply(self, operands: Sequence[Value]) -> list[Value]:
        """Call the adapter on values; what it returns, as a list."""
        arguments = rebuild(self.arguments, iter(operands))
        found = (
            self.function(*arguments, **self.keywords) if self.call is None else self.function(self.call, *arguments)
        )
        return list(found) if isinstance(found, tuple | list) else [found]


def _value(name: str, leaf: Array | Known | Buffer) -> Value:
    array = leaf.array if isinstance(leaf, Known | Buffer) else leaf
    dtype = DType.of(array)
    if isinstance(leaf, Known):
        return Value(name, array.shape, dtype, Kind.CONSTANT, np.ascontiguousarray(array.astype(dtype.numpy)))
    kind = Kind.BUFFER if isinstance(leaf, Buffer) else Kind.PARAMETER if dtype.is_float else Kind.INPUT
    return Value(name, array.shape, dtype, kind)


def leaves(arguments: Sequence[Argument]) -> Iterator[Array | Known | Buffer]:
    """The tensors among arguments."""
    for argument in arguments:
        if isinstance(argument, np.ndarray | Known | Buffer):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from leaves(argument)


def rebuild(arguments: Sequence[Argument], tensors: Iterator[Any]) -> list[Any]:
    """The arguments with their tensors replaced, in order."""
    return [
        next(tensors)
        if isinstance(argument, np.ndarray | Known | Buffer)
        else rebuild(argument, tensors)
        if isinstance(argument, list | tuple)
        else argument
        for argument in arguments
    ]


def aten(
    name: str, *arguments: Argument, comparable: bool = True, differentiable: bool = True, **keywords: Argument
) -> Case:
    """A call of ``aten.<name>``."""
    return Case(f"aten.{name}", arguments, keywords, None, comparable, differentiable)


def onnx(
    name: str, *inputs: Argument, opset: int = 22, outputs: int = 1, training: bool = False,
    **attributes: Argument,
) -> Case:  # fmt: skip
    """A node of an ONNX operator."""
    call = registry.OnnxCall(name, "node", opset, attributes, tuple(f"y{k}" for k in range(outputs)), training)
    return Case(f"onnx.{name}", inputs, {}, call)


def f(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    """Drawn numbers that float32 holds exactly."""
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32).astype(np.float64)


def ties(*shape: int, seed: int = 0) -> Array:
    """Few different numbers, so that most maxima are not unique."""
    return np.random.default_rng([seed, *shape]).integers(-2, 3, shape) / 2.0


def put(array: Array, **places: float) -> Array:
    """A copy with numbers at flat positions: ``put(x, _3=nan)``."""
    result = array.copy()
    for place, number in places.items():
        result.flat[int(place.removeprefix("_"))] = number
    return result


def flags(*shape: int, seed: int = 0) -> Array:
    """Drawn bools."""
    return np.random.default_rng([seed, *shape]).integers(0, 2, shape).astype(bool)


def whole(*shape: int, low: int = -9, high: int = 10, seed: int = 0, dtype: type = np.int64) -> Array:
    """Drawn integers, `high` excluded."""
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


def i64(*entries: Any) -> Array:
    """int64 entries, nested lists for several axes."""
    return np.array(entries[0] if len(entries) == 1 and isinstance(entries[0], list) else entries, np.int64)


def i32(*entries: Any) -> Array:
    """int32 entries, nested lists for several axes."""
    return i64(*entries).astype(np.int32)


def smooth_points(array: Array) -> Array:
    """Where an array holds drawn numbers."""
    finite = np.isfinite(array)
    scaled = np.where(finite, array, 0.0) * 8.0
    return finite & (scaled != np.rint(scaled))


nan, inf = float("nan"), float("inf")
#: Kinks and bounds of activations, halves, signed zeros, magnitudes at which naive formulas overflow, NaN, infinities.
SPECIAL = np.array(
    [nan, inf, -inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.25, 0.125, 0.875, 1.5, 2.5, -2.5, 3.0, -3.0, 6.0, -6.0, 20.0,
     -20.0, 88.0, -88.0, -104.0, 100.0, 2.0**100, -(2.0**100)]
)  # fmt: skip
#: Operand of functions of one variable.
UNARY = np.concatenate([f(28, low=-4, high=7), SPECIAL]).reshape(5, 11)
