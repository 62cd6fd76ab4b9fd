"""From a forward graph to the entry points of a training program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Protocol

import numpy as np

from tilegrad.errors import UserError
from tilegrad.ir import expr as sc
from tilegrad.ir.builder import elementwise, full
from tilegrad.ir.expr import read
from tilegrad.ir.graph import Graph, ReshapeOp, Store, StructuredOp, Value, clone
from tilegrad.ir.types import DType, Kind
from tilegrad.training.autodiff import gradients
from tilegrad.training.clipping import clip_gradients
from tilegrad.training.optimizers import Optimizer, StepCounters


class Loss(Protocol):
    """What the assembly needs of a loss; tilegrad.training.losses implements it."""

    def target_spec(self, prediction_shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[DType, ...]]:
        """Shape of the target and the element types it may have, the preferred one first."""
        ...

    def build(self, prediction: Value, target: Value) -> Value:
        """Append the loss to the graph under construction."""
        ...


@dataclass(eq=False)
class TrainingProgram:
    """The entry points of a training program and what they are made of.

    Attributes:
        derived: forward and backward pass of one micro-batch as derived, before any transformation.
        loss: the loss in `derived`.
        gradients: the gradient of every trainable parameter in `derived`, by name.
        entries: the graphs to compile.
        target: the input that holds the target.
        loss_output: the output that holds the loss after a call.
        gradient_buffers: the persistent gradients by parameter name; empty where the update is fused.
        learning_rate: the run-time setting.
        optimizer_state: persistent tensors of the optimizer.
        fused: whether the update is part of the training entry point.
    """

    derived: Graph
    loss: Value
    gradients: dict[str, Value]
    entries: list[Graph]
    target: Value
    loss_output: Value
    learning_rate: Value
    fused: bool
    gradient_buffers: dict[str, Value] = field(default_factory=dict)
    optimizer_state: list[Value] = field(default_factory=list)


def select_trainable(graph: Graph, patterns: str | Sequence[str], frozen: Sequence[str] = ()) -> dict[str, Value]:
    """The parameters that the globs choose, without those that the model itself freezes.

    Args:
        graph: the model.
        patterns: globs over parameter names (fnmatch; ``*`` crosses dots) of what is trained.
        frozen: globs of what is not trained after all.

    Raises:
        UserError: if a glob matches nothing, or nothing is left to train.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    names: dict[str, list[str]] = {name: [name] for name in graph.parameters}
    for alias, name in graph.aliases.items():
        names[name].append(alias)

    def matches(name: str, pattern: str) -> bool:
        return any(fnmatchcase(spelling, pattern) for spelling in names[name])

    for pattern in [*listed, *frozen]:
        if graph.parameters and not any(matches(name, pattern) for name in names):
            raise UserError(
                f"no parameter matches {pattern!r}; the parameters are: {', '.join(graph.parameters) or 'none'}"
            )
    chosen = {
        name: value
        for name, value in graph.parameters.items()
        if any(matches(name, p) for p in listed)
        and not any(matches(name, p) for p in frozen)
        and name not in graph.frozen
    }
    if not chosen:
        raise UserError(
            "nothing is left to train: the model has no parameters, or all of them are frozen (requires_grad=False"
            " counts as frozen)"
        )
    return chosen


