"""Training on the simulated cluster: the bits of the host for every number of cores, real cycles, nothing installed."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from tests.compiled import same_bits

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data
from tilegrad.targets import get_target


def trained(name: str, target: Any, steps: int = 2, **options: Any) -> tg.Run:
    module, inputs = build_model(name, seed=2)
    module.train()
    x, y = synthetic_data(name, 2, seed=3)
    batches = [(x[:1], y[:1]), (x[1:], y[1:])]
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.Adam(lr=1e-3), target=target, **options)
    return build.run(batches, steps)


def assert_same(a: tg.Run, b: tg.Run) -> None:
    assert same_bits(a.losses, b.losses)
    for name in a.gradients:
        assert same_bits(a.gradients[name], b.gradients[name]), name
    for name in a.parameters:
        assert same_bits(a.parameters[name], b.parameters[name]), name
    for name in a.buffers:
        assert same_bits(a.buffers[name], b.buffers[name]), name


@pytest.fixture(scope="module")
def host() -> tg.Run:
    return trained("speechnet", "host")


@pytest.mark.parametrize("cores", [1, 2, 4, 8])
def test_speechnet_has_the_bits_of_the_host(host: tg.Run, cores: int) -> None:
    target = dataclasses.replace(get_target("siracusa"), cores=cores)
    assert_same(trained("speechnet", target), host)


def test_attention_scatters_and_accumulation_have_the_bits_of_the_host() -> None:
    options = {"accumulate": 2, "clip_norm": 0.5}
    assert_same(trained("transformer", "siracusa", **options), trained("transformer", "host", **options))


def test_cycles_are_counted_and_always_the_same() -> None:
    first, second = trained("mlp", "siracusa"), trained("mlp", "siracusa")
    assert first.train_cycles is not None and first.opt_cycles is not None
    assert first.train_cycles > 0 and first.opt_cycles > 0
    assert (first.train_cycles, first.opt_cycles) == (second.train_cycles, second.opt_cycles)


def test_more_cores_take_fewer_cycles() -> None:
    """A network this small spends much of its time on transfers and barriers, which cores do not divide."""
    cycles = [
        trained("mlp", dataclasses.replace(get_target("siracusa"), cores=cores), steps=1).train_cycles or 0
        for cores in (1, 8)
    ]
    assert cycles[1] * 3 < cycles[0]


def test_prediction_on_the_cluster_equals_the_host() -> None:
    module, inputs = build_model("speechnet", seed=2)
    predictions = [tg.compile(module, inputs, target=target).predict(*inputs)[0] for target in ("siracusa", "host")]
    assert same_bits(*predictions)


def test_what_the_target_cannot_do_is_said() -> None:
    target = get_target("siracusa")
    with pytest.raises(tg.UserError, match="8 cores"):
        dataclasses.replace(target, cores=9)
    module, inputs = build_model("mlp")
    with pytest.raises(tg.ToolchainError, match="host"):
        tg.compile(module, inputs, target=target, sanitize=True).predict(np.zeros(inputs[0].shape, np.float32))
