"""The reference run of a PyTorch module: plain PyTorch training on the CPU, in float64 or float32."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tilegrad.errors import UserError
from tilegrad.verification.trajectory import Array, Job, Perturbation, Trajectory

if TYPE_CHECKING:
    import torch


def freeze_batch_norm(module: torch.nn.Module) -> None:
    """Put every batch normalisation into evaluation mode, so that it uses its running statistics; in place."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


def train_torch(
    model: torch.nn.Module, job: Job, dtype: type[np.floating[Any]], perturbation: Perturbation | None = None
) -> Trajectory:
    """Train a copy of a module as the compiled program does.

    Args:
        model: in the mode it is trained in; it is left as it is.
        job: what to do; `Job.trainable` holds names of ``model.named_parameters()``.
        dtype: float type of weights, inputs and arithmetic.
        perturbation: noise to put in, or None.

    Returns:
        What happened, in float64.

    Raises:
        UserError: if the module does not run in `dtype`, returns more than one tensor, or draws random numbers other
            than by dropout.
    """
    import torch

    with _torch_settings(torch.float64 if dtype is np.float64 else torch.float32) as kind:
        module = copy.deepcopy(model).to(kind)
        if job.frozen_bn:
            freeze_batch_norm(module)
        return _Trainer(module, job, kind, perturbation).run()


@contextlib.contextmanager
def _torch_settings(kind: torch.dtype) -> Iterator[torch.dtype]:
    """One thread, so that sums have one order, and `kind` for the tensors that a module makes itself."""
    import torch

    threads, default = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(kind)
    try:
        with torch.enable_grad():
            yield kind
    finally:
        torch.set_default_dtype(default)
        torch.set_num_threads(threads)


class _Trainer:
    def __init__(self, module: torch.nn.Module, job: Job, kind: torch.dtype, perturbation: Perturbation | None) -> None:
        self.module, self.job, self.kind, self.perturbation = module, job, kind, perturbation
        self.parameters = dict(module.named_parameters())
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in job.trainable)
            parameter.grad = None
        self.trained = {name: p for name, p in self.parameters.items() if name in job.trainable}
        self.optimizer = job.optimizer.reference(list(self.trained.values()))
        self.done = Trajectory()

    def run(self) -> Trajectory:
        for step, rate in enumerate(self.job.rates):
            self._step(step, rate)
        self.done.parameters = self._arrays()
        self.done.buffers = {name: _float64(b) for name, b in self.module.named_buffers()}
        return self.done

    def _step(self, step: int, rate: float) -> None:
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        for micro in range(self.job.accumulate):
            self._pass(step * self.job.accumulate + micro)
        present = {name: p for name, p in self.trained.items() if p.grad is not None}
        if step == 0:
            self.done.gradients = {name: _float64(p.grad) for name, p in present.items()}
        if self.perturbation is not None:
            for name, parameter in present.items():
                assert parameter.grad is not None
                noisy = self.perturbation.gradient(name, parameter.grad.numpy())
                parameter.grad.copy_(torch.from_numpy(noisy))
        if self.job.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.trained.values()), self.job.clip_norm, foreach=False)
        before = self._arrays()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        after = self._arrays()
        for name, array in after.items():
            self.done.travel[name] = self.done.travel.get(name, 0.0) + np.abs(array - before[name])
        if step == 0:
            self.done.first = after

    def _pass(self, number: int) -> None:
        *inputs, target = self.job.batch(number)
        clean = self._perturb_weights()
        tensors = [self._tensor(x if self.perturbation is None else self.perturbation.input(x)) for x in inputs]
        prediction = self._forward(tensors, number)
        loss = self.job.loss.reference(prediction, self._tensor(target))
        self.done.losses.append(float(loss.detach()))
        loss = loss / self.job.accumulate if self.job.mean else loss
        if loss.requires_grad:
            loss.backward()
        for parameter, array in clean:
            parameter.data.copy_(array)

    def _perturb_weights(self) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
        """Put noise into the weights for one pass; the clean ones are returned and put back after it."""
        import torch

        if self.perturbation is None:
            return []
        clean = []
        for parameter in self.parameters.values():
            clean.append((parameter, parameter.detach().clone()))
            noisy = self.perturbation.weight(parameter.detach().numpy())
            parameter.data.copy_(torch.from_numpy(noisy))
        return clean

    def _forward(self, inputs: list[torch.Tensor], number: int) -> torch.Tensor:
        import torch
        from torch.utils._pytree import tree_leaves

        from tilegrad.verification.random_numbers import ProgramMasks

        try:
            with ProgramMasks(self.job.seed, number):
                outputs = [leaf for leaf in tree_leaves(self.module(*inputs)) if isinstance(leaf, torch.Tensor)]
        except (RuntimeError, TypeError) as error:
            raise UserError(
                f"{type(self.module).__name__} does not run in {self.kind} as the reference needs it: {error}. "
                "Casts to a fixed float type inside forward() are the usual cause; derive the type from the input"
            ) from error
        if len(outputs) != 1:
            raise UserError(f"the model returns {len(outputs)} tensors; to be trained it must return the prediction")
        prediction: torch.Tensor = outputs[0]
        return prediction

    def _tensor(self, array: Array) -> torch.Tensor:
        import torch

        tensor = torch.from_numpy(np.array(array))  # a copy: in-place operators of the model must not reach the caller
        return tensor.to(self.kind) if tensor.is_floating_point() else tensor

    def _arrays(self) -> dict[str, Array]:
        return {name: _float64(p) for name, p in self.parameters.items()}


def _float64(tensor: torch.Tensor | None) -> Array:
    """A copy of a tensor; floats in float64, others as they are."""
    assert tensor is not None
    array = tensor.detach().cpu().numpy()
    return array.astype(np.float64) if array.dtype.kind == "f" else array.copy()
