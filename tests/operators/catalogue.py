"""Cases for every registered operator, and graphs that hold many of them with their gradients."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.operators import cases_elementwise, cases_network, cases_onnx, cases_tensors
from tests.operators.case import Buffer, Case, Known, leaves

from tilegrad.interpreter.execute import run
from tilegrad.ir.builder import reduce_sum
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import DType, Kind
from tilegrad.operators import registry
from tilegrad.training.autodiff import gradients

Array = NDArray[Any]

#: Families of operators, named by the modules that define them, that are compiled together.
GROUPS: dict[str, tuple[str, ...]] = {
    "activations": ("activation",),
    "functions": ("functions",),
    "arithmetic": ("arithmetic",),
    "choices": ("selection", "conversion", "creation"),
    "reductions": ("reduction", "extrema", "softmax"),
    "moves": ("shape", "slicing", "padding", "resize"),
    "lookups": ("gather", "scatter", "dropout"),
    "layers": ("conv", "pool", "adaptive_pool", "linear", "einsum"),
    "statistics": ("norm", "batch_norm", "loss", "pointwise_loss"),
    "sequences": ("attention", "recurrent"),
}


def registered() -> dict[str, registry.Adapter]:
    """Every registered function once, under the first of its names; those of ONNX start with ``onnx.``."""
    named = [(name, registry.find_aten(name)) for name in registry.aten_names()]
    named += [
        (f"onnx.{name}", registry.find_onnx(*reversed(name.rpartition("::")[::2]))) for name in registry.onnx_names()
    ]
    first: dict[int, tuple[str, registry.Adapter]] = {}
    for name, function in named:
        assert function is not None
        first.setdefault(id(function), (name, function))
    return dict(first.values())


def uncovered(cases: Iterable[Case]) -> list[str]:
    """The registered names whose function no case calls."""
    covered = {id(case.function) for case in cases}
    return [name for name, function in registered().items() if id(function) not in covered]


def _in_place(cases: Sequence[Case]) -> list[Case]:
    """For in-place overloads without a case: the first call of the plain overload whose result fits in place."""
    found = []
    for name in uncovered(cases):
        plain = plain_name(name)
        if plain is not None:
            fitting = (case for case in cases if case.operator == plain and _fits_in_place(case))
            found += [replace(case, operator=name) for case, _ in zip(fitting, range(1), strict=False)]
    return found


def plain_name(name: str) -> str | None:
    """The overload that an in-place one does the work of: ``aten.add_.Tensor`` is ``aten.add.Tensor``."""
    domain, operator, overload = [*name.split("."), ""][:3]
    if domain != "aten" or not operator.endswith("_") or operator.startswith("_"):
        return None
    renamed = {"aten.pow.Tensor": "aten.pow.Tensor_Tensor", "aten.pow.Scalar": "aten.pow.Tensor_Scalar"}
    plain = f"aten.{operator[:-1]}.{overload}"
    return renamed.get(plain, plain)


def _fits_in_place(case: Case) -> bool:
    """True where the result has shape and type of the first argument."""
    if not isinstance(case.arguments[0], np.ndarray):
        return False
    graph, operands = Graph("shape"), case.operands()
    with graph.building(), graph.scope(case.operator):
        result = case.apply(operands)[0]
    return (result.shape, result.dtype) == (operands[0].shape, operands[0].dtype)


@functools.cache
def catalogue() -> tuple[Case, ...]:
    """All cases."""
    written = [*cases_elementwise.CASES, *cases_tensors.CASES, *cases_network.CASES, *cases_onnx.CASES]
    return (*written, *_in_place(written))


def family(case: Case) -> str:
    """The module that defines the operator; for an in-place overload, the one that defines the plain overload."""
    function = registry.find_aten(plain_name(case.operator) or "") or case.function
    module: str = getattr(function, "func", function).__module__
    return module.rpartition(".")[2]


@dataclass(frozen=True)
class Part:
    """One case inside a graph.

    Attributes:
        case: the case.
        name: the operator and the number of the case.
        family: its family of operators.
        operands: its tensors.
        outputs: everything it computes, by description: results, gradients, new contents of buffers.
        results: what the operator returns.
        seeds: for every float result, the input that its gradient is.
        gradients: the gradients of the float operands that have one.
    """

    case: Case
    name: str
    family: str
    operands: list[Value]
    outputs: dict[str, Value]
    results: list[Value]
    seeds: dict[Value, Value]
    gradients: dict[Value, Value]


@dataclass(frozen=True)
class Bundle:
    """Many cases in one graph, with the contents of all inputs.

    Attributes:
        graph: forward and backward passes one after the other.
        parts: the cases.
        feeds: contents of inputs, parameters, buffers and settings.
    """

    graph: Graph
    parts: list[Part]
    feeds: Mapping[Value, Array]

    @property
    def outputs(self) -> list[Value]:
        """Everything that is computed."""
        return [value for part in self.parts for value in part.outputs.values()]

    def interpret(self, changed: Mapping[Value, Array] | None = None) -> dict[Value, Array]:
        """The contents of all tensors in float64, with the contents of some inputs changed."""
        feeds = {**self.feeds, **(changed or {})}
        env = {**feeds, **run(self.graph, feeds, np.float64)}
        constants = [v for part in self.parts for v in part.outputs.values() if v.is_constant]
        return env | {value: value.data for value in constants if value.data is not None}


@functools.cache
def bundle(group: str) -> Bundle:
    """The cases of one of `GROUPS`."""
    graph, parts, feeds = Graph("test"), [], {}
    for case in catalogue():
        if family(case) in GROUPS[group]:
            part = _add(graph, case, len(parts))
            parts.append(part)
            feeds.update(_contents(part))
    for setting, words in ((graph.random_seed, (0x2545F491, 0x9E3779B9)), (graph.random_step, (3,))):
        if setting is not None:
            feeds[setting] = np.array(words, np.uint32)
    return Bundle(graph, parts, feeds)


def _add(graph: Graph, case: Case, position: int) -> Part:
    operands = case.operands()
    before = len(graph.stores)
    with graph.building(), graph.scope(case.operator, "forward"):
        results = case.apply(operands)
        floats = [r for r in dict.fromkeys(results) if r.dtype.is_float and r.size and not r.is_constant]
        seeds = {r: Value(f"seed{position}.{k}", r.shape, DType.F32, Kind.INPUT) for k, r in enumerate(floats)}
        found = _derive(graph, seeds, [v for v in operands if v.kind is Kind.PARAMETER])
    outputs = {f"result {k}": r for k, r in enumerate(results) if r.size}
    outputs |= {f"gradient of {v.name}": g for v, g in found.items()}
    outputs |= {f"new {store.target.name}": store.value for store in graph.stores[before:]}
    return Part(case, f"{case.operator} (case {position})", family(case), operands, outputs, results, seeds, found)


def _derive(graph: Graph, seeds: Mapping[Value, Value], wanted: list[Value]) -> dict[Value, Value]:
    """The gradients of the sum of ``result * seed``."""
    if not seeds or not wanted:
        return {}
    if len(seeds) == 1:
        ((result, seed),) = seeds.items()
        return gradients(graph, result, seed, wanted)
    total: Value | None = None
    for result, seed in seeds.items():
        term = reduce_sum(result * seed)
        total = term if total is None else total + term
    assert total is not None
    one = Value("one", (), DType.F32, Kind.CONSTANT, np.array(1.0, np.float32))
    return gradients(graph, total, one, wanted)


def _contents(part: Part) -> dict[Value, Array]:
    feeds: dict[Value, Array] = {}
    for value, leaf in zip(part.operands, leaves(part.case.arguments), strict=True):
        if not isinstance(leaf, Known):
            feeds[value] = leaf.array if isinstance(leaf, Buffer) else leaf
    for k, seed in enumerate(part.seeds.values()):
        feeds[seed] = np.random.default_rng([77, k]).normal(size=seed.shape).astype(np.float32).astype(np.float64)
    return feeds
