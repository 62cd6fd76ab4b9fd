"""A build whose program is interpreted in float32 instead of compiled, and that can be given faults."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tilegrad.errors import UserError
from tilegrad.frontends.torch_export import import_torch
from tilegrad.interpreter.execute import initial, run
from tilegrad.ir.graph import Graph, ReshapeOp, StructuredOp, Value
from tilegrad.training.assemble import TrainingProgram, assemble, select_trainable
from tilegrad.training.losses import CrossEntropy
from tilegrad.training.optimizers import SGD
from tilegrad.verification.reference import freeze_batch_norm
from tilegrad.verification.trajectory import learning_rates, prepare_batches

Array = NDArray[Any]
Arrays = dict[str, Array]


@dataclass
class Run:
    losses: Array
    gradients: Arrays
    parameters: Arrays
    buffers: Arrays
    train_cycles: int | None = None
    opt_cycles: int | None = None


@dataclass
class Faults:
    """What goes wrong: each is given something and returns what the program makes of it.

    Attributes:
        gradients: the accumulated gradients that the optimizer step gets and the run hands out.
        updated: parameters after a step, given those before it and those after it.
        result: the finished run.
        rate: the learning rate.
        forget: names of persistent tensors that are never stored.
    """

    gradients: Callable[[Arrays], Arrays] = lambda arrays: arrays
    updated: Callable[[Arrays, Arrays], Arrays] = lambda before, after: after
    result: Callable[[Run], Run] = lambda result: result
    rate: Callable[[float], float] = lambda rate: rate
    forget: Callable[[str], bool] = lambda name: False


@dataclass
class FakeBuild:
    """What verification needs of a build."""

    program: TrainingProgram
    loss: Any
    optimizer: Any
    accumulate: int
    accumulate_mode: str
    bn: str
    clip_norm: float | None
    trainable_names: list[str]
    random_seed: int
    model_aliases: dict[str, str]
    faults: Faults = field(default_factory=Faults)
    runs: int = 0

    @property
    def training_graph(self) -> Graph:
        return self.program.derived

    @property
    def gradient_values(self) -> dict[str, Value]:
        return self.program.gradients

    @property
    def loss_value(self) -> Value:
        return self.program.loss

    def with_faults(self, **faults: Any) -> FakeBuild:
        return replace(self, faults=Faults(**faults))

    def run(self, batches: Sequence[Any], steps: int, *, lr: Any = None) -> Run:
        self.runs += 1
        graph, program, faults = self.training_graph, self.program, self.faults
        prepared = prepare_batches(batches)
        state: dict[Value, Array] = {}
        losses: list[float] = []
        gradients: Arrays | None = None
        for step, rate in enumerate(learning_rates(lr, self.optimizer.lr, steps)):
            rates = {program.learning_rate: np.float32(faults.rate(rate))}
            for micro in range(self.accumulate):
                batch = prepared[(step * self.accumulate + micro) % len(prepared)]
                self._call(program.entries[0], dict(zip(graph.inputs, batch, strict=True)) | rates, state)
                losses.append(float(state[program.loss_output]))
            before = {name: _contents(state, value) for name, value in graph.parameters.items()}
            if program.fused:
                continue
            held = {name: state[buffer] for name, buffer in program.gradient_buffers.items()}
            held = faults.gradients({name: array.copy() for name, array in held.items()})
            gradients = gradients or {name: array.copy() for name, array in held.items()}
            state.update({program.gradient_buffers[name]: array for name, array in held.items()})
            self._call(program.entries[1], rates, state)
            after = {name: _contents(state, value) for name, value in graph.parameters.items()}
            after = faults.updated(before, {name: array.copy() for name, array in after.items()})
            state.update({graph.parameters[name]: array for name, array in after.items()})
        result = Run(
            np.array(losses, np.float32),
            gradients or {},
            {name: _contents(state, value) for name, value in graph.parameters.items()},
            {name: _contents(state, value) for name, value in graph.buffers.items()},
        )
        if program.fused:
            result = _FusedRun(result.losses, {}, result.parameters, result.buffers)
        return faults.result(result)

    def _call(self, entry: Graph, feeds: dict[Value, Array], state: dict[Value, Array]) -> None:
        env = run(entry, state | feeds, np.float32)
        stored = {store.target: env[store.value] for store in entry.stores}
        state.update({target: array for target, array in stored.items() if not self.faults.forget(target.name)})


class _FusedRun(Run):
    @property  # type: ignore[override]
    def gradients(self) -> Arrays:
        raise UserError("this build fuses the update")

    @gradients.setter
    def gradients(self, value: Arrays) -> None:
        pass


def _contents(state: dict[Value, Array], value: Value) -> Array:
    return np.array(state.get(value, initial(value)))


class Net(nn.Module):
    """Linear, batch norm, ReLU, linear with a skip connection, ReLU, linear."""

    def __init__(self, dropout: float = 0.0, tied: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.middle = nn.Linear(8, 8)
        self.again = self.middle if tied else nn.Linear(8, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.inner(x)))
        x = x + torch.relu(self.middle(x))
        x = self.dropout(torch.relu(self.again(x)))
        logits: torch.Tensor = self.head(x)
        return logits


def make_net(seed: int = 0, **options: Any) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(**options)


def make_batches(count: int = 3, seed: int = 0, size: int = 10) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(size, 6)).astype(np.float32), rng.integers(0, 4, size)) for _ in range(count)]


def make_build(
    model: nn.Module,
    optimizer: Any = None,
    *,
    loss: Any = None,
    inputs: tuple[Array, ...] | None = None,
    trainable: str | list[str] = "*",
    accumulate: int = 1,
    accumulate_mode: str = "mean",
    bn: str = "batch",
    clip_norm: float | None = None,
    seed: int = 3,
    fuse: bool = False,
) -> FakeBuild:
    """The build of a model, interpreted."""
    module = copy.deepcopy(model)
    if bn == "frozen":
        freeze_batch_norm(module)
    graph = import_torch(module, inputs or (make_batches()[0][0],), training=True)
    if graph.random_seed is not None:
        graph.random_seed.data = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    optimizer, loss = optimizer or SGD(lr=0.05), loss or CrossEntropy()
    chosen = select_trainable(graph, trainable)
    program = assemble(
        graph, chosen, loss, optimizer, accumulate=accumulate, mean=accumulate_mode == "mean", clip_norm=clip_norm,
        fuse=fuse,
    )  # fmt: skip
    return FakeBuild(
        program, loss, optimizer, accumulate, accumulate_mode, bn, clip_norm, list(chosen), seed, dict(graph.aliases)
    )


@functools.cache
def standard_build(**options: Any) -> tuple[Net, FakeBuild]:
    """The network and its build, made once; give faults to copies only."""
    net = make_net()
    return net, make_build(net, **options)


def drop_term(graph: Graph, gradient: Value) -> None:
    """Shorten the sum that defines a gradient by its last term."""
    for op in graph.ops:
        if isinstance(op, ReshapeOp) and op.output is gradient:
            return drop_term(graph, op.source)
        if isinstance(op, StructuredOp) and gradient in op.outputs:
            nest = op.nests[0]
            assert len(nest.extents) > nest.parallel
            op.nests = (replace(nest, extents=(*nest.extents[:-1], nest.extents[-1] - 1)),)
            return
    raise AssertionError("no operation defines the gradient")


def change(name: str, function: Callable[[Array], Array]) -> Callable[[Arrays], Arrays]:
    """A fault: one tensor changed."""
    return lambda arrays: arrays | {name: np.asarray(function(arrays[name]), np.float32)}
