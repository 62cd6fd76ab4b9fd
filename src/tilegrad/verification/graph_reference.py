"""The reference run by the NumPy interpreter, for models that have no PyTorch module, and what the interpreter alone
can tell: the scale of every gradient, and whether the derived gradient is the gradient of the loss.
"""  # noqa: D205

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilegrad.errors import UserError
from tilegrad.interpreter.execute import Environment, initial, run
from tilegrad.ir.graph import Graph, Value
from tilegrad.ir.types import Kind
from tilegrad.training.clipping import clip_coefficient
from tilegrad.verification.scale import Scales
from tilegrad.verification.trajectory import Array, Job, Perturbation, Trajectory

Float = type[np.floating[Any]]


@dataclass(frozen=True)
class TrainingGraph:
    """Forward and backward pass of one micro-batch, as derived.

    Attributes:
        graph: its inputs are the data inputs, then the target.
        gradients: the gradient of every trained parameter, by name.
        loss: the loss.
    """

    graph: Graph
    gradients: Mapping[str, Value]
    loss: Value

    def feeds(self, job: Job, number: int) -> dict[Value, Array]:
        """The contents of inputs and random settings in a pass.

        Raises:
            UserError: if a micro-batch does not have as many arrays as the graph has inputs.
        """
        batch = job.batch(number)
        if len(batch) != len(self.graph.inputs):
            raise UserError(f"a batch is {len(self.graph.inputs) - 1} input(s) and the target; got {len(batch)} arrays")
        feeds = dict(zip(self.graph.inputs, batch, strict=True))
        if self.graph.random_seed is not None:
            feeds[self.graph.random_seed] = np.array(job.seed, np.uint32)
        if self.graph.random_step is not None:
            feeds[self.graph.random_step] = np.full(self.graph.random_step.shape, number, np.uint32)
        return feeds


def train_graph(program: TrainingGraph, job: Job, dtype: Float, perturbation: Perturbation | None = None) -> Trajectory:
    """Train by interpreting the training graph; see `tilegrad.verification.reference.train_torch`."""
    return _Trainer(program, job, dtype, perturbation).run()


class _Trainer:
    def __init__(self, program: TrainingGraph, job: Job, dtype: Float, perturbation: Perturbation | None) -> None:
        self.program, self.job, self.dtype, self.perturbation = program, job, dtype, perturbation
        graph = program.graph
        self.parameters = {name: initial(value).astype(dtype) for name, value in graph.parameters.items()}
        self.buffers: dict[Value, Array] = {}
        for value in graph.buffers.values():
            array = initial(value)
            self.buffers[value] = array.astype(dtype) if value.dtype.is_float else array.copy()
        self.optimizer_state: dict[str, dict[str, Array]] = {}
        self.done = Trajectory()

    def run(self) -> Trajectory:
        for step, rate in enumerate(self.job.rates):
            self._step(step, rate)
        self.done.parameters = _float64(self.parameters)
        self.done.buffers = _float64({name: self.buffers[v] for name, v in self.program.graph.buffers.items()})
        return self.done

    def _step(self, step: int, rate: float) -> None:
        total: dict[str, Array] = {}
        for micro in range(self.job.accumulate):
            env = self._pass(step * self.job.accumulate + micro)
            for name, value in self.program.gradients.items():
                total[name] = total[name] + env[value] if name in total else env[value]
        if step == 0:
            self.done.gradients = _float64(total)
        if self.perturbation is not None:
            total = {name: self.perturbation.gradient(name, gradient) for name, gradient in total.items()}
        if self.job.clip_norm is not None:
            factor = clip_coefficient(global_norm(total), self.job.clip_norm)
            total = {name: (gradient * factor).astype(gradient.dtype) for name, gradient in total.items()}
        for name, gradient in total.items():
            before = self.parameters[name]
            after, self.optimizer_state[name] = self.job.optimizer.replay(
                before, gradient, rate, step + 1, self.optimizer_state.get(name, {})
            )
            self.parameters[name] = after.astype(self.dtype)
            self.done.travel[name] = self.done.travel.get(name, 0.0) + np.abs(after - before, dtype=np.float64)
        if step == 0:
            self.done.first = _float64(self.parameters)

    def _pass(self, number: int) -> Environment:
        graph, noise = self.program.graph, self.perturbation
        feeds: dict[Value, Array] = self.program.feeds(self.job, number)
        if noise is not None:
            feeds.update({value: noise.input(feeds[value]) for value in graph.inputs[:-1]})
        for name, value in graph.parameters.items():
            feeds[value] = self.parameters[name] if noise is None else noise.weight(self.parameters[name])
        env = run(graph, feeds | self.buffers, self.dtype)
        self.done.losses.append(float(env[self.program.loss]))
        self.buffers.update({s.target: env[s.value] for s in graph.stores if s.target.kind is Kind.BUFFER})
        return env


