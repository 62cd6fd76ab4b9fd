"""Tiled training on the cluster: the bits of the host whatever the budgets, the cores and the buffering."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tests.compiled import same_bits
from torch import nn

import tilegrad as tg
from tilegrad.targets import get_target

KIB = 1024
STEPS = 2


class Residual(nn.Module):
    """Padding, strides, batch statistics, groups, overlapping maxima, dropout, a sum and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(16 * 4 * 5, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        y = torch.cat([x, x + torch.tanh(self.second(x))], 1)
        return self.head(nn.functional.dropout(self.pool(y).flatten(1), 0.25, self.training))


def emg(pool: type[nn.Module], samples: int) -> nn.Module:
    """A small relative of SpeechNet: blocks of convolution, batch norm, ReLU and pooling along time."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, window in ((1, 4, 4, 8), (4, 8, 8, 4)):
        layers += [nn.Conv2d(inputs, outputs, (1, kernel), padding=(0, kernel // 2)), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(), pool((1, window))]
    layers += [nn.Conv2d(8, 8, (4, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(*layers)


def gaps() -> nn.Module:
    """Windows that leave elements at the ends of their axes untouched: their gradients are zero."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 2, stride=3), nn.ReLU(), nn.MaxPool2d((1, 2), stride=(1, 3)), nn.Flatten(), nn.Linear(90, 5)
    )  # fmt: skip


class Attention(nn.Module):
    """Rows that are looked up, attention, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(20, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.rows(x)
        return self.head(self.norm(rows + self.attention(rows, rows, rows, need_weights=False)[0]).mean(1))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "residual": (Residual, (2, 2, 15, 18)),
    "emg-max": (lambda: emg(nn.MaxPool2d, 135), (2, 1, 4, 135)),
    "emg-avg": (lambda: emg(nn.AvgPool2d, 128), (1, 1, 4, 128)),
    "gaps": (gaps, (2, 2, 15, 29)),
    "attention": (Attention, (2, 12)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": tg.optim.SGD(lr=0.05, momentum=0.9)},
    "adam": {"optimizer": tg.optim.Adam(lr=1e-2), "accumulate": 2, "clip_norm": 0.5},
    "fused": {"optimizer": tg.optim.AdamW(lr=1e-2), "fuse_update": True},
}


def compiled(name: str, options: str, **more: Any) -> tuple[tg.Build, list[tuple[Any, Any]]]:
    network, shape = NETWORKS[name]
    torch.manual_seed(3)
    module, rng = network().train(), np.random.default_rng(5)
    batches: list[tuple[Any, Any]] = []
    for _ in range(2):
        x = rng.integers(0, 20, shape) if name == "attention" else rng.normal(size=shape).astype(np.float32)
        batches.append((x, rng.integers(0, 5, shape[0])))
    inputs = (torch.as_tensor(batches[0][0]),)
    return tg.compile(module, inputs, tg.losses.CrossEntropy(), **OPTIONS[options], **more), batches


def trained(name: str, options: str, **more: Any) -> tuple[tg.Build, tg.Run]:
    build, batches = compiled(name, options, **more)
    count = STEPS * OPTIONS[options].get("accumulate", 1)
    return build, build.run([batches[k % 2] for k in range(count)], STEPS)


@cache
def on_host(name: str, options: str) -> tg.Run:
    return trained(name, options, target="host", optimization="-O1")[1]


def cluster(cores: int, l1: int, l2: int | None = None) -> Any:
    target = get_target("siracusa").with_cores(cores).with_memory("L1", l1)
    return target if l2 is None else target.with_memory("L2", l2)


def assert_host_bits(run: tg.Run, name: str, options: str) -> None:
    host = on_host(name, options)
    assert same_bits(run.losses, host.losses)
    for key in host.parameters:
        assert same_bits(run.parameters[key], host.parameters[key]), key
    for key in host.buffers:
        assert same_bits(run.buffers[key], host.buffers[key]), key
    if not OPTIONS[options].get("fuse_update"):
        for key in host.gradients:
            assert same_bits(run.gradients[key], host.gradients[key]), key


@pytest.mark.parametrize(
    ("name", "options", "cores", "l1", "buffering"),
    [
        ("residual", "sgd", 3, 5 * KIB, "double"),
        ("emg-max", "sgd", 3, 8 * KIB, "auto"),
        ("emg-max", "fused", 1, 3 * KIB, "single"),
        ("gaps", "sgd", 8, 8 * KIB, "auto"),  # nothing beside the stacks
    ],
)
def test_training_has_the_bits_of_the_host(name: str, options: str, cores: int, l1: int, buffering: str) -> None:
    build, run = trained(name, options, target=cluster(cores, l1), buffering=buffering, optimization="-O1")
    assert_host_bits(run, name, options)
    assert build.memory["L1"].peak <= l1


@pytest.mark.parametrize(("name", "options"), [("residual", "adam")])
def test_a_small_l2_computes_again_or_moves_and_keeps_the_bits(name: str, options: str) -> None:
    full = compiled(name, options, target=cluster(8, 12 * KIB))[0].memory["L2"]
    arena = full.peak - full.static - full.reserved
    l2 = full.peak - arena * 3 // 4
    build, run = trained(name, options, target=cluster(8, 12 * KIB, l2), optimization="-O1")
    assert build.memory["L2"].peak <= l2
    assert_host_bits(run, name, options)


def test_state_in_l3_keeps_the_bits() -> None:
    name = "emg-max"
    full = compiled(name, "adam", target=cluster(3, 16 * KIB))[0].memory["L2"]
    build, run = trained(name, "adam", target=cluster(3, 16 * KIB, full.peak * 2 // 5), optimization="-O1")
    assert any("lives in L3" in note for note in build.plan.notes)
    assert build.memory["L3"].peak > 0
    assert_host_bits(run, name, "adam")
