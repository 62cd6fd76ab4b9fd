"""The reference runs: PyTorch as it is, with the program's random numbers; and the interpreter beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.verification.fake_build import FakeBuild, drop_term, make_batches, make_build, make_net, standard_build
from torch import nn
from torch.nn import functional

from tilegrad.errors import UserError
from tilegrad.operators.random import dropout_mask
from tilegrad.training.optimizers import SGD, Adam
from tilegrad.verification.graph_reference import TrainingGraph, central_differences, gradient_scales, train_graph
from tilegrad.verification.random_numbers import ProgramMasks
from tilegrad.verification.reference import train_torch
from tilegrad.verification.trajectory import Job, Perturbation, Trajectory, learning_rates, prepare_batches

SEED = (5, 9)


def make_job(build: FakeBuild, steps: int = 3, **changes: Any) -> Job:
    job = Job(
        prepare_batches(make_batches()), (0.05,) * steps, build.accumulate, build.accumulate_mode == "mean", build.loss,
        build.optimizer, build.clip_norm, build.bn == "frozen", frozenset(build.trainable_names),
        (build.random_seed, 0),
    )  # fmt: skip
    return replace(job, **changes)


def program_of(build: FakeBuild) -> TrainingGraph:
    return TrainingGraph(build.training_graph, build.gradient_values, build.loss_value)


def by_hand(model: nn.Module, job: Job) -> tuple[list[float], nn.Module]:
    """A plain training loop in float64."""
    module = copy.deepcopy(model).double()
    optimizer = job.optimizer.reference(module.parameters())
    losses = []
    for step, rate in enumerate(job.rates):
        optimizer.zero_grad()
        for micro in range(job.accumulate):
            x, y = job.batch(step * job.accumulate + micro)
            loss = functional.cross_entropy(module(torch.tensor(x).double()), torch.tensor(y))
            losses.append(loss.item())
            (loss / job.accumulate).backward()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return losses, module


def test_the_reference_is_a_plain_training_loop() -> None:
    net, build = standard_build(accumulate=2)
    job = make_job(build)
    found = train_torch(net, job, np.float64)
    losses, module = by_hand(net, job)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-13)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(found.parameters[name], parameter.detach(), rtol=1e-12, atol=1e-14)
    for name, buffer in module.named_buffers():
        np.testing.assert_allclose(found.buffers[name], buffer, rtol=1e-12)


def test_the_model_and_the_settings_of_torch_are_left_alone() -> None:
    net = make_net()
    net.middle.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    threads = torch.get_num_threads()
    noise = Perturbation(1e-3, 0, {})
    train_torch(net, make_job(standard_build()[1]), np.float64, noise)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.middle.bias.requires_grad
    assert net.head.weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (threads, torch.float32)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 2, "clip_norm": 0.2}, {"accumulate": 2, "accumulate_mode": "sum"}, {"bn": "frozen"}]
)
@pytest.mark.parametrize("optimizer", [SGD(momentum=0.875), Adam(weight_decay=0.125)], ids=["sgd", "adam"])
def test_interpreter_and_torch_agree(options: dict[str, Any], optimizer: Any) -> None:
    net, build = standard_build(optimizer=optimizer, **options)
    job = make_job(build)
    a, b = train_torch(net, job, np.float64), train_graph(program_of(build), job, np.float64)
    np.testing.assert_allclose(a.losses, b.losses, rtol=1e-7)
    for kind in ("gradients", "first", "parameters", "travel", "buffers"):
        ours, theirs = getattr(b, kind), getattr(a, kind)
        for name in theirs:
            if np.asarray(theirs[name]).dtype.kind == "f":
                tolerance = 1e-3 if name == "inner.bias" else 2e-7  # Adam turns its noise into steps
                np.testing.assert_allclose(ours[name], theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_only_the_trainable_parameters_move() -> None:
    net, build = standard_build()
    job = make_job(build, trainable=frozenset({"head.weight"}))
    found = train_torch(net, job, np.float64)
    assert set(found.gradients) == {"head.weight"}
    for name, parameter in net.named_parameters():
        moved = not np.array_equal(found.parameters[name], parameter.detach().double().numpy())
        assert moved == (name == "head.weight")
        assert bool(np.any(found.travel[name])) == moved


def test_frozen_statistics_stay() -> None:
    net, build = standard_build(bn="frozen")
    found = train_torch(net, make_job(build), np.float64)
    assert np.array_equal(found.buffers["norm.running_var"], np.ones(8))
    assert found.buffers["norm.num_batches_tracked"] == 0


def test_noise_is_reproducible_and_of_the_size_asked_for() -> None:
    net, build = standard_build()
    job = make_job(build)

    def distance(relative: float) -> float:
        clean = train_torch(net, job, np.float64)
        scales = gradient_scales(program_of(build), job).magnitudes
        runs = [train_torch(net, job, np.float64, Perturbation(relative, 4, scales)) for _ in range(2)]
        assert runs[0].losses == runs[1].losses
        return float(np.abs(runs[0].gradients["head.weight"] - clean.gradients["head.weight"]).max())

    assert 0 < distance(1e-8) < 1e-7
    assert 20 < distance(1e-6) / distance(1e-8) < 500


DROPOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "function": lambda x: functional.dropout(x, 0.3),
    "in place": lambda x: functional.dropout(x.clone(), 0.3, inplace=True),
    "torch": lambda x: torch.dropout(x, 0.3, True),
    "module": nn.Dropout(0.3),
    "channels": nn.Dropout1d(0.3),
}


@pytest.mark.parametrize("name", DROPOUTS)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_dropout_takes_the_masks_of_the_program(name: str, kind: torch.dtype) -> None:
    x = torch.ones(4, 6, 5, dtype=kind)
    with ProgramMasks(SEED, 7):
        first, second = DROPOUTS[name](x), DROPOUTS[name](x)
    for stream, result in enumerate((first, second)):
        shape = (4, 6, 1) if name == "channels" else (4, 6, 5)
        mask = np.broadcast_to(dropout_mask(shape, 0.3, SEED, 7, stream), (4, 6, 5))
        assert np.array_equal(result.numpy() != 0, mask)
        np.testing.assert_allclose(result.numpy()[mask], 1 / 0.7, rtol=1e-6)


def test_dropout_that_does_nothing_takes_no_stream() -> None:
    x = torch.ones(64)
    with ProgramMasks(SEED, 0):
        functional.dropout(x, 0.0)
        functional.dropout(x, 1.0)
        functional.dropout(x, 0.5, training=False)
        drawn = functional.dropout(x, 0.5)
    assert np.array_equal(drawn.numpy() != 0, dropout_mask((64,), 0.5, SEED, 0, 0))


def test_attention_takes_the_masks_of_the_program() -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    with ProgramMasks(SEED, 1):
        found = functional.scaled_dot_product_attention(q, q, q, dropout_p=0.25)
    mask = torch.tensor(dropout_mask((2, 3, 5, 5), 0.25, SEED, 1, 0))
    weights = torch.softmax(q @ q.transpose(-1, -2) / 2.0, -1) * mask / 0.75
    torch.testing.assert_close(found, weights @ q)
    with ProgramMasks(SEED, 1):
        functional.scaled_dot_product_attention(q, q, q)


def test_multi_head_attention_takes_the_masks_of_the_program() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    x = torch.randn(3, 5, 8)
    with ProgramMasks(SEED, 1):
        once, again = attention(x, x, x)[0], attention(x, x, x)[0]
    with ProgramMasks(SEED, 1):
        repeated = attention(x, x, x)[0]
    assert torch.equal(once, repeated)
    assert not torch.equal(once, again)


@pytest.mark.parametrize("draw", [torch.rand_like, torch.bernoulli, lambda x: x + torch.randn(3)])
def test_other_random_numbers_are_refused(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(UserError, match="random numbers"), ProgramMasks(SEED, 0):
        draw(torch.full((3,), 0.5))


class Casts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x.float())
        return y


class Makes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x) @ torch.eye(4)
        return y


def test_a_module_that_insists_on_float32_is_named() -> None:
    job = make_job(standard_build()[1], trainable=frozenset({"linear.weight"}))
    with pytest.raises(UserError, match=r"Casts does not run in torch.float64.*derive the type"):
        train_torch(Casts(), job, np.float64)


def test_tensors_that_a_module_makes_have_the_type_of_the_run() -> None:
    job = make_job(standard_build()[1], trainable=frozenset({"linear.weight"}))
    assert np.all(np.isfinite(train_torch(Makes(), job, np.float64).losses))


def test_central_differences_confirm_the_derived_gradient() -> None:
    _, build = standard_build(accumulate=2)
    for direction in central_differences(program_of(build), make_job(build)):
        assert direction.measured == pytest.approx(direction.derived, abs=1e-6 * direction.scale)


def test_central_differences_refute_a_wrong_gradient() -> None:
    build = make_build(make_net())
    drop_term(build.training_graph, build.gradient_values["middle.weight"])
    found = central_differences(program_of(build), make_job(build))
    assert all(abs(d.measured - d.derived) > 1e-4 * d.scale for d in found)


def test_integers_and_tensors_are_prepared_as_the_program_sees_them() -> None:
    (batch,) = prepare_batches([(torch.ones(2, dtype=torch.float64), np.float64(0.1), np.array([1, 2]))])
    assert [array.dtype for array in batch] == [np.float32, np.float32, np.int64]
    with pytest.raises(UserError, match="no batches"):
        prepare_batches([])


def test_learning_rates() -> None:
    assert learning_rates(None, 0.5, 2) == (0.5, 0.5)
    assert learning_rates(np.float32(0.25), 0.5, 2) == (0.25, 0.25)
    assert learning_rates([1, 2], 0.5, 2) == (1.0, 2.0)
    with pytest.raises(UserError, match="3 learning rates"):
        learning_rates([1, 2, 3], 0.5, 2)


def test_a_trajectory_records_losses_of_every_pass() -> None:
    net, build = standard_build(accumulate=2)
    found = train_torch(net, make_job(build, steps=4), np.float32)
    assert isinstance(found, Trajectory)
    assert len(found.losses) == 8
