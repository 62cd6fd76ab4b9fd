"""The programming interface at the edges: unusual results, parameters and types, end to end through C."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tilegrad as tg

X = torch.linspace(-1, 1, 12).reshape(3, 4)


def module(body: Callable[..., Any], **tensors: torch.Tensor) -> nn.Module:
    """A module with these parameters and buffers."""

    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in tensors.items():
                if isinstance(tensor, nn.Parameter):
                    setattr(self, name, tensor)
                else:
                    self.register_buffer(name, tensor)

        def forward(self, *inputs: torch.Tensor) -> Any:
            return body(self, *inputs)

    return Drawn()


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.linspace(-0.5, 1.0, int(np.prod(shape))).reshape(shape))


SPECIAL = torch.tensor([float("nan"), float("inf"), 1e-45, -3e38])
LONG = torch.tensor([[2**40, 2**40 + 1, -(2**62)], [5, 2**40, 7]])
INT = torch.tensor([[2**31 - 1, 16777217, -(2**31)], [16777216, 16777216, 7]], dtype=torch.int32)
INFERENCE: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...], dict[str, torch.Tensor]]] = {
    "the input itself": (lambda m, a: a, (X,), {}),
    "one result twice": (lambda m, a: (a * 2, a * 2, a), (X,), {}),
    "a parameter and a buffer": (lambda m, a: (m.w, m.b, a + m.w), (X,), {"w": parameter(4), "b": torch.ones(4)}),
    "constants": (lambda m, a: (torch.zeros(3), a), (X,), {}),
    "views": (lambda m, a: (a.view(12), a.t(), a[1:, 2]), (X,), {}),
    "scalars": (lambda m, a: a * 2 + 1, (torch.tensor(3.0),), {}),
    "truth values": (lambda m, a, b: (a > 0, torch.where(b, a, -a)), (X, X > 0), {}),
    "positions": (lambda m, a, b: (a[b], b + 1, a.argmax(1)), (X, torch.tensor([2, 0, 1])), {}),
    "nothing": (lambda m, a: (a[:0], torch.cat([a[:0], a]), a[:0].sum()), (X,), {}),
    "an empty input": (lambda m, a, b: torch.cat([a, b], 1).sum(1), (X, torch.zeros(3, 0)), {}),
    "an unused input": (lambda m, a, b: a + 1, (X, X), {}),
    "infinities and NaN": (
        lambda m, a: (a / 0, torch.log(a), a * float("nan"), a + m.w),
        (X,),
        {"w": nn.Parameter(SPECIAL)},
    ),
    "negative zeros": (lambda m, a: a * m.w, (torch.ones(3, 4),), {"w": nn.Parameter(torch.full((4,), -0.0))}),
    "large integers": (lambda m, a: (a.max(0)[0], a.max(0)[1], a.sum(0), a.amax()), (LONG,), {}),
    "wrapping integers": (lambda m, a: (a.max(0)[0], a.sum(0), a.abs(), -a, a * a, a // 3, a % 3), (INT,), {}),
}


@pytest.fixture(scope="module")
def predicted() -> dict[str, tuple[Any, Any]]:
    """What every body returns, all of them compiled as one model, and in PyTorch."""
    tensors = {f"{name}{k}": t for k, (_, _, own) in enumerate(INFERENCE.values()) for name, t in own.items()}
    inputs = [x for _, own, _ in INFERENCE.values() for x in own]

    class Own:
        def __init__(self, whole: nn.Module, k: int) -> None:
            self.w, self.b = (getattr(whole, f"{name}{k}", None) for name in "wb")

    def body(whole: nn.Module, *arguments: torch.Tensor) -> Any:
        results: list[Any] = []
        place = 0
        for k, (part, own, _) in enumerate(INFERENCE.values()):
            found = part(Own(whole, k), *arguments[place : place + len(own)])
            results += found if isinstance(found, tuple) else [found]
            place += len(own)
        return tuple(results)

    built = module(body, **tensors)
    got = iter(tg.compile(built, inputs, optimization="-O1").predict(*(x.numpy() for x in inputs)))
    with torch.no_grad():
        wanted = iter(built(*inputs))
    found = {}
    for k, (name, (part, own, _)) in enumerate(INFERENCE.items()):
        result = part(Own(built, k), *own)
        count = len(result) if isinstance(result, tuple) else 1
        found[name] = tuple(tuple(next(source) for _ in range(count)) for source in (got, wanted))
    assert not list(got) and not list(wanted)
    return found


@pytest.mark.parametrize("name", sorted(INFERENCE))
def test_predictions(name: str, predicted: dict[str, tuple[Any, Any]]) -> None:
    got, expected = predicted[name]
    for array, tensor in zip(got, expected, strict=True):
        wanted = tensor.detach().numpy()
        assert array.shape == wanted.shape and array.dtype == wanted.dtype
        np.testing.assert_allclose(array, wanted, rtol=1e-6, atol=1e-7)
        if wanted.dtype.kind == "f":
            known = ~np.isnan(wanted)
            assert np.array_equal(np.signbit(array)[known], np.signbit(wanted)[known])


TRAINING: dict[str, tuple[Callable[..., Any], dict[str, torch.Tensor]]] = {
    "a scalar": (lambda m, a: a * m.w, {"w": parameter()}),
    "an empty one": (lambda m, a: torch.cat([a * m.v, m.w.expand(3, 0)], 1), {"w": parameter(3, 0), "v": parameter(4)}),
    "the prediction itself": (lambda m, a: m.w, {"w": parameter(3, 4)}),
    "its transpose": (lambda m, a: m.w.t(), {"w": parameter(4, 3)}),
    "one gradient for two": (lambda m, a: m.w + m.v, {"w": parameter(3, 4), "v": parameter(3, 4)}),
    "used twice": (lambda m, a: a @ m.w @ m.w.t(), {"w": parameter(4, 4)}),
    "gathered and strided": (
        lambda m, a: m.w[torch.tensor([2, 0, 2])] * a + m.v[1:9:2].flip(0), {"w": parameter(5, 4), "v": parameter(11)},
    ),
    "summed in blocks": (lambda m, a: a + m.w.view(2, 40, 50).sum((1, 2)).repeat(2) / 1e3, {"w": parameter(4000)}),
}  # fmt: skip
MODES = [
    {"accumulate": 1, "fuse_update": True},
    {"accumulate": 2, "accumulate_mode": "sum"},
    {"accumulate": 2, "clip_norm": 0.05},
]


@pytest.mark.parametrize("name, mode", [(name, MODES[k % 3]) for k, name in enumerate(sorted(TRAINING))])
def test_unusual_parameters_are_trained(name: str, mode: dict[str, Any]) -> None:
    body, tensors = TRAINING[name]
    built = module(body, **tensors).train()
    reference = copy.deepcopy(built).double()
    shape = tuple(built(X).shape)
    rng = np.random.default_rng(0)
    batches = [
        (rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=shape).astype(np.float32)) for _ in range(3)
    ]
    optimizer = tg.optim.SGD(lr=0.1, momentum=0.9, weight_decay=0.01)
    run = tg.compile(built, (X,), tg.losses.MSE(), optimizer, optimization="-O1", **mode).run(batches, 2)
    update = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    count = 0
    for _ in range(2):
        update.zero_grad()
        for _ in range(mode["accumulate"]):
            x, y = (torch.tensor(array).double() for array in batches[count % 3])
            loss = nn.functional.mse_loss(reference(x), y)
            (loss if mode.get("accumulate_mode") == "sum" else loss / mode["accumulate"]).backward()
            count += 1
        if "clip_norm" in mode:
            nn.utils.clip_grad_norm_(reference.parameters(), mode["clip_norm"])
        update.step()
    for key, wanted in reference.named_parameters():
        np.testing.assert_allclose(run.parameters[key], wanted.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=key)


def test_learning_rates_may_be_numpy_numbers() -> None:
    built = module(lambda m, a: a * m.w, w=parameter(4)).train()
    build = tg.compile(built, (X,), tg.losses.MSE(), tg.optim.SGD(lr=0.5), optimization="-O1")
    batches = [(X.numpy(), X.numpy())]
    runs = [build.run(batches, 2, lr=lr).parameters["w"] for lr in (0.25, np.float32(0.25), [0.25, np.float64(0.25)])]
    assert np.array_equal(runs[0], runs[1]) and np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize("accumulate", [0, -1, 1.5, "2"])
def test_accumulation_must_be_a_whole_number(accumulate: Any) -> None:
    with pytest.raises(tg.UserError, match="accumulate"):
        tg.compile(module(lambda m, a: a), (X,), tg.losses.MSE(), tg.optim.SGD(), accumulate=accumulate)


def test_a_failed_write_leaves_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(self: Path, *arguments: Any, **options: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(tg.UserError, match="No space left"):
        tg.compile(module(lambda m, a: a + 1), (X,))
    assert not list(tmp_path.iterdir())
