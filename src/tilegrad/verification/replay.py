"""The optimizer in float64 on given gradients: what one step should have made of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilegrad.training.clipping import clip_coefficient
from tilegrad.verification.compare import TINY, TensorRow, compare_tensor
from tilegrad.verification.graph_reference import global_norm
from tilegrad.verification.tolerances import EPS, Tolerances
from tilegrad.verification.trajectory import Array

Tensors = Mapping[str, Array]
#: From weights and gradients to the weights after the first step.
Update = Callable[[Tensors, Tensors], dict[str, Array]]
_SAMPLES = 4


@dataclass(frozen=True)
class UpdateSize:
    """The size of our first update as a multiple of the reference's, over all weights together.

    Attributes:
        ratio: 1 where they agree; NaN where no weight moves by more than a few of its float32 steps.
        allowed: largest distance from 1 that passes.
        ok: whether it passes.
    """

    ratio: float
    allowed: float
    ok: bool


def first_update(optimizer: Any, rate: float, clip_norm: float | None, kind: str = "float64") -> Update:
    """The first step by the optimizer's own formula in NumPy."""

    def update(weights: Tensors, gradients: Tensors) -> dict[str, Array]:
        factor = 1.0 if clip_norm is None else clip_coefficient(global_norm(gradients), clip_norm)
        after = {}
        for name, gradient in gradients.items():
            with np.errstate(all="ignore"):  # what is not finite is found by the comparison
                w, g = weights[name].astype(kind), (gradient * factor).astype(kind)
                after[name] = optimizer.replay(w, g, rate, 1, {})[0].astype(kind)
        return after

    return update


def first_torch_update(optimizer: Any, rate: float, clip_norm: float | None, kind: str = "float64") -> Update:
    """The first step by ``torch.optim``."""
    import torch

    def update(weights: Tensors, gradients: Tensors) -> dict[str, Array]:
        parameters = {}
        for name, gradient in gradients.items():
            parameters[name] = torch.nn.Parameter(torch.from_numpy(weights[name].astype(kind)))
            parameters[name].grad = torch.from_numpy(gradient.astype(kind))
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), clip_norm, foreach=False)
        stepper = optimizer.reference(list(parameters.values()))
        for group in stepper.param_groups:
            group["lr"] = rate
        stepper.step()
        return {name: p.detach().numpy().copy() for name, p in parameters.items()}

    return update


def compare_update(
    before: Tensors, gradients: Tensors, after: Tensors, exact: Update, float32: Update, relative: float, t: Tolerances
) -> tuple[list[TensorRow], UpdateSize]:
    """Compare the weights after one step with the step that the optimizer takes on the same gradients in float64.

    Args:
        before: the weights before the step.
        gradients: ours, before clipping.
        after: our weights after the step; may lack some.
        exact: the step in float64.
        float32: the step in float32 by the reference, shown beside ours.
        relative: error of an update that passes, relative to its size.
        t: tolerances.

    Returns:
        A row per parameter, and the size of the update as a whole.
    """
    truth, single = exact(before, gradients), float32(before, gradients)
    sensitivity = _sensitivity(before, gradients, exact, truth)
    rows = []
    dot = square = spread = grant = 0.0
    for name in gradients:
        start = before[name].astype(np.float64)
        update = truth[name] - start
        step = EPS * np.maximum(np.abs(start), np.abs(truth[name]))
        loose = t.factor * sensitivity[name]
        allowed = step + relative * np.abs(update) + loose + TINY
        ours = after.get(name)
        rows.append(
            compare_tensor(name, "optimizer", ours, truth[name], allowed, np.abs(update), single[name].astype(float))
        )
        if ours is None or ours.shape != update.shape:
            continue
        # Where an update is large beside the weight's float32 step, its rounding errors are independent of it.
        clear = np.abs(update) >= 4.0 * step
        moved = (ours.astype(np.float64) - start)[clear]
        dot += float(np.sum(moved * update[clear]))
        square += float(np.sum(np.square(update[clear])))
        spread += float(np.sum(np.square(step[clear] * update[clear])))
        grant += float(np.sum(loose[clear] * np.abs(update[clear])))
    if square == 0.0:
        return rows, UpdateSize(float("nan"), float("nan"), True)
    ratio, allowed_ratio = dot / square, relative + (grant + 2.0 * np.sqrt(spread)) / square
    return rows, UpdateSize(ratio, float(allowed_ratio), bool(abs(ratio - 1.0) <= allowed_ratio))


def _sensitivity(before: Tensors, gradients: Tensors, exact: Update, truth: Tensors) -> dict[str, Array]:
    """How much the update changes with the last digits of weights and gradients (they may cancel in weight decay)."""
    random = np.random.default_rng(0)
    peak = {name: np.zeros(array.shape) for name, array in gradients.items()}
    for _ in range(_SAMPLES):
        noisy = [
            {n: a.astype(np.float64) * (1.0 + EPS * random.uniform(-1.0, 1.0, a.shape)) for n, a in tensors.items()}
            for tensors in (before, gradients)
        ]
        moved = exact(noisy[0], noisy[1])
        for name in gradients:
            with np.errstate(invalid="ignore"):  # infinite gradients: the comparison fails on what comes of them
                change = (moved[name] - noisy[0][name]) - (truth[name] - before[name])
            peak[name] = np.maximum(peak[name], np.abs(change))
    return peak
