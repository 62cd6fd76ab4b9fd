"""SpeechNet's shapes and arithmetic, against PyTorch's own operation counter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tilegrad.errors import UserError
from tilegrad.models import build_model
from tilegrad.models.speechnet import speechnet

# Multiply-adds of one window of 700 samples: forward, which is also what the weight gradient takes, of every layer.
MACS = {
    "SpeechNet.blocks.0.conv": 314_048,
    "SpeechNet.blocks.1.conv": 2_523_136,
    "SpeechNet.blocks.2.conv": 659_456,
    "SpeechNet.blocks.3.conv": 143_360,
    "SpeechNet.blocks.4.conv": 71_680,
    "SpeechNet.classifier": 288,
}
BLOCK_PARAMETERS = [56, 2096, 2096, 3680, 7264]


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_parameters_by_block(pool: str) -> None:
    module = speechnet(pool=pool)
    assert [sum(p.numel() for p in block.parameters()) for block in module.blocks] == BLOCK_PARAMETERS
    assert sum(p.numel() for p in module.classifier.parameters()) == 297
    assert sum(p.numel() for p in module.parameters()) * 4 == 61_956
    module.blocks[0].requires_grad_(False)
    assert sum(p.requires_grad for p in module.parameters()) == 18


@pytest.mark.parametrize(
    ("samples", "conv_shapes", "block_shapes"),
    [
        (
            700,
            [(8, 14, 701), (16, 14, 88), (16, 14, 23), (32, 8, 5), (32, 2, 5)],
            [(8, 14, 87), (16, 14, 22), (16, 14, 5), (32, 8, 5), (32, 2, 5)],
        ),
        (
            400,
            [(8, 14, 401), (16, 14, 51), (16, 14, 13), (32, 8, 3), (32, 2, 3)],
            [(8, 14, 50), (16, 14, 12), (16, 14, 3), (32, 8, 3), (32, 2, 3)],
        ),
    ],
)
@pytest.mark.parametrize("pool", ["max", "avg"])
def test_shapes(
    pool: str, samples: int, conv_shapes: list[tuple[int, ...]], block_shapes: list[tuple[int, ...]]
) -> None:
    module, inputs = build_model("speechnet", pool=pool, samples=samples)
    seen: list[tuple[int, ...]] = []

    def record(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(tuple(output.shape[1:]))

    for block in module.get_submodule("blocks").children():
        block.get_submodule("conv").register_forward_hook(record)
        block.register_forward_hook(record)
    assert inputs[0].shape == (1, 1, 14, samples)
    assert module(*inputs).shape == (1, 9)
    assert seen[0::2] == conv_shapes
    assert seen[1::2] == block_shapes


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_multiply_adds(pool: str) -> None:
    module, inputs = build_model("speechnet", pool=pool)
    with FlopCounterMode(display=False) as counter:
        loss = module(*inputs).sum()
    # The counter counts a multiply-add as two operations.
    forward = {name: sum(counts.values()) // 2 for name, counts in counter.get_flop_counts().items()}
    assert {name: forward[name] for name in MACS} == MACS
    assert counter.get_total_flops() // 2 == sum(MACS.values()) == 3_711_968
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    # The first layer needs no gradient of its input.
    assert counter.get_total_flops() // 2 == 2 * 3_711_968 - 314_048 == 7_109_888


def test_pool_decides_the_pooling() -> None:
    maximum, inputs = build_model("speechnet", pool="max")
    average, _ = build_model("speechnet", pool="avg")
    assert not torch.equal(maximum.eval()(*inputs), average.eval()(*inputs))


def test_errors() -> None:
    with pytest.raises(UserError, match="pool is 'min', expected one of max, avg"):
        speechnet(pool="min")
    with pytest.raises(UserError, match="samples is 100, expected 700"):
        speechnet(samples=100)
