"""Whole networks train in compiled C and agree with PyTorch: losses, gradients, updated weights, running statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilegrad as tg
from tilegrad.models import build_model, synthetic_data

SGD = tg.optim.SGD(lr=1e-2, momentum=0.9, weight_decay=1e-4)


def data(name: str, batch: int, count: int, **options: Any) -> list[tuple[Any, Any]]:
    """Micro-batches of the model's synthetic data."""
    x, y = synthetic_data(name, batch * count, seed=4, **options)
    return [(x[k * batch : (k + 1) * batch], y[k * batch : (k + 1) * batch]) for k in range(count)]


def verified(name: str, optimizer: Any, *, batch: int = 1, steps: int = 3, model: dict[str, Any] | None = None,
             **options: Any) -> None:  # fmt: skip
    module, inputs = build_model(name, batch=batch, seed=1, **(model or {}))
    module.train()
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), optimizer, **options)
    result = tg.verify(module, build, data(name, batch, 3, **(model or {})), steps)
    assert result.ok, result


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("samples", [700, 400])
def test_speechnet(pool: str, samples: int) -> None:
    verified("speechnet", tg.optim.SGD(lr=1e-3), model={"pool": pool, "samples": samples})


def test_speechnet_as_it_is_fine_tuned_on_the_device() -> None:
    """Frozen statistics, frozen first block, gradients averaged over four windows."""
    verified(
        "speechnet", tg.optim.SGD(lr=3e-4), bn="frozen", freeze=["blocks.0.*"], accumulate=4, steps=2
    )  # fmt: skip


def test_speechnet_as_published() -> None:
    """Adam with weight decay, batches of more than one window, clipped gradients."""
    verified("speechnet", tg.optim.Adam(lr=1e-3, weight_decay=1e-4), batch=3, clip_norm=1.0)


@pytest.mark.parametrize(("name", "batch"), [("mlp", 4), ("resnet8", 2), ("ds_cnn", 2), ("transformer", 2)])
def test_zoo(name: str, batch: int) -> None:
    verified(name, SGD, batch=batch)


def test_summed_accumulation_with_adamw_on_a_subset_of_the_parameters() -> None:
    verified(
        "transformer", tg.optim.AdamW(lr=1e-3), trainable=["*weight"], accumulate=2, accumulate_mode="sum", steps=2
    )  # fmt: skip


def test_inference_uses_the_trained_weights() -> None:
    module, inputs = build_model("speechnet", seed=1)
    module.train()
    build = tg.compile(module, inputs, tg.losses.CrossEntropy(), tg.optim.SGD(lr=1e-3))
    x = inputs[0]
    module.eval()
    before = module(x).detach().numpy()
    np.testing.assert_allclose(build.predict(x), before, atol=1e-5)
    run = build.run(data("speechnet", 1, 2), 3)
    import torch

    module.load_state_dict({n: torch.tensor(a) for n, a in (run.parameters | run.buffers).items()})
    np.testing.assert_allclose(build.predict(x), module(x).detach().numpy(), atol=1e-5)
    (only,) = tg.compile(module, (x,)).predict(x)
    np.testing.assert_allclose(only, module(x).detach().numpy(), atol=1e-5)
