"""Where the truth comes from: PyTorch for modules, the NumPy interpreter for models without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from tilegrad.interpreter.execute import initial
from tilegrad.ir.graph import Graph, Value
from tilegrad.verification.graph_reference import Float, TrainingGraph, train_graph
from tilegrad.verification.replay import Update, first_torch_update, first_update
from tilegrad.verification.trajectory import Array, Job, Perturbation, Trajectory


class BuildLike(Protocol):
    """What verification needs of a build; `tilegrad.Build` provides it."""

    loss: Any
    optimizer: Any
    accumulate: int
    accumulate_mode: str
    bn: str
    clip_norm: float | None
    trainable_names: list[str]
    random_seed: int
    model_aliases: dict[str, str]

    @property
    def training_graph(self) -> Graph:
        """The training graph of one micro-batch as derived."""
        ...

    @property
    def gradient_values(self) -> dict[str, Value]:
        """The gradient of every trained parameter in it."""
        ...

    @property
    def loss_value(self) -> Value:
        """The loss in it."""
        ...

    @property
    def run(self) -> Callable[..., Any]:
        """``run(batches, steps, lr=None)``: losses, gradients, parameters and buffers."""
        ...


@dataclass(frozen=True)
class Source:
    """A reference, in the names of the build.

    Attributes:
        title: what it is, for people.
        float32_title: what runs in float32 beside it.
        parameters: initial weights, float32.
        buffers: initial buffers.
        train: a run in float64 or float32, with noise or without.
        update: ``(rate, "float64" or "float32")`` -> the first step of the optimizer.
        samples: how many perturbed runs it can afford at most.
        independent: whether the derivation of gradients is checked by comparing with it.
    """

    title: str
    float32_title: str
    parameters: dict[str, Array]
    buffers: dict[str, Array]
    train: Callable[[Job, Float, Perturbation | None], Trajectory]
    update: Callable[[float, str], Update]
    samples: int
    independent: bool


def is_module(model: Any) -> bool:
    """Whether a model is a PyTorch module."""
    return hasattr(model, "named_parameters")


def training_graph(build: BuildLike) -> TrainingGraph:
    """The training graph of a build."""
    return TrainingGraph(build.training_graph, build.gradient_values, build.loss_value)


def graph_source(build: BuildLike) -> Source:
    """The interpreter as the reference."""
    program = training_graph(build)
    graph = program.graph
    return Source(
        title="NumPy interpreter, float64",
        float32_title="NumPy float32",
        parameters={name: initial(value).astype(np.float32) for name, value in graph.parameters.items()},
        buffers={name: initial(value) for name, value in graph.buffers.items()},
        train=lambda job, dtype, noise: train_graph(program, job, dtype, noise),
        update=lambda rate, kind: first_update(build.optimizer, rate, build.clip_norm, kind),
        samples=2,
        independent=False,
    )


def torch_source(model: Any, build: BuildLike) -> Source:
    """PyTorch as the reference."""
    import torch

    from tilegrad.verification.reference import train_torch

    graph = build.training_graph
    parameters = _spellings(model.named_parameters, {*graph.parameters, *build.trainable_names}, build.model_aliases)
    buffers = _spellings(model.named_buffers, set(graph.buffers), build.model_aliases)

    def train(job: Job, dtype: Float, noise: Perturbation | None) -> Trajectory:
        ours = {theirs: name for name, theirs in parameters.items()}
        job = replace(job, trainable=frozenset(parameters[name] for name in job.trainable if name in parameters))
        found = train_torch(model, job, dtype, None if noise is None else noise.renamed(ours))
        return Trajectory(
            found.losses,
            _renamed(found.gradients, parameters),
            _renamed(found.first, parameters),
            _renamed(found.parameters, parameters),
            _renamed(found.travel, parameters),
            _renamed(found.buffers, buffers),
        )

    return Source(
        title=f"PyTorch {torch.__version__.split('+')[0]}, float64",
        float32_title="PyTorch float32",
        parameters=_renamed({n: _numpy(p) for n, p in model.named_parameters()}, parameters),
        buffers=_renamed({n: _numpy(b) for n, b in model.named_buffers()}, buffers),
        train=train,
        update=lambda rate, kind: first_torch_update(build.optimizer, rate, build.clip_norm, kind),
        samples=1000,
        independent=True,
    )


def _spellings(named: Callable[..., Any], known: set[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """The build's name of every tensor of a module -> the name that PyTorch lists it under.

    A tensor that the module holds under several names is one tensor; either side may have chosen any of them.
    """
    every: dict[int, list[str]] = {}
    for name, tensor in named(remove_duplicate=False):
        every.setdefault(id(tensor), []).append(name)
    found = {}
    for name, tensor in named():
        spellings = every[id(tensor)]
        candidates = [s for s in (*spellings, *(aliases.get(s, s) for s in spellings)) if s in known]
        found[candidates[0] if candidates else name] = name
    return found


def _renamed(arrays: Mapping[str, Array], names: Mapping[str, str]) -> dict[str, Array]:
    return {name: arrays[theirs] for name, theirs in names.items() if theirs in arrays}


def _numpy(tensor: Any) -> Array:
    array: Array = tensor.detach().cpu().numpy()
    return array.astype(np.float32) if array.dtype.kind == "f" else array.copy()
