"""The batches that a command trains on: from the user's file, from the zoo's generators, or random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import UserError

if TYPE_CHECKING:
    from tilegrad.api import Build
    from tilegrad.cli.source import Source

Batches = Sequence[tuple[NDArray[Any], ...]]


@dataclass(frozen=True)
class Samples:
    """Batches to train on.

    Attributes:
        batches: tuples (inputs..., target).
        label: where they come from, one line.
        synthetic: whether a generator made them.
    """

    batches: Batches
    label: str
    synthetic: bool


def make_samples(source: Source, build: Build, loss: str, *, count: int, seed: int, data: str | None) -> Samples:
    """Make the batches of a run.

    Args:
        source: the model.
        build: the compiled program, which knows the shapes.
        loss: ce, mse or bce.
        count: micro-batches that the run needs; a file may hold fewer, they are cycled.
        seed: of what is drawn.
        data: the user's file, or None.

    Raises:
        UserError: the file cannot be used, or nothing can be drawn for this loss.
    """
    if data is not None:
        return _from_file(build, data, count)
    shape = build.training_graph.results[0].shape
    if source.zoo is not None:
        return _from_zoo(source, build, loss, shape, count, seed)
    from tilegrad.data.synthetic import random_batches

    examples = source.example_inputs
    if examples is None:
        examples = tuple(np.zeros(value.shape, value.dtype.numpy) for value in build.inputs)
    arrays = [tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(tensor) for tensor in examples]
    found = random_batches(arrays, shape, loss, count, seed=seed)
    return Samples(found, f"synthetic: random inputs and targets (seed {seed})", True)


def _from_file(build: Build, data: str, count: int) -> Samples:
    from tilegrad.data import batches, load_data

    if len(build.inputs) != 1:
        raise UserError(f"--data gives one array of inputs, x; the model takes {len(build.inputs)}")
    shape = build.inputs[0].shape
    if not shape:
        raise UserError("--data needs a model whose input has a batch axis")
    x, y = load_data(data, samples=shape[-1])
    found = batches(x, y, shape[0])[:count]
    return Samples(found, f"{data}: {len(x)} samples, {len(found)} batches of {shape[0]} used", False)


def _from_zoo(source: Source, build: Build, loss: str, shape: Sequence[int], count: int, seed: int) -> Samples:
    from tilegrad.data import batches
    from tilegrad.models import find_model, synthetic_data

    assert source.zoo is not None
    batch = build.inputs[0].shape[0]
    x, y = synthetic_data(source.zoo, count * batch, seed=seed, **source.options)
    label = find_model(source.zoo).data_summary
    if loss != "ce":
        y = np.eye(shape[1], dtype=np.float32)[y]
        label += ", labels one-hot"
    return Samples(batches(x, y, batch), f"{label} (seed {seed})", True)
