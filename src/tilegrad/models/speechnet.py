"""SpeechNet: silent-speech recognition from 14 channels of surface electromyography (EMG).

The published network uses max pooling; the variant with average pooling has the same parameters. With nine classes
it has 15,489 parameters in 22 tensors and, for windows of 700 samples, 3,711,968 multiply-adds forward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tilegrad.errors import UserError

CHANNELS = 14

_POOLS: dict[str, Callable[[tuple[int, int]], nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}

# Input channels, output channels, convolution kernel and pooling kernel (= stride) of the five blocks.
# The axes of a kernel are (electrode, time).
_BLOCKS = (
    (1, 8, (1, 4), (1, 8)),
    (8, 16, (1, 16), (1, 4)),
    (16, 16, (1, 8), (1, 4)),
    (16, 32, (7, 1), (1, 1)),
    (32, 32, (7, 1), (1, 1)),
)


class Block(nn.Module):
    """Convolution (padded along time), batch norm, ReLU and, where its kernel is not 1x1, pooling.

    Args:
        inputs: input channels.
        outputs: output channels.
        kernel: convolution kernel (electrode, time).
        window: pooling kernel and stride (electrode, time).
        pool: ``max`` or ``avg``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], window: tuple[int, int], pool: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=(0, kernel[1] // 2))
        self.norm = nn.BatchNorm2d(outputs)
        self.pool = nn.Identity() if window == (1, 1) else _POOLS[pool](window)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [batch, inputs, electrodes, time] to [batch, outputs, electrodes', time']."""
        y: Tensor = self.pool(torch.relu(self.norm(self.conv(x))))
        return y


class SpeechNet(nn.Module):
    """Five blocks, global average pooling, dropout and a linear classifier.

    Args:
        pool: ``max`` or ``avg``.
        samples: samples per window, at 500 Hz: 700 (1.4 s) or 400 (0.8 s).
        classes: number of classes; class 0 is rest.
    """

    def __init__(self, pool: str, samples: int, classes: int) -> None:
        super().__init__()
        self.samples = samples
        self.blocks = nn.Sequential(*(Block(*shape, pool) for shape in _BLOCKS))
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(_BLOCKS[-1][1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map windows, float32 [batch, 1, 14, samples], to logits, float32 [batch, classes]."""
        features = self.blocks(x).mean(dim=(2, 3))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits

    def example_inputs(self, batch: int) -> tuple[Tensor, ...]:
        """Return one standard normal input, float32 [batch, 1, 14, samples]."""
        return (torch.randn(batch, 1, CHANNELS, self.samples),)


def speechnet(pool: str = "max", samples: int = 700, classes: int = 9) -> SpeechNet:
    """Build SpeechNet with PyTorch's default initialisation, in training mode.

    Args:
        pool: ``max`` (the published network) or ``avg``.
        samples: samples per window: 700 or 400.
        classes: number of classes.

    Raises:
        UserError: an option is out of range.
    """
    if pool not in _POOLS:
        raise UserError(f"speechnet: pool is {pool!r}, expected one of {', '.join(_POOLS)}.")
    if samples not in (400, 700):
        raise UserError(f"speechnet: samples is {samples}, expected 700 (1.4 s at 500 Hz) or 400 (0.8 s).")
    return SpeechNet(pool, samples, classes)