def global_norm(gradients: Mapping[str, Array]) -> float:
    """The Euclidean norm of all gradients taken together, in float64."""
    return float(np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients.values())))


def _float64(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: a.astype(np.float64) if a.dtype.kind == "f" else a.copy() for name, a in arrays.items()}


@dataclass(frozen=True)
class GradientScales:
    """What the interpreter in float64 says about the gradients of the first step.

    Attributes:
        gradients: their values.
        magnitudes: the sum of the magnitudes of their terms, over all micro-batches.
        chains: how many additions in a row an element has at most.
        loss: the largest sum of the magnitudes of the terms of a loss.
    """

    gradients: dict[str, Array]
    magnitudes: dict[str, Array]
    chains: dict[str, int]
    loss: float


def gradient_scales(program: TrainingGraph, job: Job) -> GradientScales:
    """Interpret the micro-batches of the first step in float64 and collect the scale of every gradient."""
    found = GradientScales({}, {}, {}, 0.0)
    largest = 0.0
    for number in range(job.accumulate):
        env = run(program.graph, program.feeds(job, number), np.float64)
        scales = Scales(program.graph, env)
        for name, value in program.gradients.items():
            scale = scales.of(value)
            found.gradients[name] = found.gradients.get(name, 0.0) + env[value]
            found.magnitudes[name] = found.magnitudes.get(name, 0.0) + scale.magnitude
            found.chains[name] = found.chains.get(name, 0) + scale.chain
        largest = max(largest, float(scales.of(program.loss).magnitude))
    return GradientScales(found.gradients, found.magnitudes, found.chains, largest)


@dataclass(frozen=True)
class Direction:
    """The derivative of the loss along one random direction of all trained weights.

    Attributes:
        derived: from the gradient of the training graph.
        measured: from central differences of the loss; of several step widths the one that agrees best.
        scale: what the difference is judged by.
    """

    derived: float
    measured: float
    scale: float


def central_differences(
    program: TrainingGraph, job: Job, directions: int = 3, widths: Sequence[float] = (1e-4, 1e-5, 1e-6)
) -> list[Direction]:
    """Measure the gradient of the first micro-batch in float64 without using the derivation.

    A kink between the two points spoils a difference, rounding spoils a narrow one: of several widths one does.
    """
    graph = program.graph
    feeds = program.feeds(job, 0)
    weights = {name: initial(graph.parameters[name]).astype(np.float64) for name in program.gradients}
    env = run(graph, feeds, np.float64)
    factor = 1.0 / job.accumulate if job.mean else 1.0
    random = np.random.default_rng(0)

    def loss_at(direction: Mapping[str, Array], distance: float) -> float:
        moved = {graph.parameters[name]: w + distance * direction[name] for name, w in weights.items()}
        return float(run(graph, feeds | moved, np.float64)[program.loss]) * factor

    found = []
    for _ in range(directions):
        direction = {name: random.standard_normal(w.shape) * _size(w) for name, w in weights.items()}
        parts = [float(np.sum(env[value] * direction[name])) for name, value in program.gradients.items()]
        squares = [float(np.sum(np.square(env[v] * direction[name]))) for name, v in program.gradients.items()]
        measured = [(loss_at(direction, h) - loss_at(direction, -h)) / (2.0 * h) for h in widths]
        derived = sum(parts)
        best = min(measured, key=lambda m: abs(m - derived) if np.isfinite(m) else np.inf)
        found.append(Direction(derived, best, float(np.sqrt(sum(squares)))))
    return found


def _size(weights: Array) -> float:
    """A typical size of the elements, so that a direction moves every tensor in proportion."""
    size = float(np.sqrt(np.mean(np.square(weights)))) if weights.size else 0.0
    return size if size > 0.0 else 1e-2