def assemble(
    forward: Graph,
    trainable: dict[str, Value],
    loss: Loss,
    optimizer: Optimizer,
    *,
    accumulate: int,
    mean: bool,
    clip_norm: float | None,
    fuse: bool,
) -> TrainingProgram:
    """Append loss and backward pass to `forward` and derive the entry points.

    Args:
        forward: the model; it is extended in place and becomes `TrainingProgram.derived`.
        trainable: the parameters to train, by name.
        loss: the loss.
        optimizer: the optimizer.
        accumulate: micro-batches per optimizer step.
        mean: whether gradients are averaged over the micro-batches (else summed).
        clip_norm: largest global norm of the gradients, or None.
        fuse: update every weight as soon as its gradient is known, where that is possible.

    Raises:
        UserError: if the model does not return exactly one prediction, or a parameter cannot be trained.
    """
    if len(forward.results) != 1:
        raise UserError(
            f"the model returns {len(forward.results)} tensors; to be trained it must return the prediction alone"
        )
    prediction = forward.results[0]
    shape, dtypes = loss.target_spec(prediction.shape)
    target = Value("target", shape, dtypes[0], Kind.INPUT)
    forward.inputs.append(target)
    with forward.building():
        with forward.scope("loss", "forward"):
            loss_value = loss.build(prediction, target)
            scale = 1.0 / accumulate if mean else 1.0
            seed = Value("d.loss", (), DType.F32, Kind.CONSTANT, np.array(scale, np.float32))
        found = gradients(forward, loss_value, seed, list(trainable.values()))
    missing = [name for name, value in trainable.items() if value not in found]
    if missing and len(missing) == len(trainable):
        raise UserError("the loss does not depend on any of the parameters that are to be trained")
    named = {name: found[value] for name, value in trainable.items() if value in found}

    learning_rate = Value("learning_rate", (), DType.F32, Kind.SETTING, np.array(optimizer.lr, np.float32))
    loss_output = Value("loss", (), DType.F32, Kind.OUTPUT)
    train = clone(forward, "train")
    train.stores.append(Store(loss_output, loss_value))
    if train.random_step is not None:
        with train.building(), train.scope("random", "forward"):
            following = elementwise(lambda step: step + sc.constant(1, DType.U32), train.random_step)
        train.stores.append(Store(train.random_step, following))
    fused = fuse and accumulate == 1 and clip_norm is None
    program = TrainingProgram(forward, loss_value, named, [train], target, loss_output, learning_rate, fused)
    if fused:
        train.name = "step"
        _update(train, trainable, named, optimizer, learning_rate, program)
        return program
    for name, gradient in named.items():
        buffer = Value(f"{name}.grad", gradient.shape, DType.F32, Kind.GRADIENT)
        program.gradient_buffers[name] = buffer
        shared = sum(other is gradient for other in named.values()) > 1
        value = gradient if accumulate == 1 else _continue_chain(train, gradient, buffer, shared=shared)
        train.stores.append(Store(buffer, value))
    optimize = Graph("optimize")
    held: dict[str, Value] = dict(program.gradient_buffers)
    if clip_norm is not None:
        with optimize.building(), optimize.scope("clip_norm", "optimizer"):
            names = list(held)
            held = dict(zip(names, clip_gradients([held[name] for name in names], clip_norm), strict=True))
    _update(optimize, trainable, held, optimizer, learning_rate, program)
    if accumulate > 1:
        with optimize.building():
            for name, buffer in program.gradient_buffers.items():
                with optimize.scope(f"{name}.grad", "optimizer"):
                    optimize.stores.append(Store(buffer, full(buffer.shape, 0.0)))
    program.entries.append(optimize)
    return program


def _update(
    graph: Graph, trainable: dict[str, Value], named: dict[str, Value], optimizer: Optimizer, lr: Value,
    program: TrainingProgram,
) -> None:  # fmt: skip
    """Append the optimizer to a graph."""
    with graph.building(), graph.scope("optimizer", "optimizer"):
        counters = StepCounters(optimizer, lr)
        graph.stores.extend(counters.stores)
        for name, gradient in named.items():
            with graph.scope(name, "optimizer"):
                graph.stores.extend(optimizer.build(trainable[name], gradient, lr, counters))
    seen = dict.fromkeys(store.target for store in graph.stores if store.target.kind is Kind.OPTIMIZER)
    program.optimizer_state.extend(seen)


def _continue_chain(graph: Graph, gradient: Value, buffer: Value, *, shared: bool) -> Value:
    """Gradient accumulation: the sum goes on where the last micro-batch ended.

    Where the gradient is one sum that nothing else reads, its chain of additions starts from the buffer; elsewhere,
    and where it is `shared` by several parameters, the finished gradient is added.
    """
    readers = sum(gradient in op.operands for op in graph.ops) + sum(s.value is gradient for s in graph.stores) + shared
    producer = graph.producers().get(gradient)
    if readers == 0 and isinstance(producer, StructuredOp) and producer.init is None and len(producer.nests) == 1:
        nest = producer.nests[0]
        result = nest.results[0]
        if not nest.scatter and len(nest.results) == 1 and result.combiner in ("sum", "dot") and result.start is None:
            output = Value(graph.fresh_name(f"{buffer.name}.next"), gradient.shape, gradient.dtype)
            started = replace(result, outputs=(output,), start=read(buffer, result.index))
            position = graph.ops.index(producer)
            continued = replace(producer, outputs=(output,), nests=(replace(nest, results=(started,)),))
            graph.ops[position] = continued
            return output
    with graph.building(), graph.scope(buffer.name, "backward"):
        return elementwise(lambda held, new: held + new, buffer, gradient)


def unify(graph: Graph, replacements: dict[Value, Value]) -> None:
    """Make a graph read and write the persistent tensors of another one, in place."""
    from tilegrad.ir.graph import replace_nest_values

    def substitute(value: Value) -> Value:
        return replacements.get(value, value)

    for op in graph.ops:
        if isinstance(op, ReshapeOp):
            op.source = substitute(op.source)
        else:
            op.nests = tuple(replace_nest_values(nest, substitute) for nest in op.nests)
    graph.inputs = [substitute(value) for value in graph.inputs]
    graph.results = [substitute(value) for value in graph.results]
    graph.parameters = {name: substitute(value) for name, value in graph.parameters.items()}
    graph.buffers = {name: substitute(value) for name, value in graph.buffers.items()}
    graph.stores = [Store(substitute(store.target), substitute(store.value)) for store in graph.stores]
