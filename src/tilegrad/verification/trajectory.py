"""What a reference run of training is asked for, and what it yields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilegrad.errors import UserError

Array = NDArray[Any]
Batches = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Job:
    """The training that a reference repeats.

    Attributes:
        batches: micro-batches ``(inputs..., target)``, cycled; float arrays in float32, as the program sees them.
        rates: learning rate of every optimizer step.
        accumulate: micro-batches per step.
        mean: whether gradients are averaged over the micro-batches, else summed.
        loss: has ``reference(prediction, target)``.
        optimizer: has ``reference(parameters)`` and ``replay``.
        clip_norm: largest global gradient norm, or None.
        frozen_bn: whether batch normalisation uses its running statistics.
        trainable: names of the trained parameters.
        seed: key of the random numbers, two u32 words.
    """

    batches: tuple[tuple[Array, ...], ...]
    rates: tuple[float, ...]
    accumulate: int
    mean: bool
    loss: Any
    optimizer: Any
    clip_norm: float | None
    frozen_bn: bool
    trainable: frozenset[str]
    seed: tuple[int, int]

    def batch(self, passes: int) -> tuple[Array, ...]:
        """The micro-batch of a pass, counted from 0."""
        return self.batches[passes % len(self.batches)]


@dataclass
class Trajectory:
    """What one run of training went through, in float64 arrays.

    Attributes:
        losses: one per micro-batch.
        gradients: those of the first step, before clipping; a parameter that the loss does not depend on is absent.
        first: parameters after the first step.
        parameters: parameters after the last step.
        travel: sum over the steps of the magnitude of every update.
        buffers: buffers after the last step.
    """

    losses: list[float] = field(default_factory=list)
    gradients: dict[str, Array] = field(default_factory=dict)
    first: dict[str, Array] = field(default_factory=dict)
    parameters: dict[str, Array] = field(default_factory=dict)
    travel: dict[str, Array] = field(default_factory=dict)
    buffers: dict[str, Array] = field(default_factory=dict)


class Perturbation:
    """Noise of the size of float32 rounding, put into a float64 run to learn how much of it each result shows.

    Inputs and weights are scaled element by element and inputs shifted a little as a whole before every pass; the
    gradients that the optimizer sees take noise on the scale of the terms they are sums of. So a rounding error that
    moves an activation over a kink, or that an optimizer blows up to a full step, happens here too.

    Args:
        relative: size of the noise.
        seed: which noise.
        scales: the sum of the magnitudes of the terms of every gradient, by parameter name.
    """

    def __init__(self, relative: float, seed: int, scales: Mapping[str, Array]) -> None:
        self.relative, self.scales, self._seed = relative, scales, seed
        self._random = np.random.default_rng(seed)

    def renamed(self, names: Mapping[str, str]) -> Perturbation:
        """The same noise for a model that calls its parameters otherwise: names there -> names here."""
        there = {other: self.scales[name] for other, name in names.items() if name in self.scales}
        return Perturbation(self.relative, self._seed, there)

    def weight(self, array: Array) -> Array:
        """A tensor with every element changed relatively."""
        return np.asarray(array * (1.0 + self.relative * self._random.uniform(-1.0, 1.0, array.shape)))

    def input(self, array: Array) -> Array:
        """A float input with every element changed relatively and all of them shifted alike; others unchanged."""
        if array.dtype.kind != "f" or not array.size:
            return array
        size = float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
        shift = self.relative * size * self._random.uniform(-1.0, 1.0)
        return self.weight(array.astype(np.float64)) + shift

    def gradient(self, name: str, array: Array) -> Array:
        """A gradient with noise on the scale of its terms."""
        scale = self.scales.get(name)
        if scale is None:
            return self.weight(array)
        return np.asarray(array + self.relative * scale * self._random.uniform(-1.0, 1.0, array.shape))


def prepare_batches(batches: Batches) -> tuple[tuple[Array, ...], ...]:
    """Micro-batches as arrays; floats rounded to float32, as the compiled program gets them.

    Raises:
        UserError: if there are none.
    """
    if not len(batches):
        raise UserError("there are no batches to train on")
    return tuple(tuple(map(_array, batch)) for batch in batches)


def _array(data: Any) -> Array:
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    array = np.asarray(data)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def learning_rates(lr: float | Sequence[float] | None, default: float, steps: int) -> tuple[float, ...]:
    """The learning rate of every step.

    Raises:
        UserError: if the number of rates is not the number of steps.
    """
    if lr is None:
        return (float(default),) * steps
    if isinstance(lr, int | float | np.number):
        return (float(lr),) * steps
    if len(lr) != steps:
        raise UserError(f"{len(lr)} learning rates were given for {steps} steps")
    return tuple(float(rate) for rate in lr)
